//! Targets: the linears of a layer that carry an adapter, and what they are called.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::SeqAccessDeserializer;
use serde::de::{self, Deserializer, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::Architecture;

/// One of the linears of a layer, by what it does. Each can be named as any of the architectures that have it names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TargetKind {
    /// Attention query.
    #[serde(rename = "query", alias = "q_proj", alias = "q_lin", alias = "q")]
    Query,
    /// Attention key.
    #[serde(rename = "key", alias = "k_proj", alias = "k_lin", alias = "k")]
    Key,
    /// Attention value.
    #[serde(rename = "value", alias = "v_proj", alias = "v_lin", alias = "v")]
    Value,
    /// Queries, keys and values from one linear, where a model has one.
    #[serde(rename = "qkv_proj", alias = "Wqkv")]
    Qkv,
    /// The linear after attention.
    #[serde(rename = "attention.output.dense", alias = "o_proj", alias = "out_lin", alias = "o", alias = "attn.Wo")]
    AttentionOutput,
    /// The gate of a gated feed-forward block, which most encoders lack.
    #[serde(rename = "gate_proj")]
    Gate,
    /// The widening linear of the feed-forward block.
    #[serde(rename = "intermediate.dense", alias = "up_proj", alias = "lin1")]
    Intermediate,
    /// Gate and widening linear as one, where a model has one.
    #[serde(rename = "gate_up_proj", alias = "Wi")]
    GateUp,
    /// The narrowing linear of the feed-forward block.
    #[serde(rename = "output.dense", alias = "down_proj", alias = "lin2", alias = "mlp.Wo")]
    Output,
}

impl TargetKind {
    /// How many there are.
    pub(crate) const COUNT: usize = 9;

    /// All of them, in the order of the forward pass; the paper adapts all that a model has.
    pub fn all() -> Vec<TargetKind> {
        use TargetKind::*;
        vec![Query, Key, Value, Qkv, AttentionOutput, Gate, Intermediate, GateUp, Output]
    }

    /// The name that models of this architecture give it and PEFT lists under `target_modules`; where they lack it, the
    /// name that the most known of the models have that do not.
    pub fn name(self, architecture: Architecture) -> &'static str {
        let known = if architecture.is_decoder() { Architecture::Llama } else { Architecture::Bert };
        [architecture, known, Architecture::Llama, Architecture::Phi3]
            .into_iter()
            .find_map(|architecture| architecture.describe().short(self))
            .expect("LLaMA and Phi-3 have every linear between them")
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
        let mut names: Vec<&str> = Vec::new();
        for architecture in Architecture::ALL {
            names.extend(architecture.kinds().into_iter().map(|kind| kind.name(architecture)));
        }
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| seen.insert(*name));
        json_schema!({
            "description": "\"all\", or a list of linears as the model names them, or as another does that has the same.",
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
