//! `[privacy]`: what is done so that an upload, or the model, tells little about one client.

use bonfire_engine::{ClientPrivacy, Problem};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::accountant;

/// What is done for privacy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum PrivacySettings {
    /// Clients clip every gradient and add Laplace noise to their upload, as APPFL does and the LoRA-A² paper's table 4
    /// uses. ε is that of one round; rounds are not composed, and which slots a client chose is not covered.
    Laplace {
        /// ε of a round.
        epsilon: f64,
        /// Largest norm of a gradient, C.
        clip: f64,
        /// Noise from `train.seed`, for experiments that shall come out the same: everybody can compute it and take it off
        /// again, so no ε is given.
        #[serde(default)]
        reproducible: bool,
        /// What the run folder holds that no noise protects.
        #[serde(default)]
        publish: Publish,
    },
    /// DP-FedAvg: uploads are clipped to a norm, the server adds Gaussian noise to their mean (arXiv 1710.06963). The
    /// guarantee is for whole clients, against everyone who sees the global models and nothing else.
    Gaussian {
        /// Largest norm of an upload, C.
        clip: f64,
        /// Deviation of the noise on the sum of uploads, in units of C. Give this, or `epsilon`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        noise: Option<f64>,
        /// ε that the whole run may spend: the noise is found for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        epsilon: Option<f64>,
        /// δ that ε is reported for; left out: `1e-5`, or `1 / clients.count²` where that is less.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        delta: Option<f64>,
        /// Noise and cohorts from `train.seed`, for experiments that shall come out the same: everybody can compute them and
        /// take the noise off again, so no ε is given.
        #[serde(default)]
        reproducible: bool,
        /// What the run folder holds that no noise protects.
        #[serde(default)]
        publish: Publish,
    },
}

/// What a run folder holds of clients besides the noised models.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Publish {
    /// Everything: who took part, losses, chosen slots, counts, label counts. No noise protects any of it. Since cohorts are
    /// known, ε counts every client as if it took part in every round.
    #[default]
    All,
    /// The models, their scores on the test split, and ε. Who took part stays secret, so that ε counts the draw of clients in
    /// the guarantee's favour.
    Minimal,
}

/// What was spent so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spent {
    /// ε.
    pub epsilon: f64,
    /// δ; 0 for Laplace noise.
    pub delta: f64,
}

/// A Gaussian mechanism with its numbers found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Mechanism {
    /// Chance that a client is drawn in a round, as far as it may be counted.
    pub q: f64,
    /// Noise multiplier z.
    pub noise: f64,
    /// δ.
    pub delta: f64,
}

impl PrivacySettings {
    /// Whether the noise is everybody's to compute.
    pub fn reproducible(&self) -> bool {
        let (PrivacySettings::Laplace { reproducible, .. } | PrivacySettings::Gaussian { reproducible, .. }) = self;
        *reproducible
    }

    /// What the run folder holds.
    pub fn publish(&self) -> Publish {
        let (PrivacySettings::Laplace { publish, .. } | PrivacySettings::Gaussian { publish, .. }) = self;
        *publish
    }

    /// What clients do before an upload leaves.
    pub fn client_privacy(&self) -> ClientPrivacy {
        match *self {
            PrivacySettings::Laplace { epsilon, clip, .. } => ClientPrivacy::Laplace { epsilon, clip },
            PrivacySettings::Gaussian { clip, .. } => ClientPrivacy::Clip { clip },
        }
    }

    /// δ for `clients`.
    fn delta(&self, clients: usize) -> f64 {
        match *self {
            PrivacySettings::Laplace { .. } => 0.0,
            PrivacySettings::Gaussian { delta, .. } => delta.unwrap_or(1e-5f64.min((clients as f64).powi(-2))),
        }
    }

    /// The Gaussian mechanism of `rounds` rounds in which `cohort` of `clients` are drawn by a secret, all where the draw is
    /// known; `None`: the noise is not Gaussian.
    ///
    /// # Errors
    /// An ε that no noise reaches.
    pub(crate) fn mechanism(
        &self,
        clients: usize,
        cohort: usize,
        rounds: usize,
    ) -> Result<Option<Mechanism>, accountant::AccountantError> {
        let PrivacySettings::Gaussian { noise, epsilon, .. } = *self else { return Ok(None) };
        let q = cohort as f64 / clients as f64;
        let delta = self.delta(clients);
        let noise = match (noise, epsilon) {
            (Some(noise), _) => noise,
            (None, Some(epsilon)) => accountant::noise_multiplier(q, rounds, epsilon, delta)?,
            (None, None) => 0.0,
        };
        Ok(Some(Mechanism { q, noise, delta }))
    }

    /// The first thing wrong in a federation of `clients`.
    pub fn problem(&self, clients: usize) -> Option<Problem> {
        let positive = |v: f64| v.is_finite() && v > 0.0;
        let checks = match *self {
            PrivacySettings::Laplace { epsilon, clip, .. } => vec![
                ("privacy.epsilon", positive(epsilon), "must be a positive number"),
                ("privacy.clip", positive(clip), "must be a positive number"),
            ],
            PrivacySettings::Gaussian { clip, noise, epsilon, .. } => {
                let delta = self.delta(clients);
                vec![
                    ("privacy.clip", positive(clip), "must be a positive number"),
                    (
                        "privacy.noise",
                        noise.is_some() != epsilon.is_some(),
                        "and privacy.epsilon: give one of them, the noise or what it is to come to",
                    ),
                    (
                        "privacy.noise",
                        noise.is_none_or(|z| z.is_finite() && z >= 0.0),
                        "must be a number, not negative",
                    ),
                    ("privacy.epsilon", epsilon.is_none_or(positive), "must be a positive number"),
                    (
                        "privacy.delta",
                        delta > 0.0 && delta < 1.0 / (clients as f64).max(2.0),
                        "must be a probability above 0 and below 1 / clients.count: with more, giving one client away would be allowed",
                    ),
                ]
            }
        };
        checks.into_iter().find(|(_, fine, _)| !fine).map(|(key, _, what)| Problem::new(key, what))
    }
}

impl Mechanism {
    /// What `rounds` rounds have spent; `None`: there is no noise.
    pub fn spent(&self, rounds: usize) -> Option<Spent> {
        let epsilon = accountant::epsilon(self.q, self.noise, rounds, self.delta).ok()?;
        epsilon.is_finite().then_some(Spent { epsilon, delta: self.delta })
    }
}
