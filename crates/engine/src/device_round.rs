//! One round of one cohort on one device: clients probe and choose their slots if the plan says so, train, and make their
//! uploads; a client whose numbers are no longer finite is lost here. Many clients are in the same forward and backward pass; one
//! at a time computes the same, and is what tests compare with.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::sync::mpsc::sync_channel;

use bonfire_data::random::{NoiseKey, stream};
use bonfire_models::{Adapter, ClientAdapter, Clock, DeviceBatch, Matrix, Model, PackedBatch, Part, Rounding, at_once};
use burn::tensor::{Gradients, Tensor, TensorData};
use rand::Rng;

use crate::batch_schedule::{BatchSchedule, LaneStep, Step};
use crate::gang::{Asked, Seat};
use crate::job::{ClientJob, Outcome, Phase};
use crate::lanes::cleared;
use crate::optimize::Optimizer;
use crate::parameters::Parameters;
use crate::select::choose;
use crate::send::{resume, upload};
use crate::starts::Starts;
use crate::terms::{branches, flat, scaffold};
use crate::{
    ClientPrivacy, Cohort, EngineError, EngineSettings, Member, NotFinite, Plan, Recompute, Role, Score, Selection,
    Split, StepTimes, TrainSettings, Upload, layer_score,
};

/// Batches packed ahead of the device: one being read, one ready.
const AHEAD: usize = 2;

/// A local step of all clients in flight.
pub(crate) struct Stepped {
    /// How many they were.
    pub clients: usize,
    /// Tokens of their batches.
    pub tokens: u64,
    /// Clients that have done their training with it; none in probes.
    pub ended: usize,
}

/// One round of one cohort, and all it needs.
pub(crate) struct DeviceRound<'r> {
    /// The backbone as the round's clients start from it; where they step with other runs', without the round's start.
    pub model: &'r dyn Model,
    /// Where the clients of other runs are in the same passes.
    pub seat: Option<&'r Seat>,
    pub train: &'r Split,
    pub settings: &'r TrainSettings,
    pub options: &'r EngineSettings,
    pub plan: &'r Plan,
    pub global: &'r Adapter,
    pub cohort: &'r Cohort<'r>,
    /// Clients in flight at most.
    pub lanes: usize,
    /// What privacy's noise is drawn from.
    pub noise: &'r NoiseKey,
    /// Whether the steps' parts are timed, and the times of all passes so far.
    pub clocked: bool,
    pub times: Cell<StepTimes>,
    /// Hears of every step and may break off.
    pub on_step: &'r dyn Fn(Stepped) -> ControlFlow<()>,
}

impl<'r> DeviceRound<'r> {
    /// The uploads, in the cohort's order, without those of clients that were lost on the way. `Break`: the listener broke off.
    pub fn run(&self) -> Result<ControlFlow<(), Vec<Upload>>, EngineError> {
        let ControlFlow::Continue(jobs) = self.training_jobs()? else { return Ok(ControlFlow::Break(())) };
        let outcomes = self.run_jobs(&jobs, Phase::Training)?;
        let uploads = |outcomes: Vec<Option<Outcome>>| {
            jobs.iter().zip(outcomes).filter_map(|(job, outcome)| Some(self.upload(job, outcome?))).collect()
        };
        Ok(outcomes.map_continue(uploads))
    }

