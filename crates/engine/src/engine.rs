//! A round on the clients' side: fold, probe and select if ordered, train, make the uploads.

use std::collections::HashMap;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};

use bonfire_data::random::{Use, stream};
use bonfire_kernels::{device_memory, runs_on_cpu};
use bonfire_models::{Adapter, ClientAdapter, Matrix, Model, PackedBatch, Rounding, normals};
use burn::tensor::Tensor;

use crate::fit::Needs;
use crate::flight::{Flight, Happened, Outcome, Wanted};
use crate::itinerary::Job;
use crate::parameters::{Parameters, Role};
use crate::send::{self, Learnt, resume, role_zeros};
use crate::{
    Active, EngineError, InFlight, Named, Plan, Score, Selection, Split, Start, TrainSettings, Upload, layer_score,
    top_slots,
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
    /// What it kept from earlier rounds.
    pub memory: Option<&'m Named>,
}

impl<'m> Member<'m> {
    /// A client that manages all its steps and remembers nothing.
    pub fn new(client: usize, rows: &'m [usize]) -> Self {
        Member { client, rows, pace: 1.0, memory: None }
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

/// Trains cohorts over one frozen backbone, on one device or several.
pub struct Engine {
    /// The backbone, once a device.
    models: Vec<Box<dyn Model>>,
    train: Split,
    settings: TrainSettings,
    in_flight: InFlight,
    /// Bytes of the smallest device that tells.
    memory: Option<u64>,
}

impl Engine {
    /// An engine over the train split and a backbone on an autodiff device; on several devices, the same backbone on
    /// each. What a client learns does not depend on where it trains.
    ///
    /// # Panics
    /// Without a model.
    pub fn new(models: Vec<Box<dyn Model>>, train: Split, settings: TrainSettings, in_flight: InFlight) -> Self {
        assert!(!models.is_empty(), "an engine has a device");
        let memory = models.iter().filter_map(|m| device_memory(m.device())).min();
        Engine { models, train, settings, in_flight, memory }
    }

    /// The backbone (on the first device).
    pub fn model(&self) -> &dyn Model {
        self.models[0].as_ref()
    }

    /// How many clients are on a device together, of `cohort` that share it and train `scalars` numbers each.
    pub fn places(&self, cohort: usize, scalars: u64) -> usize {
        let wanted = match self.in_flight {
            InFlight::Count(n) => n,
            InFlight::Auto => {
                let tokens: usize = self.train.ids.iter().map(Vec::len).sum();
                let a_client = self.settings.batch_size * tokens.div_ceil(self.train.len().max(1)).max(1);
                let usual = if runs_on_cpu(self.model().device()) { TOKENS_A_STEP_CPU } else { TOKENS_A_STEP_GPU };
                let goal = self.settings.tokens_per_step.unwrap_or(usual).div_ceil(a_client);
                let needs = Needs::new(self.model().info(), scalars, a_client as u64);
                self.memory.map_or(goal, |memory| goal.min(needs.clients(memory)))
            }
        };
        wanted.clamp(1, cohort.max(1))
    }

    /// Trains every client of `cohort` from `start` by the `plan`; uploads come in the order of the cohort.
    ///
    /// `on` hears of progress and may end the round by returning `false`.
    ///
    /// # Errors
    /// A loss or update that is not finite (round and client named), an empty shard, a stop.
    pub fn train(
        &self,
        plan: &Plan,
        start: Start<'_>,
        cohort: &Cohort,
        on: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<Vec<Upload>, EngineError> {
        if let Some(empty) = cohort.iter().find(|m| m.rows.is_empty()) {
            return Err(EngineError::EmptyShard { client: empty.client });
        }
        let steps = |m: &Member| self.probe_steps(plan, m) + self.local_steps(m);
        let total = cohort.iter().map(steps).sum();
        let (mut done, mut tokens) = (0, 0);
        let stop = AtomicBool::new(false);
        let shares = self.shares(cohort);
        let (tell, told) = channel();
        let results = std::thread::scope(|scope| {
            let workers: Vec<_> = self
                .models
                .iter()
                .zip(&shares)
                .map(|(model, share)| {
                    let (tell, stop, model) = (tell.clone(), &stop, model.as_ref());
                    scope.spawn(move || self.train_share(plan, start, model, share, &tell, stop))
                })
                .collect();
            drop(tell);
            for (steps, new) in told {
                (done, tokens) = (done + steps, tokens + new);
                if !on(Progress { done, total, tokens }) {
                    stop.store(true, Ordering::Relaxed);
                }
            }
            workers.into_iter().map(|w| w.join().unwrap_or_else(|panic| resume_unwind(panic))).collect::<Vec<_>>()
        });
        self.in_order(cohort, results)
    }

    /// The cohort dealt out to the devices, each client to the one that has least to do so far.
    fn shares<'m>(&self, cohort: &Cohort<'m>) -> Vec<Vec<Member<'m>>> {
        let mut shares = vec![(0, Vec::new()); self.models.len()];
        for member in cohort {
            let (rows, share) = shares.iter_mut().min_by_key(|(rows, _)| *rows).expect("at least one device");
            *rows += member.rows.len();
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
    ) -> Result<Vec<Upload>, EngineError> {
        // What was merged belongs to the backbone. Where one factor alone moves, the round's start is the same for all
        // and goes there too.
        let merged = (!start.merged.is_empty()).then(|| model.merged(start.merged));
        let model = merged.as_deref().unwrap_or(model);
        let noisy = self.settings.flat.map(|_| self.noisy(model, plan, start));
        let model = noisy.as_deref().unwrap_or(model);
        let folded = plan.active.folds().then(|| model.folded(&start.adapter.plain()));
        let model = folded.as_deref().unwrap_or(model);
        let pass = Pass { engine: self, model, plan, global: start.adapter, cohort: share };
        let mut count = |steps: usize, tokens: u64| {
            // Nobody listens only when the round is over.
            let _ = tell.send((steps, tokens));
            match stop.load(Ordering::Relaxed) {
                false => Ok(()),
                true => Err(EngineError::Stopped { round: plan.round }),
            }
        };
        let uploads = pass.run(&mut count);
        if uploads.is_err() {
            stop.store(true, Ordering::Relaxed);
        }
        uploads
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

    /// All devices' uploads in the order of the cohort, or what went wrong; a stop only where nothing else did.
    fn in_order(
        &self,
        cohort: &Cohort,
        results: Vec<Result<Vec<Upload>, EngineError>>,
    ) -> Result<Vec<Upload>, EngineError> {
        let (found, mut errors): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        errors.sort_by_key(|e| matches!(e, Err(EngineError::Stopped { .. })));
        if let Some(Err(error)) = errors.into_iter().next() {
            return Err(error);
        }
        let mut uploads: HashMap<usize, Upload> =
            found.into_iter().flatten().flatten().map(|u| (u.client, u)).collect();
        Ok(cohort.iter().map(|m| uploads.remove(&m.client).expect("one upload a client")).collect())
    }

    /// Steps of `epochs` local epochs over `rows` examples.
    fn steps(&self, rows: usize, epochs: usize) -> usize {
        rows.div_ceil(self.settings.batch_size) * epochs
    }

    /// Local steps that a client does: at least one.
    fn local_steps(&self, member: &Member) -> usize {
        let all = self.settings.local_steps(member.rows.len());
        ((all as f64 * member.pace).ceil() as usize).clamp(1, all)
    }

    /// Steps of a client's probe: whole epochs, or at most one epoch of batches (more is what `epochs` is for).
    fn probe_steps(&self, plan: &Plan, member: &Member) -> usize {
        let Some(selection) = &plan.selection else { return 0 };
        let epochs = self.steps(member.rows.len(), selection.probe.epochs.unwrap_or(1));
        selection.probe.batches.map_or(epochs, |b| b.min(epochs))
    }
}

/// What a client knows after its probe.
#[derive(Default)]
struct Probed {
    slots: Option<Vec<Vec<usize>>>,
    /// What the selected slots keep of it, when the probe is not reset.
    movement: Option<Vec<Matrix>>,
    tokens: u64,
}

/// What a client is to do in a pass.
struct Work {
    steps: usize,
    r#use: Use,
    slots: Option<Vec<Vec<usize>>>,
    movement: Option<Vec<Matrix>>,
}

/// One round of one cohort.
struct Pass<'p> {
    engine: &'p Engine,
    model: &'p dyn Model,
    plan: &'p Plan,
    global: &'p Adapter,
    cohort: &'p Cohort<'p>,
}

type Count<'c> = dyn FnMut(usize, u64) -> Result<(), EngineError> + 'c;

impl Pass<'_> {
    fn run(&self, count: &mut Count) -> Result<Vec<Upload>, EngineError> {
        let probes = self.probe(count)?;
        let outcomes = self.learn(&probes, count)?;
        Ok(self.uploads(probes, outcomes))
    }

    /// Ordinary, unmasked training of the active factor, then the slots of highest score (LoRA-A², section 4.2).
    fn probe(&self, count: &mut Count) -> Result<Vec<Probed>, EngineError> {
        let Some(selection) = &self.plan.selection else {
            return Ok(self.cohort.iter().map(|_| Probed::default()).collect());
        };
        let probe = &selection.probe;
        let given: Vec<_> = self.cohort.iter().map(|m| self.plan.slots_of(m.client, self.global)).collect();
        let job = |i: usize, m: &Member| Work {
            steps: self.engine.probe_steps(self.plan, m),
            r#use: Use::Probe,
            slots: given[i].clone(),
            movement: None,
        };
        let movement = !probe.reset || selection.score == Score::Magnitude;
        let outcomes = self.fly(job, Wanted { movement, scores: true }, count)?;
        let members = self.cohort.iter().zip(&given).zip(outcomes);
        Ok(members.map(|((m, given), outcome)| self.choose(selection, m, given.as_deref(), outcome)).collect())
    }

    /// The slots of highest score of a client that has the slots `given`, or all.
    fn choose(&self, selection: &Selection, member: &Member, given: Option<&[Vec<usize>]>, outcome: Outcome) -> Probed {
        let targets = self.global.targets.len();
        let scores = match selection.score {
            Score::Contribution => outcome.scores,
            Score::Magnitude => row_scores(&outcome.movement[..targets], |v| v * v, |sum, _| sum.sqrt()),
            Score::Importance => row_scores(&outcome.extra[..targets], |v| v, |sum, n| sum / n as f64),
        };
        // Places among the slots the client has, then the slots themselves.
        let places = top_slots(&scores, selection.budgets[member.client] * targets);
        let slot = |(t, places): (usize, &Vec<usize>)| match given {
            None => places.clone(),
            Some(given) => places.iter().map(|&p| given[t][p]).collect(),
        };
        let slots = places.iter().enumerate().map(slot).collect();
        let movement = (!selection.probe.reset).then(|| self.keep(outcome.movement, &places));
        Probed { slots: Some(slots), movement, tokens: outcome.tokens }
    }

    /// What the chosen slots, and the head, keep of a probe's movement.
    fn keep(&self, mut movement: Vec<Matrix>, places: &[Vec<usize>]) -> Vec<Matrix> {
        for (matrix, chosen) in movement.iter_mut().zip(places) {
            *matrix = matrix.rows(chosen);
        }
        movement
    }

    /// Local training proper.
    fn learn(&self, probes: &[Probed], count: &mut Count) -> Result<Vec<Outcome>, EngineError> {
        let job = |i: usize, m: &Member| {
            let probed = &probes[i];
            let resumed = || resume(self.plan, self.global, m.memory);
            Work {
                steps: self.engine.local_steps(m),
                r#use: Use::Batches,
                slots: probed.slots.clone().or_else(|| self.plan.slots_of(m.client, self.global)),
                movement: probed.movement.clone().or_else(resumed),
            }
        };
        self.fly(job, Wanted { movement: true, scores: false }, count)
    }

    /// SCAFFOLD's correction: the server's control variate minus the client's own, role by role over all slots.
    fn correction(&self, member: &Member) -> Option<Vec<Matrix>> {
        let server = self.plan.terms.control.as_ref()?;
        let of = |role: Role| {
            let mut all = server.get(&role.name()).cloned().unwrap_or_else(|| role_zeros(role, self.global, server));
            if let Some(own) = member.memory.and_then(|m| m.get(&format!("control/{}", role.name()))) {
                all.data.iter_mut().zip(&own.data).for_each(|(c, own)| *c -= own);
            }
            all
        };
        Some(Role::all(self.plan, self.global).into_iter().map(of).collect())
    }

    /// Runs one job a member; outcomes in the cohort's order.
    fn fly(
        &self,
        work: impl Fn(usize, &Member) -> Work,
        wanted: Wanted,
        count: &mut Count,
    ) -> Result<Vec<Outcome>, EngineError> {
        let members = self.cohort.iter().enumerate();
        let jobs: Vec<Job> = members
            .map(|(i, m)| {
                let Work { steps, r#use, slots, movement } = work(i, m);
                let control = if wanted.scores { None } else { self.correction(m) };
                Job { client: m.client, rows: m.rows, steps, r#use, slots, movement, control }
            })
            .collect();
        let settings = &self.engine.settings;
        let places = match self.plan.active {
            // Weights have no client axis.
            Active::Full => 1,
            _ => self.engine.places(jobs.len(), self.plan.scalars(self.global)),
        };
        let chosen: Vec<&Vec<Vec<usize>>> = jobs.iter().filter_map(|j| j.slots.as_ref()).collect();
        let most = |t: usize| chosen.iter().map(|slots| slots[t].len()).max().unwrap_or(0);
        let slots: Vec<usize> = (0..self.global.targets.len()).map(most).collect();
        let slots = (!chosen.is_empty()).then_some(slots.as_slice());
        let device = self.model.device().clone().inner();
        let parameters = Parameters::new(self.plan, self.global, settings, places, slots, wanted.scores, &device);
        let flight =
            Flight { model: self.model, train: &self.engine.train, settings, plan: self.plan, jobs: &jobs, wanted };
        let mut outcomes: Vec<Option<Outcome>> = jobs.iter().map(|_| None).collect();
        flight.run(parameters, places, &mut |event| match event {
            Happened::Step { clients, tokens } => count(clients, tokens),
            Happened::Done(outcome) => {
                let job = outcome.job;
                outcomes[job] = Some(outcome);
                Ok(())
            }
        })?;
        Ok(outcomes.into_iter().map(|o| o.expect("every job ends")).collect())
    }

    /// A score for every layer `[1, layers]` on the client's first batch, by the model that everybody starts from.
    fn survey(&self, member: &Member) -> Matrix {
        let (engine, device) = (self.engine, self.model.device());
        let rows = &member.rows[..member.rows.len().min(engine.settings.batch_size)];
        let batch = PackedBatch::pack(&[rows.iter().map(|&row| engine.train.example(row)).collect()]);
        let batch = batch.to_device(self.model.info().first_position, Rounding::of(device), device);
        let states = self.model.layer_states(&ClientAdapter::new(Vec::new(), Vec::new()), &batch);
        let layers = states.len();
        let states = Tensor::cat(states, 0).inner();
        let [count, width] = states.dims();
        let numbers: Vec<f32> = states.into_data().try_to_vec().expect("f32 on the device");
        let of = |rows: &[f32]| layer_score(&Matrix::new(count / layers, width, rows.to_vec())) as f32;
        Matrix::new(1, layers, numbers.chunks(count / layers * width).map(of).collect())
    }

    fn uploads(&self, probes: Vec<Probed>, outcomes: Vec<Outcome>) -> Vec<Upload> {
        let members = self.cohort.iter().zip(probes).zip(outcomes);
        members.map(|((m, probed), outcome)| self.upload(m, probed, outcome)).collect()
    }

    fn upload(&self, member: &Member, probed: Probed, outcome: Outcome) -> Upload {
        let learnt = Learnt {
            client: member.client,
            examples: member.rows.len(),
            chosen: probed.slots.is_some(),
            slots: probed.slots.or_else(|| self.plan.slots_of(member.client, self.global)),
            movement: outcome.movement,
            extra: outcome.extra,
            survey: self.plan.survey.then(|| self.survey(member)),
            loss: outcome.loss,
            steps: outcome.steps,
            tokens: probed.tokens + outcome.tokens,
        };
        send::upload(self.plan, self.global, &self.engine.settings, member.memory, learnt)
    }
}

/// One score a row: `end` of the sum of `each` number and of how many there are.
fn row_scores(matrices: &[Matrix], each: impl Fn(f64) -> f64, end: impl Fn(f64, usize) -> f64) -> Vec<Vec<f32>> {
    let row = |row: &[f32]| end(row.iter().map(|&v| each(f64::from(v))).sum(), row.len()) as f32;
    matrices.iter().map(|m| m.data.chunks(m.cols.max(1)).map(row).collect()).collect()
}
