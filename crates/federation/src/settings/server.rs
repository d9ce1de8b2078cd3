//! `[server]`: how the clients' movements, by how much each has moved what it trained, are averaged, and the server's optimizer.

use bonfire_engine::{Problem, RoundSchedule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Asynchronous;

/// How movements are combined, where the strategy averages them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerSettings {
    /// What the server makes of an average movement.
    #[serde(default)]
    pub optimizer: ServerOptimizer,
    /// How the optimizer's learning rate moves from round to round; left out: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<RoundSchedule>,
    /// How the clients' values become one.
    #[serde(default)]
    pub aggregate: Aggregation,
    /// What each client weighs in every mean over clients, whatever the strategy.
    #[serde(default)]
    pub weights: Weights,
    /// Largest norm of a client's movement that is believed; left out: any. An upload above it is left out of the round, counted
    /// and named, as one that is not finite is: one client alone cannot ruin the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_norm: Option<f64>,
    /// Most training examples that a client is believed to have; left out: any number. Who says more is left out of the round,
    /// counted and named: what a client weighs in a mean is its own word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_examples: Option<usize>,
    /// Buffered asynchronous rounds by the clock of `clients.devices`; left out: a round waits for its clients. `clients.per_round` is then how
    /// many are at work at any time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asynchronous: Option<Asynchronous>,
}

/// What a client weighs in a mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Weights {
    /// Its examples, `n_k / Σ n` (FedAvg, arXiv 1602.05629).
    #[default]
    Examples,
    /// The same as any other, `1 / K`: so SCAFFOLD's and FedLADA's papers and FedEx-LoRA's published code.
    Uniform,
}

/// What the server makes of an average movement.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "name", deny_unknown_fields)]
pub enum ServerOptimizer {
    /// Adds it, times a learning rate.
    #[serde(rename = "fedavg")]
    FedAvg {
        /// Server learning rate.
        #[serde(default = "one")]
        lr: f64,
    },
    /// Adds its running sum (arXiv 1909.06335).
    #[serde(rename = "fedavgm")]
    FedAvgM {
        /// Server learning rate.
        #[serde(default = "one")]
        lr: f64,
        /// Share of the sum kept from round to round.
        #[serde(default = "nine_tenths")]
        momentum: f64,
    },
    /// Adam with the movement as gradient (arXiv 2003.00295).
    #[serde(rename = "fedadam")]
    FedAdam {
        /// Server learning rate.
        #[serde(default = "hundredth")]
        lr: f64,
        /// Decay rates of the first and second moment.
        #[serde(default = "server_betas")]
        betas: [f64; 2],
        /// Added to the root of the second moment.
        #[serde(default = "thousandth")]
        tau: f64,
    },
    /// Yogi with the movement as gradient (arXiv 2003.00295).
    #[serde(rename = "fedyogi")]
    FedYogi {
        /// Server learning rate.
        #[serde(default = "hundredth")]
        lr: f64,
        /// Decay rates of the first and second moment.
        #[serde(default = "server_betas")]
        betas: [f64; 2],
        /// Added to the root of the second moment.
        #[serde(default = "thousandth")]
        tau: f64,
    },
}

impl ServerOptimizer {
    /// The same at so many times its learning rate.
    pub(crate) fn at_rate(mut self, factor: f64) -> Self {
        use ServerOptimizer::{FedAdam, FedAvg, FedAvgM, FedYogi};
        let (FedAvg { lr } | FedAvgM { lr, .. } | FedAdam { lr, .. } | FedYogi { lr, .. }) = &mut self;
        *lr *= factor;
        self
    }
}

impl Default for ServerOptimizer {
    fn default() -> Self {
        ServerOptimizer::FedAvg { lr: 1.0 }
    }
}

