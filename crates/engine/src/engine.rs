//! The clients of a federation on the devices of one process: a round deals its cohort out to them, and each trains its
//! share.

use std::cell::Cell;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::mpsc::{Sender, channel};

use bonfire_data::random::{NoiseKey, Use};
use bonfire_models::{Adapter, Model};
use burn::tensor::Device;

use crate::batch_schedule::BatchSchedule;
use crate::capacity::Capacity;
use crate::device_round::{DeviceRound, Stepped};
use crate::device_thread::{self, EndsAll, give_back};
use crate::evaluate::evaluate_groups_within;
use crate::job::ClientJob;
use crate::start_loss;
use crate::terms::flat;
use crate::{
    Active, Cohort, EngineError, EngineSettings, Estimate, Member, Plan, RowEvaluation, Seat, Split, Start, StepTimes,
    TrainSettings, Upload,
};

/// How far a round has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Local steps done, over all clients, probes included.
    pub done: usize,
    /// Local steps of the round.
    pub total: usize,
    /// Real tokens trained so far in this round, probes included.
    pub tokens: u64,
    /// Clients that have done all their steps.
    pub clients_done: usize,
}

/// What came of a cohort's training.
#[derive(Clone, Debug)]
pub struct Trained {
    /// One a client, in the order of the cohort.
    pub uploads: Vec<Upload>,
    /// Where the time went.
    pub times: StepTimes,
    /// Clients that were on a device together.
    pub in_flight: usize,
    /// Clients in flight that were tried before and that a device's memory did not hold.
    pub no_room_for: Vec<usize>,
}

/// What came of one device's share, or of all: uploads and where the time went.
type Share = (Vec<Upload>, StepTimes);

/// What a device tells of a round: a step, or that it cannot go on.
type Told = ControlFlow<(), Stepped>;

/// Trains cohorts over one frozen backbone, on one device or several.
pub struct Engine {
    /// The backbone, once a device.
    models: Vec<Box<dyn Model>>,
    train: Split,
    settings: TrainSettings,
    options: EngineSettings,
    capacity: Capacity,
    clocked: bool,
    /// What clients draw privacy's noise from.
    noise: NoiseKey,
    /// Its places in gangs, one a device; none: it steps by itself.
    seats: Vec<Seat>,
}

impl Engine {
    /// An engine over the train split and a backbone on an autodiff device; on several devices, the same backbone on
    /// each. What a client learns does not depend on where it trains.
    ///
    /// # Panics
    /// Without a model.
    pub fn new(models: Vec<Box<dyn Model>>, train: Split, settings: TrainSettings, options: EngineSettings) -> Self {
        assert!(!models.is_empty(), "an engine has a device");
        let capacity = Capacity::new(&models, &train, &settings);
        let noise = NoiseKey::Seed(settings.seed);
        Engine { models, train, settings, options, capacity, clocked: true, noise, seats: Vec::new() }
    }

    /// From now on clients draw privacy's noise from `key`; before, it is the run's seed, which protects nobody.
    pub fn draw_noise_from(&mut self, key: NoiseKey) {
        self.noise = key;
    }

    /// What clients draw privacy's noise from.
    pub fn noise_key(&self) -> &NoiseKey {
        &self.noise
    }

    /// The same without clocks in its steps, for who times them from outside: on a GPU each clocked step waits for the
    /// device five times. What [`Trained`] says of times is zero then.
    pub fn without_clock(self) -> Self {
        Engine { clocked: false, ..self }
    }

    /// From now on its clients step with those of other runs, wherever [they can](Self::steps_with_others): `seats` has a place for
    /// each device. Their steps are not clocked: a pass is nobody's alone.
    ///
    /// # Panics
    /// Where they are not as many as there are devices.
    pub fn join(&mut self, seats: Vec<Seat>) {
        assert_eq!(seats.len(), self.models.len(), "a seat a device");
        self.seats = seats;
    }

    /// The train split.
    pub(crate) fn rows(&self) -> &Split {
        &self.train
    }

    /// Whether a round's clients can be in one pass with those of other runs: the backbone that they compute with is the one that was
    /// read, and they go through it once a step.
    fn steps_with_others(&self, plan: &Plan, start: Start<'_>) -> bool {
        let twice = plan.terms.branches.is_some_and(|branches| branches.divergence_weight > 0.0);
        // What layers say of a client's batch is asked of the model that everybody starts from.
        let asks_layers = plan.layer_scores && plan.folds(self.model().dropout().adapter);
        !self.seats.is_empty()
            && start.merged.is_empty()
            && plan.active != Active::Full
            && self.settings.flat.is_none()
            && !twice
            && !asks_layers
    }

