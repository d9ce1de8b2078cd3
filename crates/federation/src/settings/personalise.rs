//! `[evaluate] personalise`: fine-tuning by each client alone, after the last round.

use bonfire_engine::Problem;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Publish, Settings, StrategySettings};
use crate::FederationError;

const KEY: &str = "evaluate.personalise";

/// How each client fine-tunes the last round's model by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Personalise {
    /// How often it goes through its own training rows.
    pub epochs: usize,
}

impl Settings {
    /// What stands against fine-tuning by each client alone, where that is asked for.
    pub(super) fn personalise_problem(&self) -> Option<Problem> {
        let asked = self.evaluate.personalise?;
        let alone = "fine-tunes a shared model on each client's own rows, and in local nothing is shared: clients have trained on their own rows all along; leave it out";
        let pooled = "fine-tunes on each client's own rows, and in pooled all rows are in one place; leave it out";
        let secret = "tells of clients what privacy.publish = \"minimal\" keeps back; leave one of them out";
        let early = "fine-tunes after the last round, before which train.stop may end the run; leave one of them out";
        let wrong = [
            ("evaluate.personalise.epochs", asked.epochs == 0, "is 0; must be at least 1"),
            (KEY, matches!(self.strategy, StrategySettings::Local {}), alone),
            (KEY, self.strategy.traits().pools, pooled),
            (KEY, self.publish() == Publish::Minimal, secret),
            (KEY, self.train.stop.is_some(), early),
            (KEY, self.train.rounds == 0, "fine-tunes after the last round, and train.rounds = 0 has none"),
        ];
        wrong.into_iter().find(|(_, wrong, _)| *wrong).map(|(key, _, what)| Problem::new(key, what))
    }

    /// A server whose clients are elsewhere has no rows of theirs.
    ///
    /// # Errors
    /// Fine-tuning by each client alone is asked for.
    pub(crate) fn refuse_personalised(&self) -> Result<(), FederationError> {
        if self.evaluate.personalise.is_none() {
            return Ok(());
        }
        let what =
            "is for runs of one process: across machines what a client makes of the model stays there; leave it out";
        Err(Problem::new(KEY, what).into())
    }
}
