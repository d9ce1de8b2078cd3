//! What a user can say about how the work is done on the devices: the `[engine]` section.

use bonfire_models::Precision;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Problem;

/// How the work is done on the devices (`[engine]`). What a run computes depends on `precision` alone; the rest decides how fast
/// and in how much memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineSettings {
    /// Clients on the device together: `"auto"` or a number.
    #[serde(default)]
    pub in_flight: InFlight,
    /// Real tokens a step should hold where the number of clients in flight is chosen by the engine (`in_flight =
    /// "auto"`). Left out: what the kind of device likes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_step: Option<usize>,
    /// Device memory to plan with, in GB (10⁹ bytes). Left out: what the device says it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_gb: Option<f64>,
    /// What the forward pass keeps for the backward pass.
    #[serde(default)]
    pub recompute: Recompute,
    /// Numbers that the frozen weights and the activations are held in, and multiplied in.
    #[serde(default)]
    pub precision: Precision,
}

impl EngineSettings {
    /// The first thing wrong with these settings.
    pub fn problem(&self) -> Option<Problem> {
        Problem::first([
            ("engine.tokens_per_step", self.tokens_per_step != Some(0), "at least 1"),
            ("engine.memory_gb", self.memory_gb.is_none_or(|gb| gb > 0.0 && gb.is_finite()), "a positive number"),
        ])
    }
}

/// `[engine] recompute`: gradient checkpointing (arXiv 1604.06174).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Recompute {
    /// Everything is kept: fastest.
    #[default]
    None,
    /// Each block's input is kept and the block computed again: memory for a third more arithmetic.
    Block,
}

/// How many clients are on the device together (`[engine] in_flight`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "InFlightText", into = "InFlightText")]
pub enum InFlight {
    /// As many as fill a step of the size the device likes.
    #[default]
    Auto,
    /// Exactly this many (fewer when the cohort is smaller).
    Count(usize),
}

/// The spelling of [`InFlight`] in a configuration file.
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "expected \"auto\" or a whole number from 1")]
enum InFlightText {
    Count(usize),
    Word(String),
}

impl TryFrom<InFlightText> for InFlight {
    type Error = String;
    fn try_from(text: InFlightText) -> Result<Self, String> {
        match text {
            InFlightText::Count(n) if n > 0 => Ok(InFlight::Count(n)),
            InFlightText::Word(w) if w == "auto" => Ok(InFlight::Auto),
            InFlightText::Count(n) => Err(format!("{n} clients in flight; expected \"auto\" or a whole number from 1")),
            InFlightText::Word(w) => Err(format!("\"{w}\"; expected \"auto\" or a whole number from 1")),
        }
    }
}

impl From<InFlight> for InFlightText {
    fn from(value: InFlight) -> Self {
        match value {
            InFlight::Auto => InFlightText::Word("auto".into()),
            InFlight::Count(n) => InFlightText::Count(n),
        }
    }
}
