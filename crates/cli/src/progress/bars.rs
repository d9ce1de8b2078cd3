//! Bars at the bottom of a terminal: how far the run and its round are.

use std::time::Duration;

use bonfire_experiment::format::{seconds, short};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::pace::Pace;
use crate::console::{Screen, set_screen};

/// Lines go above the bars.
struct Above(MultiProgress);

impl Screen for Above {
    fn show(&self, _: &str, write: &mut dyn FnMut()) {
        self.0.suspend(write);
    }
}

/// Two bars, of the run and of the round.
pub struct Bars {
    all: MultiProgress,
    rounds: ProgressBar,
    steps: ProgressBar,
    pace: Pace,
    /// Clients of the round, and what they train.
    clients: (usize, &'static str),
}

impl Bars {
    /// Of a run of `rounds` rounds that begins now.
    pub fn new(rounds: usize) -> Bars {
        let style = |template: &str| {
            ProgressStyle::with_template(template).expect("a template of this file").progress_chars("█▉▊▋▌▍▎▏ ")
        };
        let (all, pace) = (MultiProgress::new(), Pace::new(rounds));
        let rounds = all.add(ProgressBar::new(rounds as u64));
        rounds.set_style(style("run   {bar:10} {pos}/{len} rounds  {wide_msg}"));
        let steps = all.add(ProgressBar::new(0));
        steps.set_style(style("round {bar:10} {pos}/{len} steps  {wide_msg}"));
        rounds.enable_steady_tick(Duration::from_millis(500));
        set_screen(Some(Box::new(Above(all.clone()))));
        Bars { all, rounds, steps, pace, clients: (0, "") }
    }

    /// So many rounds were done before.
    pub fn past(&mut self, rounds: usize) {
        self.pace.past(rounds);
        self.rounds.set_position(rounds as u64);
    }

    /// A round begins, with so many clients that train so, in `words`.
    pub fn round_started(&mut self, clients: usize, words: &'static str) {
        self.clients = (clients, words);
        self.pace.round_started();
        self.steps.set_length(0);
        self.steps.set_position(0);
        self.steps.set_message(format!("{clients} clients, {words}"));
    }

    /// `done` of the round's `total` steps are done, on `tokens` tokens, and with them so many clients.
    pub fn trained(&mut self, done: usize, total: usize, tokens: u64, clients_done: usize) {
        let (clients, words) = self.clients;
        self.steps.set_message(format!("{clients_done} of {clients} clients done, {words}"));
        self.pace.trained(done, total, tokens);
        self.steps.set_length(total as u64);
        self.steps.set_position(done as u64);
        let left = self.pace.left().map_or(String::new(), |left| format!("{} left, ", seconds(left)));
        self.rounds.set_message(format!("{left}{} tokens/s", short(self.pace.tokens_per_second())));
    }

    /// A round ended.
    pub fn round_ended(&mut self, round: usize) {
        self.pace.round_ended();
        self.rounds.set_position(round as u64);
    }

    /// The bars go.
    pub fn clear(&self) {
        set_screen(None);
        let _ = self.all.clear();
    }
}

/// One line at the bottom of a terminal: which run of a comparison goes on, and how far it is.
pub struct CellBar {
    all: MultiProgress,
    line: ProgressBar,
}

impl CellBar {
    /// Without anything to say yet.
    pub fn new() -> CellBar {
        let all = MultiProgress::new();
        let line = all.add(ProgressBar::new_spinner());
        line.set_style(ProgressStyle::with_template("{wide_msg}").expect("a template of this file"));
        set_screen(Some(Box::new(Above(all.clone()))));
        CellBar { all, line }
    }

    /// Says something else.
    pub fn set(&self, words: String) {
        self.line.set_message(words);
        self.line.tick();
    }
}

impl Drop for CellBar {
    fn drop(&mut self) {
        set_screen(None);
        let _ = self.all.clear();
    }
}
