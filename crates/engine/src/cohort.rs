//! The clients of a round, as the caller hands them over.

use crate::{ClientMemory, Plan, Split, TrainSettings};

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
    pub memory: Option<&'m ClientMemory>,
}

/// The clients of a round.
pub type Cohort<'m> = [Member<'m>];

impl<'m> Member<'m> {
    /// A client that manages all its steps and remembers nothing.
    pub fn new(client: usize, rows: &'m [usize]) -> Self {
        Member { client, rows, pace: 1.0, steps: None, memory: None }
    }

    /// Local steps that it does: at least one.
    pub(crate) fn local_steps(&self, settings: &TrainSettings) -> usize {
        if let Some(steps) = self.steps {
            return steps.max(1);
        }
        let all = settings.local_steps(self.rows.len());
        ((all as f64 * self.pace).ceil() as usize).clamp(1, all)
    }

    /// Steps of its probe: whole epochs, or at most one epoch of batches (more is what `epochs` is for).
    pub(crate) fn probe_steps(&self, plan: &Plan, settings: &TrainSettings) -> usize {
        let Some(selection) = &plan.selection else { return 0 };
        let epochs = settings.steps_an_epoch(self.rows.len()) * selection.probe.epochs.unwrap_or(1);
        selection.probe.batches.map_or(epochs, |batches| batches.min(epochs))
    }

    /// Tokens of one of its steps, on average.
    pub(crate) fn tokens_a_step(&self, train: &Split, settings: &TrainSettings) -> f64 {
        let tokens: usize = self.rows.iter().map(|&row| train.ids[row].len()).sum();
        tokens as f64 / settings.steps_an_epoch(self.rows.len()).max(1) as f64
    }

    /// Tokens that it trains in a round, about: those of its probe too.
    pub(crate) fn tokens(&self, plan: &Plan, train: &Split, settings: &TrainSettings) -> f64 {
        let a_step = self.tokens_a_step(train, settings);
        let most = settings.max_tokens.map_or(f64::INFINITY, |most| most as f64);
        a_step * self.probe_steps(plan, settings) as f64 + (a_step * self.local_steps(settings) as f64).min(most)
    }
}
