//! The batched training loop on the device. One client in flight is the reference, many are the same computation.

use std::sync::mpsc::sync_channel;

use bonfire_data::random::{Use, stream};
use bonfire_kernels::LowRank;
use bonfire_models::{ClientAdapter, Clock, DeviceBatch, Factor, Matrix, Model, NoiseSigns, Part, Rounding, at_once};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};

use crate::batch_schedule::{BatchSchedule, ClientJob, Finished, Step};
use crate::optimize::Lanes;
use crate::parameters::{Left, Parameters, Role, cleared};
use crate::turns::Turns;
use crate::{EngineError, NotFinite, Plan, Recompute, Score, Split, StepTimes, TrainSettings};

/// Batches packed ahead of the device: one being read, one ready.
const AHEAD: usize = 2;

/// What came of a job.
#[derive(Default)]
pub(crate) struct Outcome {
    /// Which job, by its number in the pass.
    pub job: usize,
    pub loss: f64,
    pub tokens: u64,
    /// Movement, as [`Parameters::read_lanes`] gives it; empty when not asked for.
    pub movement: Vec<Matrix>,
    /// Selection scores by target; empty when not asked for.
    pub scores: Vec<Vec<f32>>,
    /// What the plan wants besides, role by role: the mean gradient (SCAFFOLD), the highest second moment (FedLADA), or
    /// what a probe watches of every number (importance, the mean gradient, the sum of squares). Empty where nothing is.
    pub extra: Vec<Matrix>,
    /// Local steps done.
    pub steps: usize,
}

/// What is wanted of the clients of a pass.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// They probe: nothing is kept of it but what the selection asks for.
    pub probe: bool,
    /// Their movement is read.
    pub movement: bool,
    /// By how much each of their slots changes the model is read.
    pub scores: bool,
}

/// What the loop tells as it goes.
pub(crate) enum LoopEvent {
    /// A step of all clients in flight.
    Step { clients: usize, tokens: u64 },
    /// A client has done its steps.
    Done(Outcome),
    /// A client's loss or update is not finite, and the settings say to go on without it.
    Lost,
    /// All have; where the time went.
    Finished(StepTimes),
}

/// One pass over a cohort.
pub(crate) struct LocalLoop<'f> {
    pub model: &'f dyn Model,
    pub train: &'f Split,
    pub settings: &'f TrainSettings,
    pub recompute: Recompute,
    pub plan: &'f Plan,
    pub jobs: &'f [ClientJob<'f>],
    pub wanted: Wanted,
    /// Whether the steps' parts are timed.
    pub clocked: bool,
}

