//! The clients' side of a federation: the engine, who holds which rows, and what clients keep for themselves. A run has all
//! clients here; a site has its own.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bonfire_data::Shards;
use bonfire_engine::{
    ClientMemory, Engine, EngineError, Evaluation, Member, Plan, Private, Progress, RowEvaluation, Split, Start,
    TokenizedData, Trained, Triggered, Upload, personal, summarise, wire,
};
use bonfire_models::{Adapter, Model};

use crate::attack::spoil;
use crate::data_checksum::data_checksum;
use crate::groups::Groups;
use crate::pool::Pool;
use crate::{Server, Settings};

/// Clients with their data on the devices of one process.
pub(crate) struct Clients {
    pub settings: Settings,
    pub engine: Engine,
    /// Tokens of all training texts.
    pub train_tokens: usize,
    pub validation: Split,
    pub test: Split,
    /// Where clients plant a backdoor, the test texts with its words.
    pub triggered: Option<Triggered>,
    pub shards: Shards,
    /// What each client keeps for itself from round to round; the server never sees it.
    pub memories: BTreeMap<usize, ClientMemory>,
    /// Where clients share a part by groups, what each group has of it.
    pub groups: Groups,
    /// Which part that is, by the last round's plan.
    pub private: Private,
    /// Of the texts and of who holds them.
    pub data_checksum: String,
    /// The federation that the one client stands for, where rows are pooled.
    pub pool: Option<Pool>,
}

impl Clients {
    pub fn new(settings: &Settings, models: Vec<Box<dyn Model>>, data: TokenizedData, shards: Shards) -> Self {
        let data_checksum = data_checksum(&data, &shards);
        let train_tokens = data.train.ids.iter().map(Vec::len).sum();
        let engine = Engine::new(models, data.train, settings.train.clone(), settings.engine.clone());
        let (memories, private) = (BTreeMap::new(), Private::default());
        let (validation, test, triggered) = (data.validation, data.test, data.triggered);
        Clients {
            settings: settings.clone(),
            engine,
            train_tokens,
            validation,
            test,
            triggered,
            shards,
            memories,
            groups: Groups::default(),
            private,
            data_checksum,
            pool: None,
        }
    }

