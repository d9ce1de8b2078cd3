//! What privacy does at the server's side of a round: the secret that noise and cohorts are drawn from, what of the uploads is
//! counted, and what has been spent.

use std::borrow::Cow;

use bonfire_data::random::{NoiseKey, Use};
use bonfire_engine::{Choice, ClientPrivacy, Plan, Upload, sketch};
use bonfire_models::Adapter;
use rand::RngExt;

use crate::settings::{Mechanism, Spent};
use crate::{FederationError, PrivacySettings, Publish, Settings};

/// How far above the clip a norm may lie by f32's rounding alone.
const ROUNDING: f64 = 1e-5;

/// The Gaussian mechanism of `settings`; `known`: everybody sees who takes part.
fn mechanism(
    privacy: &PrivacySettings,
    settings: &Settings,
    clients: usize,
    known: bool,
) -> Result<Option<Mechanism>, FederationError> {
    let cohort = if known { clients } else { settings.cohort_size(clients) };
    privacy
        .mechanism(clients, cohort, settings.train.rounds)
        .map_err(|e| FederationError::Setting { key: "privacy.epsilon".into(), problem: format!("cannot be had: {e}") })
}

/// A warning where noise leaves hardly anything to learn from: it is `z √d / m` times as long as the mean movement can be, for noise
/// multiplier z (`noise`), movements of `params` scalars (d) and a mean over `clients` (m). Movements are clipped to C, so that their mean is
/// C long at most; noise of deviation `z C / m` on every scalar has the length `z C √d / m`.
fn drowned(noise: Option<f64>, params: f64, clients: f64) -> Option<String> {
    let times = noise.map(|z| z * params.sqrt() / clients).filter(|times| *times >= DROWNED)?;
    Some(format!(
        "the noise of [privacy] is {times:.0} times as long as the mean of {clients:.0} movements can be, so hardly anything \
         is learnt; more clients a round, fewer trained weights (adapter.rank, adapter.targets) or a larger ε make it less"
    ))
}

/// The noise on a mean that hides it: over some tens of rounds movements add up and noise cancels in part, by the root of their number.
const DROWNED: f64 = 10.0;

/// What a run's `[privacy]` comes to when all its rounds are done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PrivacyForecast {
    /// Deviation of the noise on the sum of uploads, in units of the clip, where noise is central.
    pub noise: Option<f64>,
    /// What is spent; `None` where no ε can be given.
    pub spent: Option<Spent>,
}

impl PrivacyForecast {
    /// Of `settings`; `None`: they protect nobody.
    ///
    /// # Errors
    /// An ε that no noise reaches.
    pub fn of(settings: &Settings) -> Result<Option<PrivacyForecast>, FederationError> {
        if settings.privacy.is_none() {
            return Ok(None);
        }
        let protection = Protection::simulated(settings, settings.clients.count)?;
        let spent = protection.spent(settings, settings.train.rounds);
        Ok(Some(PrivacyForecast { noise: protection.mechanism.map(|mechanism| mechanism.noise), spent }))
    }

    /// A warning where the noise on the mean over so many `clients` hides their movements of `params` scalars.
    pub fn drowned(&self, params: f64, clients: f64) -> Option<String> {
        drowned(self.noise, params, clients)
    }
}

/// Privacy of a run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Protection {
    /// What noise and cohorts are drawn from.
    pub key: NoiseKey,
    /// The Gaussian mechanism, where noise is central.
    pub mechanism: Option<Mechanism>,
}

impl Protection {
    /// By `settings` for `clients`: with a fresh secret, unless nothing needs one.
    ///
    /// # Errors
    /// An ε that no noise reaches.
    pub fn new(settings: &Settings, clients: usize) -> Result<Self, FederationError> {
        let seed = NoiseKey::Seed(settings.train.seed);
        let Some(privacy) = settings.privacy else { return Ok(Protection { key: seed, mechanism: None }) };
        let key = if privacy.reproducible() { seed } else { NoiseKey::secret() };
        let known = privacy.publish() == Publish::All;
        Ok(Protection { key, mechanism: mechanism(&privacy, settings, clients, known)? })
    }

