//! What a user sees while a run goes: a dashboard or bars on a terminal, plain lines or JSON elsewhere, nothing with
//! `--quiet`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use bonfire_federation::{ClientMetrics, RoundMetrics};
use bonfire_kernels::device_memory_reserved;
use burn::tensor::Device;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::console::{Screen, bytes, draws_bars, is_json, percent, say, seconds, set_screen, short};
use crate::interrupt::Interrupt;
use crate::log;
use crate::tui::{About, Dashboard, State};

/// Reports a run's progress.
pub struct Progress {
    rounds: usize,
    shown: Shown,
}

enum Shown {
    Nothing,
    /// A line or a JSON object for each round.
    Lines,
    Bars(Bars),
    /// The dashboard, and the device whose memory it shows.
    Dashboard(Dashboard, Device),
}

impl Progress {
    /// Progress of a run of `rounds` rounds.
    pub fn new(rounds: usize, quiet: bool) -> Progress {
        let shown = match (quiet, draws_bars()) {
            (true, _) => Shown::Nothing,
            (false, false) => Shown::Lines,
            (false, true) => Shown::Bars(Bars::new(rounds)),
        };
        Progress { rounds, shown }
    }

    /// The same on a dashboard, which fills the terminal until [`Self::finish`].
    ///
    /// # Errors
    /// The terminal cannot be drawn on.
    pub fn dashboard(rounds: usize, about: About, device: Device, interrupt: Arc<Interrupt>) -> Result<Progress> {
        let dashboard = Dashboard::open(State::new(about, rounds), interrupt)?;
        Ok(Progress { rounds, shown: Shown::Dashboard(dashboard, device) })
    }

    /// The rounds that were done before, in a run that is resumed.
    #[allow(dead_code, reason = "resumed runs call it")]
    pub fn past(&mut self, rounds: &[RoundMetrics]) {
        match &mut self.shown {
            Shown::Bars(bars) => {
                bars.pace.past(rounds.len());
                bars.rounds.set_position(rounds.len() as u64);
            }
            Shown::Dashboard(dashboard, _) => dashboard.board().state().past(rounds),
            Shown::Nothing | Shown::Lines => {}
        }
    }

    /// A round begins.
    pub fn round_started(&mut self, round: usize, phase: &str, clients: usize) {
        let words = phase_words(phase);
        match &mut self.shown {
            Shown::Bars(bars) => bars.round_started(format!("round {round}, {words}, {clients} clients")),
            Shown::Dashboard(dashboard, _) => {
                let mut state = dashboard.board().state();
                (state.round, state.phase, state.clients) = (round, words, clients);
                state.pace.round_started();
            }
            Shown::Nothing | Shown::Lines => {}
        }
    }

    /// `done` of the round's `total` local steps are done, on `tokens` tokens so far.
    pub fn trained(&mut self, done: usize, total: usize, tokens: u64) {
        match &mut self.shown {
            Shown::Bars(bars) => bars.trained(done, total, tokens),
            Shown::Dashboard(dashboard, _) => dashboard.board().state().pace.trained(done, total, tokens),
            Shown::Nothing | Shown::Lines => {}
        }
    }

    /// A round has ended, in which these clients uploaded; `uploaded` bytes have been uploaded in the run so far.
    pub fn round_ended(&mut self, metrics: &RoundMetrics, clients: &[ClientMetrics], uploaded: u64) {
        let line = || round_line(metrics, self.rounds, uploaded);
        match &mut self.shown {
            Shown::Nothing => {}
            // The round's event is its line.
            Shown::Lines if is_json() => {}
            Shown::Lines => say(line()),
            Shown::Bars(bars) => {
                bars.pace.round_ended();
                bars.rounds.set_position(metrics.round as u64);
                say(line());
            }
            Shown::Dashboard(dashboard, device) => {
                let memory = device_memory_reserved(device);
                let mut state = dashboard.board().state();
                state.round_ended(metrics, clients);
                (state.device_memory, state.uploaded) = (memory, uploaded);
                state.log(&line());
            }
        }
        log::round(metrics, self.rounds, !matches!(self.shown, Shown::Nothing));
    }

