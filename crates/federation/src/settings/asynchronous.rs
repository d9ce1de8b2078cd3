//! `server.asynchronous`: buffered asynchronous rounds, and what they go together with.

use bonfire_engine::Problem;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Aggregation, Settings};

/// FedBuff (Nguyen et al., arXiv 2106.06639, algorithm 1): clients train from whatever version of the model they downloaded, and the
/// server makes a new one whenever so many uploads have come.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Asynchronous {
    /// Uploads that make a new version of the model, K.
    pub buffer: usize,
    /// How an upload's weight falls with its staleness τ, the versions made since its client downloaded: `(1 + τ)^−staleness`. 0.5 is the
    /// paper's `1/√(1 + τ)`; 0: not at all.
    #[serde(default = "half")]
    pub staleness: f64,
}

fn half() -> f64 {
    0.5
}

impl Asynchronous {
    /// What an upload's movement is multiplied by that is so many versions old.
    pub fn weight(&self, staleness: usize) -> f64 {
        (1.0 + staleness as f64).powf(-self.staleness)
    }
}

impl Settings {
    /// What asynchronous rounds cannot be, or cannot do.
    pub(super) fn asynchronous_problem(&self) -> Option<Problem> {
        let how = self.server.asynchronous?;
        let (clients, strategy) = (&self.clients, &self.strategy);
        let refused = |what: String| Problem::new("server.asynchronous", what);
        let is = |wrong: bool, key, what: &str| wrong.then(|| Problem::new(key, what));
        if let Some(why) = strategy.traits().against_asynchronous {
            return Some(refused(format!("is not for {}, which {why}; leave it out", strategy.name())));
        }
        if clients.devices.is_empty() {
            return Some(refused(
                "needs a clock, which tells when uploads come; say what devices the clients are with [[clients.devices]]".into(),
            ));
        }
        if how.buffer == 0 || how.buffer > clients.count {
            let what = format!(
                "is {}; must lie between 1 and clients.count = {}: a client sends one upload to a version",
                how.buffer, clients.count
            );
            return Some(Problem::new("server.asynchronous.buffer", what));
        }
        is(
            !(how.staleness.is_finite() && how.staleness >= 0.0),
            "server.asynchronous.staleness",
            "must be 0 or more: the exponent in 1/(1 + τ)^staleness",
        )
        .or(is(
            strategy.prune().is_some(),
            "strategy.prune",
            "takes slots away that uploads on their way still hold; leave it or server.asynchronous out",
        ))
        .or(is(clients.deadline.is_some(), "clients.deadline", "closes rounds, and asynchronous ones end with their buffer full; leave it out"))
        .or(is(
            clients.over_select > 0.0,
            "clients.over_select",
            "is for rounds that wait for their cohort, and asynchronous ones wait for nobody; leave it out",
        ))
        .or(is(
            !matches!(self.server.aggregate, Aggregation::Mean {}),
            "server.aggregate",
            "must be the mean in asynchronous rounds, whose uploads are movements from different versions",
        ))
        .or(is(
            self.train.scaffold,
            "train.scaffold",
            "corrects by what the clients of one version do; leave it or server.asynchronous out",
        ))
        .or(is(
            self.adds_central_noise(),
            "privacy",
            "adds noise to the mean of a drawn cohort, and asynchronous rounds take whoever comes first; use privacy.kind = \"laplace\"",
        ))
        .or(is(
            self.wire.top_k.is_some() || self.wire.deflate,
            if self.wire.deflate { "wire.deflate" } else { "wire.top_k" },
            "makes messages whose length shows when they are made, and when an upload comes must be known before; leave it out",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_fall_as_in_the_paper() {
        let how = Asynchronous { buffer: 1, staleness: 0.5 };
        for (staleness, expected) in [(0, 1.0), (1, 0.707_106_781_186_547_5), (3, 0.5), (8, 1.0 / 3.0), (99, 0.1)] {
            assert!((how.weight(staleness) - expected).abs() < 1e-15, "{staleness}");
        }
        assert_eq!(Asynchronous { staleness: 0.0, ..how }.weight(7), 1.0);
    }
}
