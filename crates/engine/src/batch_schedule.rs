//! Which client's examples are in which lane of the batch at every step, computed on the host alone: a fixed number of
//! lanes, each held by a client until its local steps are done; then the next client takes the lane. It runs ahead of
//! the device on a thread of its own.

use std::collections::VecDeque;

use bonfire_data::random::{Use, stream};
use bonfire_models::{Goal, PackedBatch};
use rand::seq::SliceRandom;

use crate::job::ClientJob;
use crate::{Split, TrainSettings};

/// Whose step it is in a lane: `(job, its own step from 1)`; `None`: nobody's.
pub(crate) type LaneStep = Option<(usize, usize)>;

/// One step of all clients in flight.
pub(crate) struct Step {
    /// Lanes that go to a new client before the step: `(lane, job)`.
    pub starts: Vec<(usize, usize)>,
    /// Everybody's examples, lane by lane: one batch, or as many as make a step. Of a client that has fewer left, later ones hold nothing.
    pub batches: Vec<PackedBatch>,
    /// For every lane whose step this is.
    pub lanes: Vec<LaneStep>,
    /// Clients that are done after it.
    pub ends: Vec<Finished>,
}

impl Step {
    /// Tokens of all batches.
    pub fn tokens(&self) -> u64 {
        self.batches.iter().map(|batch| batch.tokens.len() as u64).sum()
    }
}

/// A client that has done its steps.
pub(crate) struct Finished {
    /// The lane it held.
    pub lane: usize,
    /// Its job, by number.
    pub job: usize,
    /// Local steps done.
    pub steps: usize,
    /// Tokens trained.
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
    /// What the orders of rows are drawn for, and in which round.
    shuffles: (Use, u64),
    waiting: VecDeque<usize>,
    lanes: Vec<Option<Lane>>,
}

impl<'i> BatchSchedule<'i> {
    pub fn new(
        jobs: &'i [ClientJob<'i>],
        train: &'i Split,
        settings: &'i TrainSettings,
        shuffles: (Use, u64),
        lanes: usize,
    ) -> Self {
        let lanes = (0..lanes).map(|_| None).collect();
        BatchSchedule { jobs, train, settings, shuffles, waiting: (0..jobs.len()).collect(), lanes }
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

    /// The batches of a client's next step: so many, or what is left of the epoch.
    fn next_batches(&self, lane: &mut Lane) -> Vec<Vec<(&'i [u32], Goal)>> {
        lane.step += 1;
        let mut batches = vec![self.next_examples(lane)];
        while batches.len() < self.settings.accumulate && lane.at < lane.order.len() {
            batches.push(self.next_examples(lane));
        }
        batches
    }

    /// The next batch of one client. The last, smaller batch of an epoch is kept; each epoch has an order of its own.
    fn next_examples(&self, lane: &mut Lane) -> Vec<(&'i [u32], Goal)> {
        let member = &self.jobs[lane.job].member;
        if lane.at == lane.order.len() {
            lane.order = member.rows.to_vec();
            if self.settings.shuffle {
                let (r#use, round) = self.shuffles;
                lane.order.shuffle(&mut stream(self.settings.seed, r#use, round, member.client as u64, lane.epoch));
            }
            lane.at = 0;
            lane.epoch += 1;
        }
        let end = (lane.at + self.settings.batch_size).min(lane.order.len());
        let examples: Vec<_> = lane.order[lane.at..end].iter().map(|&row| self.train.example(row)).collect();
        lane.at = end;
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
        let next = |lane: &mut Option<Lane>| lane.as_mut().map_or_else(Vec::new, |lane| self.next_batches(lane));
        let mut of_lanes: Vec<_> = lanes.iter_mut().map(|lane| next(lane).into_iter()).collect();
        let most = of_lanes.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let batch =
            |_| PackedBatch::pack(&of_lanes.iter_mut().map(|own| own.next().unwrap_or_default()).collect::<Vec<_>>());
        let batches = (0..most).map(batch).collect();
        let steps = lanes.iter().map(|lane| lane.as_ref().map(|l| (l.job, l.step))).collect();
        let done = |(lane, holder): (usize, &mut Option<Lane>)| {
            let spent = |l: &Lane| self.settings.max_tokens.is_some_and(|most| l.tokens >= most);
            let l = holder.take_if(|l| l.step == self.jobs[l.job].steps || spent(l))?;
            Some(Finished { lane, job: l.job, steps: l.step, tokens: l.tokens })
        };
        let ends = lanes.iter_mut().enumerate().filter_map(done).collect();
        self.lanes = lanes;
        Some(Step { starts, batches, lanes: steps, ends })
    }
}
