//! A model's `config.json`: sizes, biases, windows and positions, read and checked.

mod attention;
mod decoder;
mod encoder;
mod shape;
#[cfg(test)]
mod tests;

use serde::Deserialize;
use serde_json::Value;

pub use self::attention::{LayerAttention, Rope, RopeScaling};
pub use self::decoder::DecoderInfo;
pub(crate) use self::shape::Shaped;
use crate::{ModelError, Target, TargetKind};

/// The conventions we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// `RobertaForSequenceClassification`: positions start after the padding id; dense-tanh-projection head.
    Roberta,
    /// RoBERTa by another name.
    XlmRoberta,
    /// RoBERTa by another name.
    Camembert,
    /// `BertForSequenceClassification`: pooler (frozen), then one linear.
    Bert,
    /// `DistilBertForSequenceClassification`: BERT without token types and pooler.
    DistilBert,
    /// `MPNetForSequenceClassification`: RoBERTa with a bias of attention by distance.
    MpNet,
    /// `ModernBertForSequenceClassification`: pre-norm, rotary, GeGLU, local layers.
    ModernBert,
    /// `LlamaForCausalLM`, `LlamaForSequenceClassification`.
    Llama,
    /// As LLaMA, with a sliding window.
    Mistral,
    /// As LLaMA, with biases on queries, keys and values.
    Qwen2,
    /// As LLaMA, with norms of queries and keys.
    Qwen3,
    /// The text part of Gemma 3.
    Gemma3,
    /// As LLaMA, with layers that know no positions.
    SmolLm3,
    /// As LLaMA, with fused linears.
    Phi3,
}

impl Architecture {
    /// All of them.
    pub const ALL: [Architecture; 14] = [
        Architecture::Roberta,
        Architecture::XlmRoberta,
        Architecture::Camembert,
        Architecture::Bert,
        Architecture::DistilBert,
        Architecture::MpNet,
        Architecture::ModernBert,
        Architecture::Llama,
        Architecture::Mistral,
        Architecture::Qwen2,
        Architecture::Qwen3,
        Architecture::Gemma3,
        Architecture::SmolLm3,
        Architecture::Phi3,
    ];

    /// The one that `config.json` calls so.
    pub fn named(model_type: &str) -> Option<Architecture> {
        Self::ALL.into_iter().find(|architecture| architecture.name() == model_type)
    }

    /// The name in `config.json` (`model_type`).
    pub fn name(self) -> &'static str {
        self.describe().name
    }

    /// The first part of its tensors' names.
    pub fn prefix(self) -> &'static str {
        self.describe().prefix
    }

    /// Whether tokens see only what stands before them.
    pub fn is_decoder(self) -> bool {
        self.describe().decoder
    }

    /// The linears of a layer, in the order of the forward pass.
    pub fn kinds(self) -> Vec<TargetKind> {
        self.describe().linears().map(|(kind, _)| *kind).collect()
    }
}

/// What a model is trained to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// One of so many classes for every text: an encoder's head reads the first token, a decoder's the last.
    Classify(usize),
    /// Any of so many labels for every text, each said or not by itself; read where a class is.
    MultiLabel(usize),
    /// A number for every text, read where a class is.
    Regress,
    /// One of so many classes for each token that is asked for: of a word its first.
    Tag(usize),
    /// Every token of a text from those before it.
    Causal,
}

impl Task {
    /// How many numbers the head gives for a row that it reads: a score a class or label, or the number that is foretold. `None`:
    /// there is no head.
    pub fn outputs(self) -> Option<usize> {
        match self {
            Task::Classify(classes) | Task::MultiLabel(classes) | Task::Tag(classes) => Some(classes),
            Task::Regress => Some(1),
            Task::Causal => None,
        }
    }

    /// Whether one row stands for a text, and not tokens each for themselves.
    pub fn is_of_texts(self) -> bool {
        matches!(self, Task::Classify(_) | Task::MultiLabel(_) | Task::Regress)
    }
}

/// What a feed-forward block bends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// GELU by the error function.
    Gelu,
    /// GELU by a hyperbolic tangent, `gelu_pytorch_tanh`.
    GeluTanh,
    /// `x·sigmoid(x)`.
    Silu,
}

/// Which linears of a layer have biases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Biases {
    /// Queries, keys and values.
    pub qkv: bool,
    /// What follows attention.
    pub output: bool,
    /// The feed-forward block.
    pub feed_forward: bool,
}

impl Biases {
    /// The same for all.
    pub fn all(present: bool) -> Biases {
        Biases { qkv: present, output: present, feed_forward: present }
    }
}

/// What stands for a text in a classifier's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// One token: an encoder's first, a decoder's last.
    Token,
    /// The mean of all tokens.
    Mean,
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
    /// What the feed-forward block bends with.
    pub activation: Activation,
    /// Which linears have biases.
    pub biases: Biases,
    /// Rotary position embeddings that layers turn by; none where positions have a table.
    pub ropes: Vec<Rope>,
    /// What each layer's attention sees; layers beyond see all and turn by nothing.
    pub layer_attentions: Vec<LayerAttention>,
    /// Scores of attention are divided by the square root of it: the features of a head, but for Gemma 3.
    pub query_width: f64,
    /// Embeddings are multiplied by it.
    pub embedding_scale: f64,
    /// What a classifier reads.
    pub pooling: Pooling,
    /// Whether the checkpoint lacks the pooler that the architecture has, so that one is drawn with the head and belongs to it.
    pub draws_pooler: bool,
    /// Rows of the table of distances, where the architecture has one.
    pub distances: usize,
    /// What language models have besides; `None` for encoders.
    pub decoder: Option<DecoderInfo>,
}

