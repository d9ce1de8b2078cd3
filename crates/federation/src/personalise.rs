//! After the last round each client fine-tunes the model on its own rows, and is tested on its own test rows: what a federation's
//! model is worth to those who go on from it (personalisation by local fine-tuning; Yu, Bagdasaryan and Shmatikov, "Salvaging
//! Federated Learning by Local Adaptation", arXiv 2002.04758). Nothing of it crosses, and nothing of it stays.

use std::ops::ControlFlow;

use bonfire_engine::{ClientMemory, Member, Plan, Private, Progress, Upload, personal, summarise};
use bonfire_models::Adapter;

use crate::aggregate::average;
use crate::{Checkpoint, Coordinator, FederationError, Norm, Personalised, Run, Server};

/// Who hears of progress and may break off.
type Listen<'l> = dyn FnMut(Progress) -> ControlFlow<()> + 'l;

impl Run {
    /// Whether clients fine-tune by themselves once `round` is over.
    pub(crate) fn personalises_after(&self, round: usize) -> bool {
        let settings = self.settings();
        settings.evaluate.personalise.is_some() && round == settings.train.rounds
    }

    /// What fine-tuning gains, after the last round; `None` after any other, or where no client has test rows. Broken off or failed it takes
    /// the round back, to the state in `before`, as any round that is given up.
    pub(crate) fn personalise_at_the_end(
        &mut self,
        before: Option<&[u8]>,
        listen: &mut Listen<'_>,
    ) -> Result<ControlFlow<(), Option<Personalised>>, FederationError> {
        let Some(before) = before else { return Ok(ControlFlow::Continue(None)) };
        let found = self.personalised(listen);
        if !matches!(found, Ok(ControlFlow::Continue(_))) {
            let checkpoint = Checkpoint::read(before).expect("it was just written");
            self.resume(checkpoint).expect("it is this run's own");
        }
        found
    }

    /// Accuracies before and after of all clients that have test rows; who has nothing to train on keeps what it had.
    fn personalised(&self, listen: &mut Listen<'_>) -> Result<ControlFlow<(), Option<Personalised>>, FederationError> {
        let (clients, shards) = (&self.clients, &self.clients.shards);
        let with_rows: Vec<usize> = (0..shards.test.len()).filter(|&client| !shards.test[client].is_empty()).collect();
        let shared = clients.private.is_nothing().then(|| clients.evaluate(self.server())).transpose()?;
        let mut pairs = Vec::new();
        // As many models at once as a round has uploads.
        for some in with_rows.chunks(clients.settings.cohort_size(shards.test.len()).max(1)) {
            let ControlFlow::Continue(tuned) = self.fine_tuned_models(some, listen)? else {
                return Ok(ControlFlow::Break(()));
            };
            let mut tuned = tuned.into_iter().peekable();
            for &client in some {
                let before = match &shared {
                    Some(evaluated) => summarise(evaluated, &shards.test[client]).accuracy(),
                    None => clients.evaluate_personal_model(self.server(), client)?.accuracy(),
                };
                let after = match tuned.next_if(|(other, _)| *other == client) {
                    Some((_, model)) => self.accuracy_of(client, &model)?,
                    None => before,
                };
                pairs.extend(before.zip(after).map(|(before, after)| [before, after]));
            }
        }
        Ok(ControlFlow::Continue(Personalised::of(&pairs)))
    }

    /// The model of the last complete round as each of `clients` would have it after fine-tuning on its own training rows by
    /// `evaluate.personalise`, as one plain adapter over the untouched backbone; in the order asked for. Clients without training rows have
    /// none, nor those whose numbers are not finite, where the settings say to go on without them. The run stays as it is.
    /// `listen` hears of progress and may break off.
    ///
    /// # Errors
    /// Training fails; `evaluate.personalise` is not set.
    pub fn fine_tuned_models(
        &self,
        clients: &[usize],
        listen: &mut Listen<'_>,
    ) -> Result<ControlFlow<(), Vec<(usize, Adapter)>>, FederationError> {
        let Some(asked) = self.settings().evaluate.personalise else {
            let problem = "evaluate.personalise says how clients fine-tune, and is not set".into();
            return Err(FederationError::Orders { problem });
        };
        let (plan, train) = (self.coordinator.plan_alone(&self.clients.private), &self.settings().train);
        let member = |&client: &usize| Member {
            steps: Some(asked.epochs * train.steps_an_epoch(self.clients.shards.train[client].len())),
            memory: self.clients.memory(client),
            ..Member::new(client, &self.clients.shards.train[client])
        };
        let members: Vec<Member<'_>> = clients.iter().map(member).filter(|member| !member.rows.is_empty()).collect();
        if members.is_empty() {
            return Ok(ControlFlow::Continue(Vec::new()));
        }
        let trained = self.clients.engine.train(&plan, self.server().start(), &members, listen)?;
        let own = |upload: Upload| {
            let memory = self.clients.memory(upload.client).cloned().unwrap_or_default();
            (upload.client, moved(self.server(), &plan.private, memory, upload))
        };
        Ok(trained.map_continue(|trained| trained.uploads.into_iter().map(own).collect()))
    }

    fn accuracy_of(&self, client: usize, model: &Adapter) -> Result<Option<f64>, FederationError> {
        let rows = &self.clients.shards.test[client];
        let evaluated = self.clients.engine.evaluate_rows(model, &self.clients.test, rows)?;
        Ok(summarise(&evaluated, rows).accuracy())
    }
}

/// The server's model moved by one client's training, with what the client keeps.
fn moved(server: &Server, private: &Private, mut memory: ClientMemory, mut upload: Upload) -> Adapter {
    memory.update(std::mem::take(&mut upload.kept));
    let mut adapter = server.adapter.clone();
    average(&mut adapter, &[upload], Norm::All);
    server.merged.total(&personal(private, &adapter, Some(&memory)))
}

impl Coordinator {
    /// The orders by which clients go on by themselves from the last complete round: all that the strategy ever trains, all slots that
    /// still exist whatever a client's budget, and plain steps, without what the method adds to them.
    fn plan_alone(&self, private: &Private) -> Plan {
        let theirs = self.plan();
        Plan {
            live: self.server.live(),
            train_head: theirs.train_head,
            lr_core: theirs.lr_core,
            private: private.clone(),
            alone: true,
            ..Plan::new(self.server.round, self.strategy.trains(&self.server), theirs.lr_a, theirs.lr_b)
        }
    }
}
