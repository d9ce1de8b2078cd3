//! THE ROUND LOOP. It reads like the paper's pseudo-code and does not grow: a new method goes into its strategy file,
//! a new objective into the engine.

use std::time::Instant;

use bonfire_engine::{EngineError, Evaluation, Judged, Slots, Upload, judge, summarise};

use crate::ledger::Traffic;
use crate::{ClientMetrics, Control, Event, FederationError, RoundMetrics, Run};

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
            let down = self.ledger.download(round, &cohort, &self.server.adapter);

            let clock = Instant::now();
            let mut listen = |progress| on(Event::Progress(progress)) == Control::Continue;
            let trained = self.engine.train(&plan, &self.server.adapter, &self.members(&cohort), &mut listen);
            let uploads = match trained {
                Err(EngineError::Stopped { .. }) => return Ok(()),
                other => other?,
            };
            let train_seconds = clock.elapsed().as_secs_f64();

            let (up, sizes) = self.ledger.upload(round, &uploads);
            let mut next = self.server.clone();
            self.strategy.aggregate(&mut next, &uploads)?;
            if !next.adapter.is_finite() {
                return Err(FederationError::NotFinite { round });
            }
            next.round = round;
            self.server = next;

            let judged = self.judge_if_due()?;
            let traffic = Traffic { download_params: down.download_params, download_bytes: down.download_bytes, ..up };
            let mut metrics = self.round_metrics(phase, &uploads, traffic, judged.as_deref());
            metrics.train_seconds = train_seconds;
            metrics.seconds = start.elapsed().as_secs_f64();
            let clients = self.client_metrics(&uploads, &sizes, judged.as_deref());
            let adapter = &self.server.adapter;
            if on(Event::RoundEnded { metrics: &metrics, clients: &clients, adapter }) == Control::Stop {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Judges the test split by the new global adapter, when this round is due.
    fn judge_if_due(&self) -> Result<Option<Vec<Option<Judged>>>, FederationError> {
        let round = self.server.round;
        let due = round.is_multiple_of(self.settings.evaluate.every) || round == self.settings.train.rounds;
        if !due || self.test.is_empty() {
            return Ok(None);
        }
        let rows: Vec<usize> = (0..self.test.len()).collect();
        Ok(Some(judge(self.engine.model(), &self.server.adapter, &self.test, &rows)?))
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
        RoundMetrics {
            round: self.server.round,
            phase: phase.to_string(),
            train_loss: uploads.iter().map(|u| u.loss * u.examples as f64).sum::<f64>() / examples.max(1) as f64,
            test_loss: test.map(|t| t.loss),
            test_accuracy: test.map(|t| t.accuracy),
            upload_params: traffic.upload_params,
            upload_head_params: traffic.upload_head_params,
            upload_index_bytes: traffic.upload_index_bytes,
            upload_bytes: traffic.upload_bytes,
            download_params: traffic.download_params,
            download_bytes: traffic.download_bytes,
            seconds: 0.0,
            train_seconds: 0.0,
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
                upload_params: u.adapter_params() + u.head_params(),
                upload_bytes,
                slots: match &u.slots {
                    Slots::Chosen { slots, .. } => Some(slots.clone()),
                    Slots::All { .. } => None,
                },
                test_accuracy: wanted.filter(|_| !rows.is_empty()).map(|j| summarise(j, rows).accuracy),
            }
        };
        uploads.iter().zip(sizes).map(one).collect()
    }
}
