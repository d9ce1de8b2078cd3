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
    /// FlexLoRA (arXiv 2402.11505): the mean of the products, cut to the global rank by SVD.
    #[serde(rename = "flexlora")]
    FlexLora {},
    /// FLoRA (arXiv 2409.05976): clients' factors are stacked, merged into the backbone, and everyone starts again.
    #[serde(rename = "flora")]
    Flora {},
    /// FLoRIST (arXiv 2506.09199): FLoRA's stack, cut to a share of its energy before it is merged.
    #[serde(rename = "florist")]
    Florist {
        /// Share of the energy `Σ s²` of a target's update that is kept.
        #[serde(default = "nearly_all")]
        tau: f64,
    },
    /// raFLoRA (arXiv 2602.13486): FlexLoRA with every part of the rank averaged over the clients that have it.
    #[serde(rename = "raflora")]
    RaFlora {},
    /// Replication padding (arXiv 2406.17477): every slot is averaged over the clients that have it.
    Replication {},
    /// HetLoRA (arXiv 2401.06432): weights by the norm of a client's update, ranks that shrink by themselves.
    #[serde(rename = "hetlora")]
    HetLora {
        /// Weight λ of the push on the last slots.
        #[serde(default = "hundredth")]
        lambda: f64,
        /// Share γ of a client's rank that is not pushed.
        #[serde(default = "nearly_all")]
        decay: f64,
        /// Smallest rank of a client.
        #[serde(default = "one")]
        least: usize,
    },
    /// FedEx-LoRA (arXiv 2410.09432): FedIT, with what its means miss merged into the backbone.
    #[serde(rename = "fedex-lora")]
    FedExLora {
        /// Largest rank of what is merged in a round; left out: all of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rank: Option<usize>,
    },
    /// LoRA-FAIR (arXiv 2411.14961): FedIT, with B corrected towards the mean of the products.
    #[serde(rename = "lora-fair")]
    LoraFair {
        /// Weight λ that keeps the correction small.
        #[serde(default = "hundredth")]
        lambda: f64,
    },
    /// FedSVD (arXiv 2505.12805): B trained, A made orthonormal anew each round.
    #[serde(rename = "fedsvd")]
    FedSvd {},
    /// Fed-SB (arXiv 2502.15436): a small square matrix trained between fixed orthonormal bases.
    FedSb {},
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
            StrategySettings::FlexLora {} => "flexlora",
            StrategySettings::Flora {} => "flora",
            StrategySettings::Florist { .. } => "florist",
            StrategySettings::RaFlora {} => "raflora",
            StrategySettings::Replication {} => "replication",
            StrategySettings::HetLora { .. } => "hetlora",
            StrategySettings::FedExLora { .. } => "fedex-lora",
            StrategySettings::LoraFair { .. } => "lora-fair",
            StrategySettings::FedSvd {} => "fedsvd",
            StrategySettings::FedSb {} => "fed-sb",
        }
    }

    /// What it makes of `clients.budget`.
    pub fn budgets(&self) -> BudgetUse {
        match self {
            StrategySettings::LoraA2 { .. } => BudgetUse::Slots,
            StrategySettings::FlexLora {}
            | StrategySettings::Flora {}
            | StrategySettings::Florist { .. }
            | StrategySettings::RaFlora {}
            | StrategySettings::Replication {}
            | StrategySettings::HetLora { .. } => BudgetUse::Ranks,
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
                | StrategySettings::Replication {}
        )
    }

    /// Whether a slot's average divides by the clients that have it. How many those are is nothing that noise on the
    /// mean protects.
    pub fn divides_by_owners(&self) -> bool {
        matches!(self, StrategySettings::LoraA2 { norm: Norm::Choosers, .. } | StrategySettings::Replication {})
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
            _ => None,
        }
    }

    /// The first thing wrong with its keys at global rank `rank`, as `(key, what would be right)`.
    pub fn problem(&self, rank: usize) -> Option<(&'static str, String)> {
        let must = |fine: bool, key, text: String| (!fine).then_some((key, text));
        let weight = |lambda: f64| {
            let fine = lambda.is_finite() && lambda >= 0.0;
            must(fine, "strategy.lambda", "must be a number, not negative".into())
        };
        let own = match self {
            StrategySettings::LoraA2 { probe, .. } => probe.problem().map(|p| ("strategy.probe", p.to_string())),
            StrategySettings::Florist { tau } => {
                must(*tau > 0.0 && *tau <= 1.0, "strategy.tau", "must be a share above 0 and at most 1".into())
            }
            StrategySettings::HetLora { lambda, decay, least } => weight(*lambda)
                .or(must(*decay > 0.0 && *decay < 1.0, "strategy.decay", "must lie between 0 and 1".into()))
                .or(must(
                    (1..=rank).contains(least),
                    "strategy.least",
                    format!("must lie between 1 and adapter.rank = {rank}"),
                )),
            StrategySettings::FedExLora { rank: Some(0) } => {
                must(false, "strategy.rank", "must be at least 1; left out, all of the residual is kept".into())
            }
            StrategySettings::LoraFair { lambda } => weight(*lambda),
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

fn nearly_all() -> f64 {
    0.99
}
fn hundredth() -> f64 {
    0.01
}
fn one() -> usize {
    1
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