/// How the clients' values of one number become one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Aggregation {
    /// Their mean, weighted by examples.
    Mean {},
    /// Their median, without weights (arXiv 1803.01498).
    Median {},
    /// Their mean without the extremes, without weights (arXiv 1803.01498).
    TrimmedMean {
        /// Share of the clients left out at each end.
        #[serde(default = "tenth")]
        trim: f64,
    },
    /// The one client's movement that lies nearest to most others (Krum, Blanchard et al., NeurIPS 2017).
    Krum {
        /// Clients of a round that may mean harm, f; of n, `n ≥ 2f + 3`.
        attackers: usize,
    },
    /// The mean, without weights, of those that lie nearest to most others (Multi-Krum, as there).
    MultiKrum {
        /// Clients of a round that may mean harm, f; of n, `n ≥ 2f + 3`.
        attackers: usize,
        /// How many are kept; left out: `n − f`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        keep: Option<usize>,
    },
    /// Of `n − 2f` that Krum takes one after the other, number by number the mean of the `n − 4f` nearest to their median (Bulyan,
    /// El Mhamdi et al., arXiv 1802.07927).
    Bulyan {
        /// Clients of a round that may mean harm, f; of n, `n ≥ 4f + 3`.
        attackers: usize,
    },
    /// The mean, weighted by examples, of movements none of which is longer than a bound (Sun et al., arXiv 1911.07963).
    NormClip {
        /// The bound; left out: the median of the round's norms.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        norm: Option<f64>,
    },
    /// Every client counts once, and the more the worse the model serves it (q-FedAvg, Li et al., arXiv 1905.10497): of its movement d and
    /// its loss F before it trained, `Σ F^q·L·d / Σ (q·F^(q−1)·L²·‖d‖² + L·F^q)`.
    #[serde(rename = "q-fedavg")]
    QFedAvg {
        /// How much more: 0 is the plain mean.
        #[serde(default = "one")]
        q: f64,
        /// L, about the Lipschitz constant of the objective's gradient; left out: one over the clients' learning rate, of each kind of tensor its
        /// own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lipschitz: Option<f64>,
    },
}

impl Default for Aggregation {
    fn default() -> Self {
        Aggregation::Mean {}
    }
}

fn one() -> f64 {
    1.0
}
fn nine_tenths() -> f64 {
    0.9
}
fn tenth() -> f64 {
    0.1
}
fn hundredth() -> f64 {
    0.01
}
fn thousandth() -> f64 {
    1e-3
}
fn server_betas() -> [f64; 2] {
    [0.9, 0.99]
}

impl ServerSettings {
    /// The first thing wrong.
    pub fn problem(&self) -> Option<Problem> {
        use ServerOptimizer::{FedAdam, FedAvg, FedAvgM, FedYogi};
        let (FedAvg { lr } | FedAvgM { lr, .. } | FedAdam { lr, .. } | FedYogi { lr, .. }) = self.optimizer;
        let unit = |v: f64| (0.0..1.0).contains(&v);
        let decays = match self.optimizer {
            FedAvg { .. } => true,
            FedAvgM { momentum, .. } => unit(momentum),
            FedAdam { betas, tau, .. } | FedYogi { betas, tau, .. } => betas.iter().all(|b| unit(*b)) && tau > 0.0,
        };
        let trim = !matches!(self.aggregate, Aggregation::TrimmedMean { trim } if !(0.0..0.5).contains(&trim));
        let keep = !matches!(self.aggregate, Aggregation::MultiKrum { keep: Some(0), .. });
        let norm =
            !matches!(self.aggregate, Aggregation::NormClip { norm: Some(norm) } if !(norm.is_finite() && norm > 0.0));
        let (q, lipschitz) = match self.aggregate {
            Aggregation::QFedAvg { q, lipschitz } => (q, lipschitz),
            _ => (0.0, None),
        };
        Problem::first([
            ("server.aggregate.q", q.is_finite() && q >= 0.0, "a finite number, not negative"),
            ("server.aggregate.lipschitz", lipschitz.is_none_or(|l| l.is_finite() && l > 0.0), "a positive number"),
            ("server.max_norm", self.max_norm.is_none_or(|norm| norm.is_finite() && norm > 0.0), "a positive number"),
            ("server.max_examples", self.max_examples != Some(0), "1 or more"),
            ("server.schedule.min", self.schedule.is_none_or(RoundSchedule::is_valid), RoundSchedule::VALID),
            ("server.optimizer.lr", lr.is_finite() && lr > 0.0, "a positive number"),
            ("server.optimizer", decays, "given momentum and betas in [0, 1) and a tau above 0"),
            ("server.aggregate.trim", trim, "a share in [0, 0.5)"),
            ("server.aggregate.keep", keep, "1 or more"),
            ("server.aggregate.norm", norm, "a positive number"),
        ])
    }
}
