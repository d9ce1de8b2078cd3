//! A federation ready to run: its parts, and what it tells the outside while it runs. The loop is in `rounds.rs`.

use bonfire_data::Shards;
use bonfire_engine::{Choice, ClientMemory, Confusion, Estimate, Plan, Progress, Seat, Tally, TokenizedData, sketch};
use bonfire_models::{Adapter, Model};
use burn::tensor::Device;

use crate::attack::poison;
use crate::clients::Clients;
use crate::pool::Pool;
use crate::{ClientMetrics, Coordinator, FederationError, RoundMetrics, Server, Settings, Weights};

/// What happens in a run, as it happens.
pub enum Event<'e> {
    /// The untrained model was evaluated, before the first round.
    Before {
        /// What was found, as the row of round 0: without a training loss or traffic.
        metrics: &'e RoundMetrics,
        /// The run, untrained.
        run: &'e Run,
    },
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

/// A federation with its server and all its clients in one process.
pub struct Run {
    pub(crate) coordinator: Coordinator,
    pub(crate) clients: Clients,
    /// What the last evaluation of a classifier took for what.
    pub(crate) confusion: Option<RoundConfusion>,
}

/// How a classifier did class by class, in the last round that was evaluated.
#[derive(Clone, Debug, PartialEq)]
pub struct RoundConfusion {
    /// Which round.
    pub round: usize,
    /// Whether it is of the clients' own models, each on its client's test examples; else of the global model on the test split.
    pub personal: bool,
    /// What was found.
    pub found: ByClass,
}

/// What is known of each class.
#[derive(Clone, Debug, PartialEq)]
pub enum ByClass {
    /// Where a text has one: how often each was taken for each other.
    Taken(Confusion),
    /// Where it may have several: how often each label was there, said and both.
    Labels(Tally),
    /// The same of types of spans, with their names.
    Spans(Vec<String>, Tally),
}

impl Run {
    /// What the last evaluation of this process took for what; `None` before one, and where nothing is classified.
    pub fn confusion(&self) -> Option<&RoundConfusion> {
        self.confusion.as_ref()
    }

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
        if let Some(problem) = settings.problem() {
            return Err(problem.into());
        }
        let mut data = data;
        poison(&settings, &mut data, &shards)?;
        let (pool, settings, shards) = match Pool::of(&settings, &shards) {
            Some((pool, settings, shards)) => (Some(pool), settings, shards),
            None => (None, settings, shards),
        };
        let coordinator = Coordinator::new(settings, models[0].as_ref(), shards.train.len())?;
        let mut clients = Clients::new(coordinator.settings(), models, data, shards);
        clients.pool = pool;
        clients.engine.draw_noise_from(coordinator.protection.key.clone());
        clients.engine.check_memory(coordinator.trainable_params())?;
        let alone = clients.engine.estimate(1, coordinator.trainable_params());
        coordinator.settings().check_devices(alone.backbone + alone.client)?;
        Ok(Run { coordinator, clients, confusion: None })
    }

    /// From now on its clients step with those of other runs: see [`Engine::join`](bonfire_engine::Engine::join).
    ///
    /// # Panics
    /// As said there.
    pub fn join(&mut self, seats: Vec<Seat>) {
        self.clients.engine.join(seats);
    }

    /// How many of its clients a device holds at once, however many there are.
    pub fn pass_holds(&self) -> usize {
        self.clients.engine.pass_holds(self.trainable_params())
    }

    /// What it was told, with what was left to the model filled in.
    pub fn settings(&self) -> &Settings {
        self.coordinator.settings()
    }

    /// A warning where the noise of privacy hides what clients learn.
    pub fn drowned(&self) -> Option<String> {
        self.coordinator.protection.drowned(self.trainable_params() as f64, self.settings().expected_clients())
    }

    /// The server's state after the last complete round.
    pub fn server(&self) -> &Server {
        self.coordinator.server()
    }

    /// Clients that keep a part of the model for themselves, each with its own model as one plain adapter over the
    /// untouched backbone. Clients that never took part have none.
    pub fn personal_models(&self) -> impl Iterator<Item = (usize, Adapter)> {
        self.clients.personal_models(self.server())
    }

    /// What a client, or its group, has besides what all share. `None`: nothing yet.
    pub fn memory(&self, client: usize) -> Option<&ClientMemory> {
        self.clients.memory(client)
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
        let cohort = self.coordinator.settings().invited(self.coordinator.clients());
        self.clients.engine.estimate(cohort, self.trainable_params())
    }

    /// Bytes of the host's memory that a round needs besides what is there before it: the uploads of a full cohort, which are
    /// held until they are combined, and the global adapter once more for what comes of them. What clients keep for
    /// themselves is counted as if all had taken part.
    pub fn round_bytes(&self) -> u64 {
        let (coordinator, settings) = (&self.coordinator, self.coordinator.settings());
        let (plan, adapter) = (coordinator.plan(), &coordinator.server().adapter);
        let clients = coordinator.clients();
        let cohort = settings.invited(clients) as u64;
        let size = |client: usize| {
            let upload = sketch(&plan, adapter, &settings.train, client, Choice::Widest);
            4 * (upload.adapter_params() + upload.head_params() + upload.aux_params())
        };
        // Where budgets differ, up to 16 of the clients stand for all. Full fine-tuning sends every weight, which needs no
        // made-up upload to be counted.
        let looked: Vec<usize> = if plan.selection.is_some() || plan.ranks.is_some() {
            (0..clients).step_by(clients.div_ceil(16)).collect()
        } else {
            vec![0]
        };
        let upload = if adapter.weights.is_empty() {
            looked.iter().map(|&client| size(client)).sum::<u64>() / looked.len() as u64
        } else {
            4 * self.trainable_params()
        };
        // Noise on the mean and equal weights look at a copy of them.
        let copied = settings.server.weights == Weights::Uniform || coordinator.protection.mechanism.is_some();
        // As many again wait for their time to come, and once more until the round has ended well.
        let waiting = 2 * u64::from(settings.server.asynchronous.is_some());
        let keep = u64::from(!plan.private.is_nothing() && !plan.private.by_group) + u64::from(settings.train.scaffold);
        // What every group has, and once more as its clients hold it.
        let of_groups = 2 * settings.strategy.most_groups().map_or(0, |most| most.min(clients) as u64);
        let copies = 1 + keep * clients as u64 + of_groups;
        cohort * upload * (1 + u64::from(copied) + waiting) + 4 * copies * self.trainable_params()
    }

    /// The orders of the next round.
    pub fn plan(&self) -> Plan {
        self.coordinator.plan()
    }

    /// The clients of `round`, ascending: see [`Coordinator::cohort_of`].
    pub fn cohort(&self, round: usize) -> Vec<usize> {
        self.coordinator.cohort_of(round)
    }
}
