//! `[attack]`: clients that mean harm, to see what a method and `server.aggregate` make of them.

use bonfire_data::random::{Use, stream};
use bonfire_engine::Problem;
use rand::seq::SliceRandom;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Some clients, drawn by `train.seed`, mean harm in every round in which they take part.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum AttackSettings {
    /// They train on wrong labels: of K classes, class c becomes K − 1 − c (Tolpegin et al., arXiv 2007.08432; Fang et al.,
    /// arXiv 1911.11815).
    LabelFlip {
        /// Share of the clients.
        share: f64,
    },
    /// They train as told and send so many times their movement (model replacement, Bagdasaryan et al., arXiv 1807.00459).
    Scale {
        /// Share of the clients.
        share: f64,
        /// How many times.
        #[serde(default = "ten")]
        factor: f64,
    },
    /// They send the negative of their movement (sign flipping, Li et al., arXiv 1811.03761).
    Negate {
        /// Share of the clients.
        share: f64,
        /// How many times it.
        #[serde(default = "one")]
        factor: f64,
    },
    /// They add Gaussian noise to every number they send.
    Noise {
        /// Share of the clients.
        share: f64,
        /// Its deviation.
        deviation: f64,
    },
}

fn one() -> f64 {
    1.0
}
fn ten() -> f64 {
    10.0
}

impl AttackSettings {
    /// Share of the clients that mean harm.
    pub fn share(&self) -> f64 {
        let (AttackSettings::LabelFlip { share }
        | AttackSettings::Scale { share, .. }
        | AttackSettings::Negate { share, .. }
        | AttackSettings::Noise { share, .. }) = self;
        *share
    }

    /// Those of `clients` clients that mean harm, ascending: the share rounded to whole clients, at least one.
    pub fn attackers(&self, seed: u64, clients: usize) -> Vec<usize> {
        let count = ((self.share() * clients as f64).round() as usize).clamp(1, clients);
        let mut all: Vec<usize> = (0..clients).collect();
        all.shuffle(&mut stream(seed, Use::Attack, 0, 0, 0));
        all.truncate(count);
        all.sort_unstable();
        all
    }

    /// The first thing wrong.
    pub fn problem(&self) -> Option<Problem> {
        let number = |v: f64| v.is_finite() && v > 0.0;
        let own = match self {
            AttackSettings::LabelFlip { .. } => None,
            AttackSettings::Scale { factor, .. } | AttackSettings::Negate { factor, .. } => {
                Some(("attack.factor", number(*factor), "a positive number"))
            }
            AttackSettings::Noise { deviation, .. } => {
                Some(("attack.deviation", number(*deviation), "a positive number"))
            }
        };
        let share = ("attack.share", self.share() > 0.0 && self.share() <= 1.0, "above 0 and at most 1");
        Problem::first([share].into_iter().chain(own).collect::<Vec<_>>())
    }
}