    /// What each client is to train: the slots that it was given, or of those the ones it chooses after a probe (LoRA-A²,
    /// section 4.2). Clients that are lost in their probe have nothing to do.
    fn training_jobs(&self) -> Result<ControlFlow<(), Vec<ClientJob<'r>>>, EngineError> {
        let members = self.cohort.iter().copied();
        let Some(selection) = &self.plan.selection else {
            return Ok(ControlFlow::Continue(members.map(|member| self.training_job(member)).collect()));
        };
        let choose = |member, probed| self.chosen_job(selection, member, probed);
        if selection.score == Score::Random && selection.probe.reset {
            return Ok(ControlFlow::Continue(members.map(|member| choose(member, Outcome::default())).collect()));
        }
        let probes: Vec<ClientJob> = members.map(|member| self.probe_job(member)).collect();
        let outcomes = self.run_jobs(&probes, Phase::Probe(selection))?;
        let chosen = |outcomes: Vec<Option<Outcome>>| {
            let probed = probes.iter().zip(outcomes);
            probed.filter_map(|(job, outcome)| Some(choose(job.member, outcome?))).collect()
        };
        Ok(outcomes.map_continue(chosen))
    }

    /// Ordinary, unmasked training of the active factor for a few steps.
    fn probe_job(&self, member: Member<'r>) -> ClientJob<'r> {
        ClientJob {
            member,
            steps: member.probe_steps(self.plan, self.settings),
            slots: self.plan.slots_of(member.client, self.global),
            movement: None,
            correction: None,
            update_factor: self.plan.update_factor(member.client, self.global),
            probed_tokens: 0,
        }
    }

    fn training_job(&self, member: Member<'r>) -> ClientJob<'r> {
        let roles = Role::all(self.plan, self.global);
        let server = self.plan.terms.variate.as_ref();
        ClientJob {
            member,
            steps: member.local_steps(self.settings),
            slots: self.plan.slots_of(member.client, self.global),
            movement: resume(self.plan, self.global, member.memory),
            correction: server.map(|server| scaffold::correction(&roles, server, member.memory, self.global)),
            update_factor: self.plan.update_factor(member.client, self.global),
            probed_tokens: 0,
        }
    }

    /// The same with the slots that a client chooses after its probe, and what they keep of it where that is not dropped.
    fn chosen_job(&self, selection: &Selection, member: Member<'r>, probed: Outcome) -> ClientJob<'r> {
        let job = ClientJob { probed_tokens: probed.tokens, ..self.training_job(member) };
        let (slots, kept) = choose(selection, self.plan, self.global, self.settings.seed, &job, probed);
        ClientJob { slots: Some(slots), movement: kept.or(job.movement), ..job }
    }

    /// THE LOCAL TRAINING LOOP. Runs all jobs with at most so many clients in flight as there are lanes; outcomes by job,
    /// `None` for clients whose numbers are not finite, where the settings say to go on without them.
    fn run_jobs(&self, jobs: &[ClientJob], phase: Phase) -> Result<ControlFlow<(), Vec<Option<Outcome>>>, EngineError> {
        // Where who takes part is drawn, it may be nobody.
        if jobs.is_empty() {
            return Ok(ControlFlow::Continue(Vec::new()));
        }
        let mut outcomes: Vec<Option<Outcome>> = jobs.iter().map(|_| None).collect();
        let (device, lanes) = (self.model.device().clone().inner(), self.lanes.min(jobs.len()));
        let mut parameters = self.parameters(jobs, phase, lanes);
        let optimizer = Optimizer::new(self.plan, self.settings);
        let mut losses = Tensor::<1>::zeros([lanes], &device); // [C], of each lane the sum over its client's steps
        let shuffles = (phase.shuffles(self.plan), self.plan.round as u64);
        let schedule = BatchSchedule::new(jobs, self.train, self.settings, shuffles, lanes);
        let starts = self.starts(jobs);
        let mut clock = if self.clocked { Clock::start(&device) } else { Clock::stopped(&device) };
        let ran = std::thread::scope(|scope| {
            let (packed, steps) = sync_channel(AHEAD);
            // Ends by itself: with the last step, or when the receiver below is dropped.
            scope.spawn(move || schedule.into_iter().all(|step| packed.send(step).is_ok()));
            for step in steps {
                losses = self.begin(&mut parameters, &optimizer, jobs, &step, losses);
                losses = losses + self.step(&mut parameters, &optimizer, &starts, (jobs, phase), &step, &mut clock);
                let stepped = Stepped {
                    clients: step.lanes.iter().flatten().count(),
                    tokens: step.tokens(),
                    ended: if matches!(phase, Phase::Training) { step.ends.len() } else { 0 },
                };
                if (self.on_step)(stepped).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                if !step.ends.is_empty() {
                    for outcome in parameters.read_lanes(&step.ends, &losses, phase) {
                        let job = outcome.job;
                        outcomes[job] = self.checked(&jobs[job], phase, outcome)?;
                    }
                }
                clock.end_step();
            }
            Ok(ControlFlow::Continue(()))
        })?;
        self.times.set(self.times.get() + StepTimes::of(&clock));
        Ok(ran.map_continue(|()| outcomes))
    }

    /// What clients add of the round's start to what they move, where the backbone does not hold it.
    fn starts(&self, jobs: &[ClientJob]) -> Starts {
        let (plan, dropped) = (self.plan, self.model.dropout().adapter);
        let some = jobs.iter().any(|job| job.slots.is_some()) || plan.keeps_frozen_slots();
        match (plan.folds(dropped), self.seat) {
            (true, Some(_)) if some => Starts::beside(self.global, self.model.device()),
            (true, Some(_)) => Starts::added(plan.active, self.global, self.model.device()),
            // All slots train where adapters drop something ([`Plan::allows_dropout`]).
            (false, _) if plan.active.folds() => Starts::added(plan.active, self.global, self.model.device()),
            _ => Starts::Held,
        }
    }

    fn parameters(&self, jobs: &[ClientJob], phase: Phase, lanes: usize) -> Parameters {
        let chosen: Vec<_> = jobs.iter().filter_map(|job| job.slots.as_ref()).collect();
        let most = |t: usize| chosen.iter().map(|slots| slots[t].len()).max().unwrap_or(0);
        let most: Vec<usize> = (0..self.global.targets.len()).map(most).collect();
        let slots = (!chosen.is_empty()).then_some(most.as_slice());
        let device = self.model.device().clone().inner();
        Parameters::new(self.plan, self.global, self.settings, lanes, slots, phase, &device)
    }

    /// Hands freed lanes to the next clients; gives the losses with zeros at theirs.
    fn begin(
        &self,
        parameters: &mut Parameters,
        optimizer: &Optimizer,
        jobs: &[ClientJob],
        step: &Step,
        losses: Tensor<1>,
    ) -> Tensor<1> {
        if step.starts.is_empty() {
            return losses;
        }
        let starts: Vec<_> = step.starts.iter().map(|&(lane, job)| (lane, &jobs[job])).collect();
        parameters.reset(&starts);
        optimizer.begin(parameters, &starts);
        let keep = parameters.keep_all_but(step.starts.iter().map(|&(lane, _)| lane)); // [C, 1, 1]
        cleared(losses, &keep.reshape([step.lanes.len()]), self.settings.not_finite)
    }

    /// Forward, backward, optimizer: all clients at once. Gives the losses `[C]`, left on the device.
    fn step(
        &self,
        parameters: &mut Parameters,
        optimizer: &Optimizer,
        starts: &Starts,
        (jobs, phase): (&[ClientJob], Phase),
        step: &Step,
        clock: &mut Clock,
    ) -> Tensor<1> {
        let mut pass = |i: usize| self.pass(parameters, starts, (jobs, phase), (step, i), clock);
        let Pass { losses, gradients } = match step.batches.as_slice() {
            [_] => pass(0),
            batches => {
                // What each client's rows weigh, batch by batch: their mean over a step's batches is that of one batch of all of them.
                let weights = self.settings.class_weights.as_deref();
                let by_batch: Vec<Vec<f64>> = batches.iter().map(|batch| batch.weights_by_client(weights)).collect();
                let mut weighted = |i: usize| pass(i).times(&shares(&by_batch, i));
                let first = weighted(0);
                (1..batches.len()).fold(first, |sum, i| sum.plus(weighted(i)))
            }
        };
        let lane_steps = optimizer.lane_steps(&step.lanes, jobs, parameters);
        optimizer.step(parameters, gradients, lane_steps);
        clock.lap(Part::Optimizer);
        losses
    }

    /// Forward and backward on the `i`-th batch of a step.
    fn pass(
        &self,
        parameters: &Parameters,
        starts: &Starts,
        (jobs, phase): (&[ClientJob], Phase),
        (step, i): (&Step, usize),
        clock: &mut Clock,
    ) -> Pass {
        let (leaves, mut adapter, weights) = parameters.attach(); // leaves [C, rows, cols]
        if let (Some(flat), Phase::Training) = (self.settings.flat, phase) {
            adapter.noise = flat::signs(flat, self.settings, self.plan.round, jobs, &step.lanes, self.model);
        }
        starts.add(&mut adapter, step.lanes.len());
        let batch = &step.batches[i];
        let keys = || step.lanes.iter().map(|lane| self.mask_key(lane, i, jobs, phase)).collect::<Vec<u64>>();
        if let Some(seat) = self.seat {
            clock.lap(Part::Data);
            return seat.pass(Asked { leaves, adapter, batch: batch.clone(), keys: keys() });
        }
        if self.model.dropout().any() {
            adapter.masks = Some(batch.masks(&keys(), self.model.info(), Rounding::of(self.model.device())));
        }
        let trained = (!weights.is_empty()).then(|| self.model.with_weights(weights, true));
        let model = trained.as_deref().unwrap_or(self.model);
        let (losses, parts) = self.gradients(model, &adapter, batch, clock);
        Pass::new(losses, leaves, parts)
    }

    /// Losses `[C]` of one batch of all clients, and the gradients of their sum.
    fn gradients(
        &self,
        model: &dyn Model,
        adapter: &ClientAdapter,
        batch: &PackedBatch,
        clock: &mut Clock,
    ) -> (Tensor<1>, Vec<Gradients>) {
        let (device, settings) = (self.model.device(), self.settings);
        let objective = batch.objective(settings.label_smoothing, settings.class_weights.as_deref(), device);
        let batch = batch.to_device(self.model.info(), Rounding::of(device), device); // [T] tokens of all clients
        let batch = DeviceBatch { objective, ..batch };
        clock.lap(Part::Data);
        match self.plan.terms.branches.filter(|b| b.divergence_weight > 0.0) {
            None => model.gradients(adapter, &batch, self.options.recompute == Recompute::Block, clock),
            Some(branches) => {
                let apart = branches::divergence(model, adapter, &batch, branches.shared); // [C]
                at_once(model.loss(adapter, &batch) - apart * branches.divergence_weight, clock)
            }
        }
    }

    /// What the masks of a lane are made of: a number for each client, step of the round and batch of the step, whoever else is in
    /// flight.
    fn mask_key(&self, lane: &LaneStep, batch: usize, jobs: &[ClientJob], phase: Phase) -> u64 {
        let Some((job, own)) = *lane else { return 0 };
        let client = jobs[job].member.client as u64;
        let mut keys = stream(self.settings.seed, phase.masks(self.plan), self.plan.round as u64, client, own as u64);
        (0..=batch).map(|_| keys.next_u64()).last().expect("at least one")
    }

    /// The outcome, if its numbers are finite; gradients in it as means.
    fn checked(&self, job: &ClientJob, phase: Phase, mut outcome: Outcome) -> Result<Option<Outcome>, EngineError> {
        let moved = outcome.movement.iter().flat_map(|m| &m.data);
        let what = if !outcome.loss.is_finite() {
            "the loss"
        } else if !moved.chain(outcome.slot_scores.iter().flatten()).all(|v| v.is_finite()) {
            "the update"
        } else {
            if phase.reports_gradients(self.plan) {
                let steps = outcome.steps as f32;
                outcome.report.iter_mut().flat_map(|m| &mut m.data).for_each(|v| *v /= steps);
            }
            return Ok(Some(outcome));
        };
        let (round, client) = (self.plan.round, job.member.client);
        match self.settings.not_finite {
            NotFinite::SkipClient => {
                // Under privacy, who took part may be a secret.
                if self.plan.privacy == ClientPrivacy::Off {
                    tracing::info!("round {round}: client {client} is left out: {what} is not finite");
                }
                Ok(None)
            }
            NotFinite::Stop => Err(EngineError::NotFinite { round, client, steps: outcome.steps, what }),
        }
    }

    fn upload(&self, job: &ClientJob, outcome: Outcome) -> Upload {
        let layer_scores = self.plan.layer_scores.then(|| self.layer_scores(&job.member));
        upload(self.plan, self.global, self.settings, self.noise, job, Outcome { layer_scores, ..outcome })
    }

    /// A score for every layer `[1, layers]` on the client's first batch, by the model that everybody starts from.
    fn layer_scores(&self, member: &Member) -> Matrix {
        let device = self.model.device();
        let rows = &member.rows[..member.rows.len().min(self.settings.batch_size)];
        let batch = PackedBatch::pack(&[rows.iter().map(|&row| self.train.example(row)).collect()]);
        let batch = batch.to_device(self.model.info(), Rounding::of(device), device);
        let states = self.model.layer_states(&ClientAdapter::new(Vec::new(), Vec::new()), &batch);
        let layers = states.len();
        let states = Tensor::cat(states, 0).inner(); // [layers · S, D]
        let [count, width] = states.dims();
        let numbers: Vec<f32> = states.into_data().try_to_vec().expect("f32 on the device");
        let score = |rows: &[f32]| layer_score(&Matrix::new(count / layers, width, rows.to_vec())) as f32;
        Matrix::new(1, layers, numbers.chunks(count / layers * width).map(score).collect())
    }
}

/// Each lane's share of batch `i` in its step, `C` numbers.
fn shares(by_batch: &[Vec<f64>], i: usize) -> Vec<f32> {
    let share = |lane: usize| {
        let all: f64 = by_batch.iter().map(|batch| batch[lane]).sum();
        if all > 0.0 { (by_batch[i][lane] / all) as f32 } else { 0.0 }
    };
    (0..by_batch[i].len()).map(share).collect()
}

/// What came of a forward and a backward pass.
pub(crate) struct Pass {
    /// `[C]`.
    pub losses: Tensor<1>,
    /// Of what trains, `[C, rows, cols]` each.
    pub gradients: Vec<Tensor<3>>,
}

impl Pass {
    /// The gradients of `leaves`, which lie in one of `parts` each. The leaves are let go, so that the optimizer may write where the
    /// movement lies.
    pub fn new(losses: Tensor<1>, leaves: Vec<Tensor<3>>, mut parts: Vec<Gradients>) -> Pass {
        Pass { losses, gradients: leaves.into_iter().map(|leaf| gradient(leaf, &mut parts)).collect() }
    }

    /// Losses and gradients lane by lane times `shares`.
    fn times(self, shares: &[f32]) -> Pass {
        let shares = Tensor::<1>::from_data(TensorData::new(shares.to_vec(), [shares.len()]), &self.losses.device());
        let by_lane = shares.clone().reshape([shares.dims()[0], 1, 1]);
        let gradients = self.gradients.into_iter().map(|gradient| gradient * by_lane.clone()).collect();
        Pass { losses: self.losses * shares, gradients }
    }

    /// The sums of both.
    fn plus(self, other: Pass) -> Pass {
        let gradients = self.gradients.into_iter().zip(other.gradients).map(|(own, theirs)| own + theirs).collect();
        Pass { losses: self.losses + other.losses, gradients }
    }
}

/// The gradient of a leaf, taken out of the part that holds it.
pub(crate) fn gradient(leaf: Tensor<3>, parts: &mut [Gradients]) -> Tensor<3> {
    parts.iter_mut().find_map(|part| leaf.grad_remove(part)).expect("every trained tensor reaches the loss")
}
