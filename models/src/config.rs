//! What `config.json` says about a model, and what we make of it.

mod decoder;

use serde::Deserialize;

pub use self::decoder::{DecoderInfo, Rope, RopeScaling};
use crate::{ModelError, Target, TargetKind};

/// The conventions we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// `RobertaForSequenceClassification`: positions start after the padding id; dense-tanh-projection head.
    Roberta,
    /// `BertForSequenceClassification`: pooler (frozen), then one linear.
    Bert,
    /// `LlamaForCausalLM`, `LlamaForSequenceClassification`.
    Llama,
    /// As LLaMA; texts no longer than its sliding window.
    Mistral,
    /// As LLaMA, with biases on queries, keys and values.
    Qwen2,
}

impl Architecture {
    /// The name in `config.json` (`model_type`).
    pub fn name(self) -> &'static str {
        match self {
            Architecture::Roberta => "roberta",
            Architecture::Bert => "bert",
            Architecture::Llama => "llama",
            Architecture::Mistral => "mistral",
            Architecture::Qwen2 => "qwen2",
        }
    }

    /// The first part of its tensors' names.
    pub fn prefix(self) -> &'static str {
        if self.is_decoder() { "model" } else { self.name() }
    }

    /// The start of Transformers' class names.
    pub fn class(self) -> &'static str {
        match self {
            Architecture::Roberta => "Roberta",
            Architecture::Bert => "Bert",
            Architecture::Llama => "Llama",
            Architecture::Mistral => "Mistral",
            Architecture::Qwen2 => "Qwen2",
        }
    }

    /// Whether tokens see only what stands before them.
    pub fn is_decoder(self) -> bool {
        matches!(self, Architecture::Llama | Architecture::Mistral | Architecture::Qwen2)
    }

    /// The linears of a layer, in the order of the forward pass.
    pub fn kinds(self) -> Vec<TargetKind> {
        let mut kinds = TargetKind::all();
        kinds.retain(|kind| self.is_decoder() || *kind != TargetKind::Gate);
        kinds
    }
}

/// What a model is trained to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// One of so many classes for every text: an encoder's head reads the first token, a decoder's the last.
    Classify(usize),
    /// Every token of a text from those before it.
    Causal,
}

/// Shape and conventions of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelInfo {
    /// Which convention.
    pub architecture: Architecture,
    /// Features (D).
    pub hidden: usize,
    /// Layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Heads of keys and values, each for `heads / kv_heads` heads.
    pub kv_heads: usize,
    /// Features of one head.
    pub head_width: usize,
    /// Features inside the feed-forward block.
    pub intermediate: usize,
    /// Vocabulary (V).
    pub vocab: usize,
    /// Positions the model knows; in an encoder the rows of its table.
    pub positions: usize,
    /// Rows of the token-type table.
    pub token_types: usize,
    /// Position of a sequence's first token.
    pub first_position: usize,
    /// Floor under the variance in normalisation.
    pub eps: f64,
    /// Deviation of newly created head weights.
    pub initializer_range: f64,
    /// What decoders have besides; `None` for encoders.
    pub decoder: Option<DecoderInfo>,
}

#[derive(Deserialize)]
struct Kind {
    model_type: Option<String>,
}

#[derive(Deserialize)]
struct Raw {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    #[serde(default = "one")]
    type_vocab_size: usize,
    pad_token_id: Option<usize>,
    #[serde(default = "default_eps")]
    layer_norm_eps: f64,
    #[serde(default = "default_range")]
    initializer_range: f64,
    #[serde(default)]
    hidden_act: Option<String>,
    #[serde(default)]
    position_embedding_type: Option<String>,
}

fn one() -> usize {
    1
}
fn default_eps() -> f64 {
    1e-12
}
fn default_range() -> f64 {
    0.02
}

/// The largest sizes that a `config.json` may name. No model comes near, and what is computed from them (numbers of
/// scalars, names of tensors, tables of angles) stays in bounds before a weight has been read.
const MOST_LAYERS: usize = 4096;
const MOST_TOKENS: usize = 1 << 26;
const MOST_FEATURES: usize = 1 << 20;

/// Refuses sizes that cannot be: those of layers, of things counted in tokens (vocabulary, positions) and of features.
fn sizes(layers: usize, tokens: &[(&str, usize)], features: &[(&str, usize)]) -> Result<(), String> {
    let layers = [("num_hidden_layers", layers, MOST_LAYERS)];
    let tokens = tokens.iter().map(|(key, size)| (*key, *size, MOST_TOKENS));
    let features = features.iter().map(|(key, size)| (*key, *size, MOST_FEATURES));
    match layers.into_iter().chain(tokens).chain(features).find(|(_, size, most)| !(1..=*most).contains(size)) {
        Some((key, size, most)) => Err(format!("{key} is {size}; it must be from 1 to {most}")),
        None => Ok(()),
    }
}

