//! What a round's new model is evaluated by, and where that stands in the round's rows.

use std::time::Instant;

use bonfire_engine::{Confusion, Evaluation, Plan, RowEvaluation, Tally, Upload, summarise};

use crate::clock::Closed;
use crate::ledger::Traffic;
use crate::{
    ByClass, ClientMetrics, ClientSpread, EvaluateOn, FederationError, Publish, RoundConfusion, RoundMetrics, Run,
};

/// What evaluation found; what was not due or not asked for is `None`.
#[derive(Default)]
pub(crate) struct Found {
    /// The test split by the global model, row by row.
    test: Option<Vec<Option<RowEvaluation>>>,
    /// Each client's own test rows among them, where that is asked for; `None` of a client that has none.
    clients: Option<Vec<Option<f64>>>,
    /// The validation split by the global model.
    validation: Option<Evaluation>,
    /// All test examples by their own clients' models, where clients keep a part of the model.
    personal: Option<Vec<Option<RowEvaluation>>>,
    /// How often a backdoor that clients plant is answered: see [`Evaluation::attack_success`].
    attack_success: Option<f64>,
}

impl Found {
    /// The test split by the global model.
    pub fn on_test(&self) -> Option<Evaluation> {
        self.test.as_deref().map(summarise_all)
    }
}

impl Run {
    /// Evaluates the new models, when this round is due.
    pub(crate) fn evaluate_if_due(&self, plan: &Plan) -> Result<Found, FederationError> {
        let mut found = Found::default();
        if !self.coordinator.is_due() {
            return Ok(found);
        }
        if self.coordinator.has_global_model() && !self.clients.test.is_empty() {
            let rows = self.clients.evaluate(self.server())?;
            found.clients = self.clients.settings.evaluate.per_client.then(|| self.client_accuracies(&rows));
            found.test = Some(rows);
        }
        if self.coordinator.has_global_model() && !self.clients.validation.is_empty() {
            found.validation = Some(summarise_all(&self.clients.evaluate_validation(self.server())?));
        }
        if !plan.private.is_nothing() {
            found.personal = Some(self.clients.evaluate_personal_models(self.server())?);
        }
        found.attack_success = self.clients.attack_success(self.server(), !self.coordinator.has_global_model())?;
        Ok(found)
    }

    /// Evaluates the model before its first round, where that is asked for: the row of round 0.
    pub(crate) fn evaluate_before(&self) -> Result<Option<RoundMetrics>, FederationError> {
        if self.server().round > 0 || self.clients.test.is_empty() || !self.is_evaluated_before() {
            return Ok(None);
        }
        let start = Instant::now();
        let rows = self.clients.evaluate(self.server())?;
        let mut found = Found { test: Some(rows), ..Found::default() };
        // The one model that all have.
        found.attack_success = self.clients.attack_success(self.server(), false)?;
        if !self.coordinator.has_global_model() {
            // Before they have trained, all clients have the same model.
            found.personal = found.test.take();
        } else if !self.clients.validation.is_empty() {
            found.validation = Some(summarise_all(&self.clients.evaluate_validation(self.server())?));
        }
        let mut metrics = self.coordinator.row(&self.coordinator.plan(), &[], Traffic::default(), found.on_test());
        self.fill_in(&mut metrics, &found);
        // Nothing has trained yet, and nothing of anybody's texts is in it.
        (metrics.phase, metrics.train_loss) = ("none".into(), f64::NAN);
        (metrics.epsilon, metrics.delta) = (None, None);
        metrics.seconds = start.elapsed().as_secs_f64();
        Ok(Some(self.coordinator.published(metrics, Vec::new()).0))
    }

