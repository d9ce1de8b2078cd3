//! By which rule clients step.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[train] optimizer`: by which rule clients step, from zero moments every round. Rates, `betas`, `eps` and `weight_decay` stand
/// in `[train]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "name", deny_unknown_fields)]
pub enum ClientOptimizer {
    /// AdamW (arXiv 1711.05101): weight decay apart from the gradient.
    #[default]
    #[serde(rename = "adamw")]
    AdamW,
    /// Adam (arXiv 1412.6980) as PyTorch has it: weight decay is a part of the gradient.
    #[serde(rename = "adam")]
    Adam,
    /// Stochastic gradient descent as PyTorch has it: `m ← μ·m + g`, `θ ← θ − η·m`; weight decay is a part of the gradient. `betas` and
    /// `eps` are not read.
    #[serde(rename = "sgd")]
    Sgd {
        /// μ.
        #[serde(default)]
        momentum: f64,
        /// Nesterov's form: `θ ← θ − η·(g + μ·m)`.
        #[serde(default)]
        nesterov: bool,
    },
}

impl ClientOptimizer {
    /// Whether it is AdamW, as where nothing is said.
    pub fn is_adamw(&self) -> bool {
        *self == ClientOptimizer::AdamW
    }

    /// Whether its own keys fit together.
    pub(crate) fn is_valid(&self) -> bool {
        match *self {
            ClientOptimizer::AdamW | ClientOptimizer::Adam => true,
            ClientOptimizer::Sgd { momentum, nesterov } => (0.0..1.0).contains(&momentum) && (!nesterov || momentum > 0.0),
        }
    }
}
