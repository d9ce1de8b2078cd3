//! `[strategy]`: the name of a method and the keys that belong to it alone.

use bonfire_engine::{Per, Probe, Problem, Score};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The strategy and the keys that belong to it alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
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
        /// What a score is divided by: nothing, or the bytes that the slot's vector costs in an upload.
        #[serde(default)]
        per: Per,
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
    /// Full fine-tuning with FedAvg: no adapter, every weight of the encoder trains and crosses the wire. `train.lr_a` is
    /// its learning rate; of `[adapter]` it reads `head` alone.
    #[serde(rename = "full")]
    Full {},
    /// FedPepTAO (arXiv 2310.15080) on adapters: only the layers whose states say most are shared, and the server steps
    /// with momentum and control variates.
    #[serde(rename = "fedpeptao")]
    FedPepTao {
        /// Layers that are shared after the first round (all, where the model has fewer); left out: half of them. The
        /// paper finds the number from the Hessian's spectrum.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        layers: Option<usize>,
        /// Server learning rate.
        #[serde(default = "server_lr")]
        lr: f64,
        /// Server momentum.
        #[serde(default = "server_momentum")]
        momentum: f64,
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
        /// Share τ of the energy `Σ s²` of a target's update that is kept.
        #[serde(default = "nearly_one")]
        tau: f64,
    },
    /// raFLoRA (arXiv 2602.13486): FlexLoRA with every part of the rank averaged over the clients that have it.
    #[serde(rename = "raflora")]
    RaFlora {},
    /// Replication padding (arXiv 2406.17477): every slot is averaged over the clients that have it.
    Replication {},
    /// FedEx-LoRA (arXiv 2410.09432): FedIT, with what its means miss merged into the backbone.
    #[serde(rename = "fedex-lora")]
    FedExLora {
        /// Largest rank of what is merged in a round; left out: all of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rank: Option<usize>,
    },
    /// LoRA-FAIR (arXiv 2411.14961): FedIT, with B corrected towards the mean of the products.
    LoraFair {
        /// Weight λ of the penalty that keeps the correction small.
        #[serde(default = "hundredth")]
        lambda: f64,
    },
    /// FedSVD (arXiv 2505.12805): B trained, A made orthonormal anew each round.
    #[serde(rename = "fedsvd")]
    FedSvd {},
    /// Fed-SB (arXiv 2502.15436): a small square matrix trained between fixed orthonormal bases.
    FedSb {},
    /// HetLoRA (arXiv 2401.06432): clients of different ranks, self-pruning, weights by the size of updates.
    #[serde(rename = "hetlora")]
    HetLora {
        /// Weight λ of the push on a client's last slots.
        #[serde(default = "hundredth")]
        weight: f64,
        /// γ: a client's last slots are those from `⌊γ·r_k⌋`.
        #[serde(default = "nearly_one")]
        decay: f64,
        /// Fewest slots a client keeps.
        #[serde(default = "one_slot")]
        least: usize,
    },
    /// FedSA-LoRA (arXiv 2410.01463): A is shared, B and the head stay with each client.
    #[serde(rename = "fedsa-lora")]
    FedSaLora {},
    /// SA-FedLoRA (arXiv 2405.09394), in a federated form of our own: FedProx first, then ever fewer slots.
    #[serde(rename = "sa-fedlora")]
    SaFedLora {
        /// Rounds of the first stage; left out: a fifth of all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        initiating: Option<usize>,
        /// μ of FedProx in the first stage.
        #[serde(default = "hundredth")]
        prox: f64,
        /// Slots a target, on average, in the last round.
        #[serde(default = "one")]
        least: f64,
    },
    /// SoRA (arXiv 2311.11696), in a federated form of our own: gates between A and B, shrunk after every step.
    Sora {
        /// ξ: how much a gate shrinks in a step; left out: 0.375 of the gates' learning rate, as in the published runs. At
        /// or above that rate gates shrink faster than they can grow, and every slot goes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        xi: Option<f64>,
        /// Learning rate of the gates; left out: `train.lr_a`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lr_gate: Option<f64>,
        /// Shrink as SoRA's published code does, which zeroes gates below 2ξ.
        #[serde(default)]
        twice: bool,
    },
    /// XGBLoRA (arXiv 2410.19694), in a federated form of our own: a round is one boosting step on a few layers.
    #[serde(rename = "xgblora")]
    XgbLora {
        /// Layers that train in a round.
        #[serde(default = "two")]
        layers: usize,
        /// λ of the ridge on both factors.
        #[serde(default)]
        ridge: f64,
        /// Share of a round's update that is merged.
        #[serde(default = "one")]
        shrinkage: f64,
    },
    /// FedLADA (arXiv 2308.00522) on adapters: local steps amended by the federation's direction.
    #[serde(rename = "fedlada")]
    FedLada {
        /// α: the share of a client's own step.
        #[serde(default = "tenth")]
        own: f64,
    },
    /// Clustered clients: FedIT within groups of clients whose B's are alike, an adapter and a head a group; groups as FedLEASE
    /// (arXiv 2509.15087) finds them after the first round, without its router.
    #[serde(rename = "clustered")]
    Clustered {
        /// How many groups; left out: as many as give the highest silhouette.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        groups: Option<usize>,
        /// How many groups at most, where the silhouette says; left out: 8.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        most: Option<usize>,
    },
    /// DFL (arXiv 2206.06818), in a federated form of our own: a shared and a private branch, trained in turns.
    Dfl {
        /// Slots of every target that are private; left out: half of `adapter.rank`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        private: Option<usize>,
        /// Weight β of the term that pushes the branches' answers apart.
        #[serde(default)]
        apart: f64,
    },
    /// A baseline: each client trains alone, and nothing is sent.
    Local {},
    /// A baseline: all rows in one place, trained for as many steps as the federation makes in a round.
    Pooled {},
    /// FSLoRA (arXiv 2501.19389): every client trains slots drawn anew each round.
    #[serde(rename = "fslora")]
    FsLora {},
    /// Fed-PLoRA (arXiv 2602.16936): every client trains slots drawn anew each round, the others frozen in its model.
    #[serde(rename = "fed-plora")]
    FedPlora {},
    /// FedRot-LoRA (arXiv 2602.23638): clients turn their slots towards the round's start before they send them.
    #[serde(rename = "fedrot-lora")]
    FedRotLora {
        /// λ: how far they are turned, 0 not at all, 1 all the way.
        #[serde(default = "one")]
        lambda: f64,
    },
    /// LA-LoRA (arXiv 2602.19926): A and B in turns within a client's local steps; under privacy the noisy mean is smoothed.
    #[serde(rename = "la-lora")]
    LaLora {
        /// The factor that moves in the first step.
        #[serde(default)]
        first: First,
        /// σ of the Laplacian smoothing of what the server averaged; 0: none. Left out: 1 with `[privacy]`, else none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        smoothing: Option<f64>,
    },
    /// FedASK (arXiv 2507.09990): clients send two sketches of their product, whose sum tells the server the mean of the products.
    #[serde(rename = "fedask")]
    FedAsk {
        /// Columns of the first sketch; the second has twice as many rows. Left out: twice `adapter.rank`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        columns: Option<usize>,
    },
}

