//! Dropout in training (arXiv 1207.0580): what is dropped where, and by which masks. A mask depends on the client's key at its
//! step, on the token's place among the client's tokens of that step, on the place in the model and on the column, so it is the
//! same whoever else is in the batch and whichever device computes it.

use bonfire_kernels::{DropMask, RowKeys, dropout};
use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::description::{Description, DropRate};
use crate::{Architecture, PackedBatch, Rounding, TargetKind, Task};

/// Shares that the model itself drops in training, as Transformers' configurations name them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelDropout {
    /// Of hidden states: after the embeddings, after attention's output and after the feed-forward block
    /// (`hidden_dropout_prob`; DistilBERT's `dropout`, ModernBERT's `embedding_dropout` and `mlp_dropout`, Phi-3's `resid_pdrop`).
    #[serde(default)]
    pub hidden: f64,
    /// Of the weights that attention gives (`attention_probs_dropout_prob`, `attention_dropout`).
    #[serde(default)]
    pub attention: f64,
    /// Of what a classifier's head reads (`classifier_dropout`, DistilBERT's `seq_classif_dropout`). Left out: as `hidden`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classifier: Option<f64>,
}

/// All that is dropped in training.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Dropout {
    /// In the backbone and the head.
    pub model: ModelDropout,
    /// Of what adapters read: PEFT's `lora_dropout`.
    pub adapter: f64,
}

impl ModelDropout {
    /// The share of a classifier's head.
    pub fn classifier(&self) -> f64 {
        self.classifier.unwrap_or(self.hidden)
    }

    /// Whether anything is dropped.
    pub fn any(&self) -> bool {
        self.hidden > 0.0 || self.attention > 0.0 || self.classifier() > 0.0
    }

    /// The key with a share that is none, and what it must be.
    pub fn problem(&self) -> Option<(&'static str, &'static str)> {
        let shares = [
            ("model.dropout.hidden", self.hidden),
            ("model.dropout.attention", self.attention),
            ("model.dropout.classifier", self.classifier()),
        ];
        shares.into_iter().find(|(_, share)| !is_share(*share)).map(|(key, _)| (key, SHARE))
    }
}

/// What a share must be.
pub const SHARE: &str = "a number of at least 0 and below 1";

/// Whether a share of so much can be dropped.
pub fn is_share(share: f64) -> bool {
    (0.0..1.0).contains(&share)
}

impl Dropout {
    /// Whether anything is dropped.
    pub fn any(&self) -> bool {
        self.model.any() || self.adapter > 0.0
    }

    /// The key that asks for what the architecture, in Transformers, does not drop when it learns `task`, and why.
    pub fn problem(&self, architecture: Architecture, task: Task) -> Option<(&'static str, String)> {
        let (description, name) = (architecture.describe(), architecture.name());
        if self.model.hidden > 0.0 && !description.drops_hidden() {
            let what = format!("drops hidden states, which a {name} model in Transformers does not; leave it out");
            return Some(("model.dropout.hidden", what));
        }
        if self.model.classifier.is_some_and(|share| share > 0.0) {
            let why = match task {
                Task::Causal => {
                    "drops what a classifier's head reads, and a language model has none; leave it out".into()
                }
                _ if description.head_of(task).iter().all(|linear| !linear.dropped) => {
                    format!(
                        "drops what a classifier's head reads, which a {name} model in Transformers does not; leave it out"
                    )
                }
                _ => return None,
            };
            return Some(("model.dropout.classifier", why));
        }
        None
    }
}

impl Description {
    /// Whether any hidden state is dropped.
    fn drops_hidden(&self) -> bool {
        let d = &self.dropped;
        d.embeddings || d.feed_forward_inside || [d.attention, d.feed_forward].contains(&Some(DropRate::Hidden))
    }
}

/// A place in a layer where something is dropped. The numbers are part of every mask: add new ones, never renumber.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// The embeddings of all tokens.
    Embeddings,
    /// The result of attention's output linear.
    AfterAttention,
    /// What the narrowing linear of the feed-forward block reads.
    InFeedForward,
    /// The result of the feed-forward block.
    AfterFeedForward,
    /// The weights of attention; each head is a place of its own.
    Attention,
    /// What a linear of a classifier's head reads, by its number.
    Head(usize),
    /// What a linear's adapter reads.
    Adapter(TargetKind),
}

impl Place {
    /// The place in the whole model: 12 bits for a layer (0 outside of them), 8 for what it is there, 12 for a head of attention.
    pub fn number(self, layer: Option<usize>) -> u32 {
        let what = match self {
            Place::Embeddings => 0,
            Place::AfterAttention => 1,
            Place::InFeedForward => 2,
            Place::AfterFeedForward => 3,
            Place::Attention => 4,
            Place::Head(number) => 16 + number as u32,
            Place::Adapter(kind) => 32 + kind as u32,
        };
        (layer.map_or(0, |layer| layer as u32 + 1) << 20) | (what << 12)
    }
}

/// The keys of a batch's rows, which masks are made of.
#[derive(Clone, Debug)]
pub struct Masks {
    /// One for every token, surplus included.
    pub(crate) tokens: RowKeys,
    /// One for every row that is read, surplus included: its token's.
    pub(crate) read: RowKeys,
}

impl PackedBatch {
    /// The keys of the rows of this batch as [`PackedBatch::to_device`] puts it on a device, from a key for each client: that of its step.
    pub fn masks(&self, clients: &[u64], info: &crate::ModelInfo, rounding: Rounding) -> Masks {
        let of_client = |(key, sequences): (&u64, std::ops::Range<usize>)| {
            let (key, tokens) = (*key, sequences.map(|s| self.sequences.range(s).len()).sum::<usize>());
            (1..=tokens as u64).map(move |i| key_of_row(key, i))
        };
        let mut tokens: Vec<u64> = clients.iter().zip(self.clients.ranges()).flat_map(of_client).collect();
        let mut read: Vec<u64> = self.read(info).map(|(token, _)| tokens[token]).collect();
        for keys in [&mut tokens, &mut read] {
            keys.resize(rounding.size(keys.len()), 0);
        }
        Masks { tokens: RowKeys::new(tokens), read: RowKeys::new(read) }
    }
}

/// The `i`-th number of SplitMix64 from `key`.
fn key_of_row(key: u64, i: u64) -> u64 {
    let word = key.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// `x` with a share dropped by the rows' masks at a place; as it is without masks.
pub(crate) fn dropped(x: Tensor<2>, keys: Option<&RowKeys>, place: u32, share: f64) -> Tensor<2> {
    match keys.filter(|_| share > 0.0) {
        // Surplus rows come last, and are gone where a head's first linear was.
        Some(keys) => {
            let rows = 0..x.dims()[0];
            dropout(x, DropMask { rows, ..DropMask::new(keys, place, share) })
        }
        None => x,
    }
}