    /// How many clients a device holds at once that train `scalars` numbers each, however many there are.
    pub fn pass_holds(&self, scalars: u64) -> usize {
        self.estimate(usize::MAX, scalars).in_flight
    }

    /// The backbone (on the first device).
    pub fn model(&self) -> &dyn Model {
        self.models[0].as_ref()
    }

    /// The devices that train.
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        self.models.iter().map(|model| model.device())
    }

    /// Tokens that `member` trains on by a plan without a probe, before it has: those of its batches, batch by batch.
    pub fn training_tokens(&self, plan: &Plan, member: Member<'_>) -> u64 {
        let (settings, _) = self.settings.in_round(plan.round);
        let steps = member.local_steps(&settings);
        let jobs = [ClientJob {
            member,
            steps,
            slots: None,
            movement: None,
            correction: None,
            update_factor: 1.0,
            probed_tokens: 0,
        }];
        let schedule = BatchSchedule::new(&jobs, &self.train, &settings, (Use::Batches, plan.round as u64), 1);
        let trained: u64 = schedule.flat_map(|step| step.ends).map(|end| end.tokens).sum();
        trained + start_loss::tokens(plan, &self.train, member.rows)
    }

    /// How many clients are on a device together, of `cohort` that share it and train `scalars` numbers each.
    pub fn clients_in_flight(&self, cohort: usize, scalars: u64) -> usize {
        self.estimate(cohort, scalars).in_flight
    }

    /// What `cohort` clients that share a device and train `scalars` numbers each need there.
    pub fn estimate(&self, cohort: usize, scalars: u64) -> Estimate {
        self.capacity.estimate(self.model(), &self.options, cohort, scalars)
    }

    /// Refuses clients that do not fit on the device even one by one, and tensors larger than its buffers. A number of clients
    /// in flight that the user has set is taken as it is.
    ///
    /// # Errors
    /// As said.
    pub fn check_memory(&self, scalars: u64) -> Result<(), EngineError> {
        self.capacity.check(self.model(), &self.options, scalars)
    }

    /// Evaluates `rows` of `split` by the global `adapter` on the first device: see [`crate::evaluate_rows`].
    ///
    /// # Errors
    /// As there.
    pub fn evaluate_rows(
        &self,
        adapter: &Adapter,
        split: &Split,
        rows: &[usize],
    ) -> Result<Vec<Option<RowEvaluation>>, EngineError> {
        self.evaluate_groups(adapter, split, &[rows])
    }

    /// The same of several groups of rows, what is found of one not depending on the others.
    pub(crate) fn evaluate_groups(
        &self,
        adapter: &Adapter,
        split: &Split,
        groups: &[&[usize]],
    ) -> Result<Vec<Option<RowEvaluation>>, EngineError> {
        let _alone = self.seats.first().map(Seat::evaluation);
        evaluate_groups_within(&self.capacity.room, self.model(), adapter, split, groups)
    }

    /// Trains every client of `cohort` from `start` by the `plan`; uploads come in the order of the cohort. Where the
    /// settings say so, clients whose loss or update is not finite are left out. Where a device's memory does not hold the
    /// clients in flight, it begins anew with half of them, and never tries as many again.
    ///
    /// `on` hears of progress and may break off; then all that was trained is dropped and `Break` comes back.
    ///
    /// # Errors
    /// A loss or update that is not finite (round and client named), an empty shard, a device that fails or does not even hold
    /// one client.
    pub fn train(
        &self,
        plan: &Plan,
        start: Start<'_>,
        cohort: &Cohort,
        on: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<ControlFlow<(), Trained>, EngineError> {
        if let Some(empty) = cohort.iter().find(|m| m.rows.is_empty()) {
            return Err(EngineError::EmptyShard { client: empty.client });
        }
        if cohort.iter().any(|m| plan.trains_nothing(m.client, start.adapter)) {
            return Err(EngineError::NothingTrains { round: plan.round });
        }
        let losses = self.start_losses(plan, start, cohort)?;
        let shares = self.shares(plan, cohort);
        let share = shares.iter().map(Vec::len).max().unwrap_or(0);
        let mut no_room_for = Vec::new();
        loop {
            let in_flight = self.lanes_for(plan, start.adapter, share);
            self.seats.iter().for_each(Seat::expect);
            let trained = self.train_on_all_devices(plan, start, &shares, in_flight, on);
            // Until the next round begins, the other runs wait.
            self.seats.iter().for_each(Seat::expect);
            let words = match trained {
                Err(EngineError::OutOfMemory { words, .. }) => words,
                Err(other) => return Err(other),
                Ok(ControlFlow::Break(())) => return Ok(ControlFlow::Break(())),
                Ok(ControlFlow::Continue(found)) => {
                    self.capacity.went_well(&self.options, in_flight, share);
                    let (mut uploads, times) = in_order(cohort, found);
                    if let Some(losses) = &losses {
                        losses.put(&mut uploads);
                    }
                    return Ok(ControlFlow::Continue(Trained { uploads, times, in_flight, no_room_for }));
                }
            };
            self.models.iter().for_each(|model| give_back(model.device()));
            let Some(next) = self.capacity.room.halve(in_flight) else {
                return Err(EngineError::OutOfMemory { what: "even one client in flight", words });
            };
            tracing::info!(
                "the device's memory does not hold {in_flight} clients in flight ({words}); round {} begins anew with {next}",
                plan.round
            );
            no_room_for.push(in_flight);
        }
    }

    /// How many of `jobs` clients that train by the `plan` are on a device together.
    fn lanes_for(&self, plan: &Plan, global: &Adapter, jobs: usize) -> usize {
        match plan.active {
            // Weights have no client axis.
            Active::Full => 1,
            _ => match self.seats.first() {
                None => self.clients_in_flight(jobs, plan.scalars(global)),
                Some(seat) => seat.share(self.pass_holds(plan.scalars(global))).min(jobs.max(1)),
            },
        }
    }

    /// Every device's share, all at once, each with at most so many `lanes`.
    fn train_on_all_devices(
        &self,
        plan: &Plan,
        start: Start<'_>,
        shares: &[Vec<Member<'_>>],
        lanes: usize,
        on: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<ControlFlow<(), Vec<Share>>, EngineError> {
        let steps = |m: &Member| m.probe_steps(plan, &self.settings) + m.local_steps(&self.settings);
        let mut progress =
            Progress { done: 0, total: shares.iter().flatten().map(steps).sum(), tokens: 0, clients_done: 0 };
        let (tell, told) = channel();
        std::thread::scope(|scope| {
            let workers: Vec<_> = self
                .models
                .iter()
                .zip(shares)
                .enumerate()
                .map(|(device, (model, share))| {
                    let (tell, model, seat) = (tell.clone(), model.as_ref(), self.seats.get(device));
                    device_thread::start(scope, move || {
                        let _working = seat.map(|seat| Working { seat, others: self.models.len() > 1 });
                        self.train_on_device(plan, start, (model, seat), share, lanes, &tell)
                    })
                })
                .collect();
            drop(tell);
            // Whoever breaks off, the listener or a device that fails, breaks off for all: nobody listens to the devices any
            // more, which they find out at their next step.
            let listened = told.into_iter().try_for_each(|told| {
                let step: Stepped = told?;
                (progress.done, progress.tokens) = (progress.done + step.clients, progress.tokens + step.tokens);
                progress.clients_done += step.ended;
                on(progress)
            });
            let ends: Vec<_> = workers.into_iter().map(|worker| device_thread::end(worker?)).collect();
            let ended: Vec<ControlFlow<(), Share>> = ends.into_iter().collect::<Result<_, _>>()?;
            let shares = ended.into_iter().filter_map(ControlFlow::continue_value).collect();
            Ok(listened.map_continue(|()| shares))
        })
    }

    /// The cohort dealt out to the devices; of a device in the order of the cohort.
    fn shares<'m>(&self, plan: &Plan, cohort: &Cohort<'m>) -> Vec<Vec<Member<'m>>> {
        let tokens: Vec<f64> = cohort.iter().map(|m| m.tokens(plan, &self.train, &self.settings)).collect();
        let members = |share: Vec<usize>| share.into_iter().map(|i| cohort[i]).collect();
        dealt_out(&tokens, self.models.len()).into_iter().map(members).collect()
    }

    /// The settings by which clients train, and the factor on the plan's rates.
    fn settings_for(&self, plan: &Plan) -> (TrainSettings, f64) {
        if plan.alone {
            return (TrainSettings { flat: None, ..self.settings.clone() }, 1.0);
        }
        self.settings.in_round(plan.round)
    }

    /// One device's part of a round.
    fn train_on_device(
        &self,
        plan: &Plan,
        start: Start<'_>,
        (model, seat): (&dyn Model, Option<&Seat>),
        share: &Cohort,
        lanes: usize,
        tell: &Sender<Told>,
    ) -> Result<ControlFlow<(), Share>, EngineError> {
        let ends_all = EndsAll(tell);
        let (settings, factor) = self.settings_for(plan);
        let plan = &plan.at_rates(factor);
        // What was merged belongs to the backbone. Where one factor alone moves, or slots stay frozen beside those that train,
        // the round's start is the same for all and goes there too.
        let merged = (!start.merged.is_empty()).then(|| model.merged(start.merged));
        let model = merged.as_deref().unwrap_or(model);
        let noisy = settings.flat.map(|_| flat::with_banks(model, plan.round, start.adapter, self.settings.seed));
        let model = noisy.as_deref().unwrap_or(model);
        let together = self.steps_with_others(plan, start);
        if let Some(seat) = seat.filter(|_| !together) {
            seat.rest();
        }
        let folds = plan.folds(model.dropout().adapter) && !together;
        let folded = folds.then(|| model.folded(&start.adapter.plain()));
        let model = folded.as_deref().unwrap_or(model);
        let round = DeviceRound {
            model,
            seat: seat.filter(|_| together),
            train: &self.train,
            settings: &settings,
            options: &self.options,
            plan,
            global: start.adapter,
            cohort: share,
            lanes,
            noise: &self.noise,
            clocked: self.clocked && !together,
            times: Cell::default(),
            on_step: &|step| match tell.send(ControlFlow::Continue(step)) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            },
        };
        let uploads = round.run()?;
        ends_all.done();
        Ok(uploads.map_continue(|uploads| (uploads, round.times.get())))
    }
}

