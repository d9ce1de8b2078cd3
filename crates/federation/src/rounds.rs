//! THE ROUND LOOP. It reads like the paper's pseudo-code and does not grow: a new method goes into its strategy file,
//! a new objective into the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::time::Instant;

use bonfire_engine::{Start, Trained, Upload};

use crate::clients::Clients;
use crate::clock::part_late;
use crate::groups::Groups;
use crate::{Event, FederationError, Run, Times};

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
        if let Some(metrics) = self.evaluate_before()?
            && on(Event::Before { metrics: &metrics, run: self }).is_break()
        {
            return Ok(());
        }
        while !self.coordinator.is_finished() {
            let start = Instant::now();
            let plan = self.coordinator.plan();
            let turn = self.coordinator.turn(&plan, &|client| self.clients.tokens(&plan, client));
            let begins = self.coordinator.begins();
            let cohort = turn.as_ref().map_or_else(|| self.coordinator.cohort(), |turn| turn.began.clone());
            let (round, phase) = (plan.round, plan.active.name());
            if on(Event::RoundStarted { round, phase, cohort: &cohort }).is_break() {
                return Ok(());
            }
            let (stays, dropped) = self.clients.settings.who_stays(round, &cohort);

            let clock = Instant::now();
            let mut listen = |progress| on(Event::Progress(progress));
            let known = self.coordinator.known_to_clients(&plan);
            let begin = Start { adapter: known.as_ref().unwrap_or(&self.server().adapter), ..self.server().start() };
            let trained = self.clients.train(&plan, begin, &stays, &mut listen)?;
            let ControlFlow::Continue(trained) = trained else { return Ok(()) };
            let Trained { mut uploads, times: steps, in_flight, no_room_for } = trained;
            let train_seconds = clock.elapsed().as_secs_f64();
            let closed = self.coordinator.close(&plan, turn, begins, &mut uploads);
            let (late, stays) = part_late(closed.as_ref(), stays);
            self.coordinator.leave_out(&mut uploads);
            let expected = closed.as_ref().and_then(|closed| closed.arrived.as_ref()).unwrap_or(&stays);
            let skipped = skipped(round, expected, &uploads)?;
            if let (Some(how), Some(closed)) = (self.clients.settings.server.asynchronous, &closed) {
                how.weigh(closed, &mut uploads);
            }

            let back = self.personalises_after(round).then(|| self.checkpoint(&BTreeMap::new()));
            let clock = Instant::now();
            let kept = Clients::take_kept(&mut uploads);
            let lost = [&dropped[..], &late].concat();
            let (traffic, sizes) = self.coordinator.aggregate(&plan, &uploads, &stays, &lost)?;
            self.clients.remember(kept, &plan.private);
            self.clients.groups = Groups::read(&self.coordinator.server.state);
            let aggregate = clock.elapsed().as_secs_f64();

            let clock = Instant::now();
            let found = self.evaluate_if_due(&plan)?;
            let listen = &mut |progress| on(Event::Progress(progress));
            let personalised = self.personalise_at_the_end(back.as_deref(), listen)?;
            let ControlFlow::Continue(personalised) = personalised else { return Ok(()) };
            self.confusion = self.confusion_of(&found).or(self.confusion.take());
            let evaluate = clock.elapsed().as_secs_f64();
            let mut metrics = self.coordinator.row(&plan, &uploads, traffic, found.on_test());
            (metrics.dropped, metrics.late) = (dropped, late);
            metrics.skipped = skipped;
            (metrics.in_flight, metrics.no_room_for) = (in_flight, no_room_for);
            self.fill_in(&mut metrics, &found);
            metrics.personalised = personalised;
            closed.iter().for_each(|closed| closed.tell(&mut metrics));
            metrics.train_seconds = train_seconds;
            metrics.seconds = start.elapsed().as_secs_f64();
            metrics.times = Some(Times::new(steps, aggregate, evaluate, metrics.seconds));
            let clients = self.client_metrics(&uploads, &sizes, &found, closed.as_ref());
            self.coordinator.timeline = closed.map(|closed| closed.after).unwrap_or_default();
            let (metrics, clients) = self.coordinator.published(metrics, clients);
            if on(Event::RoundEnded { metrics: &metrics, clients: &clients, run: self }).is_break() {
                return Ok(());
            }
        }
        Ok(())
    }
}
