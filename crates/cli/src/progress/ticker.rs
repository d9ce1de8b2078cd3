//! How far a round is, in lines from time to time, where nobody draws: output to a file, a batch system, a container.

use std::time::{Duration, Instant};

use bonfire_experiment::format::{seconds, short};
use bonfire_federation::Progress as Steps;
use serde::Serialize;

use super::pace::Pace;
use crate::console::say_row;

/// Seconds between lines where `train.log_every` does not say.
const USUAL: f64 = 60.0;

/// How long to be silent, by `train.log_every`; `None`: for ever.
fn every(seconds: Option<f64>) -> Option<Duration> {
    let seconds = seconds.unwrap_or(USUAL);
    (seconds > 0.0).then(|| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

/// The silence between two lines.
pub struct Silence {
    every: Option<Duration>,
    last: Instant,
}

impl Silence {
    /// Begins now, with `train.log_every`.
    pub fn new(log_every: Option<f64>) -> Silence {
        Silence { every: every(log_every), last: Instant::now() }
    }

    /// Without an end.
    pub fn for_ever() -> Silence {
        Silence { every: None, last: Instant::now() }
    }

    /// Whether it is time for a line; then the next silence begins.
    pub fn ends(&mut self) -> bool {
        let ends = self.every.is_some_and(|every| self.last.elapsed() >= every);
        if ends {
            self.begin();
        }
        ends
    }

    /// A line was said.
    fn begin(&mut self) {
        self.last = Instant::now();
    }
}

/// Says how far a round is, once in a while.
pub struct Ticker {
    silence: Silence,
    round: usize,
    clients: usize,
    phase: &'static str,
    pace: Pace,
}

/// The same for programs.
#[derive(Serialize)]
struct Row {
    round: usize,
    steps_done: usize,
    steps: usize,
    clients_done: usize,
    clients: usize,
    tokens_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_left: Option<f64>,
}

impl Ticker {
    /// Of a run of `rounds` rounds that begins now, with `train.log_every`.
    pub fn new(rounds: usize, log_every: Option<f64>) -> Ticker {
        Ticker { silence: Silence::new(log_every), round: 0, clients: 0, phase: "", pace: Pace::new(rounds) }
    }

    /// So many rounds were done before.
    pub fn past(&mut self, rounds: usize) {
        self.pace.past(rounds);
    }

    /// A round begins, with so many clients that train `phase`, in words.
    pub fn round_started(&mut self, round: usize, clients: usize, phase: &'static str) {
        (self.round, self.clients, self.phase) = (round, clients, phase);
        self.pace.round_started();
    }

    /// A round ended, which has a line of its own.
    pub fn round_ended(&mut self) {
        self.pace.round_ended();
        self.silence.begin();
    }

    /// Steps of the round are done: says so, if the last line is long enough ago.
    pub fn trained(&mut self, steps: Steps) {
        let Steps { done, total, tokens, clients_done } = steps;
        self.pace.trained(done, total, tokens);
        if !self.silence.ends() {
            return;
        }
        let row = Row {
            round: self.round,
            steps_done: done,
            steps: total,
            clients_done,
            clients: self.clients,
            tokens_per_second: self.pace.tokens_per_second(),
            seconds_left: self.pace.left(),
        };
        let left = row.seconds_left.map_or(String::new(), |left| format!(", about {} of the run left", seconds(left)));
        let (rounds, rate) = (self.pace.rounds(), short(row.tokens_per_second));
        let text = format!(
            "round {}/{rounds}  {}: {done} of {total} steps, {clients_done} of {} clients done, {rate} tokens/s{left}",
            self.round, self.phase, self.clients
        );
        say_row(&format!("round {} of {rounds}: {done} of {total} steps", self.round), &row, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_lasts_as_long_as_was_said() {
        assert_eq!(every(None), Some(Duration::from_secs(60)));
        assert_eq!(every(Some(0.5)), Some(Duration::from_millis(500)));
        assert_eq!(every(Some(0.0)), None);
        assert_eq!(every(Some(1e300)), Some(Duration::MAX));
    }
}
