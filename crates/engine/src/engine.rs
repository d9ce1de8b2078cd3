//! A round on the clients' side: fold, probe and select if ordered, train, make the uploads.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};

use bonfire_data::random::{NoiseKey, Use, stream};
use bonfire_kernels::{device_buffer_limit, device_memory, runs_on_cpu};
use bonfire_models::{Adapter, Model, normals};
use burn::tensor::Device;

use crate::device_round::DeviceRound;
use crate::device_thread::{self, EndsAll, give_back};
use crate::evaluate::{TOKENS, evaluate_rows_within};
use crate::fit::{Estimate, check_pieces, clients_in_a_buffer};
use crate::room::Room;
use crate::{
    Active, EngineError, EngineSettings, InFlight, Named, Plan, RowEvaluation, Split, Start, StepTimes, TrainSettings,
    Upload,
};

/// Tokens a step should hold for the device to be busy, by kind of device.
const TOKENS_A_STEP_CPU: usize = 4_096;
const TOKENS_A_STEP_GPU: usize = 32_768;

/// A client of the round's cohort.
#[derive(Clone, Copy, Debug)]
pub struct Member<'m> {
    /// Client, from 0.
    pub client: usize,
    /// Its shard: rows of the train split.
    pub rows: &'m [usize],
    /// Share of its local steps that it manages in this round, above 0 and at most 1; a straggler manages fewer.
    pub pace: f64,
    /// Local steps to make in place of those of its epochs; its rows come round as often as that takes.
    pub steps: Option<usize>,
    /// What it kept from earlier rounds.
    pub memory: Option<&'m Named>,
}

impl<'m> Member<'m> {
    /// A client that manages all its steps and remembers nothing.
    pub fn new(client: usize, rows: &'m [usize]) -> Self {
        Member { client, rows, pace: 1.0, steps: None, memory: None }
    }
}

/// The clients of a round.
pub type Cohort<'m> = [Member<'m>];

/// How far a round has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Local steps done, over all clients, probes included.
    pub done: usize,
    /// Local steps of the round.
    pub total: usize,
    /// Real tokens trained so far in this round, probes included.
    pub tokens: u64,
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

/// Trains cohorts over one frozen backbone, on one device or several.
pub struct Engine {
    /// The backbone, once a device.
    models: Vec<Box<dyn Model>>,
    pub(crate) train: Split,
    pub(crate) settings: TrainSettings,
    pub(crate) options: EngineSettings,
    /// Bytes of the smallest device that tells.
    memory: Option<u64>,
    pub(crate) clocked: bool,
    /// Bytes of a tensor that the least of the devices holds in one piece.
    buffer: Option<u64>,
    room: Room,
    /// What clients draw privacy's noise from.
    pub(crate) noise: NoiseKey,
}

impl Engine {
    /// An engine over the train split and a backbone on an autodiff device; on several devices, the same backbone on
    /// each. What a client learns does not depend on where it trains.
    ///
    /// # Panics
    /// Without a model.
    pub fn new(models: Vec<Box<dyn Model>>, train: Split, settings: TrainSettings, options: EngineSettings) -> Self {
        assert!(!models.is_empty(), "an engine has a device");
        let least = |of: fn(&Device) -> Option<u64>| models.iter().filter_map(|m| of(m.device())).min();
        let (memory, buffer) = (least(device_memory), least(device_buffer_limit));
        let noise = NoiseKey::Seed(settings.seed);
        Engine { models, train, settings, options, memory, clocked: true, buffer, room: Room::new(TOKENS), noise }
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

    /// The backbone (on the first device).
    pub fn model(&self) -> &dyn Model {
        self.models[0].as_ref()
    }

    /// The devices that train.
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        self.models.iter().map(|model| model.device())
    }

    /// How many clients are on a device together, of `cohort` that share it and train `scalars` numbers each.
    pub fn clients_in_flight(&self, cohort: usize, scalars: u64) -> usize {
        self.estimate(cohort, scalars).in_flight
    }

    /// What `cohort` clients that share a device and train `scalars` numbers each need there.
    pub fn estimate(&self, cohort: usize, scalars: u64) -> Estimate {
        let a_client = self.mean_batch();
        let (model, options) = (self.model(), &self.options);
        let mut estimate = Estimate::new(model.info(), model.task(), options, scalars, a_client, self.memory);
        let wanted = match options.in_flight {
            InFlight::Count(n) => n,
            InFlight::Auto => {
                let tokens = if self.grows() { self.room.tokens() } else { self.goal() };
                let goal = tokens.div_ceil(a_client[0] as usize);
                let piece = |limit| clients_in_a_buffer(model.info(), options.precision, a_client[0], limit);
                goal.min(estimate.clients().unwrap_or(goal)).min(self.buffer.map_or(goal, piece))
            }
        };
        estimate.in_flight = wanted.min(self.room.most()).clamp(1, cohort.max(1));
        estimate
    }

