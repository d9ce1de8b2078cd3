//! How a rate moves from round to round.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Schedule;

/// Shape of a rate over the rounds of a run, beside what it does inside a round.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RoundSchedule {
    /// How it falls.
    pub schedule: Schedule,
    /// The share of the rate that it falls to: 0.02 is a fiftieth.
    #[serde(default)]
    pub min: f64,
    /// Rounds over which it rises from zero first.
    #[serde(default)]
    pub warmup: usize,
    /// Whether `min` is reached in the last round, as FlowerTune counts (round t of T at `t/T` of the way), and not only after it, as
    /// PyTorch's schedulers count (`(t − 1)/T`).
    #[serde(default)]
    pub reached: bool,
}

impl RoundSchedule {
    /// Factor on the rate in `round` (from 1) of `rounds`.
    pub fn factor(self, round: usize, rounds: usize) -> f64 {
        let before = round.saturating_sub(1);
        if before < self.warmup {
            return (before + 1) as f64 / self.warmup as f64;
        }
        let at = if self.reached { round } else { before };
        self.min + (1.0 - self.min) * self.schedule.factor(at, rounds, self.warmup)
    }

    /// Whether it is one.
    pub fn is_valid(self) -> bool {
        (0.0..=1.0).contains(&self.min)
    }

    /// What [`Self::is_valid`] asks for.
    pub const VALID: &str = "a share of the rate, from 0 to 1";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_fall_as_flowertune_and_pytorch_have_it() {
        let cosine = |min: f64, reached| RoundSchedule { schedule: Schedule::Cosine, min, warmup: 0, reached };
        // FlowerTune: `lr_min + 0.5·(lr_max − lr_min)·(1 + cos(π·t/T))` from 5e-5 to 1e-6, rounds 1, 100 and 200 of 200.
        for (round, lr) in [(1, 4.999_697_749_580_069e-5), (100, 2.55e-5), (200, 1e-6)] {
            let found = 5e-5 * cosine(0.02, true).factor(round, 200);
            assert!((found - lr).abs() < 1e-14, "round {round}: {found}");
        }
        // `torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4, eta_min=0.1)` with a rate of 1.
        for (round, lr) in [1.0, 0.868_198_051_533_946_4, 0.55, 0.231_801_948_466_053_5].into_iter().enumerate() {
            assert!((cosine(0.1, false).factor(round + 1, 4) - lr).abs() < 1e-12);
        }
    }

    #[test]
    fn rates_rise_first() {
        let warm = RoundSchedule { schedule: Schedule::Linear, min: 0.2, warmup: 2, reached: false };
        let factors: Vec<f64> = (1..=6).map(|round| warm.factor(round, 6)).collect();
        for (found, expected) in factors.iter().zip([0.5, 1.0, 1.0, 0.8, 0.6, 0.4]) {
            assert!((found - expected).abs() < 1e-12, "{factors:?}");
        }
        let constant = RoundSchedule { schedule: Schedule::Constant, min: 0.0, warmup: 0, reached: true };
        assert_eq!(constant.factor(6, 6), 1.0);
    }
}
