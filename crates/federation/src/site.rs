//! A site of a federation across machines: a backbone on its devices, and one client or many. It holds a copy of the global
//! model, which downloads keep up to date, and trains what the server's plan asks for.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bonfire_data::Shards;
use bonfire_engine::{Evaluation, Plan, Progress, TokenizedData, Trained, summarise};
use bonfire_models::{Adapter, Model};

use crate::attack::poison;
use crate::checkpoint::{Checkpoint, CheckpointError, Written};
use crate::clients::Clients;
use crate::groups::Groups;
use crate::timeline::Timeline;
use crate::{Coordinator, Download, DownloadError, FederationError, Ledger, Server, Settings};

/// Clients of a federation whose server is elsewhere.
pub struct Site {
    clients: Clients,
    /// Those of the federation that are here, ascending.
    own: Vec<usize>,
    /// The state before the first round, as every site makes it for itself.
    fresh: Server,
    /// The copy; its round is the one whose start it is, 0 where nothing was received yet.
    copy: Server,
    strategy: &'static str,
}

impl Site {
    /// A site with the clients `own` of a federation of `shards.train.len()`; the shards of the others are empty. The other
    /// arguments are those of [`crate::Run::new`].
    ///
    /// # Errors
    /// A setting that cannot be, named by its key; a model too large for the device.
    pub fn new(
        settings: Settings,
        models: Vec<Box<dyn Model>>,
        data: TokenizedData,
        shards: Shards,
        own: Vec<usize>,
    ) -> Result<Self, FederationError> {
        settings.refuse_pooled()?;
        settings.refuse_personalised()?;
        let mut data = data;
        poison(&settings, &mut data, &shards)?;
        let start = Coordinator::new(settings.clone(), models[0].as_ref(), shards.train.len())?;
        let mut clients = Clients::new(&settings, models, data, shards);
        // A secret of its own: what the site's noise hides is hidden from the server too.
        clients.engine.draw_noise_from(start.protection.key.clone());
        clients.engine.check_memory(start.trainable_params())?;
        let (strategy, fresh) = (start.strategy_name(), start.server);
        Ok(Site { clients, own, copy: fresh.clone(), fresh, strategy })
    }

    /// The clients that are here, ascending.
    pub fn clients(&self) -> &[usize] {
        &self.own
    }

    /// Training examples of a client.
    pub fn examples(&self, client: usize) -> usize {
        self.clients.shards.train.get(client).map_or(0, Vec::len)
    }

    /// The round whose start it last received; 0: nothing yet.
    pub fn holds(&self) -> usize {
        self.copy.round
    }

    /// The model, as it was read.
    pub fn model(&self) -> &dyn Model {
        self.clients.engine.model()
    }

    /// Brings the copy up to date.
    ///
    /// # Errors
    /// [`DownloadError::Stale`] where the download completes what the site does not hold, and others that do not fit; the copy
    /// is as it was.
    pub fn receive(&mut self, download: Download, plan: Option<&Plan>) -> Result<(), DownloadError> {
        let holds = self.holds();
        if download.round == 0 || download.since > download.round {
            let problem = format!("is {}, after {}", download.round, download.since);
            return Err(DownloadError::Part { part: "round".into(), problem });
        }
        if download.since != 0 && download.since != holds {
            return Err(DownloadError::Stale { since: download.since, holds });
        }
        download.apply(&mut self.copy, &self.fresh, &self.clients.settings, plan, &self.own)?;
        self.clients.groups = Groups::read(&self.copy.state);
        Ok(())
    }

