//! A federation ready to run: its parts, and what it tells the outside while it runs. The loop is in `rounds.rs`.

use bonfire_data::Shards;
use bonfire_engine::{Estimate, Progress, TokenizedData};
use bonfire_models::{Adapter, Model};
use burn::tensor::Device;

use crate::clients::Clients;
use crate::{ClientMetrics, Coordinator, FederationError, Named, RoundMetrics, Server, Settings};

/// What happens in a run, as it happens.
pub enum Event<'e> {
    /// A round begins.
    RoundStarted {
        /// Round, from 1.
        round: usize,
        /// What trains: `"A"`, `"B"` or `"AB"`.
        phase: &'static str,
        /// The clients that take part.
        cohort: &'e [usize],
    },
    /// Clients have trained a step.
    Progress(Progress),
    /// A round is complete.
    RoundEnded {
        /// The round's row.
        metrics: &'e RoundMetrics,
        /// A row for each client that took part.
        clients: &'e [ClientMetrics],
        /// The run in its new state.
        run: &'e Run,
    },
}

/// The listener's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Go on.
    Continue,
    /// Stop: after a complete round the run ends there; inside a round the round is given up.
    Stop,
}

/// A federation with its server and all its clients in one process.
pub struct Run {
    pub(crate) coordinator: Coordinator,
    pub(crate) clients: Clients,
}

impl Run {
    /// Sets up a run: a fresh adapter from the seed, nothing trained yet. `models` holds the backbone once for every
    /// device that trains, each an autodiff device; the first also evaluates.
    ///
    /// # Errors
    /// A setting that cannot be, named by its key.
    pub fn new(
        settings: Settings,
        models: Vec<Box<dyn Model>>,
        data: TokenizedData,
        shards: Shards,
    ) -> Result<Self, FederationError> {
        let coordinator = Coordinator::new(settings, models[0].as_ref(), shards.train.len())?;
        let mut clients = Clients::new(coordinator.settings(), models, data, shards);
        clients.engine.draw_noise_from(coordinator.protection.key.clone());
        clients.engine.check_memory(coordinator.trainable_params())?;
        Ok(Run { coordinator, clients })
    }

    /// The server's state after the last complete round.
    pub fn server(&self) -> &Server {
        self.coordinator.server()
    }

    /// Clients that keep a part of the model for themselves, each with its own model as one plain adapter over the
    /// untouched backbone. Clients that never took part have none.
    pub fn persons(&self) -> impl Iterator<Item = (usize, Adapter)> {
        self.clients.persons(self.server())
    }

    /// What a client keeps for itself from round to round, by name: its part of the model (`b/3`, `head/0`, as movements from
    /// the global start), SCAFFOLD's variates (`control/b/3`). `None`: nothing yet.
    pub fn memory(&self, client: usize) -> Option<&Named> {
        self.clients.memories.get(&client)
    }

    /// The model (on the first device), as it was read.
    pub fn model(&self) -> &dyn Model {
        self.clients.engine.model()
    }

    /// The devices that train.
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        self.clients.engine.devices()
    }

    /// The strategy's name.
    pub fn strategy_name(&self) -> &'static str {
        self.coordinator.strategy_name()
    }

    /// Scalars of the global adapter, and of the head if it trains.
    pub fn trainable_params(&self) -> u64 {
        self.coordinator.trainable_params()
    }

    /// Clients on the device together in a full cohort, and what they need there.
    pub fn estimate(&self) -> Estimate {
        let cohort = self.coordinator.settings().cohort_size(self.coordinator.clients());
        self.clients.engine.estimate(cohort, self.trainable_params())
    }

    /// The clients of `round`, ascending: see [`Coordinator::cohort_of`].
    pub fn cohort(&self, round: usize) -> Vec<usize> {
        self.coordinator.cohort_of(round)
    }
}
