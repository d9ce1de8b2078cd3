//! What a user can say about local training: the `[train]` section, and how slots are probed. Checked here, beside its owner.

mod devices;
mod optimizer;
mod rounds;
mod schema;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Problem;
pub use devices::{EngineSettings, InFlight, Recompute};
pub use optimizer::ClientOptimizer;
pub use rounds::RoundSchedule;

/// Local training, the same for every client of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainSettings {
    /// Rounds of the federation; 0: the untrained model is evaluated, and nothing trains.
    pub rounds: usize,
    /// Local epochs a client trains in a round (E in the paper).
    #[serde(default = "one")]
    pub epochs: usize,
    /// Local steps a client makes in a round, in place of those of its `epochs`: exactly so many, its examples coming round as often as
    /// that takes. Left out: whole epochs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// Tokens after which a client makes no further step in a round; left out: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u64>,
    /// Batches whose gradients make one step: as one batch so many times as large, in the memory of one. The last step of an epoch
    /// takes what is left.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub accumulate: usize,
    /// Examples a client puts into one batch; the last, smaller batch of an epoch is kept.
    #[serde(default = "thirty_two")]
    pub batch_size: usize,
    /// Learning rate of the A factors. Left out: by the model's width, `5e-4 · 768 / hidden` to one digit (3e-3 for the built-in
    /// encoder, 2e-4 for a Llama of 1B).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lr_a: Option<f64>,
    /// Learning rate of the B factors. Left out: the strategy's own rule (`5 · lr_a` for `lora-a2`, `2 · lr_a` for `la-lora`, `lr_a` elsewhere).
    /// A number, or a multiple of `lr_a` as text: `"5x"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lr_b: Option<Rate>,
    /// Learning rate of the classifier head; only a trained head reads it.
    #[serde(default = "default_lr_head")]
    pub lr_head: f64,
    /// By which rule clients step; left out: AdamW.
    #[serde(default, skip_serializing_if = "ClientOptimizer::is_adamw")]
    pub optimizer: ClientOptimizer,
    /// Weight decay; where in the step it acts is the optimizer's.
    #[serde(default)]
    pub weight_decay: f64,
    /// Decay rates of AdamW's and Adam's first and second moment.
    #[serde(default = "default_betas")]
    pub betas: [f64; 2],
    /// Floor of AdamW's and Adam's denominator.
    #[serde(default = "default_eps")]
    pub eps: f64,
    /// Clip each client's gradient to this L2 norm (over all it trains); left out: no clipping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
    /// How the learning rate moves over a client's local steps of one round.
    #[serde(default)]
    pub schedule: Schedule,
    /// Local steps over which the learning rate rises from zero at the start of each round.
    #[serde(default)]
    pub warmup_steps: usize,
    /// How the learning rates move from round to round; left out: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lr_rounds: Option<RoundSchedule>,
    /// Share of every label that is spread evenly over all answers, as PyTorch's `label_smoothing`. Evaluation knows nothing of it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub label_smoothing: f64,
    /// What an example of each class weighs in the local objective, a number a label in the order of `labels.json`, as the `weight` of PyTorch's
    /// `CrossEntropyLoss`; left out: all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_weights: Option<Vec<f64>>,
    /// Draw a new order of the shard for every epoch; `false`: always the order of the shard.
    #[serde(default = "yes")]
    pub shuffle: bool,
    /// FedProx (arXiv 1812.06127): adds `(prox/2)·‖θ − θᵗ‖²` over what trains to the local objective.
    #[serde(default)]
    pub prox: f64,
    /// SCAFFOLD (arXiv 1910.06378): control variates correct every gradient; twice the traffic.
    #[serde(default)]
    pub scaffold: bool,
    /// Flat-LoRA's noise on the adapted weights; left out: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flat: Option<Flat>,
    /// What happens when a client's loss or update is not a number any more.
    #[serde(default)]
    pub not_finite: NotFinite,
    /// Ends the run before its last round where `evaluate.best` has not become better for so many evaluations; left out: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<EarlyStop>,
    /// Where no bar is drawn (output to a file, a batch system): seconds between lines that say how far a round is; 0: none. Left
    /// out: 60.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_every: Option<f64>,
    /// Seed of everything random in the run.
    #[serde(default)]
    pub seed: u64,
}

/// `[train] stop`: when a run ends before its last round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EarlyStop {
    /// Evaluations in a row that are no better than the best before them.
    pub patience: usize,
}

/// What happens when a client's loss or update is not a number any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NotFinite {
    /// The run stops and says which client it was.
    #[default]
    Stop,
    /// The round goes on without the client's upload; such clients are counted.
    SkipClient,
}

