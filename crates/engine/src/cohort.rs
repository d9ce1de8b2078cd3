//! The clients of a round, as the caller hands them over.

use crate::start_loss;
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
        local_steps(self.rows.len(), self.pace, settings)
    }

    /// Steps of its probe: whole epochs, or at most one epoch of batches (more is what `epochs` is for).
    pub(crate) fn probe_steps(&self, plan: &Plan, settings: &TrainSettings) -> usize {
        probe_steps(self.rows.len(), plan, settings)
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

/// Local steps of a client that has `examples` rows and manages the share `pace` of its steps.
fn local_steps(examples: usize, pace: f64, settings: &TrainSettings) -> usize {
    let all = settings.local_steps(examples);
    ((all as f64 * pace).ceil() as usize).clamp(1, all)
}

fn probe_steps(examples: usize, plan: &Plan, settings: &TrainSettings) -> usize {
    let Some(selection) = &plan.selection else { return 0 };
    let epochs = settings.steps_an_epoch(examples) * selection.probe.epochs.unwrap_or(1);
    selection.probe.batches.map_or(epochs, |batches| batches.min(epochs))
}

/// How often a client with `examples` rows goes through them in a round, its probe included: 1.5 is once and a half, and a pass forward
/// alone a third.
pub fn passes(examples: usize, pace: f64, plan: &Plan, settings: &TrainSettings) -> f64 {
    if examples == 0 {
        return 0.0;
    }
    let steps = local_steps(examples, pace, settings) + probe_steps(examples, plan, settings);
    steps as f64 / settings.steps_an_epoch(examples) as f64 + start_loss::passes(plan)
}
