//! A federation ready to run: its parts, and what it tells the outside while it runs. The loop is in `rounds.rs`.

use std::collections::BTreeMap;

use bonfire_data::Shards;
use bonfire_data::random::{Use, stream};
use bonfire_engine::{Engine, Estimate, Member, Named, Private, Progress, Split, TokenizedData, personal};
use bonfire_models::{Adapter, Model};
use rand::RngExt;

use crate::checkpoint::checksum_of_data;
use crate::first::{begin_trained, first_adapter};
use crate::strategies::{Strategy, build};
use crate::{ClientMetrics, FederationError, Ledger, RoundMetrics, Server, Settings};

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

/// A federation and its state.
pub struct Run {
    pub(crate) settings: Settings,
    pub(crate) engine: Engine,
    pub(crate) test: Split,
    pub(crate) shards: Shards,
    pub(crate) strategy: Box<dyn Strategy>,
    pub(crate) server: Server,
    pub(crate) ledger: Ledger,
    /// What each client keeps for itself from round to round; the server never sees it.
    pub(crate) memories: BTreeMap<usize, Named>,
    /// Which part that is, by the last round's plan.
    pub(crate) private: Private,
    /// Of the texts and of who holds them.
    pub(crate) data_checksum: String,
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
        if let Some((key, problem)) = settings.problem() {
            return Err(FederationError::Setting { key: key.into(), problem });
        }
        let global = first_adapter(&settings, models[0].as_ref())?;
        let clients = shards.train.len();
        let budgets = settings.budgets(clients)?;
        let strategy = build(&settings, budgets);
        let data_checksum = checksum_of_data(&data, &shards);
        let engine = Engine::new(models, data.train, settings.train.clone(), settings.in_flight);
        let (mut server, mut ledger) = (Server::new(global), Ledger::new(clients));
        if settings.adapter.init.folder().is_some() {
            begin_trained(strategy.as_ref(), &settings, &mut server, &mut ledger);
        }
        strategy.begin(&mut server);
        let (memories, private) = (BTreeMap::new(), Private::default());
        let test = data.test;
        let run = Run { settings, engine, test, shards, strategy, server, ledger, memories, private, data_checksum };
        run.engine.check_memory(run.trainable_params())?;
        Ok(run)
    }

    /// The server's state after the last complete round.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Clients that keep a part of the model for themselves, each with its own model as one plain adapter over the
    /// untouched backbone. Clients that never took part have none.
    pub fn persons(&self) -> impl Iterator<Item = (usize, Adapter)> {
        let own = self.memories.iter().filter(|_| !self.private.is_nothing());
        own.map(|(&client, kept)| {
            (client, self.server.merged.total(&personal(&self.private, &self.server.adapter, Some(kept))))
        })
    }

    /// The model (on the first device), as it was read.
    pub fn model(&self) -> &dyn Model {
        self.engine.model()
    }

    /// The strategy's name.
    pub fn strategy_name(&self) -> &'static str {
        self.strategy.name()
    }

    /// Scalars of the global adapter, and of the head if it trains.
    pub fn trainable_params(&self) -> u64 {
        let adapter = &self.server.adapter;
        let head = if self.settings.trains_head() { adapter.head_params() } else { 0 };
        bonfire_models::Factor::ALL.iter().map(|&factor| adapter.factor_params(factor)).sum::<u64>()
            + adapter.weight_params()
            + head
    }

    /// Clients on the device together in a full cohort, and what they need there.
    pub fn estimate(&self) -> Estimate {
        self.engine.estimate(self.settings.cohort_size(self.shards.train.len()), self.trainable_params())
    }

    /// The clients of `round`, ascending: see [`Settings::cohort`].
    pub fn cohort(&self, round: usize) -> Vec<usize> {
        self.settings.cohort(round, self.shards.train.len())
    }

    /// The clients with their shards, what they remember, and how much of their steps they manage in `round`.
    pub(crate) fn members(&self, round: usize, cohort: &[usize]) -> Vec<Member<'_>> {
        let member = |&client: &usize| Member {
            client,
            rows: &self.shards.train[client],
            pace: self.pace(round, client),
            memory: self.memories.get(&client),
        };
        cohort.iter().map(member).collect()
    }

    /// Share of its local steps that `client` manages in `round`.
    fn pace(&self, round: usize, client: usize) -> f64 {
        let Some(stragglers) = self.settings.clients.stragglers else { return 1.0 };
        let mut rng = stream(self.settings.train.seed, Use::Pace, round as u64, client as u64, 0);
        match rng.random_bool(stragglers.share) {
            true => stragglers.least + (1.0 - stragglers.least) * rng.random::<f64>(),
            false => 1.0,
        }
    }
}
