//! `[strategy]`: the name of a method and the keys that belong to it alone.

use bonfire_engine::{Probe, Score};
use serde::{Deserialize, Serialize};

/// The strategy and the keys that belong to it alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub enum StrategySettings {
    /// LoRA-A² (arXiv 2410.22815): alternating freeze and adaptive rank selection.
    #[serde(rename = "lora-a2")]
    LoraA2 {
        /// How slots are probed before a client trains.
        #[serde(default)]
        probe: Probe,
        /// What a probe is asked for.
        #[serde(default)]
        score: Score,
        /// What the sparse average divides by.
        #[serde(default)]
        norm: Norm,
        /// Slots that contribute little are removed for good.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        prune: Option<Prune>,
    },
    /// FedIT (arXiv 2305.05644): both factors trained and averaged separately; "FL+LoRA" in the paper.
    #[serde(rename = "fedit")]
    FedIt {
        /// Slots that contribute little are removed for good.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        prune: Option<Prune>,
    },
    /// FFA-LoRA (arXiv 2403.12313): A frozen at its start, B trained.
    #[serde(rename = "ffa-lora")]
    FfaLora {
        /// Slots that contribute little are removed for good.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        prune: Option<Prune>,
    },
    /// RoLoRA (arXiv 2502.01755): the factors alternate, no selection.
    #[serde(rename = "rolora")]
    RoLora {
        /// Slots that contribute little are removed for good.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        prune: Option<Prune>,
    },
}

/// What a strategy makes of `clients.budget`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetUse {
    /// Slots a client may choose, per target on average.
    Slots,
    /// The client's rank: it works with the first so many slots of every target.
    Ranks,
    /// Nothing: all clients hold the same rank.
    None,
}

impl StrategySettings {
    /// The strategy of that name with its own defaults; `None`: there is none, or it has keys without a default.
    pub fn with_defaults(name: &str) -> Option<StrategySettings> {
        serde_json::from_value(serde_json::json!({ "name": name })).ok()
    }

    /// The name users write.
    pub fn name(&self) -> &'static str {
        match self {
            StrategySettings::LoraA2 { .. } => "lora-a2",
            StrategySettings::FedIt { .. } => "fedit",
            StrategySettings::FfaLora { .. } => "ffa-lora",
            StrategySettings::RoLora { .. } => "rolora",
        }
    }

    /// What it makes of `clients.budget`.
    pub fn budgets(&self) -> BudgetUse {
        match self {
            StrategySettings::LoraA2 { .. } => BudgetUse::Slots,
            _ => BudgetUse::None,
        }
    }

    /// Whether its server averages movements number by number, so that server optimizers, robust averages, control
    /// variates and noise on the mean compose with it.
    pub fn averages(&self) -> bool {
        matches!(
            self,
            StrategySettings::LoraA2 { .. }
                | StrategySettings::FedIt { .. }
                | StrategySettings::FfaLora { .. }
                | StrategySettings::RoLora { .. }
        )
    }

    /// Whether its clients send more than movements.
    pub fn sends_more(&self) -> bool {
        false
    }

    /// Server-side rank pruning, for strategies that know it.
    pub fn prune(&self) -> Option<Prune> {
        match self {
            StrategySettings::LoraA2 { prune, .. }
            | StrategySettings::FedIt { prune }
            | StrategySettings::FfaLora { prune }
            | StrategySettings::RoLora { prune } => *prune,
        }
    }

    /// The first thing wrong with its keys at global rank `rank`, as `(key, what would be right)`.
    pub fn problem(&self, _rank: usize) -> Option<(&'static str, String)> {
        let own = match self {
            StrategySettings::LoraA2 { probe, .. } => probe.problem().map(|p| ("strategy.probe", p.to_string())),
            _ => None,
        };
        own.or_else(|| self.prune().and_then(|prune| prune.problem()))
    }
}

/// The denominator of LoRA-A²'s sparse average.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Norm {
    /// All participants: a slot few chose moves little (the paper's way).
    #[default]
    All,
    /// Only those that chose the slot; an ablation.
    Choosers,
}

/// Adaptive rank pruning by the server: a slot whose contribution to the global model `‖B_i‖·‖A_i‖` stays below a share
/// of the largest one is removed for good.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prune {
    /// Share of the largest contribution of any slot, in (0, 1).
    pub threshold: f64,
    /// Rounds in a row that a slot must stay below it.
    #[serde(default = "two")]
    pub patience: usize,
    /// Rounds in which nothing is removed: B starts at zero, and slots need time to show what they are worth.
    #[serde(default = "four")]
    pub warmup: usize,
}

fn two() -> usize {
    2
}
fn four() -> usize {
    4
}

impl Prune {
    fn problem(&self) -> Option<(&'static str, String)> {
        let fine = self.threshold > 0.0 && self.threshold < 1.0 && self.patience >= 1;
        (!fine).then(|| ("strategy.prune", "must have a threshold in (0, 1) and a patience of at least 1 round".into()))
    }
}
