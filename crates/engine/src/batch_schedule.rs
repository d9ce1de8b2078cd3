//! Which client's examples are in which lane of the batch at every step, computed on the host alone: a fixed number of
//! lanes, each held by a client until its local steps are done; then the next client takes the lane. It runs ahead of
//! the device on a thread of its own.

use std::collections::VecDeque;

use bonfire_data::random::{Use, stream};
use bonfire_models::{Goal, Matrix, PackedBatch};
use rand::seq::SliceRandom;

use crate::{Split, TrainSettings};

/// One client's work in a pass.
pub(crate) struct ClientJob<'j> {
    pub client: usize,
    /// Rows of the train split.
    pub rows: &'j [usize],
    /// Steps to do at most; whole epochs unless a probe is cut short.
    pub steps: usize,
    /// What the shuffles are drawn for.
    pub r#use: Use,
    /// Slots that may move, by target; `None`: all.
    pub slots: Option<Vec<Vec<usize>>>,
    /// Movement of those slots to start from, role by role (no rows: zero); `None`: zero.
    pub movement: Option<Vec<Matrix>>,
    /// SCAFFOLD's correction of every role, over all slots.
    pub variate: Option<Vec<Matrix>>,
    /// What its update is multiplied by, beside LoRA's scale.
    pub update_factor: f32,
}

/// One step of all clients in flight.
pub(crate) struct Step {
    /// Places that go to a new client before the step: `(lane, job)`.
    pub starts: Vec<(usize, usize)>,
    /// Everybody's examples, lane by lane.
    pub batch: PackedBatch,
    /// For every lane whose step this is: `(job, its own step from 1)`.
    pub lanes: Vec<Option<(usize, usize)>>,
    /// Clients that are done after it.
    pub ends: Vec<Finished>,
}

/// A client that has done its steps.
pub(crate) struct Finished {
    pub lane: usize,
    pub job: usize,
    pub steps: usize,
    pub tokens: u64,
}

/// A lane in the batch.
struct Lane {
    job: usize,
    order: Vec<usize>,
    at: usize,
    epoch: u64,
    step: usize,
    tokens: u64,
}

/// All steps of a pass over a cohort, in order.
pub(crate) struct BatchSchedule<'i> {
    jobs: &'i [ClientJob<'i>],
    train: &'i Split,
    settings: &'i TrainSettings,
    round: usize,
    waiting: VecDeque<usize>,
    lanes: Vec<Option<Lane>>,
}

impl<'i> BatchSchedule<'i> {
    pub fn new(
        jobs: &'i [ClientJob<'i>],
        train: &'i Split,
        settings: &'i TrainSettings,
        round: usize,
        lanes: usize,
    ) -> Self {
        let lanes = (0..lanes).map(|_| None).collect();
        BatchSchedule { jobs, train, settings, round, waiting: (0..jobs.len()).collect(), lanes }
    }

    /// Gives empty lanes to waiting clients.
    fn fill(&mut self) -> Vec<(usize, usize)> {
        let mut starts = Vec::new();
        for (lane, holder) in self.lanes.iter_mut().enumerate().filter(|(_, holder)| holder.is_none()) {
            let Some(job) = self.waiting.pop_front() else { break };
            *holder = Some(Lane { job, order: Vec::new(), at: 0, epoch: 0, step: 0, tokens: 0 });
            starts.push((lane, job));
        }
        starts
    }

    /// The next batch of one client. The last, smaller batch of an epoch is kept; each epoch has an order of its own.
    fn next_examples(&self, lane: &mut Lane) -> Vec<(&'i [u32], Goal)> {
        let job = &self.jobs[lane.job];
        if lane.at == lane.order.len() {
            lane.order = job.rows.to_vec();
            if self.settings.shuffle {
                let (round, client) = (self.round as u64, job.client as u64);
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
}

impl Iterator for BatchSchedule<'_> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let starts = self.fill();
        if self.lanes.iter().all(Option::is_none) {
            return None;
        }
        let mut lanes = std::mem::take(&mut self.lanes);
        let next = |lane: &mut Option<Lane>| lane.as_mut().map_or_else(Vec::new, |lane| self.next_examples(lane));
        let examples: Vec<_> = lanes.iter_mut().map(next).collect();
        let batch = PackedBatch::pack(&examples);
        let steps = lanes.iter().map(|lane| lane.as_ref().map(|l| (l.job, l.step))).collect();
        let done = |(lane, holder): (usize, &mut Option<Lane>)| {
            let l = holder.take_if(|l| l.step == self.jobs[l.job].steps)?;
            Some(Finished { lane, job: l.job, steps: l.step, tokens: l.tokens })
        };
        let ends = lanes.iter_mut().enumerate().filter_map(done).collect();
        self.lanes = lanes;
        Some(Step { starts, batch, lanes: steps, ends })
    }
}
