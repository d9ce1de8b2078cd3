//! What a plan asks of the clients' training: what the objective adds, how clients step, what they keep for themselves, and
//! what privacy does to their uploads. `terms/` carries it out.

use std::sync::Arc;

use bonfire_models::Factor;
use serde::{Deserialize, Serialize};

use crate::RoleTensors;

/// What a client's objective adds to cross-entropy. Gradients of these are added before clipping and moments.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    /// FedProx: `(μ/2)·‖θ − θᵗ‖²` over what trains.
    pub prox: f64,
    /// `λ·(‖A‖² + ‖B‖²)` over the factors that train.
    pub ridge: f64,
    /// HetLoRA's push on the last slots.
    pub tail: Option<TailPenalty>,
    /// SoRA's shrinking of the gates after every step.
    pub threshold: Option<Threshold>,
    /// SCAFFOLD: the server's control variate; clients add theirs, and send what changed of it.
    #[serde(with = "super::message::presence")]
    pub variate: Option<Arc<RoleTensors>>,
    /// DFL's two branches.
    pub branches: Option<Branches>,
    /// LA-LoRA: A and B move in turns, this one in a client's first step; `None`: together.
    #[serde(default)]
    pub turns_from: Option<Factor>,
}

/// `λ·Σ ‖B_tail‖·‖A_tail‖` over the slots from `⌊γ·r_k⌋` of a client's `r_k` (HetLoRA, arXiv 2401.06432). Where the
/// product shrinks in local training, the client drops these slots from its upload, unless that leaves fewer than
/// `least`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TailPenalty {
    /// Weight λ of the penalty.
    pub weight: f64,
    /// Share γ of a client's slots that are not its last ones.
    pub decay: f64,
    /// Fewest slots of a target.
    pub least: usize,
}

impl TailPenalty {
    /// Slots of `rank` that stay in any case.
    pub fn keeps(&self, rank: usize) -> usize {
        ((self.decay * rank as f64).floor() as usize).clamp(self.least.min(rank), rank)
    }
}

/// `g ← sign(g)·max(|g| − ξ, 0)` on what stands between A and B, after every step (SoRA, arXiv 2311.11696).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Threshold {
    /// By how much a gate shrinks in a step, ξ.
    pub xi: f64,
    /// As SoRA's published code does it, which also zeroes what was just shrunk below ξ: all `|g| < 2ξ`.
    pub twice: bool,
}

/// A shared and a private branch side by side in one adapter, trained in turns (DFL, arXiv 2206.06818): odd local steps
/// move the private slots, even ones the shared slots and the head.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Branches {
    /// The first so many slots of every target are shared, the others private.
    pub shared: usize,
    /// Weight β of `−β·JS(z_shared, z_private)`, which pushes the branches' answers apart.
    pub divergence_weight: f64,
}

/// How clients step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LocalOptimizer {
    /// As `[train]` says, from zero moments.
    #[default]
    Configured,
    /// FedLADA's amended step (arXiv 2308.00522): `x ← x − η(α·m/√v̂ + (1−α)·g)`.
    Amended {
        /// Share α of the client's own step.
        own: f64,
        /// Second moments to start from.
        #[serde(skip)]
        second: Arc<RoleTensors>,
        /// The federation's last mean gradient g.
        #[serde(skip)]
        direction: Arc<RoleTensors>,
    },
}

/// What clients keep for themselves from round to round: it is neither sent nor averaged, and the next round goes on
/// from it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Private {
    /// These factors, of all targets.
    pub factors: Vec<Factor>,
    /// The head.
    pub head: bool,
    /// The slots from this one on, of all targets.
    pub slots_from: Option<usize>,
    /// Everything of these targets.
    pub targets: Vec<usize>,
    /// It is not the client's alone but its group's: the client begins with what the group has, and sends by how much it moved that.
    #[serde(default)]
    pub by_group: bool,
}

impl Private {
    /// Whether everything is shared.
    pub fn is_nothing(&self) -> bool {
        *self == Private::default()
    }

    /// Whether what it says goes together: what groups share is everything.
    pub(crate) fn is_of_a_kind(&self) -> bool {
        let everything = self.factors == [Factor::A, Factor::B] && self.head;
        !self.by_group || (everything && self.slots_from.is_none() && self.targets.is_empty())
    }

    /// From which of `rows` slots on a factor is private.
    pub fn from_row(&self, target: usize, factor: Factor, rows: usize) -> usize {
        if self.factors.contains(&factor) || self.targets.contains(&target) {
            0
        } else {
            self.slots_from.unwrap_or(rows).min(rows)
        }
    }

    /// How many of `rows` slots of a factor all clients begin with as the server has them.
    pub fn shared_rows(&self, target: usize, factor: Factor, rows: usize) -> usize {
        if self.by_group { rows } else { self.from_row(target, factor, rows) }
    }

    /// Whether all clients begin with the server's head.
    pub fn shares_head(&self) -> bool {
        !self.head || self.by_group
    }
}

/// What is done to an upload before it leaves the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientPrivacy {
    /// Nothing.
    #[default]
    Off,
    /// Gradients are clipped to norm `clip` at every step and every number gets noise of Laplace(0, `2·clip·η/ε`) once,
    /// as in APPFL (the LoRA-A² paper, table 4).
    Laplace {
        /// ε of one round, without composition.
        epsilon: f64,
        /// Largest norm C of a gradient.
        clip: f64,
    },
    /// The whole movement is scaled to norm at most `clip` (DP-FedAvg; the server adds the noise).
    Clip {
        /// Largest norm C of a client's whole movement.
        clip: f64,
    },
}