    /// Tokens of a step that the user or the kind of device likes.
    fn goal(&self) -> usize {
        let usual = if runs_on_cpu(self.model().device()) { TOKENS_A_STEP_CPU } else { TOKENS_A_STEP_GPU };
        self.options.tokens_per_step.unwrap_or(usual)
    }

    /// Whether steps begin small and grow from round to round: nothing is known of a GPU's memory.
    fn grows(&self) -> bool {
        let known = self.memory.is_some() || self.options.memory_gb.is_some();
        let said = self.options.in_flight != InFlight::Auto || self.options.tokens_per_step.is_some();
        !known && !said && !runs_on_cpu(self.model().device())
    }

    /// Refuses clients that do not fit on the device even one by one, and tensors larger than its buffers. A number of clients
    /// in flight that the user has set is taken as it is.
    ///
    /// # Errors
    /// As said.
    pub fn check_memory(&self, scalars: u64) -> Result<(), EngineError> {
        let model = self.model();
        if let Some(limit) = self.buffer {
            check_pieces(model.info(), model.task(), self.options.precision, self.mean_batch()[0], limit)?;
        }
        let estimate = self.estimate(1, scalars);
        if self.options.in_flight == InFlight::Count(1) || estimate.fits() {
            Ok(())
        } else {
            Err(EngineError::TooLarge { estimate })
        }
    }

    /// Tokens of a client's mean batch, and how many of its answers are scored.
    fn mean_batch(&self) -> [u64; 2] {
        let train = &self.train;
        let tokens: usize = train.ids.iter().map(Vec::len).sum();
        let answers: usize = train.ids.iter().zip(&train.goals).map(|(ids, goal)| goal.answers(ids.len())).sum();
        [tokens, answers].map(|n| (self.settings.batch_size * n.div_ceil(train.len().max(1)).max(1)) as u64)
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
        evaluate_rows_within(&self.room, self.model(), adapter, split, rows)
    }