fn one() -> f64 {
    1.0
}
fn one_slot() -> usize {
    1
}
fn tenth() -> f64 {
    0.1
}
fn hundredth() -> f64 {
    0.01
}
fn nearly_one() -> f64 {
    0.99
}

/// How many groups of clients there are at most, unless the settings say otherwise.
pub(crate) const MOST_GROUPS: usize = 8;

fn server_lr() -> f64 {
    0.1
}
fn server_momentum() -> f64 {
    0.9
}

/// What a strategy makes of `clients.budget`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetUse {
    /// Slots a client may choose, per target on average.
    Slots,
    /// The client's rank: it works with the first so many slots of every target.
    Ranks,
    /// Slots of every target that are drawn for the client anew each round.
    Drawn,
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
            StrategySettings::Full { .. } => "full",
            StrategySettings::FedPepTao { .. } => "fedpeptao",
            StrategySettings::RoLora { .. } => "rolora",
            StrategySettings::FlexLora {} => "flexlora",
            StrategySettings::Flora {} => "flora",
            StrategySettings::Florist { .. } => "florist",
            StrategySettings::RaFlora {} => "raflora",
            StrategySettings::Replication {} => "replication",
            StrategySettings::FedExLora { .. } => "fedex-lora",
            StrategySettings::LoraFair { .. } => "lora-fair",
            StrategySettings::FedSvd {} => "fedsvd",
            StrategySettings::FedSb {} => "fed-sb",
            StrategySettings::HetLora { .. } => "hetlora",
            StrategySettings::FedSaLora {} => "fedsa-lora",
            StrategySettings::SaFedLora { .. } => "sa-fedlora",
            StrategySettings::Sora { .. } => "sora",
            StrategySettings::XgbLora { .. } => "xgblora",
            StrategySettings::FedLada { .. } => "fedlada",
            StrategySettings::Dfl { .. } => "dfl",
            StrategySettings::Clustered { .. } => "clustered",
            StrategySettings::Local {} => "local",
            StrategySettings::Pooled {} => "pooled",
            StrategySettings::FsLora {} => "fslora",
            StrategySettings::FedPlora {} => "fed-plora",
            StrategySettings::FedRotLora { .. } => "fedrot-lora",
            StrategySettings::LaLora { .. } => "la-lora",
            StrategySettings::FedAsk { .. } => "fedask",
        }
    }

    /// How many groups it puts clients into at most; `None`: into none.
    pub fn most_groups(&self) -> Option<usize> {
        match self {
            StrategySettings::Clustered { groups, most } => Some(groups.or(*most).unwrap_or(MOST_GROUPS)),
            _ => None,
        }
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

    /// The first thing wrong with its keys at global rank `rank`.
    pub fn problem(&self, rank: usize) -> Option<Problem> {
        let weight = |v: f64| v.is_finite() && v >= 0.0;
        let share = |v: f64| v > 0.0 && v <= 1.0;
        const WEIGHT: &str = "a finite number, not negative";
        const SHARE: &str = "above 0 and at most 1";
        let own = match self {
            StrategySettings::LoraA2 { probe, .. } => {
                return probe
                    .problem()
                    .map(|what| Problem::new("strategy.probe", what))
                    .or_else(|| self.prune_problem());
            }
            StrategySettings::FedPepTao { layers, lr, momentum } => vec![
                ("strategy.layers", *layers != Some(0), "at least 1"),
                ("strategy.lr", lr.is_finite() && *lr > 0.0, "a positive number"),
                ("strategy.momentum", (0.0..1.0).contains(momentum), "in [0, 1)"),
            ],
            StrategySettings::HetLora { weight: w, decay, least } => vec![
                ("strategy.weight", weight(*w), WEIGHT),
                ("strategy.decay", share(*decay), SHARE),
                ("strategy.least", *least >= 1 && *least <= rank, "between 1 and adapter.rank"),
            ],
            StrategySettings::Florist { tau } => vec![("strategy.tau", share(*tau), SHARE)],
            StrategySettings::FedExLora { rank } => {
                vec![("strategy.rank", rank.is_none_or(|rank| rank >= 1), "at least 1; left out, nothing is cut")]
            }
            StrategySettings::LoraFair { lambda } => vec![("strategy.lambda", weight(*lambda), WEIGHT)],
            StrategySettings::SaFedLora { prox, least, .. } => vec![
                ("strategy.prox", weight(*prox), WEIGHT),
                ("strategy.least", *least > 0.0 && *least <= rank as f64, "above 0 and at most adapter.rank"),
            ],
            StrategySettings::Sora { xi, lr_gate, .. } => vec![
                ("strategy.xi", xi.is_none_or(weight), WEIGHT),
                ("strategy.lr_gate", lr_gate.is_none_or(weight), WEIGHT),
            ],
            StrategySettings::XgbLora { layers, ridge, shrinkage } => vec![
                ("strategy.layers", *layers >= 1, "at least 1"),
                ("strategy.ridge", weight(*ridge), WEIGHT),
                ("strategy.shrinkage", share(*shrinkage), SHARE),
            ],
            StrategySettings::FedLada { own } => vec![("strategy.own", share(*own), SHARE)],
            StrategySettings::Dfl { private, apart } => {
                let private = private.unwrap_or(rank / 2);
                vec![
                    ("strategy.private", private >= 1 && private < rank, "at least 1 and below adapter.rank"),
                    ("strategy.apart", weight(*apart), WEIGHT),
                ]
            }
            StrategySettings::Clustered { groups, most } => vec![
                ("strategy.groups", *groups != Some(0), "at least 1; left out, the silhouette says how many"),
                ("strategy.most", most.is_none_or(|most| most >= 2), "at least 2"),
                ("strategy.most", groups.is_none() || most.is_none(), "left out where strategy.groups says how many"),
            ],
            StrategySettings::FedRotLora { lambda } => {
                vec![("strategy.lambda", (0.0..=1.0).contains(lambda), "between 0 and 1")]
            }
            StrategySettings::LaLora { smoothing, .. } => {
                vec![("strategy.smoothing", smoothing.is_none_or(weight), WEIGHT)]
            }
            StrategySettings::FedAsk { columns } => {
                vec![("strategy.columns", columns.is_none_or(|n| n >= rank), "at least adapter.rank")]
            }
            StrategySettings::FedIt { .. }
            | StrategySettings::FfaLora { .. }
            | StrategySettings::RoLora { .. }
            | StrategySettings::Local {}
            | StrategySettings::Pooled {}
            | StrategySettings::FsLora {}
            | StrategySettings::FedPlora {}
            | StrategySettings::Full {}
            | StrategySettings::FlexLora {}
            | StrategySettings::Flora {}
            | StrategySettings::RaFlora {}
            | StrategySettings::Replication {}
            | StrategySettings::FedSvd {}
            | StrategySettings::FedSb {}
            | StrategySettings::FedSaLora {} => Vec::new(),
        };
        Problem::first(own).or_else(|| self.prune_problem())
    }

    fn prune_problem(&self) -> Option<Problem> {
        self.prune().and_then(|prune| prune.problem())
    }
}

/// The factor that moves in a client's first step, where they move in turns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum First {
    /// A, as in LA-LoRA's published code. In a run's very first step it has no gradient, since B is still zero.
    A,
    /// B.
    #[default]
    B,
}

/// The denominator of LoRA-A²'s sparse average.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    fn problem(&self) -> Option<Problem> {
        let fine = self.threshold > 0.0 && self.threshold < 1.0 && self.patience >= 1;
        let what = "must have a threshold in (0, 1) and a patience of at least 1 round";
        (!fine).then(|| Problem::new("strategy.prune", what))
    }
}
