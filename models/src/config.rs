//! What `config.json` says about a model, and what we make of it.

use serde::Deserialize;

use crate::{ModelError, Target, TargetKind};

/// The two encoder conventions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// `RobertaForSequenceClassification`: positions start after the padding id; dense-tanh-projection head.
    Roberta,
    /// `BertForSequenceClassification`: pooler (frozen), then one linear.
    Bert,
}

impl Architecture {
    /// The name in `config.json` (`model_type`), which is also the prefix of the encoder's tensors.
    pub fn name(self) -> &'static str {
        match self {
            Architecture::Roberta => "roberta",
            Architecture::Bert => "bert",
        }
    }
}

/// Shape and conventions of an encoder.
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
    /// Features inside the feed-forward block.
    pub intermediate: usize,
    /// Vocabulary (V).
    pub vocab: usize,
    /// Rows of the position table.
    pub positions: usize,
    /// Rows of the token-type table.
    pub token_types: usize,
    /// Position of a sequence's first token.
    pub first_position: usize,
    /// Floor under the variance in layer normalisation.
    pub eps: f64,
    /// Deviation of newly created head weights.
    pub initializer_range: f64,
}

#[derive(Deserialize)]
struct Raw {
    model_type: Option<String>,
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

impl ModelInfo {
    /// Reads a `config.json`; `file` is its name in errors.
    ///
    /// # Errors
    /// Not JSON, a key missing, or a model of another kind.
    pub fn parse(json: &[u8], file: &str) -> Result<Self, ModelError> {
        let bad = |problem: String| ModelError::Config { file: file.to_string(), problem };
        let raw: Raw = serde_json::from_slice(json).map_err(|e| bad(format!("not a model configuration: {e}")))?;
        let architecture = match raw.model_type.as_deref() {
            Some("roberta" | "xlm-roberta" | "camembert") => Architecture::Roberta,
            Some("bert") => Architecture::Bert,
            other => {
                let found = other.unwrap_or("nothing");
                return Err(bad(format!("`model_type` is {found}; \"roberta\" and \"bert\" can be trained")));
            }
        };
        let sizes = [
            raw.hidden_size,
            raw.num_hidden_layers,
            raw.num_attention_heads,
            raw.intermediate_size,
            raw.vocab_size,
            raw.type_vocab_size,
        ];
        if sizes.contains(&0) {
            return Err(bad("a size is 0; hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, vocab_size and type_vocab_size are at least 1".into()));
        }
        if !raw.hidden_size.is_multiple_of(raw.num_attention_heads) {
            return Err(bad(format!(
                "hidden_size {} is not a multiple of num_attention_heads {}",
                raw.hidden_size, raw.num_attention_heads
            )));
        }
        if let Some(act) = raw.hidden_act.filter(|a| a != "gelu") {
            return Err(bad(format!("hidden_act is \"{act}\"; only \"gelu\" is known")));
        }
        if let Some(kind) = raw.position_embedding_type.filter(|k| k != "absolute") {
            return Err(bad(format!("position_embedding_type is \"{kind}\"; only \"absolute\" is known")));
        }
        let first_position = match architecture {
            Architecture::Roberta => raw.pad_token_id.unwrap_or(1) + 1,
            Architecture::Bert => 0,
        };
        if raw.max_position_embeddings <= first_position {
            return Err(bad(format!(
                "max_position_embeddings {} leaves no position for a token",
                raw.max_position_embeddings
            )));
        }
        Ok(ModelInfo {
            architecture,
            hidden: raw.hidden_size,
            layers: raw.num_hidden_layers,
            heads: raw.num_attention_heads,
            intermediate: raw.intermediate_size,
            vocab: raw.vocab_size,
            positions: raw.max_position_embeddings,
            token_types: raw.type_vocab_size,
            first_position,
            eps: raw.layer_norm_eps,
            initializer_range: raw.initializer_range,
        })
    }

    /// Longest sequence in tokens, special tokens included.
    pub fn max_tokens(&self) -> usize {
        self.positions - self.first_position
    }

    /// The linears of `kinds` in every layer: layer by layer, in the order of the forward pass.
    pub fn targets(&self, kinds: &[TargetKind]) -> Vec<Target> {
        let mut kinds = kinds.to_vec();
        kinds.sort_unstable();
        kinds.dedup();
        let one = |layer: usize, kind: TargetKind| {
            let (d_in, d_out) = match kind {
                TargetKind::Intermediate => (self.hidden, self.intermediate),
                TargetKind::Output => (self.intermediate, self.hidden),
                _ => (self.hidden, self.hidden),
            };
            let name = format!("{}.encoder.layer.{layer}.{}", self.architecture.name(), kind.module());
            Target { name, kind, layer, d_in, d_out }
        };
        (0..self.layers).flat_map(|l| kinds.iter().map(move |&k| (l, k))).map(|(l, k)| one(l, k)).collect()
    }

    /// Scalars of the encoder without pooler and head: what full fine-tuning would send (methods, 1.6).
    pub fn encoder_params(&self) -> u64 {
        let (d, i) = (self.hidden as u64, self.intermediate as u64);
        let embeddings = (self.vocab + self.positions + self.token_types) as u64 * d + 2 * d;
        let layer = 4 * (d * d + d) + (d * i + i) + (i * d + d) + 4 * d;
        embeddings + self.layers as u64 * layer
    }

    /// Scalars of the backbone's linears in all layers: the N of the 4·N·T floor under a step.
    pub fn matmul_params(&self) -> u64 {
        let (d, i) = (self.hidden as u64, self.intermediate as u64);
        self.layers as u64 * (4 * d * d + 2 * d * i)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roberta_base_has_the_papers_counts() {
        let json = br#"{"model_type":"roberta","hidden_size":768,"num_hidden_layers":12,"num_attention_heads":12,
            "intermediate_size":3072,"vocab_size":50265,"max_position_embeddings":514,"type_vocab_size":1,"pad_token_id":1}"#;
        let info = ModelInfo::parse(json, "config.json").expect("valid");
        assert_eq!(info.encoder_params(), 124_055_040);
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
        assert!(of("{}").contains("hidden_size"));
        let full = r#"{"model_type":"gpt2","hidden_size":8,"num_hidden_layers":1,"num_attention_heads":2,"intermediate_size":8,"vocab_size":9,"max_position_embeddings":9}"#;
        assert!(of(full).contains("gpt2"));
        assert!(
            of(&full.replace("gpt2", "bert").replace("\"num_attention_heads\":2", "\"num_attention_heads\":3"))
                .contains("multiple")
        );
    }
}
