//! What a user sees while a run goes: bars on a terminal, plain lines elsewhere, nothing with `--quiet`.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use bonfire_federation::RoundMetrics;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::console::{bytes, percent, say, seconds, set_bars, short};

/// Reports a run's progress.
pub struct Progress {
    quiet: bool,
    rounds: usize,
    bars: Option<Bars>,
}

struct Bars {
    all: MultiProgress,
    rounds: ProgressBar,
    steps: ProgressBar,
    started: Instant,
    round_started: Instant,
}

impl Progress {
    /// Progress of a run of `rounds` rounds.
    pub fn new(rounds: usize, quiet: bool) -> Progress {
        let bars = (!quiet && std::io::stderr().is_terminal()).then(|| Bars::new(rounds));
        Progress { quiet, rounds, bars }
    }

    /// A round begins.
    pub fn round_started(&mut self, round: usize, phase: &str, clients: usize) {
        if let Some(bars) = &mut self.bars {
            bars.round_started = Instant::now();
            bars.steps.set_length(0);
            bars.steps.set_position(0);
            bars.steps.set_message(format!("round {round}, {}, {clients} clients", phase_words(phase)));
        }
    }

    /// `done` of the round's `total` local steps are done, on `tokens` tokens so far.
    pub fn trained(&mut self, done: usize, total: usize, tokens: u64) {
        if let Some(bars) = &mut self.bars {
            bars.steps.set_length(total as u64);
            bars.steps.set_position(done as u64);
            let rate = tokens as f64 / bars.round_started.elapsed().as_secs_f64().max(1e-3);
            bars.rounds.set_message(format!("{} tokens/s, {}", short(rate), bars.time_left()));
        }
    }

    /// A round has ended; `uploaded` bytes have been uploaded in the run so far.
    pub fn round_ended(&mut self, metrics: &RoundMetrics, uploaded: u64) {
        if self.quiet {
            return;
        }
        if let Some(bars) = &self.bars {
            bars.rounds.set_position(metrics.round as u64);
        }
        say(round_line(metrics, self.rounds, uploaded));
    }

    /// The run is over: the bars go.
    pub fn finish(&mut self) {
        if let Some(bars) = self.bars.take() {
            set_bars(None);
            let _ = bars.all.clear();
        }
    }
}

impl Bars {
    fn new(rounds: usize) -> Bars {
        let style = |template: &str| {
            ProgressStyle::with_template(template).expect("a template of this file").progress_chars("█▉▊▋▌▍▎▏ ")
        };
        let all = MultiProgress::new();
        let rounds = all.add(ProgressBar::new(rounds as u64));
        rounds.set_style(style("rounds  {bar:24} {pos}/{len}  {elapsed}  {msg}"));
        let steps = all.add(ProgressBar::new(0));
        steps.set_style(style("round   {bar:24} {pos}/{len} steps  {msg}"));
        rounds.enable_steady_tick(Duration::from_millis(500));
        set_bars(Some(all.clone()));
        Bars { all, rounds, steps, started: Instant::now(), round_started: Instant::now() }
    }

    /// Time left, from the share of the run that is done.
    fn time_left(&self) -> String {
        let of_round = self.steps.position() as f64 / self.steps.length().unwrap_or(1).max(1) as f64;
        let done = self.rounds.position() as f64 + of_round;
        let total = self.rounds.length().unwrap_or(1) as f64;
        match done > 0.0 {
            true => format!("{} left", seconds(self.started.elapsed().as_secs_f64() * (total - done) / done)),
            false => String::new(),
        }
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
    if let Some(slots) = metrics.live_slots {
        line += &format!("  {slots} slots live");
    }
    if let Some(epsilon) = metrics.epsilon {
        line += &format!("  ε {epsilon:.2}");
    }
    line
}
