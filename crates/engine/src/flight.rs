//! The batched training loop: a fixed number of places in the batch, each held by a client until its local steps are
//! done; then the next client takes the place. One client in flight is the reference, many are the same computation.

use std::collections::VecDeque;

use bonfire_data::random::{Use, stream};
use bonfire_models::{Matrix, Model, PackedBatch};
use burn::tensor::{Device, Tensor, TensorData};
use rand::seq::SliceRandom;

use crate::parameters::Parameters;
use crate::{EngineError, Plan, Split, TrainSettings};

/// One client's work in a pass.
pub(crate) struct Job<'j> {
    pub client: usize,
    /// Rows of the train split.
    pub rows: &'j [usize],
    /// Steps to do at most; whole epochs unless a probe is cut short.
    pub steps: usize,
    /// What the shuffles are drawn for.
    pub r#use: Use,
    /// Slots that may move, by target; `None`: all.
    pub slots: Option<Vec<Vec<usize>>>,
    /// Movement of those slots to start from; `None`: zero.
    pub movement: Option<Vec<Matrix>>,
}

/// What came of a job.
pub(crate) struct Outcome {
    /// Which job, by its number in the pass.
    pub job: usize,
    pub loss: f64,
    pub tokens: u64,
    /// Movement, as [`Parameters::read_lane`] gives it; empty when not asked for.
    pub movement: Vec<Matrix>,
    /// Selection scores by target; empty when not asked for.
    pub scores: Vec<Vec<f32>>,
}

/// What to read from a client that is done.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub movement: bool,
    pub scores: bool,
}

/// What a flight tells as it goes.
pub(crate) enum Happened {
    /// A step of all clients in flight.
    Step { clients: usize, tokens: u64 },
    /// A client has done its steps.
    Done(Outcome),
}

/// A place in the batch.
struct Lane {
    job: usize,
    order: Vec<usize>,
    at: usize,
    epoch: u64,
    step: usize,
    tokens: u64,
}

/// One pass over a cohort.
pub(crate) struct Flight<'f> {
    pub model: &'f dyn Model,
    pub train: &'f Split,
    pub settings: &'f TrainSettings,
    pub plan: &'f Plan,
    pub jobs: &'f [Job<'f>],
    pub wanted: Wanted,
}

