//! THE ROUND LOOP. It reads like the paper's pseudo-code and does not grow: a new method goes into its strategy file,
//! a new objective into the engine.

use std::collections::BTreeSet;
use std::time::Instant;

use bonfire_engine::{EngineError, Evaluation, Judged, Plan, Slots, Trained, Upload, judge, personal, summarise};

use bonfire_models::Task;

use crate::ledger::Traffic;
use crate::{ClientMetrics, Control, Event, FederationError, RoundMetrics, Run, Times};

/// The clients of `stays` that sent nothing: what they learnt was not finite.
fn skipped(round: usize, stays: &[usize], uploads: &[Upload]) -> Result<Vec<usize>, FederationError> {
    let sent: BTreeSet<usize> = uploads.iter().map(|u| u.client).collect();
    let skipped: Vec<usize> = stays.iter().copied().filter(|client| !sent.contains(client)).collect();
    match sent.is_empty() && !skipped.is_empty() {
        true => Err(FederationError::NobodyLeft { round }),
        false => Ok(skipped),
    }
}

impl Run {
    /// Runs the rounds that are left; `on` hears of everything and may end the run.
    ///
    /// # Errors
    /// Training failed or gave numbers that are not finite; the state after the last complete round is kept.
    pub fn train(&mut self, on: &mut dyn FnMut(Event<'_>) -> Control) -> Result<(), FederationError> {
        while self.server.round < self.settings.train.rounds {
            let (start, round) = (Instant::now(), self.server.round + 1);
            let cohort = self.cohort(round);
            let plan = self.strategy.plan(&self.server);
            let phase = plan.active.name();
            if on(Event::RoundStarted { round, phase, cohort: &cohort }) == Control::Stop {
                return Ok(());
            }
            let (stays, dropped) = self.settings.who_stays(round, &cohort);
            let mut ledger = self.ledger.clone();
            let down = ledger.download(&plan, &self.server, &stays);
            let lost = ledger.download(&plan, &self.server, &dropped);

            let clock = Instant::now();
            let mut listen = |progress| on(Event::Progress(progress)) == Control::Continue;
            let trained = self.engine.train(&plan, self.server.start(), &self.members(round, &stays), &mut listen);
            let Trained { mut uploads, times: steps } = match trained {
                Err(EngineError::Stopped { .. }) => return Ok(()),
                other => other?,
            };
            let train_seconds = clock.elapsed().as_secs_f64();
            let skipped = skipped(round, &stays, &uploads)?;

            let (up, sizes) = ledger.upload(&uploads);
            let kept: Vec<_> = uploads.iter_mut().map(|u| (u.client, std::mem::take(&mut u.kept))).collect();
            let mut next = self.server.clone();
            let clock = Instant::now();
            if !uploads.is_empty() {
                self.strategy.aggregate(&mut next, &uploads)?;
            }
            let aggregate = clock.elapsed().as_secs_f64();
            if !next.adapter.is_finite() {
                return Err(FederationError::NotFinite { round });
            }
            next.round = round;
            ledger.changed(&plan, &uploads, &self.server, &next);
            (self.server, self.ledger) = (next, ledger);
            self.memories.extend(kept.into_iter().filter(|(_, kept)| !kept.is_empty()));
            self.private.clone_from(&plan.private);

            let clock = Instant::now();
            let (judged, persons) = (self.judge_if_due()?, self.judge_persons_if_due(&plan)?);
            let evaluate = clock.elapsed().as_secs_f64();
            let mut metrics = self.round_metrics(phase, &uploads, up.with_downloads(down, lost), judged.as_deref());
            metrics.dropped = dropped;
            metrics.skipped = skipped;
            metrics.personal_accuracy = persons;
            metrics.train_seconds = train_seconds;
            metrics.seconds = start.elapsed().as_secs_f64();
            metrics.times = Some(Times::new(steps, aggregate, evaluate, metrics.seconds));
            let clients = self.client_metrics(&uploads, &sizes, judged.as_deref());
            if on(Event::RoundEnded { metrics: &metrics, clients: &clients, run: self }) == Control::Stop {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Judges the test split by the new global model, when this round is due.
    fn judge_if_due(&self) -> Result<Option<Vec<Option<Judged>>>, FederationError> {
        if !self.is_due() || self.test.is_empty() || !self.strategy.has_global_model() {
            return Ok(None);
        }
        let rows: Vec<usize> = (0..self.test.len()).collect();
        Ok(Some(judge(self.engine.model(), &self.server.model(), &self.test, &rows)?))
    }

    /// Where clients keep a part of the model for themselves: the share of all test examples that their own clients'
    /// models get right.
    fn judge_persons_if_due(&self, plan: &Plan) -> Result<Option<f64>, FederationError> {
        if !self.is_due() || plan.private.is_nothing() {
            return Ok(None);
        }
        let (mut right, mut seen) = (0.0, 0);
        for (client, rows) in self.shards.test.iter().enumerate().filter(|(_, rows)| !rows.is_empty()) {
            let own = personal(&plan.private, &self.server.adapter, self.memories.get(&client));
            let judged = judge(self.engine.model(), &self.server.merged.total(&own), &self.test, rows)?;
            let own = summarise(&judged, rows);
            right += own.accuracy * own.answers as f64;
            seen += own.answers;
        }
        Ok((seen > 0).then(|| right / seen as f64))
    }

    fn is_due(&self) -> bool {
        let round = self.server.round;
        round.is_multiple_of(self.settings.evaluate.every) || round == self.settings.train.rounds
    }

    fn round_metrics(
        &self,
        phase: &str,
        uploads: &[Upload],
        traffic: Traffic,
        judged: Option<&[Option<Judged>]>,
    ) -> RoundMetrics {
        let examples: usize = uploads.iter().map(|u| u.examples).sum();
        let all: Vec<usize> = (0..self.test.len()).collect();
        let test: Option<Evaluation> = judged.map(|j| summarise(j, &all));
        let spoken = test.filter(|_| self.model().task() == Task::Causal);
        RoundMetrics {
            round: self.server.round,
            phase: phase.to_string(),
            train_loss: uploads.iter().map(|u| u.loss * u.examples as f64).sum::<f64>() / examples.max(1) as f64,
            test_loss: test.map(|t| t.loss),
            test_perplexity: spoken.map(|t| t.loss.exp()),
            test_exact_match: spoken.map(|t| t.exact_match),
            test_accuracy: test.map(|t| t.accuracy),
            upload_params: traffic.upload_params,
            upload_head_params: traffic.upload_head_params,
            upload_aux_params: traffic.upload_aux_params,
            upload_index_bytes: traffic.upload_index_bytes,
            upload_bytes: traffic.upload_bytes,
            download_params: traffic.download_params,
            download_bytes: traffic.download_bytes,
            lost_download_bytes: traffic.lost_download_bytes,
            dropped: Vec::new(),
            skipped: Vec::new(),
            personal_accuracy: None,
            live_slots: self.server.live().map(|live| live.iter().map(Vec::len).sum()),
            epsilon: self.settings.epsilon(self.server.round),
            seconds: 0.0,
            train_seconds: 0.0,
            times: None,
            tokens: uploads.iter().map(|u| u.tokens).sum(),
        }
    }

    fn client_metrics(
        &self,
        uploads: &[Upload],
        sizes: &[u64],
        judged: Option<&[Option<Judged>]>,
    ) -> Vec<ClientMetrics> {
        let wanted = judged.filter(|_| self.settings.evaluate.per_client);
        let one = |(u, &upload_bytes): (&Upload, &u64)| {
            let rows = &self.shards.test[u.client];
            ClientMetrics {
                round: self.server.round,
                client: u.client,
                examples: u.examples,
                steps: u.steps,
                train_loss: u.loss,
                upload_params: u.adapter_params() + u.head_params() + u.aux_params(),
                upload_bytes,
                slots: match &u.slots {
                    Slots::Chosen { slots, .. } => Some(slots.clone()),
                    Slots::All { .. } | Slots::Given { .. } => None,
                },
                test_accuracy: wanted.filter(|_| !rows.is_empty()).map(|j| summarise(j, rows).accuracy),
            }
        };
        uploads.iter().zip(sizes).map(one).collect()
    }
}
