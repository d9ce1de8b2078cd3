//! By which rule clients step.

use bonfire_kernels::{AdamW, Sgd, StepRule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::TrainSettings;

/// `[train] optimizer`: by which rule clients step, from zero moments in every round. `weight_decay`, and for AdamW and Adam
/// `betas` and `eps`, stand in `[train]` themselves.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "name", rename_all = "lowercase", deny_unknown_fields)]
pub enum ClientOptimizer {
    /// AdamW (arXiv 1711.05101): weight decay beside the gradient.
    AdamW {},
    /// Adam (arXiv 1412.6980) as PyTorch has it: weight decay is a part of the gradient.
    Adam {},
    /// Stochastic gradient descent as PyTorch has it, `m ← μ·m + g`, `θ ← θ − η·m`: weight decay is a part of the gradient, `betas` and
    /// `eps` are not read.
    Sgd {
        /// μ; 0: nothing is carried from step to step.
        #[serde(default)]
        momentum: f64,
        /// Nesterov's form, `θ ← θ − η·(g + μ·m)`.
        #[serde(default)]
        nesterov: bool,
    },
}

impl Default for ClientOptimizer {
    fn default() -> Self {
        ClientOptimizer::AdamW {}
    }
}

impl ClientOptimizer {
    /// Whether it is AdamW, as where nothing is said.
    pub fn is_adamw(&self) -> bool {
        *self == ClientOptimizer::AdamW {}
    }

    /// Whether a step has the size of the rate at any gradient, as Adam's has.
    pub fn is_adaptive(&self) -> bool {
        !matches!(self, ClientOptimizer::Sgd { .. })
    }

    /// Tensors of a client's size that it carries from step to step.
    pub(crate) fn moments(&self) -> u64 {
        match self {
            ClientOptimizer::AdamW {} | ClientOptimizer::Adam {} => 2,
            ClientOptimizer::Sgd { momentum, .. } => u64::from(*momentum > 0.0),
        }
    }

    /// Whether its momentum is a share.
    pub(super) fn has_a_share(&self) -> bool {
        !matches!(self, ClientOptimizer::Sgd { momentum, .. } if !(0.0..1.0).contains(momentum))
    }

    /// Whether Nesterov's form has a momentum to look ahead by.
    pub(super) fn can_look_ahead(&self) -> bool {
        !matches!(self, ClientOptimizer::Sgd { momentum, nesterov: true } if *momentum == 0.0)
    }
}

impl TrainSettings {
    /// The rule with its constants.
    pub(crate) fn step_rule(&self) -> StepRule {
        let TrainSettings { betas, eps, weight_decay, .. } = *self;
        let adam = AdamW { betas, eps, weight_decay };
        match self.optimizer {
            ClientOptimizer::AdamW {} => StepRule::AdamW(adam),
            ClientOptimizer::Adam {} => StepRule::Adam(adam),
            ClientOptimizer::Sgd { momentum, nesterov } => StepRule::Sgd(Sgd { momentum, nesterov, weight_decay }),
        }
    }
}