    /// Trains every client of `cohort` from `start` by the `plan`; uploads come in the order of the cohort. Where the
    /// settings say so, clients whose loss or update is not finite are left out. Where a device's memory does not hold the
    /// clients in flight, it begins anew with half of them, and never tries as many again.
    ///
    /// `on` hears of progress and may end the round by returning `false`.
    ///
    /// # Errors
    /// A loss or update that is not finite (round and client named), an empty shard, a stop, a device that fails or does not
    /// even hold one client.
    pub fn train(
        &self,
        plan: &Plan,
        start: Start<'_>,
        cohort: &Cohort,
        on: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<Trained, EngineError> {
        if let Some(empty) = cohort.iter().find(|m| m.rows.is_empty()) {
            return Err(EngineError::EmptyShard { client: empty.client });
        }
        if cohort.iter().any(|m| plan.trains_nothing(m.client, start.adapter)) {
            return Err(EngineError::NothingTrains { round: plan.round });
        }
        let shares = self.shares(cohort);
        let share = shares.iter().map(Vec::len).max().unwrap_or(0);
        let mut no_room_for = Vec::new();
        loop {
            let in_flight = self.lanes_for(plan, start.adapter, share);
            let words = match self.try_to_train(plan, start, &shares, on) {
                Err(EngineError::OutOfMemory { words, .. }) => words,
                Err(other) => return Err(other),
                Ok(found) => {
                    if self.grows() && in_flight < share {
                        self.room.grow(self.goal());
                    }
                    let (uploads, times) = in_order(cohort, found);
                    return Ok(Trained { uploads, times, in_flight, no_room_for });
                }
            };
            self.models.iter().for_each(|model| give_back(model.device()));
            let Some(next) = self.room.halve(in_flight) else {
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
    pub(crate) fn lanes_for(&self, plan: &Plan, global: &Adapter, jobs: usize) -> usize {
        match plan.active {
            // Weights have no client axis.
            Active::Full => 1,
            _ => self.clients_in_flight(jobs, plan.scalars(global)),
        }
    }

    /// Every device's share, all at once, with as many clients in flight as there is room for.
    fn try_to_train(
        &self,
        plan: &Plan,
        start: Start<'_>,
        shares: &[Vec<Member<'_>>],
        on: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<Vec<Share>, EngineError> {
        let steps = |m: &Member| self.probe_steps(plan, m) + self.local_steps(m);
        let total = shares.iter().flatten().map(steps).sum();
        let (mut done, mut tokens) = (0, 0);
        let stop = AtomicBool::new(false);
        let (tell, told) = channel();
        let results = std::thread::scope(|scope| {
            let workers: Vec<_> = self
                .models
                .iter()
                .zip(shares)
                .map(|(model, share)| {
                    let (tell, stop, model) = (tell.clone(), &stop, model.as_ref());
                    device_thread::start(scope, move || self.train_share(plan, start, model, share, &tell, stop))
                })
                .collect();
            drop(tell);
            for (steps, new) in told {
                (done, tokens) = (done + steps, tokens + new);
                if !on(Progress { done, total, tokens }) {
                    stop.store(true, Ordering::Relaxed);
                }
            }
            workers.into_iter().map(|worker| device_thread::end(worker?)).collect::<Vec<_>>()
        });
        all_or_worst(results)
    }

    /// The cohort dealt out to the devices, each client to the one that has fewest tokens so far.
    fn shares<'m>(&self, cohort: &Cohort<'m>) -> Vec<Vec<Member<'m>>> {
        let mut shares = vec![(0, Vec::new()); self.models.len()];
        for member in cohort {
            let (tokens, share) = shares.iter_mut().min_by_key(|(tokens, _)| *tokens).expect("at least one device");
            *tokens += member.rows.iter().map(|&row| self.train.ids[row].len()).sum::<usize>();
            share.push(*member);
        }
        shares.into_iter().map(|(_, share)| share).collect()
    }

    /// One device's part of a round. A failure here ends the round on the other devices too.
    fn train_share(
        &self,
        plan: &Plan,
        start: Start<'_>,
        model: &dyn Model,
        share: &Cohort,
        tell: &Sender<(usize, u64)>,
        stop: &AtomicBool,
    ) -> Result<Share, EngineError> {
        let _ends = EndsAll(stop);
        // What was merged belongs to the backbone. Where one factor alone moves, the round's start is the same for all
        // and goes there too.
        let merged = (!start.merged.is_empty()).then(|| model.merged(start.merged));
        let model = merged.as_deref().unwrap_or(model);
        let noisy = self.settings.flat.map(|_| self.noisy(model, plan, start));
        let model = noisy.as_deref().unwrap_or(model);
        let folded = plan.folds().then(|| model.folded(&start.adapter.plain()));
        let model = folded.as_deref().unwrap_or(model);
        let pass =
            DeviceRound { engine: self, model, plan, global: start.adapter, cohort: share, times: Cell::default() };
        let mut count = |steps: usize, tokens: u64| {
            // Nobody listens only when the round is over.
            let _ = tell.send((steps, tokens));
            if stop.load(Ordering::Relaxed) { Err(EngineError::Stopped { round: plan.round }) } else { Ok(()) }
        };
        let uploads = pass.run(&mut count);
        if uploads.is_err() {
            stop.store(true, Ordering::Relaxed);
        }
        Ok((uploads?, pass.times.get()))
    }

    /// The model with the round's banks for Flat-LoRA's noise, the same on every device.
    fn noisy(&self, model: &dyn Model, plan: &Plan, start: Start<'_>) -> Box<dyn Model> {
        let draw = |t: usize| {
            let target = &model.targets()[t];
            let mut rng = stream(self.settings.seed, Use::Noise, plan.round as u64, t as u64, 0);
            normals(target.d_in * target.d_out, &mut rng)
        };
        model.noisy(&start.adapter.plain(), &mut { draw })
    }

    /// Steps of `epochs` local epochs over `rows` examples.
    fn steps(&self, rows: usize, epochs: usize) -> usize {
        rows.div_ceil(self.settings.batch_size) * epochs
    }

    /// Local steps that a client does: at least one.
    pub(crate) fn local_steps(&self, member: &Member) -> usize {
        if let Some(steps) = member.steps {
            return steps.max(1);
        }
        let all = self.settings.local_steps(member.rows.len());
        ((all as f64 * member.pace).ceil() as usize).clamp(1, all)
    }

    /// Steps of a client's probe: whole epochs, or at most one epoch of batches (more is what `epochs` is for).
    pub(crate) fn probe_steps(&self, plan: &Plan, member: &Member) -> usize {
        let Some(selection) = &plan.selection else { return 0 };
        let epochs = self.steps(member.rows.len(), selection.probe.epochs.unwrap_or(1));
        selection.probe.batches.map_or(epochs, |b| b.min(epochs))
    }
}

/// What all devices found, or what went wrong; a stop only where nothing else did.
fn all_or_worst(results: Vec<Result<Share, EngineError>>) -> Result<Vec<Share>, EngineError> {
    let (found, mut errors): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    errors.sort_by_key(|e| matches!(e, Err(EngineError::Stopped { .. })));
    match errors.into_iter().next() {
        Some(Err(error)) => Err(error),
        _ => Ok(found.into_iter().flatten().collect()),
    }
}

/// All devices' uploads in the order of the cohort.
fn in_order(cohort: &Cohort, found: Vec<Share>) -> Share {
    let times = found.iter().map(|(_, times)| *times).sum::<StepTimes>().over(found.len());
    let mut uploads: HashMap<usize, Upload> =
        found.into_iter().flat_map(|(uploads, _)| uploads).map(|u| (u.client, u)).collect();
    (cohort.iter().filter_map(|m| uploads.remove(&m.client)).collect(), times)
}