    /// The run is over: bars and dashboard go.
    pub fn finish(&mut self) {
        if let Shown::Bars(bars) = &self.shown {
            set_screen(Screen::Plain);
            let _ = bars.all.clear();
        }
        self.shown = Shown::Nothing;
    }
}

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

struct Bars {
    all: MultiProgress,
    rounds: ProgressBar,
    steps: ProgressBar,
    pace: Pace,
}

impl Bars {
    fn new(rounds: usize) -> Bars {
        // What does not fit on a line is cut: a line that wraps is not found again when it is to be cleared.
        let style = |template: &str| {
            ProgressStyle::with_template(template).expect("a template of this file").progress_chars("█▉▊▋▌▍▎▏ ")
        };
        let (all, pace) = (MultiProgress::new(), Pace::new(rounds));
        let rounds = all.add(ProgressBar::new(rounds as u64));
        rounds.set_style(style("rounds {bar:16} {pos}/{len}  {wide_msg}"));
        let steps = all.add(ProgressBar::new(0));
        steps.set_style(style("round  {bar:16} {pos}/{len} steps  {wide_msg}"));
        rounds.enable_steady_tick(Duration::from_millis(500));
        set_screen(Screen::Bars(all.clone()));
        Bars { all, rounds, steps, pace }
    }

    fn round_started(&mut self, words: String) {
        self.pace.round_started();
        self.steps.set_length(0);
        self.steps.set_position(0);
        self.steps.set_message(words);
    }

    fn trained(&mut self, done: usize, total: usize, tokens: u64) {
        self.pace.trained(done, total, tokens);
        self.steps.set_length(total as u64);
        self.steps.set_position(done as u64);
        let left = self.pace.left().map_or(String::new(), |left| format!(", {} left", seconds(left)));
        let gone = seconds(self.pace.elapsed());
        self.rounds.set_message(format!("{} tokens/s{left}, {gone} gone", short(self.pace.tokens_per_second())));
    }
}

fn phase_words(phase: &str) -> &'static str {
    match phase {
        "A" => "training A",
        "B" => "training B",
        "core" => "training the core",
        "full" => "training all weights",
        _ => "training A and B",
    }
}

/// One line for a finished round.
fn round_line(metrics: &RoundMetrics, rounds: usize, uploaded: u64) -> String {
    let width = rounds.to_string().len();
    let test = match metrics.test_perplexity {
        Some(perplexity) => Some(match metrics.test_exact_match {
            // Of running text nothing is ever matched exactly.
            Some(exact) if exact > 0.0 => {
                format!("test perplexity {perplexity:>6.3}, exact match {:>6}", percent(exact))
            }
            _ => format!("test perplexity {perplexity:>6.3}"),
        }),
        None => metrics.test_accuracy.map(|test| format!("test accuracy {:>6}", percent(test))),
    };
    let accuracy = match (test, metrics.personal_accuracy) {
        (Some(test), None) => test,
        (Some(test), Some(own)) => format!("{test}, clients' own accuracy {:>6}", percent(own)),
        (None, Some(own)) => format!("clients' own accuracy {:>6}", percent(own)),
        (None, None) => format!("test accuracy {:>6}", "-"),
    };
    let mut line = format!(
        "round {:>width$}/{rounds}  {:<2}  train loss {:.4}  {accuracy}  upload {:>7} (sum {:>7})  {}",
        metrics.round,
        metrics.phase,
        metrics.train_loss,
        bytes(metrics.upload_bytes),
        bytes(uploaded),
        seconds(metrics.seconds),
    );
    if !metrics.dropped.is_empty() {
        line += &format!("  {} dropped out", metrics.dropped.len());
    }
    if !metrics.skipped.is_empty() {
        line += &format!("  {} skipped", metrics.skipped.len());
    }
    if let Some(slots) = metrics.live_slots {
        line += &format!("  {slots} slots live");
    }
    if let Some(epsilon) = metrics.epsilon {
        line += &format!("  ε {epsilon:.2}");
    }
    line
}

#[cfg(test)]
mod tests {
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