#[derive(Deserialize)]
struct Kind {
    model_type: Option<String>,
    quantization_config: Option<Value>,
}

/// The largest sizes that a `config.json` may name. No model comes near, and what is computed from them (numbers of
/// scalars, names of tensors, tables of angles) stays in bounds before a weight has been read.
const MOST_LAYERS: usize = 4096;
const MOST_TOKENS: usize = 1 << 26;
const MOST_FEATURES: usize = 1 << 20;

/// Refuses sizes that cannot be: those of layers, of things counted in tokens (vocabulary, positions) and of features.
fn sizes(layers: (&str, usize), tokens: &[(&str, usize)], features: &[(&str, usize)]) -> Result<(), String> {
    let layers = [(layers.0, layers.1, MOST_LAYERS)];
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
        if kind.quantization_config.is_some_and(|q| !q.is_null()) {
            let what = "quantization_config: the weights are quantized; use the model's f32, f16 or bf16 weights";
            return Err(bad(what.into()));
        }
        let name = kind.model_type.as_deref();
        let info = match name.and_then(Architecture::named) {
            Some(architecture) if architecture.is_decoder() => decoder::parse(json, architecture),
            Some(Architecture::DistilBert) => encoder::parse_distilbert(json),
            Some(Architecture::ModernBert) => encoder::parse_modernbert(json),
            Some(architecture) => encoder::parse(json, architecture),
            None => Err(unknown(name)),
        };
        info.map_err(bad)
    }

    /// Longest sequence in tokens, special tokens included.
    pub fn max_tokens(&self) -> usize {
        self.positions - self.first_position
    }

    /// Whether a gate opens the feed-forward block, so that it is twice as wide inside.
    pub fn is_gated(&self) -> bool {
        let kinds = self.architecture.kinds();
        kinds.contains(&TargetKind::Gate) || kinds.contains(&TargetKind::GateUp)
    }

    /// What a layer's attention sees.
    pub fn layer_attention(&self, layer: usize) -> LayerAttention {
        self.layer_attentions.get(layer).copied().unwrap_or_default()
    }

    /// The linears of `kinds` in every layer: layer by layer, in the order of the forward pass. Kinds that the
    /// architecture lacks are left out.
    pub fn targets(&self, kinds: &[TargetKind]) -> Vec<Target> {
        let linears = || self.architecture.describe().linears().filter(|(kind, _)| kinds.contains(kind));
        let one = |layer: usize, kind: TargetKind, module: &str| {
            let (d_in, d_out) = self.sizes(kind);
            Target { name: format!("{}.{module}", self.layer_name(layer)), kind, layer, d_in, d_out }
        };
        (0..self.layers).flat_map(|l| linears().map(move |(kind, module)| one(l, *kind, module))).collect()
    }

    /// The first part of the names of a layer's tensors.
    pub(crate) fn layer_name(&self, layer: usize) -> String {
        let description = self.architecture.describe();
        format!("{}.{}.{layer}", description.prefix, description.layers)
    }

    /// Input and output features of a linear.
    pub(crate) fn sizes(&self, kind: TargetKind) -> (usize, usize) {
        let (d, w) = (self.hidden, self.head_width);
        match kind {
            TargetKind::Query => (d, self.heads * w),
            TargetKind::Key | TargetKind::Value => (d, self.kv_heads * w),
            TargetKind::Qkv => (d, (self.heads + 2 * self.kv_heads) * w),
            TargetKind::AttentionOutput => (self.heads * w, d),
            TargetKind::Gate | TargetKind::Intermediate => (d, self.intermediate),
            TargetKind::GateUp => (d, 2 * self.intermediate),
            TargetKind::Output => (self.intermediate, d),
        }
    }

    /// Whether checkpoints hold a bias of such linears.
    pub(crate) fn has_bias(&self, kind: TargetKind) -> bool {
        match kind {
            TargetKind::Query | TargetKind::Key | TargetKind::Value | TargetKind::Qkv => self.biases.qkv,
            TargetKind::AttentionOutput => self.biases.output,
            TargetKind::Gate | TargetKind::Intermediate | TargetKind::GateUp | TargetKind::Output => {
                self.biases.feed_forward
            }
        }
    }
}

/// What is said of a model type that cannot be trained, with the nearest way out where there is one.
fn unknown(name: Option<&str>) -> String {
    let known: Vec<String> = Architecture::ALL.iter().map(|a| format!("\"{}\"", a.name())).collect();
    let way = match name {
        Some("gemma3") => {
            "; this is Gemma 3 with images, of which the text-only checkpoints (\"gemma3_text\") can be used"
        }
        Some("gemma" | "gemma2") => "; of Gemma, the third generation can be used",
        Some("phi3small" | "phimoe" | "phi4mm") => "; of Phi, \"phi3\" can be used",
        Some(moe) if moe.ends_with("_moe") || moe == "mixtral" => "; mixtures of experts cannot be trained",
        _ => "",
    };
    let name = name.unwrap_or("missing");
    format!("`model_type` is {name}{way}; {} can be trained", known.join(", "))
}