    /// Trains those of its clients that are in `cohort` and do not drop out in this round; the others' uploads are missing. The
    /// copy must be of the plan's round. `on` hears of progress and may break off; then `Break` comes back and what clients keep
    /// is as it was.
    ///
    /// # Errors
    /// A plan that does not fit, training that fails; what clients keep is as it was.
    pub fn train(
        &mut self,
        plan: &Plan,
        cohort: &[usize],
        on: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<ControlFlow<(), Trained>, FederationError> {
        let misfit = |problem: String| FederationError::Orders { problem };
        if plan.round != self.holds() {
            let problem =
                format!("the plan is of round {}, and the site holds the start of {}", plan.round, self.holds());
            return Err(misfit(problem));
        }
        let privacy = self.clients.settings.client_privacy();
        if plan.privacy != privacy {
            return Err(misfit(format!(
                "the plan would have uploads leave under the privacy {:?}, and this site's own settings say {privacy:?}; nothing is trained",
                plan.privacy
            )));
        }
        if let Some(problem) = plan.misfit(&self.copy.adapter, self.clients.shards.train.len()) {
            return Err(misfit(problem));
        }
        let here: Vec<usize> = self.own.iter().copied().filter(|client| cohort.contains(client)).collect();
        let (stays, _) = self.clients.settings.who_stays(plan.round, &here);
        let trained = self.clients.train(plan, self.copy.start(), &stays, on)?;
        let ControlFlow::Continue(mut trained) = trained else { return Ok(ControlFlow::Break(())) };
        let kept = Clients::take_kept(&mut trained.uploads);
        self.clients.remember(kept, &plan.private);
        Ok(ControlFlow::Continue(trained))
    }

    /// Every client here that has test rows, evaluated by the global model of the copy, or by its own where clients keep a part
    /// for themselves.
    ///
    /// # Errors
    /// The device fails.
    pub fn evaluate(&self) -> Result<Vec<(usize, Evaluation)>, FederationError> {
        let rows = |client: &&usize| !self.clients.shards.test[**client].is_empty();
        let with_rows = self.own.iter().filter(rows);
        if self.has_private_parts() {
            let own = |&client| Ok((client, self.clients.evaluate_personal_model(&self.copy, client)?));
            return with_rows.map(own).collect();
        }
        let rows: Vec<usize> =
            with_rows.clone().flat_map(|&client| &self.clients.shards.test[client]).copied().collect();
        let evaluated = self.clients.evaluate_rows(&self.copy, &rows)?;
        Ok(with_rows.map(|&client| (client, summarise(&evaluated, &self.clients.shards.test[client]))).collect())
    }

    /// Whether clients keep a part of the model for themselves.
    pub fn has_private_parts(&self) -> bool {
        !self.clients.private.is_nothing()
    }

    /// The clients' own models, where they keep a part for themselves: see [`crate::Run::personal_models`].
    pub fn personal_models(&self) -> impl Iterator<Item = (usize, Adapter)> + '_ {
        self.clients.personal_models(&self.copy)
    }

    /// Its copy and what its clients keep, as bytes.
    pub fn state(&self) -> Vec<u8> {
        let Clients { private, memories, data_checksum, .. } = &self.clients;
        let ledger = Ledger::new(self.clients.shards.train.len());
        let written = Written {
            server: &self.copy,
            strategy: self.strategy,
            ledger: &ledger,
            restarted: 0,
            private,
            memories,
            data: data_checksum,
            noise: self.clients.engine.noise_key(),
            timeline: &Timeline::default(),
        };
        written.to_bytes(&BTreeMap::new())
    }

    /// Takes up what [`Site::state`] wrote.
    ///
    /// # Errors
    /// Bytes that are none, or of another model, data or other clients; the site is as it was.
    pub fn restore(&mut self, state: &[u8]) -> Result<(), CheckpointError> {
        let clients = self.clients.shards.train.len();
        let read =
            Checkpoint::read(state)?.fit(&self.fresh.adapter, self.strategy, clients, &self.clients.data_checksum)?;
        if let Some(key) = read.noise {
            self.clients.engine.draw_noise_from(key);
        }
        (self.copy, self.clients.memories, self.clients.private) = (read.server, read.memories, read.private);
        self.clients.groups = Groups::read(&self.copy.state);
        Ok(())
    }
}