impl LocalLoop<'_> {
    /// Runs all jobs with at most `lanes` clients in flight; `on` hears of every step and outcome and may end it all.
    pub fn run(
        &self,
        mut parameters: Parameters,
        lanes: usize,
        on: &mut dyn FnMut(LoopEvent) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let device = self.model.device().clone().inner();
        let mut losses = Tensor::<1>::zeros([lanes], &device);
        let itinerary = BatchSchedule::new(self.jobs, self.train, self.settings, self.plan.round, lanes);
        let mut clock = if self.clocked { Clock::start(&device) } else { Clock::stopped(&device) };
        std::thread::scope(|scope| {
            let (packed, steps) = sync_channel(AHEAD);
            // Ends by itself: with the last step, or when the receiver below is dropped.
            scope.spawn(move || itinerary.into_iter().all(|step| packed.send(step).is_ok()));
            for step in steps {
                losses = self.begin(&mut parameters, &step, losses);
                losses = losses + self.step(&mut parameters, &step, &device, &mut clock);
                let clients = step.lanes.iter().flatten().count();
                on(LoopEvent::Step { clients, tokens: step.batch.tokens.len() as u64 })?;
                if !step.ends.is_empty() {
                    let lanes: Vec<usize> = step.ends.iter().map(|end| end.lane).collect();
                    for (end, left) in step.ends.iter().zip(parameters.read_lanes(&lanes, &losses, self.wanted)) {
                        on(self.outcome(end, left)?)?;
                    }
                }
                clock.end_step();
            }
            on(LoopEvent::Finished(StepTimes::of(&clock)))
        })
    }

    /// Hands freed lanes to the next clients.
    fn begin(&self, parameters: &mut Parameters, step: &Step, losses: Tensor<1>) -> Tensor<1> {
        if step.starts.is_empty() {
            return losses;
        }
        let starts: Vec<_> = step.starts.iter().map(|&(lane, job)| (lane, &self.jobs[job])).collect();
        parameters.reset(&starts);
        let keep = parameters.keep_all_but(step.starts.iter().map(|&(lane, _)| lane));
        cleared(losses, &keep.reshape([step.lanes.len()]), self.settings.not_finite)
    }

    /// Forward, backward, optimizer: all clients at once. Gives the losses `[C]`, left on the device.
    fn step(&self, parameters: &mut Parameters, step: &Step, device: &Device, clock: &mut Clock) -> Tensor<1> {
        let to = self.model.device();
        let batch = step.batch.to_device(self.model.info(), Rounding::of(to), to);
        clock.lap(Part::Data);
        let (leaves, mut adapter, weights) = parameters.attach();
        adapter.noise = self.noise(step);
        let trained = (!weights.is_empty()).then(|| self.model.with_weights(weights, true));
        let model = trained.as_deref().unwrap_or(self.model);
        let (losses, gradients) = match parameters.optimizer.branches().filter(|b| b.divergence_weight > 0.0) {
            None => model.gradients(&adapter, &batch, self.recompute == Recompute::Block, clock),
            Some(branches) => {
                let apart = divergence(model, &adapter, &batch, branches.shared) * branches.divergence_weight;
                at_once(model.loss(&adapter, &batch) - apart, clock)
            }
        };
        drop((adapter, trained));
        parameters.step(leaves, gradients, &self.lanes(step, device));
        clock.lap(Part::Optimizer);
        losses
    }

    /// Flat-LoRA's noise of each lane at this step; a probe has none.
    fn noise(&self, step: &Step) -> Vec<NoiseSigns> {
        let Some(flat) = self.settings.flat.filter(|_| !self.wanted.probe) else { return Vec::new() };
        let targets = self.model.targets();
        let of = |lane: &Option<(usize, usize)>| {
            let Some((job, own)) = lane else { return vec![0.0; NoiseSigns::numbers(targets)] };
            let (job, round) = (&self.jobs[*job], self.plan.round);
            let steps = self.settings.local_steps(job.rows.len());
            let sigma = flat.sigma((round - 1) * steps + own - 1, self.settings.rounds * steps);
            let mut rng = stream(self.settings.seed, Use::NoiseSigns, round as u64, job.client as u64, *own as u64);
            NoiseSigns::draw(targets, sigma as f32, &mut rng)
        };
        NoiseSigns::to_device(step.lanes.iter().flat_map(of).collect(), targets, self.model.device())
    }

    /// What the optimizer needs to know of each lane.
    fn lanes(&self, step: &Step, device: &Device) -> Lanes {
        let (schedule, warmup) = (self.settings.schedule, self.settings.warmup_steps);
        let turns = Turns::of(&self.plan.terms);
        let of = |lane: &Option<(usize, usize)>, role: Role| match lane {
            None => [0.0, 1.0, 1.0],
            Some((job, own)) => {
                let updates = turns.map_or(*own, |turns| turns.updates(role, *own)) as i32;
                let [first, second] = self.settings.betas.map(|beta| 1.0 / (1.0 - beta.powi(updates)));
                [schedule.factor(own - 1, self.jobs[*job].steps, warmup), first, second]
            }
        };
        let numbers = |role| {
            let numbers: Vec<f32> = step.lanes.iter().flat_map(|lane| of(lane, role)).map(|v| v as f32).collect();
            Tensor::from_data(TensorData::new(numbers, [step.lanes.len(), 3]), device)
        };
        Lanes {
            clients: numbers(Role::Factor(0, Factor::A)),
            head: matches!(turns, Some(Turns::Factors(_))).then(|| numbers(Role::Head(0))),
            own: step.lanes.iter().map(|lane| lane.map(|(_, own)| own)).collect(),
        }
    }

    /// What came of a client that is done.
    fn outcome(&self, end: &Finished, left: Left) -> Result<LoopEvent, EngineError> {
        let Left { loss, movement, extra, scores } = left;
        let broken = |what| match self.settings.not_finite {
            NotFinite::SkipClient => Ok(LoopEvent::Lost),
            NotFinite::Stop => {
                let client = self.jobs[end.job].client;
                Err(EngineError::NotFinite { round: self.plan.round, client, steps: end.steps, what })
            }
        };
        if !loss.is_finite() {
            return broken("the loss");
        }
        let mut numbers = movement.iter().flat_map(|m| &m.data).chain(scores.iter().flatten());
        if numbers.any(|v| !v.is_finite()) {
            return broken("the update");
        }
        let of_gradients = if self.wanted.probe {
            self.plan.selection.as_ref().is_some_and(|s| s.score == Score::Gradient)
        } else {
            self.plan.terms.variate.is_some()
        };
        let extra = if of_gradients { mean(extra, end.steps) } else { extra };
        let (loss, steps) = (f64::from(loss) / end.steps as f64, end.steps);
        Ok(LoopEvent::Done(Outcome { job: end.job, loss, tokens: end.tokens, movement, scores, extra, steps }))
    }
}

/// Sums over `steps` as means.
fn mean(mut sums: Vec<Matrix>, steps: usize) -> Vec<Matrix> {
    sums.iter_mut().flat_map(|m| &mut m.data).for_each(|v| *v /= steps as f32);
    sums
}

/// Mean Jensen-Shannon divergence `[C]` between the answers of the first `shared` slots alone and of the others alone
/// (DFL, arXiv 2206.06818), in nats.
fn divergence(model: &dyn Model, adapter: &ClientAdapter, batch: &DeviceBatch, shared: usize) -> Tensor<1> {
    let part = |from: usize, to: Option<usize>| {
        let cut = |update: &Option<LowRank>| {
            update.as_ref().map(|u| {
                let range = from..to.unwrap_or(u.a.dims()[1]);
                let slots = |t: &Tensor<3>| t.clone().slice_dim(1, range.clone());
                LowRank { a: slots(&u.a), b: slots(&u.b), used: None, scale: u.scale }
            })
        };
        let updates = adapter.updates.iter().map(cut).collect();
        let part = ClientAdapter { updates, ..adapter.clone() };
        log_softmax(model.logits(&part, batch), 1)
    };
    let (p, q) = (part(0, Some(shared)), part(shared, None));
    let middle = ((p.clone().exp() + q.clone().exp()) * 0.5).log();
    let to_middle = |x: Tensor<2>| (x.clone().exp() * (x - middle.clone())).sum_dim(1).squeeze_dim::<1>(1);
    batch.by_client.mean((to_middle(p) + to_middle(q)) * 0.5)
}
