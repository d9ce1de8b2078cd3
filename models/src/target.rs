//! Which linears carry an adapter.

use serde::{Deserialize, Serialize};

/// One of the six linears of an encoder layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TargetKind {
    /// Attention query.
    #[serde(rename = "query")]
    Query,
    /// Attention key.
    #[serde(rename = "key")]
    Key,
    /// Attention value.
    #[serde(rename = "value")]
    Value,
    /// The linear after attention.
    #[serde(rename = "attention.output.dense")]
    AttentionOutput,
    /// The widening linear of the feed-forward block.
    #[serde(rename = "intermediate.dense")]
    Intermediate,
    /// The narrowing linear of the feed-forward block.
    #[serde(rename = "output.dense")]
    Output,
}

impl TargetKind {
    /// All six, in the order of the forward pass; the paper adapts them all.
    pub fn all() -> Vec<TargetKind> {
        use TargetKind::*;
        vec![Query, Key, Value, AttentionOutput, Intermediate, Output]
    }

    /// The name users write and PEFT lists under `target_modules`.
    pub fn name(self) -> &'static str {
        match self {
            TargetKind::Query => "query",
            TargetKind::Key => "key",
            TargetKind::Value => "value",
            TargetKind::AttentionOutput => "attention.output.dense",
            TargetKind::Intermediate => "intermediate.dense",
            TargetKind::Output => "output.dense",
        }
    }

    /// The module path inside a layer, as Hugging Face names it.
    pub(crate) fn module(self) -> String {
        match self {
            TargetKind::Query | TargetKind::Key | TargetKind::Value => format!("attention.self.{}", self.name()),
            _ => self.name().to_string(),
        }
    }
}

/// A linear that carries an adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Module path as Hugging Face names it, e.g. `roberta.encoder.layer.0.attention.self.query`.
    pub name: String,
    /// Which of the layer's linears.
    pub kind: TargetKind,
    /// Layer, from 0.
    pub layer: usize,
    /// Input features.
    pub d_in: usize,
    /// Output features.
    pub d_out: usize,
}

/// One of the matrices of an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Factor {
    /// The down-projection `[d_in, R]`.
    A,
    /// The up-projection `[R, d_out]`.
    B,
    /// What some methods put between the two: `A·core·B`. Square `[R, R]`, or `[R, 1]` for a diagonal of gates.
    Core,
}

impl Factor {
    /// All of them, in the order they are uploaded.
    pub const ALL: [Factor; 3] = [Factor::A, Factor::B, Factor::Core];

    /// The name in records: `"A"`, `"B"` or `"core"`.
    pub fn name(self) -> &'static str {
        match self {
            Factor::A => "A",
            Factor::B => "B",
            Factor::Core => "core",
        }
    }
}