    /// [`PrivacyForecast::drowned`] of a run that has begun.
    pub fn drowned(&self, params: f64, clients: f64) -> Option<String> {
        drowned(self.mechanism.map(|mechanism| mechanism.noise), params, clients)
    }

    /// The same where it is known who takes part.
    ///
    /// # Errors
    /// An ε that no noise reaches then.
    pub fn with_known_cohorts(self, settings: &Settings, clients: usize) -> Result<Self, FederationError> {
        let mechanism = settings.privacy.map_or(Ok(None), |privacy| mechanism(&privacy, settings, clients, true))?;
        Ok(Protection { mechanism, ..self })
    }

    /// The same with nothing secret in it: for a forecast, which is to be the same every time.
    ///
    /// # Errors
    /// As there.
    pub fn simulated(settings: &Settings, clients: usize) -> Result<Self, FederationError> {
        Ok(Protection { key: NoiseKey::Seed(settings.train.seed), ..Protection::new(settings, clients)? })
    }

    /// The clients of `round`, which begins `now`, of `count`, each drawn on its own (Poisson sampling), as the accountant assumes.
    pub fn cohort(&self, settings: &Settings, round: usize, count: usize, now: f64) -> Vec<usize> {
        let size = settings.cohort_size(count);
        if self.mechanism.is_none() || size == count {
            return settings.cohort(round, count, now);
        }
        let mut rng = self.key.stream(Use::Cohort, round as u64, 0, 0);
        let drawn = (0..count).filter(|_| rng.random_bool(size as f64 / count as f64)).collect();
        settings.available(round, count, drawn, now)
    }

    /// What `rounds` rounds by `settings` have spent; `None`: nothing is protected, or nothing can be said.
    pub fn spent(&self, settings: &Settings, rounds: usize) -> Option<Spent> {
        let privacy = settings.privacy.filter(|privacy| !privacy.reproducible())?;
        match privacy {
            // Which slots a client chose crosses the wire as it is, so no ε can be given.
            PrivacySettings::Laplace { .. } if settings.chooses() => None,
            PrivacySettings::Laplace { epsilon, .. } => Some(Spent { epsilon, delta: 0.0 }),
            PrivacySettings::Gaussian { .. } => self.mechanism?.spent(rounds),
        }
    }

    /// The uploads as noise on their mean asks for them: none longer than the clip, whoever says he has seen to that; and with them
    /// that of a client who has all slots and has not moved. It adds nothing, but every row counts as touched and is noised,
    /// whoever chose it, and in a round without clients too: else it would show who took part.
    pub fn counted<'u>(
        &self,
        plan: &Plan,
        adapter: &Adapter,
        settings: &Settings,
        uploads: &'u [Upload],
    ) -> Cow<'u, [Upload]> {
        let (ClientPrivacy::Clip { clip }, Some(_)) = (plan.privacy, self.mechanism) else {
            return Cow::Borrowed(uploads);
        };
        let mut all = uploads.to_vec();
        all.iter_mut().filter(|u| u.norm() > clip * (1.0 + ROUNDING)).for_each(|upload| upload.clip(clip));
        let everything = Plan { selection: None, ranks: None, ..plan.clone() };
        let nobody = sketch(&everything, adapter, &settings.train, 0, Choice::Widest).stilled();
        all.push(Upload { client: usize::MAX, ..nobody });
        Cow::Owned(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_measured_by_the_longest_movement() {
        // Noise of deviation 2·C/20 on each of 10,000 scalars is 0.1·C·√10000 = 10·C long, the mean movement C at most.
        let said = drowned(Some(2.0), 10_000.0, 20.0).expect("a warning");
        assert!(said.contains("is 10 times") && said.contains("mean of 20 movements"), "{said}");
        // 0.1·C·√9801 is 9.9·C.
        assert_eq!(drowned(Some(2.0), 9_801.0, 20.0), None);
        assert_eq!(drowned(None, 1e9, 1.0), None);
    }
}
