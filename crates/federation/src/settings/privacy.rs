//! `[privacy]`: what is done so that an upload, or the model, tells little about one client.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is done for privacy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum PrivacySettings {
    /// Clients clip every gradient and add Laplace noise to their upload, as APPFL does and the LoRA-A² paper's table 4
    /// uses. ε is that of one round; rounds are not composed.
    Laplace {
        /// ε of a round.
        epsilon: f64,
        /// Largest norm of a gradient, C.
        clip: f64,
    },
    /// DP-FedAvg: uploads are clipped to a norm, the server adds Gaussian noise to their mean (arXiv 1710.06963). The
    /// guarantee is for whole clients, against everyone who sees the global model.
    Gaussian {
        /// Largest norm of an upload, C.
        clip: f64,
        /// Deviation of the noise on the sum of uploads, in units of C.
        noise: f64,
        /// δ that ε is reported for; left out: `1 / clients.count^1.1`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        delta: Option<f64>,
    },
}

impl PrivacySettings {
    /// The first thing wrong, as `(key, what would be right)`.
    pub fn problem(&self) -> Option<(&'static str, String)> {
        let positive = |v: f64| v.is_finite() && v > 0.0;
        let checks = match *self {
            PrivacySettings::Laplace { epsilon, clip } => [
                ("privacy.epsilon", positive(epsilon), "a positive number"),
                ("privacy.clip", positive(clip), "a positive number"),
                ("privacy", true, ""),
            ],
            PrivacySettings::Gaussian { clip, noise, delta } => [
                ("privacy.clip", positive(clip), "a positive number"),
                ("privacy.noise", noise.is_finite() && noise >= 0.0, "a number, not negative"),
                ("privacy.delta", delta.is_none_or(|d| d > 0.0 && d < 1.0), "a small probability, above 0"),
            ],
        };
        checks.into_iter().find(|(_, fine, _)| !fine).map(|(key, _, want)| (key, format!("must be {want}")))
    }
}