impl ModelInfo {
    /// Reads a `config.json`; `file` is its name in errors.
    ///
    /// # Errors
    /// Not JSON, a key missing, a model of another kind, or a feature we do not compute (named).
    pub fn parse(json: &[u8], file: &str) -> Result<Self, ModelError> {
        let bad = |problem: String| ModelError::Config { file: file.to_string(), problem };
        let kind: Kind = serde_json::from_slice(json).map_err(|e| bad(format!("not a model configuration: {e}")))?;
        let info = match kind.model_type.as_deref() {
            Some("roberta" | "xlm-roberta" | "camembert") => parse_encoder(json, Architecture::Roberta),
            Some("bert") => parse_encoder(json, Architecture::Bert),
            Some("llama") => decoder::parse(json, Architecture::Llama),
            Some("mistral") => decoder::parse(json, Architecture::Mistral),
            Some("qwen2") => decoder::parse(json, Architecture::Qwen2),
            other => Err(format!(
                "`model_type` is {}; \"roberta\", \"bert\", \"llama\", \"mistral\" and \"qwen2\" can be trained",
                other.unwrap_or("missing")
            )),
        };
        info.map_err(bad)
    }

    /// Longest sequence in tokens, special tokens included.
    pub fn max_tokens(&self) -> usize {
        self.positions - self.first_position
    }

    /// The linears of `kinds` in every layer: layer by layer, in the order of the forward pass. Kinds that the
    /// architecture lacks are left out.
    pub fn targets(&self, kinds: &[TargetKind]) -> Vec<Target> {
        let kinds: Vec<TargetKind> = self.architecture.kinds().into_iter().filter(|k| kinds.contains(k)).collect();
        let one = |layer: usize, kind: TargetKind| {
            let (d_in, d_out) = self.sizes(kind);
            Target {
                name: format!("{}.{}", self.layer_name(layer), kind.module(self.architecture)),
                kind,
                layer,
                d_in,
                d_out,
            }
        };
        (0..self.layers).flat_map(|l| kinds.iter().map(move |&k| (l, k))).map(|(l, k)| one(l, k)).collect()
    }

    /// The first part of the names of a layer's tensors.
    pub(crate) fn layer_name(&self, layer: usize) -> String {
        match self.architecture.is_decoder() {
            true => format!("model.layers.{layer}"),
            false => format!("{}.encoder.layer.{layer}", self.architecture.name()),
        }
    }

    /// Input and output features of a linear.
    pub(crate) fn sizes(&self, kind: TargetKind) -> (usize, usize) {
        let d = self.hidden;
        match kind {
            TargetKind::Query => (d, self.heads * self.head_width),
            TargetKind::Key | TargetKind::Value => (d, self.kv_heads * self.head_width),
            TargetKind::AttentionOutput => (self.heads * self.head_width, d),
            TargetKind::Gate | TargetKind::Intermediate => (d, self.intermediate),
            TargetKind::Output => (self.intermediate, d),
        }
    }

    /// Whether checkpoints hold a bias of such linears.
    pub(crate) fn has_bias(&self, kind: TargetKind) -> bool {
        let Some(decoder) = &self.decoder else { return true };
        match kind {
            TargetKind::Query | TargetKind::Key | TargetKind::Value => decoder.qkv_bias,
            TargetKind::AttentionOutput => decoder.output_bias,
            TargetKind::Gate | TargetKind::Intermediate | TargetKind::Output => decoder.mlp_bias,
        }
    }

    /// Scalars of the model without pooler and classifier head: what full fine-tuning would send (methods, 1.6).
    pub fn backbone_params(&self) -> u64 {
        let d = self.hidden as u64;
        let linear = |kind: TargetKind| {
            let (d_in, d_out) = self.sizes(kind);
            (d_in * d_out + if self.has_bias(kind) { d_out } else { 0 }) as u64
        };
        let linears: u64 = self.architecture.kinds().into_iter().map(linear).sum();
        let layers = self.layers as u64;
        match &self.decoder {
            None => (self.vocab + self.positions + self.token_types) as u64 * d + 2 * d + layers * (linears + 4 * d),
            Some(decoder) => {
                let tables = if decoder.tied { 1 } else { 2 };
                tables * self.vocab as u64 * d + d + layers * (linears + 2 * d)
            }
        }
    }

    /// Scalars of the backbone's linears in all layers: the N of the 4·N·T floor under a step.
    pub fn matmul_params(&self) -> u64 {
        let size = |kind: TargetKind| self.sizes(kind);
        let layer = self.architecture.kinds().into_iter().map(size).map(|(i, o)| (i * o) as u64).sum::<u64>();
        self.layers as u64 * layer
    }
}