    fn member(&self, plan: &Plan, client: usize) -> Member<'_> {
        Member {
            client,
            rows: &self.shards.train[client],
            pace: self.settings.pace(plan.round, client),
            steps: self.pool.as_ref().map(|pool| pool.steps(plan.round)),
            memory: self.memory(client),
        }
    }

    /// What `client` begins with besides what all do: what it or its group has. `None`: nothing yet.
    pub fn memory(&self, client: usize) -> Option<&ClientMemory> {
        self.groups.memory(client).or_else(|| self.memories.get(&client))
    }

    /// Tokens that `client` trains on by `plan`, which asks for no probe.
    pub fn tokens(&self, plan: &Plan, client: usize) -> u64 {
        self.engine.training_tokens(plan, self.member(plan, client))
    }

    /// Local training of `cohort`; `on` may break off.
    pub fn train(
        &self,
        plan: &Plan,
        start: Start<'_>,
        cohort: &[usize],
        on: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<ControlFlow<(), Trained>, EngineError> {
        let members: Vec<Member> = cohort.iter().map(|&client| self.member(plan, client)).collect();
        let trained = self.engine.train(plan, start, &members, on)?;
        Ok(trained.map_continue(|mut trained| {
            spoil(&self.settings, plan.round, self.shards.train.len(), &mut trained.uploads);
            // Last of all: what privacy does to an upload is done, and an attacker's message is as short as anybody's.
            let feeds_back = self.settings.feeds_errors_back();
            for upload in &mut trained.uploads {
                let memory = self.memories.get(&upload.client);
                // What a client learns before it is in a group is not a movement of that group's model.
                let in_none = plan.private.by_group && self.groups.memory(upload.client).is_none();
                let feedback = feeds_back && !in_none;
                wire::write(&plan.wire, plan, self.settings.train.seed, memory, feedback, upload);
            }
            trained
        }))
    }

    /// Clients that keep a part of the model for themselves or share it with their group, each with its own model as one plain
    /// adapter over the untouched backbone. Clients that never took part have none.
    pub fn personal_models<'c>(&'c self, server: &'c Server) -> impl Iterator<Item = (usize, Adapter)> + 'c {
        let all = if self.private.is_nothing() { 0 } else { self.shards.train.len() };
        let own = (0..all).filter(|&client| self.memory(client).is_some());
        own.map(|client| (client, self.personal_model(server, client)))
    }

    /// The model of a client that keeps a part for itself.
    fn personal_model(&self, server: &Server, client: usize) -> Adapter {
        server.merged.total(&personal(&self.private, &server.adapter, self.memory(client)))
    }

    /// The test split by the global model.
    pub fn evaluate(&self, server: &Server) -> Result<Vec<Option<RowEvaluation>>, EngineError> {
        self.evaluate_rows(server, &(0..self.test.len()).collect::<Vec<_>>())
    }

    /// The validation split by the global model.
    pub fn evaluate_validation(&self, server: &Server) -> Result<Vec<Option<RowEvaluation>>, EngineError> {
        let rows: Vec<usize> = (0..self.validation.len()).collect();
        self.engine.evaluate_rows(&server.model(), &self.validation, &rows)
    }

    /// Some rows of the test split by the global model.
    pub fn evaluate_rows(&self, server: &Server, rows: &[usize]) -> Result<Vec<Option<RowEvaluation>>, EngineError> {
        self.engine.evaluate_rows(&server.model(), &self.test, rows)
    }

    /// A client's test rows by its own model.
    pub fn evaluate_personal_model(&self, server: &Server, client: usize) -> Result<Evaluation, EngineError> {
        let rows = &self.shards.test[client];
        Ok(summarise(&self.engine.evaluate_rows(&self.personal_model(server, client), &self.test, rows)?, rows))
    }

    /// The clients' test rows, each by its own client's model, all together.
    pub fn evaluate_personal_models(&self, server: &Server) -> Result<Vec<Option<RowEvaluation>>, EngineError> {
        self.evaluate_by_own(server, &self.test, &self.shards.test)
    }

    /// Rows of `split`, which are listed client by client, each by its client's own model.
    fn evaluate_by_own(
        &self,
        server: &Server,
        split: &Split,
        rows_of: &[Vec<usize>],
    ) -> Result<Vec<Option<RowEvaluation>>, EngineError> {
        let mut all = vec![None; split.len()];
        for (client, rows) in rows_of.iter().enumerate().filter(|(_, rows)| !rows.is_empty()) {
            let own = self.engine.evaluate_rows(&self.personal_model(server, client), split, rows)?;
            rows.iter().for_each(|&row| all[row] = own[row].clone());
        }
        Ok(all)
    }

    /// Share of the test texts of other classes that the global model takes for a backdoor's target when they hold its words; with
    /// `personal` it is the models of the clients that mean no harm, each on its own texts. `None`: there is no backdoor, or no such
    /// text.
    pub fn attack_success(&self, server: &Server, personal: bool) -> Result<Option<f64>, EngineError> {
        let Some((attack, triggered)) = self.settings.attack.as_ref().zip(self.triggered.as_ref()) else {
            return Ok(None);
        };
        let telling: Vec<usize> = triggered.telling().collect();
        let found = if personal {
            let attackers = attack.attackers(self.settings.train.seed, self.shards.test.len());
            let honest = |(client, rows): (usize, &Vec<usize>)| match attackers.binary_search(&client) {
                Ok(_) => Vec::new(),
                Err(_) => rows.iter().copied().filter(|row| telling.binary_search(row).is_ok()).collect(),
            };
            let rows_of: Vec<Vec<usize>> = self.shards.test.iter().enumerate().map(honest).collect();
            self.evaluate_by_own(server, &triggered.test, &rows_of)?
        } else {
            self.engine.evaluate_rows(&server.model(), &triggered.test, &telling)?
        };
        Ok(triggered.answered(&found))
    }

    /// Takes out of the uploads what their clients keep.
    pub fn take_kept(uploads: &mut [Upload]) -> Vec<(usize, ClientMemory)> {
        uploads.iter_mut().map(|u| (u.client, std::mem::take(&mut u.kept))).collect()
    }

    /// Hands it back to the clients for their next round.
    pub fn remember(&mut self, kept: Vec<(usize, ClientMemory)>, private: &Private) {
        for (client, kept) in kept.into_iter().filter(|(_, kept)| !kept.is_empty()) {
            self.memories.entry(client).or_default().update(kept);
        }
        self.private.clone_from(private);
    }
}