fn one() -> usize {
    1
}
fn is_one(n: &usize) -> bool {
    *n == 1
}
fn is_zero(share: &f64) -> bool {
    *share == 0.0
}
fn thirty_two() -> usize {
    32
}
/// The rate of the A factors for a model whose tokens have so many features, where none is given: that of LoRA-A² (arXiv
/// 2410.22815) for RoBERTa-base, in inverse proportion to the width, since the steps of Adam add up over a weight's inputs
/// (Yang et al. 2022, arXiv 2203.03466, table 3), to one digit.
pub fn default_rate(hidden: usize) -> f64 {
    let rate = PAPER_RATE * PAPER_HIDDEN / hidden.max(1) as f64;
    format!("{rate:.0e}").parse().expect("a number as it is written")
}

/// LoRA-A²'s learning rate of A (its appendix), and the features of RoBERTa-base, which it is for.
const PAPER_RATE: f64 = 5e-4;
const PAPER_HIDDEN: f64 = 768.0;

fn default_lr_head() -> f64 {
    1e-2
}
fn default_betas() -> [f64; 2] {
    [0.9, 0.999]
}
fn default_eps() -> f64 {
    1e-8
}

/// Flat-LoRA (arXiv 2409.14396): local training looks for a minimum that is flat in the weights, not only in the adapter,
/// by random noise on `W + s·A·B` at every step. Probes go without.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Flat {
    /// σ at the end of the run: how large the noise is beside the weights.
    #[serde(default = "twentieth")]
    pub rho: f64,
}

fn twentieth() -> f64 {
    0.05
}

impl Flat {
    /// σ at a client's step `step` (from 0) of all `total` steps it would do in the run: `ρ·½(1 − cos(π·step/total))`. As in
    /// the published code, the first step has none.
    pub fn sigma(self, step: usize, total: usize) -> f64 {
        let done = step as f64 / total.max(1) as f64;
        self.rho * 0.5 * (1.0 - (std::f64::consts::PI * done).cos())
    }
}

/// Shape of the learning rate over a client's local steps of one round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// The same at every step.
    #[default]
    Constant,
    /// Falls in a straight line to zero after the last step.
    Linear,
    /// Falls along half a cosine to zero after the last step.
    Cosine,
}

impl Schedule {
    /// Factor on the learning rate at local step `step` (from 0) of `total`, after `warmup` rising steps.
    pub fn factor(self, step: usize, total: usize, warmup: usize) -> f64 {
        if step < warmup {
            return (step + 1) as f64 / warmup as f64;
        }
        let left = total.saturating_sub(warmup).max(1) as f64;
        let done = ((step - warmup) as f64 / left).min(1.0);
        match self {
            Schedule::Constant => 1.0,
            Schedule::Linear => 1.0 - done,
            Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
        }
    }
}

impl TrainSettings {
    /// The rate of the A factors; before [`TrainSettings::settle`] that of the paper's model where none is given.
    pub fn rate_a(&self) -> f64 {
        self.lr_a.unwrap_or(PAPER_RATE)
    }

    /// Fills in what is left to the model, whose tokens have so many features.
    pub fn settle(&mut self, hidden: usize) {
        self.lr_a.get_or_insert_with(|| default_rate(hidden));
    }

    /// Local steps of a round over a shard of `examples`.
    pub fn local_steps(&self, examples: usize) -> usize {
        self.steps.unwrap_or(self.steps_an_epoch(examples) * self.epochs)
    }

    /// Local steps that go once through a shard of `examples`.
    pub fn steps_an_epoch(&self, examples: usize) -> usize {
        examples.div_ceil(self.batch_size * self.accumulate)
    }

    /// The same settings in `round`, with the rates that they have then, and the factor on these.
    pub(crate) fn in_round(&self, round: usize) -> (TrainSettings, f64) {
        let factor = self.lr_rounds.map_or(1.0, |schedule| schedule.factor(round, self.rounds));
        (TrainSettings { lr_head: self.lr_head * factor, ..self.clone() }, factor)
    }

    /// The first thing wrong with these settings.
    pub fn problem(&self) -> Option<Problem> {
        let rate = |v: f64| v.is_finite() && v >= 0.0;
        Problem::first([
            ("train.epochs", self.epochs >= 1, "at least 1"),
            ("train.batch_size", self.batch_size >= 1, "at least 1"),
            ("train.steps", self.steps != Some(0), "at least 1"),
            ("train.max_tokens", self.max_tokens != Some(0), "at least 1"),
            ("train.accumulate", self.accumulate >= 1, "at least 1"),
            ("train.lr_rounds.min", self.lr_rounds.is_none_or(RoundSchedule::is_valid), RoundSchedule::VALID),
            ("train.label_smoothing", (0.0..1.0).contains(&self.label_smoothing), "a share of at least 0 and below 1"),
            (
                "train.class_weights",
                self.class_weights
                    .as_ref()
                    .is_none_or(|weights| weights.iter().all(|w| rate(*w)) && weights.iter().any(|w| *w > 0.0)),
                "finite numbers, none negative and not all zero",
            ),
            ("train.lr_a", self.lr_a.is_none_or(rate), "a finite number, not negative"),
            (
                "train.lr_b",
                self.lr_b.is_none_or(|b| rate(b.of(self.rate_a()))),
                "a finite number, not negative, or a multiple of lr_a such as \"5x\"",
            ),
            ("train.flat.rho", self.flat.is_none_or(|f| rate(f.rho)), "a finite number, not negative"),
            ("train.prox", rate(self.prox), "a finite number, not negative"),
            ("train.lr_head", rate(self.lr_head), "a finite number, not negative"),
            ("train.optimizer.momentum", self.optimizer.has_a_share(), "a share in [0, 1)"),
            (
                "train.optimizer.nesterov",
                self.optimizer.can_look_ahead(),
                "left out, or have a momentum above 0 beside it",
            ),
            ("train.weight_decay", rate(self.weight_decay), "a finite number, not negative"),
            ("train.betas", self.betas.iter().all(|b| (0.0..1.0).contains(b)), "two numbers in [0, 1)"),
            ("train.eps", self.eps > 0.0 && self.eps.is_finite(), "a small positive number"),
            ("train.stop.patience", self.stop.is_none_or(|stop| stop.patience >= 1), "at least 1"),
            ("train.log_every", self.log_every.is_none_or(rate), "a number of seconds, not negative"),
            ("train.clip_norm", self.clip_norm.is_none_or(|c| c > 0.0), "a positive number"),
        ])
    }
}

