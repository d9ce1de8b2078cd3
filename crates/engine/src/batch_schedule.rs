//! Which client's examples are in which lane of the batch at every step, computed on the host alone: a fixed number of
//! lanes, each held by a client until its local steps are done; then another client takes the lane. It runs ahead of
//! the device on a thread of its own.

use std::cmp::Reverse;
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

/// A client takes an empty lane if it has this share of the steps that any waiting client has: those with most steps begin first,
/// so that none is left to train alone in the end. Among them a step's tokens decide.
const LONG: f64 = 0.75;

/// Waiting clients that are looked at for a lane.
const LOOKED_AT: usize = 256;

/// All steps of a pass over a cohort, in order.
pub(crate) struct BatchSchedule<'i> {
    jobs: &'i [ClientJob<'i>],
    train: &'i Split,
    settings: &'i TrainSettings,
    /// What the orders of rows are drawn for, and in which round.
    shuffles: (Use, u64),
    waiting: VecDeque<usize>,
    lanes: Vec<Option<Lane>>,
    /// Of each job the tokens of a step, and of all steps of all jobs, on average.
    tokens: (Vec<f64>, f64),
}

impl<'i> BatchSchedule<'i> {
    pub fn new(
        jobs: &'i [ClientJob<'i>],
        train: &'i Split,
        settings: &'i TrainSettings,
        shuffles: (Use, u64),
        lanes: usize,
    ) -> Self {
        let mut waiting: Vec<usize> = (0..jobs.len()).collect();
        if lanes > 1 && jobs.len() > lanes {
            waiting.sort_by_key(|&job| Reverse(jobs[job].steps));
        }
        let tokens: Vec<f64> = jobs.iter().map(|job| job.member.tokens_a_step(train, settings)).collect();
        let steps: usize = jobs.iter().map(|job| job.steps).sum();
        let all: f64 = jobs.iter().zip(&tokens).map(|(job, tokens)| job.steps as f64 * tokens).sum();
        let tokens = (tokens, all / steps.max(1) as f64);
        let lanes = (0..lanes).map(|_| None).collect();
        BatchSchedule { jobs, train, settings, shuffles, waiting: waiting.into(), lanes, tokens }
    }

    /// Gives empty lanes to waiting clients.
    fn fill(&mut self) -> Vec<(usize, usize)> {
        let mut starts = Vec::new();
        for lane in 0..self.lanes.len() {
            if self.lanes[lane].is_some() {
                continue;
            }
            let Some(job) = self.next_job() else { break };
            self.lanes[lane] = Some(Lane { job, order: Vec::new(), at: 0, epoch: 0, step: 0, tokens: 0 });
            starts.push((lane, job));
        }
        starts
    }

    /// Takes the client that is to have an empty lane: of those with most steps the one that brings a step's tokens nearest to what
    /// they are on average.
    fn next_job(&mut self) -> Option<usize> {
        let (held, lanes) = (self.lanes.iter().flatten().count(), self.lanes.len());
        // Where all that wait find a lane, or there is but one, nothing is to be chosen.
        if lanes == 1 || self.waiting.len() <= lanes - held {
            return self.waiting.pop_front();
        }
        let most = self.jobs[*self.waiting.front()?].steps as f64;
        let (tokens, mean) = &self.tokens;
        let here: f64 = self.lanes.iter().flatten().map(|lane| tokens[lane.job]).sum();
        let wanted = mean * (held + 1) as f64 - here;
        let off = |&(_, job): &(usize, &usize)| (tokens[*job] - wanted).abs();
        let long = |&(_, job): &(usize, &usize)| self.jobs[*job].steps as f64 >= LONG * most;
        let candidates = self.waiting.iter().enumerate().take(LOOKED_AT).take_while(long);
        let (at, _) = candidates.min_by(|a, b| off(a).total_cmp(&off(b)))?;
        self.waiting.remove(at)
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::Member;

    /// Clients with shards of so many texts, all of so many tokens.
    struct Clients {
        train: Split,
        rows: Vec<Vec<usize>>,
        settings: TrainSettings,
    }

    impl Clients {
        fn new(shards: &[(usize, usize)]) -> Clients {
            let (mut ids, mut rows) = (Vec::new(), Vec::new());
            for (client, &(texts, tokens)) in shards.iter().enumerate() {
                rows.push((ids.len()..ids.len() + texts).collect());
                // A text is known again by its first token.
                ids.extend(
                    (0..texts).map(|text| [vec![(1000 + 100 * client + text) as u32], vec![7; tokens - 1]].concat()),
                );
            }
            let goals = vec![Goal::Class(0); ids.len()];
            let settings = serde_json::json!({ "rounds": 1, "batch_size": 1 });
            let settings = serde_json::from_value(settings).expect("valid settings");
            Clients { train: Split::new(ids, goals), rows, settings }
        }

        /// Tokens of every step in so many lanes, and what each client saw, step by step.
        fn scheduled(&self, lanes: usize) -> (Vec<u64>, BTreeMap<usize, Vec<u32>>) {
            let jobs: Vec<ClientJob> = self
                .rows
                .iter()
                .enumerate()
                .map(|(client, rows)| {
                    let member = Member::new(client, rows);
                    ClientJob {
                        member,
                        steps: member.local_steps(&self.settings),
                        slots: None,
                        movement: None,
                        correction: None,
                        update_factor: 1.0,
                        probed_tokens: 0,
                    }
                })
                .collect();
            let (mut tokens, mut seen) = (Vec::new(), BTreeMap::<usize, Vec<u32>>::new());
            for step in BatchSchedule::new(&jobs, &self.train, &self.settings, (Use::Batches, 1), lanes) {
                tokens.push(step.tokens());
                assert!(step.ends.iter().all(|end| end.steps == jobs[end.job].steps), "whole shards");
                for &id in step.batches[0].tokens.iter().filter(|id| **id != 7) {
                    seen.entry(id as usize / 100).or_default().push(id);
                }
            }
            (tokens, seen)
        }
    }

    #[test]
    fn a_client_sees_the_same_whoever_is_in_flight() {
        let clients = Clients::new(&[(3, 10), (1, 40), (7, 5), (2, 20), (5, 9), (4, 31)]);
        let (tokens, alone) = clients.scheduled(1);
        assert_eq!((tokens.len(), alone.len()), (22, 6));
        for lanes in [2, 3, 6, 9] {
            assert_eq!(clients.scheduled(lanes).1, alone, "{lanes} lanes");
        }
    }

    #[test]
    fn clients_with_most_steps_begin_first() {
        let (tokens, _) = Clients::new(&[(1, 10), (1, 10), (1, 10), (3, 10)]).scheduled(2);
        assert_eq!(tokens, [20, 20, 20], "in their own order the last would take two steps alone");
    }

    #[test]
    fn a_steps_tokens_are_about_the_same() {
        let (tokens, _) = Clients::new(&[(1, 10), (1, 10), (1, 30), (1, 30), (1, 10), (1, 30)]).scheduled(2);
        assert_eq!(tokens, [40, 40, 40]);
        // Long and short texts, long and short shards: fewer steps than in their own order, and none far from the mean.
        let shards: Vec<(usize, usize)> = (0..40).map(|i| (1 + i * 7 % 13, 5 + i * i % 41)).collect();
        let (tokens, _) = Clients::new(&shards).scheduled(8);
        let all: usize = shards.iter().map(|(texts, tokens)| texts * tokens).sum();
        let steps: usize = shards.iter().map(|(texts, _)| texts).sum();
        assert_eq!(tokens.iter().sum::<u64>(), all as u64);
        assert!(tokens.len() <= steps.div_ceil(8) + 1, "{} steps of {steps}", tokens.len());
        let mean = all as f64 / steps as f64 * 8.0;
        let far = tokens[..tokens.len() - 1].iter().map(|&t| (t as f64 / mean - 1.0).abs()).fold(0.0, f64::max);
        assert!(far < 0.2, "{tokens:?}, {mean} on average");
    }
}
