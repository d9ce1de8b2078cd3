//! THE ROUND LOOP. It reads like the paper's pseudo-code and does not grow: a new method goes into its strategy file,
//! a new objective into the engine.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::Instant;

use bonfire_engine::{Evaluation, Plan, RowEvaluation, Trained, Upload, summarise};

use crate::clients::Clients;
use crate::{ClientMetrics, ClientSpread, Event, FederationError, Run, Times};

/// The clients of `stays` that sent nothing that counts: what they learnt was not finite, or is not believed.
fn skipped(round: usize, stays: &[usize], uploads: &[Upload]) -> Result<Vec<usize>, FederationError> {
    let sent: BTreeSet<usize> = uploads.iter().map(|u| u.client).collect();
    let skipped: Vec<usize> = stays.iter().copied().filter(|client| !sent.contains(client)).collect();
    if sent.is_empty() && !skipped.is_empty() { Err(FederationError::NobodyLeft { round }) } else { Ok(skipped) }
}

impl Run {
    /// Runs the rounds that are left. `on` hears of everything and may break off: after a complete round the run ends there,
    /// inside a round the round is given up.
    ///
    /// # Errors
    /// Training failed or gave numbers that are not finite; the state after the last complete round is kept.
    pub fn train(&mut self, on: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>) -> Result<(), FederationError> {
        while !self.coordinator.is_finished() {
            let start = Instant::now();
            let (plan, cohort) = (self.coordinator.plan(), self.coordinator.cohort());
            let (round, phase) = (plan.round, plan.active.name());
            if on(Event::RoundStarted { round, phase, cohort: &cohort }).is_break() {
                return Ok(());
            }
            let (stays, dropped) = self.clients.settings.who_stays(round, &cohort);

            let clock = Instant::now();
            let mut listen = |progress| on(Event::Progress(progress));
            let trained = self.clients.train(&plan, self.server().start(), &stays, &mut listen)?;
            let ControlFlow::Continue(trained) = trained else { return Ok(()) };
            let Trained { mut uploads, times: steps, in_flight, no_room_for } = trained;
            let train_seconds = clock.elapsed().as_secs_f64();
            uploads.retain(|upload| self.coordinator.disbelieves(upload).is_none());
            let skipped = skipped(round, &stays, &uploads)?;

            let clock = Instant::now();
            let kept = Clients::take_kept(&mut uploads);
            let (traffic, sizes) = self.coordinator.aggregate(&plan, &uploads, &stays, &dropped)?;
            self.clients.remember(kept, &plan.private);
            let aggregate = clock.elapsed().as_secs_f64();

            let clock = Instant::now();
            let (evaluated, personal_models) = (self.evaluate_if_due()?, self.evaluate_personal_if_due(&plan)?);
            let validation = self.evaluate_validation_if_due()?;
            let evaluate = clock.elapsed().as_secs_f64();
            let mut metrics = self.coordinator.row(&plan, &uploads, traffic, evaluated.as_deref().map(summarise_all));
            metrics.dropped = dropped;
            metrics.skipped = skipped;
            (metrics.in_flight, metrics.no_room_for) = (in_flight, no_room_for);
            metrics.personal_accuracy = personal_models;
            metrics.client_accuracy = evaluated.as_deref().and_then(|rows| self.client_spread(rows));
            if let Some(found) = validation {
                (metrics.validation_loss, metrics.validation_accuracy) = (Some(found.loss), Some(found.accuracy));
                metrics.validation_macro_f1 = found.classes.map(|classes| classes.macro_f1);
                metrics.validation_matthews = found.classes.map(|classes| classes.matthews);
            }
            metrics.train_seconds = train_seconds;
            metrics.seconds = start.elapsed().as_secs_f64();
            metrics.times = Some(Times::new(steps, aggregate, evaluate, metrics.seconds));
            let clients = self.client_metrics(&uploads, &sizes, evaluated.as_deref());
            let (metrics, clients) = self.coordinator.published(metrics, clients);
            if on(Event::RoundEnded { metrics: &metrics, clients: &clients, run: self }).is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Evaluates the test split by the new global model, when this round is due.
    fn evaluate_if_due(&self) -> Result<Option<Vec<Option<RowEvaluation>>>, FederationError> {
        let coordinator = &self.coordinator;
        if !coordinator.is_due() || self.clients.test.is_empty() || !coordinator.has_global_model() {
            return Ok(None);
        }
        Ok(Some(self.clients.evaluate(self.server())?))
    }

    /// The validation split by the new global model, when this round is due and the best one is chosen by it.
    fn evaluate_validation_if_due(&self) -> Result<Option<Evaluation>, FederationError> {
        let coordinator = &self.coordinator;
        if !coordinator.is_due() || self.clients.validation.is_empty() || !coordinator.has_global_model() {
            return Ok(None);
        }
        Ok(Some(summarise_all(&self.clients.evaluate_validation(self.server())?)))
    }

    /// How the global model's accuracies on the clients' own test shards are spread, where that is asked for.
    fn client_spread(&self, evaluated: &[Option<RowEvaluation>]) -> Option<ClientSpread> {
        let shards = self.clients.shards.test.iter().filter(|rows| !rows.is_empty());
        let accuracies = shards.map(|rows| summarise(evaluated, rows).accuracy).collect();
        ClientSpread::of(accuracies).filter(|_| self.clients.settings.evaluate.per_client)
    }

    /// Where clients keep a part of the model for themselves: the share of all test examples that their own clients'
    /// models get right.
    fn evaluate_personal_if_due(&self, plan: &Plan) -> Result<Option<f64>, FederationError> {
        if !self.coordinator.is_due() || plan.private.is_nothing() {
            Ok(None)
        } else {
            Ok(self.clients.evaluate_personal_models(self.server())?)
        }
    }

    fn client_metrics(
        &self,
        uploads: &[Upload],
        sizes: &[u64],
        evaluated: Option<&[Option<RowEvaluation>]>,
    ) -> Vec<ClientMetrics> {
        let wanted = evaluated.filter(|_| self.clients.settings.evaluate.per_client);
        let one = |(u, &bytes): (&Upload, &u64)| {
            let rows = &self.clients.shards.test[u.client];
            let test_accuracy = wanted.filter(|_| !rows.is_empty()).map(|j| summarise(j, rows).accuracy);
            ClientMetrics { test_accuracy, ..ClientMetrics::of(self.server().round, u, bytes) }
        };
        uploads.iter().zip(sizes).map(one).collect()
    }
}

fn summarise_all(evaluated: &[Option<RowEvaluation>]) -> Evaluation {
    summarise(evaluated, &(0..evaluated.len()).collect::<Vec<_>>())
}