/// A seat while its device trains a share of a round.
struct Working<'s> {
    seat: &'s Seat,
    /// The run trains on other devices too.
    others: bool,
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        // The round ends when the other devices have done their shares, which may wait for the very runs that would wait here.
        if self.others {
            self.seat.rest();
        }
    }
}

/// Clients that train so many `tokens` each dealt out to `devices`, the largest first, each to the device that has least so far.
fn dealt_out(tokens: &[f64], devices: usize) -> Vec<Vec<usize>> {
    let mut largest: Vec<usize> = (0..tokens.len()).collect();
    largest.sort_by(|&a, &b| tokens[b].total_cmp(&tokens[a]));
    let mut shares = vec![(0f64, Vec::new()); devices];
    for client in largest {
        let least = shares.iter_mut().min_by(|(a, _), (b, _)| a.total_cmp(b));
        let (sum, share) = least.expect("at least one device");
        *sum += tokens[client];
        share.push(client);
    }
    let in_order = |(_, mut share): (f64, Vec<usize>)| {
        share.sort_unstable();
        share
    };
    shares.into_iter().map(in_order).collect()
}

/// All devices' uploads in the order of the cohort.
fn in_order(cohort: &Cohort, found: Vec<Share>) -> Share {
    let times = found.iter().map(|(_, times)| *times).sum::<StepTimes>().over(found.len());
    let mut uploads: HashMap<usize, Upload> =
        found.into_iter().flat_map(|(uploads, _)| uploads).map(|u| (u.client, u)).collect();
    (cohort.iter().filter_map(|m| uploads.remove(&m.client)).collect(), times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_dealt_out_by_tokens() {
        // 11 and 10 of 21; in the cohort's order, each to the device that has least so far, it would be 13 and 8.
        assert_eq!(dealt_out(&[5.0, 1.0, 3.0, 2.0, 8.0, 2.0], 2), [vec![1, 3, 4], vec![0, 2, 5]]);
        assert_eq!(dealt_out(&[1.0, 4.0, 2.0], 1), [vec![0, 1, 2]], "a single device has all, in their order");
        assert_eq!(dealt_out(&[1.0], 3), [vec![0], vec![], vec![]]);
    }
}
