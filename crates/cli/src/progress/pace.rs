//! How far a run has come and how fast it goes.

use std::time::Instant;

/// How far a run has come and how fast it goes.
#[derive(Clone, Debug)]
pub struct Pace {
    rounds: usize,
    /// Rounds that were done before this process began.
    before: usize,
    done: usize,
    steps: (usize, usize),
    tokens: u64,
    started: Instant,
    round_started: Instant,
    /// Of the round that ended last.
    last_rate: f64,
}

impl Pace {
    /// Of a run of `rounds` rounds that begins now.
    pub fn new(rounds: usize) -> Pace {
        let now = Instant::now();
        let (before, done, steps, tokens) = (0, 0, (0, 0), 0);
        Pace { rounds, before, done, steps, tokens, started: now, round_started: now, last_rate: 0.0 }
    }

    /// So many rounds were done before.
    pub fn past(&mut self, rounds: usize) {
        (self.before, self.done) = (rounds, rounds);
    }

    /// A round begins.
    pub fn round_started(&mut self) {
        (self.steps, self.tokens, self.round_started) = ((0, 0), 0, Instant::now());
    }

    /// `done` of `total` steps of the round are done, on `tokens` tokens.
    pub fn trained(&mut self, done: usize, total: usize, tokens: u64) {
        (self.steps, self.tokens) = ((done, total), tokens);
        self.last_rate = tokens as f64 / self.round_started.elapsed().as_secs_f64().max(1e-3);
    }

    /// A round ended.
    pub fn round_ended(&mut self) {
        (self.done, self.steps) = (self.done + 1, (0, 0));
    }

    /// Rounds of the whole run.
    pub fn rounds(&self) -> usize {
        self.rounds
    }

    /// Local steps done in this round, and all of them.
    pub fn steps(&self) -> (usize, usize) {
        self.steps
    }

    /// Tokens a second when the last step ended.
    pub fn tokens_per_second(&self) -> f64 {
        self.last_rate
    }

    /// Seconds since this process began to train.
    pub fn elapsed(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Rounds done, with the part of this one.
    fn progress(&self) -> f64 {
        self.done as f64 + self.steps.0 as f64 / self.steps.1.max(1) as f64
    }

    /// Share of the run that is done.
    pub fn share(&self) -> f64 {
        (self.progress() / self.rounds.max(1) as f64).clamp(0.0, 1.0)
    }

    /// Seconds left, by what this process did so far; `None` as long as that is nothing.
    pub fn left(&self) -> Option<f64> {
        let here = self.progress() - self.before as f64;
        (here > 0.0).then(|| self.elapsed() * (self.rounds as f64 - self.progress()).max(0.0) / here)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_resumed_run_is_paced_by_what_it_does_itself() {
        let mut pace = Pace::new(10);
        assert_eq!((pace.left(), pace.share()), (None, 0.0));
        pace.past(4);
        assert_eq!((pace.left(), pace.share()), (None, 0.4));
        pace.started -= Duration::from_secs(60);
        pace.round_started();
        pace.trained(5, 10, 500);
        assert!(pace.left().is_some_and(|left| (left - 660.0).abs() < 1.0), "{:?}", pace.left());
        pace.round_ended();
        assert!((pace.share() - 0.5).abs() < 1e-9 && pace.left().is_some_and(|left| (left - 300.0).abs() < 1.0));
    }
}