fn parse_encoder(json: &[u8], architecture: Architecture) -> Result<ModelInfo, String> {
    let raw: Raw = serde_json::from_slice(json).map_err(|e| format!("not a model configuration: {e}"))?;
    let first = raw.pad_token_id.unwrap_or(1);
    sizes(
        raw.num_hidden_layers,
        &[
            ("vocab_size", raw.vocab_size),
            ("max_position_embeddings", raw.max_position_embeddings),
            ("type_vocab_size", raw.type_vocab_size),
        ],
        &[
            ("hidden_size", raw.hidden_size),
            ("num_attention_heads", raw.num_attention_heads),
            ("intermediate_size", raw.intermediate_size),
        ],
    )?;
    if !raw.hidden_size.is_multiple_of(raw.num_attention_heads) {
        let (d, heads) = (raw.hidden_size, raw.num_attention_heads);
        return Err(format!("hidden_size {d} is not a multiple of num_attention_heads {heads}"));
    }
    if let Some(act) = raw.hidden_act.filter(|a| a != "gelu") {
        return Err(format!("hidden_act is \"{act}\"; only \"gelu\" is known for encoders"));
    }
    if let Some(kind) = raw.position_embedding_type.filter(|k| k != "absolute") {
        return Err(format!("position_embedding_type is \"{kind}\"; only \"absolute\" is known"));
    }
    let first_position = match architecture {
        Architecture::Roberta => first.saturating_add(1),
        _ => 0,
    };
    if raw.max_position_embeddings <= first_position {
        let positions = raw.max_position_embeddings;
        return Err(format!("max_position_embeddings {positions} leaves no position for a token"));
    }
    Ok(ModelInfo {
        architecture,
        hidden: raw.hidden_size,
        layers: raw.num_hidden_layers,
        heads: raw.num_attention_heads,
        kv_heads: raw.num_attention_heads,
        head_width: raw.hidden_size / raw.num_attention_heads,
        intermediate: raw.intermediate_size,
        vocab: raw.vocab_size,
        positions: raw.max_position_embeddings,
        token_types: raw.type_vocab_size,
        first_position,
        eps: raw.layer_norm_eps,
        initializer_range: raw.initializer_range,
        decoder: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roberta_base_has_the_papers_counts() {
        let json = br#"{"model_type":"roberta","hidden_size":768,"num_hidden_layers":12,"num_attention_heads":12,
            "intermediate_size":3072,"vocab_size":50265,"max_position_embeddings":514,"type_vocab_size":1,"pad_token_id":1}"#;
        let info = ModelInfo::parse(json, "config.json").expect("valid");
        assert_eq!(info.backbone_params(), 124_055_040);
        assert_eq!(info.max_tokens(), 512);
        let targets = info.targets(&TargetKind::all());
        assert_eq!(targets.len(), 72);
        assert_eq!(targets.iter().map(|t| t.d_out).sum::<usize>(), 82_944);
        assert_eq!(targets.iter().map(|t| t.d_in).sum::<usize>(), 82_944);
    }

    #[test]
    fn wrong_configurations_say_why() {
        let of = |json: &str| ModelInfo::parse(json.as_bytes(), "config.json").expect_err("wrong").to_string();
        assert!(of("{").contains("config.json"));
        assert!(of(r#"{"model_type":"bert"}"#).contains("hidden_size"));
        let full = r#"{"model_type":"gpt2","hidden_size":8,"num_hidden_layers":1,"num_attention_heads":2,"intermediate_size":8,"vocab_size":9,"max_position_embeddings":9}"#;
        assert!(of(full).contains("gpt2"));
        assert!(
            of(&full.replace("gpt2", "bert").replace("\"num_attention_heads\":2", "\"num_attention_heads\":3"))
                .contains("multiple")
        );
    }

    /// The shape of TinyLlama-1.1B.
    const TINYLLAMA: &str = r#"{"model_type":"llama","hidden_size":2048,"num_hidden_layers":22,"num_attention_heads":32,
        "num_key_value_heads":4,"intermediate_size":5632,"vocab_size":32000,"max_position_embeddings":2048,
        "rms_norm_eps":1e-5,"tie_word_embeddings":false,"eos_token_id":2}"#;

    #[test]
    fn tinyllama_has_its_published_size() {
        let info = ModelInfo::parse(TINYLLAMA.as_bytes(), "config.json").expect("valid");
        assert_eq!(info.backbone_params(), 1_100_048_384);
        let targets = info.targets(&TargetKind::all());
        assert_eq!(targets.len(), 22 * 7);
        assert_eq!((targets[1].name.as_str(), targets[1].d_out), ("model.layers.0.self_attn.k_proj", 256));
    }

    #[test]
    fn features_of_decoders_that_we_lack_are_named() {
        let of = |extra: &str| {
            let json = TINYLLAMA.replacen('{', &format!("{{{extra},"), 1);
            ModelInfo::parse(json.as_bytes(), "config.json").expect_err("wrong").to_string()
        };
        assert!(of(r#""rope_scaling":{"rope_type":"yarn","factor":4.0}"#).contains("yarn"));
        assert!(of(r#""rope_scaling":{"rope_type":"llama3","factor":8.0}"#).contains("low_freq_factor"));
        assert!(of(r#""hidden_act":"gelu_pytorch_tanh""#).contains("gelu_pytorch_tanh"));
        assert!(of(r#""quantization_config":{"bits":4}"#).contains("quantization_config"));
        assert!(of(r#""head_dim":63"#).contains("pairs"));
    }
}