impl Flight<'_> {
    /// Runs all jobs with at most `places` clients in flight; `on` hears of every step and outcome and may end it all.
    pub fn run(
        &self,
        mut parameters: Parameters,
        places: usize,
        on: &mut dyn FnMut(Happened) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let device = self.model.device().clone().inner();
        let mut waiting: VecDeque<usize> = (0..self.jobs.len()).collect();
        let mut lanes: Vec<Option<Lane>> = (0..places).map(|_| None).collect();
        let mut losses = Tensor::<1>::zeros([places], &device);
        loop {
            for (place, lane) in lanes.iter_mut().enumerate().filter(|(_, l)| l.is_none()) {
                let Some(job) = waiting.pop_front() else { break };
                let work = &self.jobs[job];
                parameters.reset_lane(place, work.movement.as_deref(), work.slots.as_deref());
                losses = losses.slice_fill(place..place + 1, 0.0);
                *lane = Some(Lane { job, order: Vec::new(), at: 0, epoch: 0, step: 0, tokens: 0 });
            }
            if lanes.iter().all(Option::is_none) {
                return Ok(());
            }
            let batch = self.next_batch(&mut lanes);
            let tokens = batch.tokens.len() as u64;
            losses = losses + self.step(&mut parameters, &batch, &lanes, &device);
            on(Happened::Step { clients: lanes.iter().flatten().count(), tokens })?;
            for (place, lane) in lanes.iter_mut().enumerate() {
                let finished = lane.as_ref().is_some_and(|l| l.step == self.jobs[l.job].steps);
                if let Some(l) = lane.take_if(|_| finished) {
                    on(Happened::Done(self.collect(&parameters, &losses, place, &l)?))?;
                }
            }
        }
    }

    /// Takes every client's next examples, and counts its step.
    fn next_batch(&self, lanes: &mut [Option<Lane>]) -> PackedBatch {
        let examples: Vec<Vec<(&[u32], usize)>> = lanes
            .iter_mut()
            .map(|lane| match lane {
                Some(lane) => self.next_examples(lane),
                None => Vec::new(),
            })
            .collect();
        PackedBatch::pack(&examples)
    }

    /// The next batch of one client. The last, smaller batch of an epoch is kept; each epoch has an order of its own.
    fn next_examples(&self, lane: &mut Lane) -> Vec<(&[u32], usize)> {
        let job = &self.jobs[lane.job];
        if lane.at == lane.order.len() {
            lane.order = job.rows.to_vec();
            if self.settings.shuffle {
                let (round, client) = (self.plan.round as u64, job.client as u64);
                lane.order.shuffle(&mut stream(self.settings.seed, job.r#use, round, client, lane.epoch));
            }
            lane.at = 0;
            lane.epoch += 1;
        }
        let end = (lane.at + self.settings.batch_size).min(lane.order.len());
        let examples: Vec<_> = lane.order[lane.at..end].iter().map(|&row| self.train.example(row)).collect();
        lane.at = end;
        lane.step += 1;
        lane.tokens += examples.iter().map(|(ids, _)| ids.len() as u64).sum::<u64>();
        examples
    }

    /// Forward, backward, optimizer: all clients at once. Gives the losses `[C]`, left on the device.
    fn step(
        &self,
        parameters: &mut Parameters,
        batch: &PackedBatch,
        lanes: &[Option<Lane>],
        device: &Device,
    ) -> Tensor<1> {
        let batch = batch.to_device(self.model.info().first_position, self.model.device());
        let (leaves, adapter) = parameters.attach();
        let losses = self.model.loss(&adapter, &batch);
        drop(adapter);
        // The sum's gradient with respect to a client's tensors is that of the client's own loss.
        let grads = losses.clone().sum().backward();
        parameters.step(leaves, grads, self.optimizer_steps(lanes, device));
        losses.inner()
    }

    /// What the optimizer needs of each place: factor on the learning rate, corrections of both moments, `[C, 3]`.
    fn optimizer_steps(&self, lanes: &[Option<Lane>], device: &Device) -> Tensor<2> {
        let (schedule, warmup) = (self.settings.schedule, self.settings.warmup_steps);
        let of = |lane: &Option<Lane>| match lane {
            None => [0.0, 1.0, 1.0],
            Some(l) => {
                let [first, second] = self.settings.betas.map(|beta| 1.0 / (1.0 - beta.powi(l.step as i32)));
                [schedule.factor(l.step - 1, self.jobs[l.job].steps, warmup), first, second]
            }
        };
        let numbers: Vec<f32> = lanes.iter().flat_map(of).map(|v| v as f32).collect();
        Tensor::from_data(TensorData::new(numbers, [lanes.len(), 3]), device)
    }

    /// Reads what a finished client leaves.
    fn collect(
        &self,
        parameters: &Parameters,
        losses: &Tensor<1>,
        place: usize,
        lane: &Lane,
    ) -> Result<Outcome, EngineError> {
        let (sum, movement) = parameters.read_lane(place, losses);
        let broken = |what| {
            let client = self.jobs[lane.job].client;
            Err(EngineError::NotFinite { round: self.plan.round, client, steps: lane.step, what })
        };
        if !sum.is_finite() {
            return broken("the loss");
        }
        if movement.iter().any(|m| m.data.iter().any(|v| !v.is_finite())) {
            return broken("the update");
        }
        let scores = if self.wanted.scores { parameters.score_lane(place) } else { Vec::new() };
        let movement = if self.wanted.movement { movement } else { Vec::new() };
        Ok(Outcome { job: lane.job, loss: f64::from(sum) / lane.step as f64, tokens: lane.tokens, movement, scores })
    }
}