/// A learning rate: a number, or a multiple of another one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RateText", into = "RateText")]
pub enum Rate {
    /// This much.
    Value(f64),
    /// So many times the rate of A.
    Times(f64),
}

impl Rate {
    /// The rate where that of A is `lr_a`.
    pub fn of(self, lr_a: f64) -> f64 {
        match self {
            Rate::Value(v) => v,
            Rate::Times(n) => n * lr_a,
        }
    }
}

/// The spelling of [`Rate`] in a configuration file.
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number, or a multiple of lr_a such as \"5x\"")]
enum RateText {
    Number(f64),
    Text(String),
}

impl TryFrom<RateText> for Rate {
    type Error = String;
    fn try_from(text: RateText) -> Result<Self, String> {
        match text {
            RateText::Number(v) => Ok(Rate::Value(v)),
            RateText::Text(t) => match t.strip_suffix('x').and_then(|n| n.trim().parse().ok()) {
                Some(n) => Ok(Rate::Times(n)),
                None => Err(format!("\"{t}\"; expected a number, or a multiple of lr_a such as \"5x\"")),
            },
        }
    }
}

impl From<Rate> for RateText {
    fn from(rate: Rate) -> Self {
        match rate {
            Rate::Value(v) => RateText::Number(v),
            Rate::Times(n) => RateText::Text(format!("{n}x")),
        }
    }
}

/// The probe before slot selection: ordinary, unmasked training of the active factor (paper, section 4.2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// Whole epochs over the shard. Default 1, unless `batches` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<usize>,
    /// Only this many batches of the first epoch; the cheap variant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batches: Option<usize>,
    /// Drop what the probe learnt before training (the paper's way). `false`: the selected slots keep it.
    #[serde(default = "yes")]
    pub reset: bool,
}

fn yes() -> bool {
    true
}

impl Default for Probe {
    fn default() -> Self {
        Probe { epochs: Some(1), batches: None, reset: true }
    }
}

impl Probe {
    /// Whether the probe says one thing.
    pub fn problem(&self) -> Option<&'static str> {
        match (self.epochs, self.batches) {
            (Some(_), Some(_)) => Some("gives epochs and batches; give one of them"),
            (Some(0), _) | (_, Some(0)) => Some("probes nothing; give at least 1 epoch or batch"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_grows_from_nothing_to_rho() {
        let flat = Flat { rho: 0.2 };
        assert!(flat.sigma(0, 1000) == 0.0 && (flat.sigma(500, 1000) - 0.1).abs() < 1e-12);
        assert!((flat.sigma(1000, 1000) - 0.2).abs() < 1e-12);
    }

    #[test]
    fn the_default_rate_goes_by_the_width() {
        // 5e-4 · 768 / hidden: 0.0030, 0.00100, 0.000667, 0.0005, 0.0001875, 0.00009375.
        let known = [(128, 3e-3), (384, 1e-3), (576, 7e-4), (768, 5e-4), (2048, 2e-4), (4096, 9e-5)];
        for (hidden, rate) in known {
            assert_eq!(default_rate(hidden), rate, "{hidden} features");
        }
    }

    #[test]
    fn schedules_start_at_one_and_end_near_zero() {
        for s in [Schedule::Constant, Schedule::Linear, Schedule::Cosine] {
            assert_eq!(s.factor(0, 10, 0), 1.0);
        }
        assert!((Schedule::Linear.factor(9, 10, 0) - 0.1).abs() < 1e-12);
        assert!(Schedule::Cosine.factor(9, 10, 0) < 0.03);
        assert_eq!(Schedule::Linear.factor(1, 10, 4), 0.5);
        assert_eq!(Schedule::Linear.factor(4, 10, 4), 1.0);
    }
}