    /// Whether the untrained model is evaluated: as `evaluate.before` says, else where it is no dearer than a round's training,
    /// and always where there is nothing else to measure.
    fn is_evaluated_before(&self) -> bool {
        let settings = &self.clients.settings;
        if let Some(said) = settings.evaluate.before {
            return said;
        }
        let clients = self.coordinator.clients();
        let share = settings.cohort_size(clients) as f64 / clients as f64;
        let trained = self.clients.train_tokens as f64 * share * settings.train.epochs as f64;
        let tested = self.clients.test.ids.iter().map(Vec::len).sum::<usize>() as f64;
        // A forward pass is a third of a step.
        let dear = tested > 3.0 * trained && settings.train.rounds > 0;
        if dear {
            tracing::info!(
                "the untrained model is not evaluated: the test split has {tested:.0} tokens, which takes longer than to train on the \
                 {trained:.0} of a round; evaluate.before = true does it"
            );
        }
        !dear
    }

    /// What was taken for what, where classes were told apart and the round's rows may say how clients fare.
    pub(crate) fn confusion_of(&self, found: &Found) -> Option<RoundConfusion> {
        let all = |rows: &[Option<RowEvaluation>]| self.by_class(rows);
        let global = found.test.as_deref().and_then(all).map(|found| (false, found));
        let published = self.coordinator.settings.publish() == Publish::All;
        let own = || found.personal.as_deref().filter(|_| published).and_then(all).map(|found| (true, found));
        let (personal, found) = global.or_else(own)?;
        Some(RoundConfusion { round: self.server().round, personal, found })
    }

    fn by_class(&self, evaluated: &[Option<RowEvaluation>]) -> Option<ByClass> {
        let rows: Vec<usize> = (0..evaluated.len()).collect();
        if let Some(confusion) = Confusion::of(evaluated, &rows) {
            return Some(ByClass::Taken(confusion));
        }
        let tally = Tally::of(evaluated, &rows)?;
        Some(match &self.clients.test.tags {
            Some(tags) => ByClass::Spans(tags.types().to_vec(), tally),
            None => ByClass::Labels(tally),
        })
    }

    /// Writes into the row what the coordinator does not know.
    pub(crate) fn fill_in(&self, metrics: &mut RoundMetrics, found: &Found) {
        let personal = found.personal.as_deref().map(summarise_all).filter(|found| found.examples > 0);
        personal.iter().for_each(|personal| metrics.put_personal(personal));
        metrics.client_accuracy = found
            .clients
            .as_ref()
            .and_then(|accuracies| ClientSpread::of(accuracies.iter().copied().flatten().collect()));
        found.validation.iter().for_each(|found| metrics.put(EvaluateOn::Validation, found));
        metrics.attack_success = found.attack_success;
    }

    /// The global model's accuracy on every client's own test rows; `None` of a client that has none.
    fn client_accuracies(&self, evaluated: &[Option<RowEvaluation>]) -> Vec<Option<f64>> {
        let accuracy = |rows: &Vec<usize>| (!rows.is_empty()).then(|| summarise(evaluated, rows).accuracy()).flatten();
        self.clients.shards.test.iter().map(accuracy).collect()
    }

    /// A row for each upload, with the accuracy on the client's own test rows where that is asked for.
    pub(crate) fn client_metrics(
        &self,
        uploads: &[Upload],
        sizes: &[u64],
        found: &Found,
        closed: Option<&Closed>,
    ) -> Vec<ClientMetrics> {
        let one = |(u, &bytes): (&Upload, &u64)| {
            let test_accuracy = found.clients.as_ref().and_then(|accuracies| accuracies[u.client]);
            let device = self.coordinator.clock.as_ref().map(|clock| clock.name(u.client));
            let simulated_seconds = closed.and_then(|closed| closed.of_client.get(&u.client).copied());
            let staleness = closed.and_then(|closed| closed.staleness.get(&u.client).copied());
            let group = self.server().group_of(u.client);
            let of_upload = ClientMetrics::of(self.server().round, u, bytes);
            ClientMetrics { test_accuracy, device, simulated_seconds, staleness, group, ..of_upload }
        };
        uploads.iter().zip(sizes).map(one).collect()
    }
}

fn summarise_all(evaluated: &[Option<RowEvaluation>]) -> Evaluation {
    summarise(evaluated, &(0..evaluated.len()).collect::<Vec<_>>())
}
