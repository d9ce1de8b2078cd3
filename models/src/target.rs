//! Which linears carry an adapter.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::SeqAccessDeserializer;
use serde::de::{self, Deserializer, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::Architecture;

/// One of the linears of a layer, by what it does. Each can be named as encoders name it or as LLaMA-style decoders do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TargetKind {
    /// Attention query.
    #[serde(rename = "query", alias = "q_proj")]
    Query,
    /// Attention key.
    #[serde(rename = "key", alias = "k_proj")]
    Key,
    /// Attention value.
    #[serde(rename = "value", alias = "v_proj")]
    Value,
    /// The linear after attention.
    #[serde(rename = "attention.output.dense", alias = "o_proj")]
    AttentionOutput,
    /// The gate of a gated feed-forward block, which encoders lack.
    #[serde(rename = "gate_proj")]
    Gate,
    /// The widening linear of the feed-forward block.
    #[serde(rename = "intermediate.dense", alias = "up_proj")]
    Intermediate,
    /// The narrowing linear of the feed-forward block.
    #[serde(rename = "output.dense", alias = "down_proj")]
    Output,
}

impl TargetKind {
    /// How many there are.
    pub(crate) const COUNT: usize = 7;

    /// All of them, in the order of the forward pass; the paper adapts all that a model has.
    pub fn all() -> Vec<TargetKind> {
        use TargetKind::*;
        vec![Query, Key, Value, AttentionOutput, Gate, Intermediate, Output]
    }

    /// The name that models of this architecture give it and PEFT lists under `target_modules`.
    pub fn name(self, architecture: Architecture) -> &'static str {
        match (self, architecture.is_decoder()) {
            (TargetKind::Query, false) => "query",
            (TargetKind::Key, false) => "key",
            (TargetKind::Value, false) => "value",
            (TargetKind::AttentionOutput, false) => "attention.output.dense",
            (TargetKind::Intermediate, false) => "intermediate.dense",
            (TargetKind::Output, false) => "output.dense",
            (TargetKind::Query, true) => "q_proj",
            (TargetKind::Key, true) => "k_proj",
            (TargetKind::Value, true) => "v_proj",
            (TargetKind::AttentionOutput, true) => "o_proj",
            (TargetKind::Gate, _) => "gate_proj",
            (TargetKind::Intermediate, true) => "up_proj",
            (TargetKind::Output, true) => "down_proj",
        }
    }

    /// The module path inside a layer, as Hugging Face names it.
    pub(crate) fn module(self, architecture: Architecture) -> String {
        use TargetKind::*;
        let name = self.name(architecture);
        match (self, architecture.is_decoder()) {
            (Query | Key | Value, false) => format!("attention.self.{name}"),
            (_, false) => name.to_string(),
            (Query | Key | Value | AttentionOutput, true) => format!("self_attn.{name}"),
            (_, true) => format!("mlp.{name}"),
        }
    }
}

/// Which linears of every layer carry an adapter: `"all"` or a list of names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Targets {
    /// All that the model has.
    #[default]
    All,
    /// These.
    Some(Vec<TargetKind>),
}

impl Serialize for Targets {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Targets::All => to.serialize_str("all"),
            Targets::Some(kinds) => kinds.serialize(to),
        }
    }
}

impl<'d> Deserialize<'d> for Targets {
    fn deserialize<D: Deserializer<'d>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(TargetsVisitor)
    }
}

struct TargetsVisitor;

// By hand: an untagged enum would swallow what is wrong with a name in the list.
impl<'d> Visitor<'d> for TargetsVisitor {
    type Value = Targets;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"all\", or a list of linears such as [\"query\", \"value\"]")
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<Targets, E> {
        match word {
            "all" => Ok(Targets::All),
            other => Err(E::invalid_value(Unexpected::Str(other), &self)),
        }
    }

    fn visit_seq<A: SeqAccess<'d>>(self, list: A) -> Result<Targets, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(list)).map(Targets::Some)
    }
}

impl JsonSchema for Targets {
    fn schema_name() -> Cow<'static, str> {
        "Targets".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<&str> = [Architecture::Roberta, Architecture::Llama]
            .into_iter()
            .flat_map(|architecture| architecture.kinds().into_iter().map(move |kind| kind.name(architecture)))
            .collect();
        json_schema!({
            "description": "\"all\", or a list of linears as encoders name them, or as decoders do.",
            "anyOf": [{ "const": "all" }, { "type": "array", "minItems": 1, "items": { "enum": names } }],
        })
    }
}

impl Targets {
    /// The kinds that `architecture` carries adapters on, in the order of the forward pass, each once.
    ///
    /// # Errors
    /// The kind that such models do not have.
    pub fn kinds(&self, architecture: Architecture) -> Result<Vec<TargetKind>, TargetKind> {
        let has = architecture.kinds();
        let Targets::Some(list) = self else { return Ok(has) };
        match list.iter().find(|kind| !has.contains(kind)) {
            Some(kind) => Err(*kind),
            None => Ok(has.into_iter().filter(|kind| list.contains(kind)).collect()),
        }
    }
}

impl From<Vec<TargetKind>> for Targets {
    fn from(list: Vec<TargetKind>) -> Self {
        Targets::Some(list)
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
