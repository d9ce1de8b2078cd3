//! What a user sees while a run goes: a dashboard or bars on a terminal, plain lines or JSON elsewhere, nothing with
//! `--quiet`.

mod bars;
mod download;
pub mod pace;
mod ticker;

use std::io::{IsTerminal, stdout};
use std::ops::ControlFlow;
use std::sync::Arc;

use anyhow::Result;
use bonfire_experiment::Watch;
use bonfire_experiment::format::{bytes, percent, seconds};
use bonfire_federation::{ClientMetrics, Progress as Steps, RoundMetrics};
use bonfire_kernels::device_memory_reserved;
use burn::tensor::Device;

use crate::console::{draws_bars, is_json, say, say_row};
use crate::interrupt::CtrlC;
use crate::tui::{About, Dashboard, State};
use bars::Bars;
pub use bars::CellBar;
pub use download::{Preparing, Waiting};
pub use ticker::Silence;
use ticker::Ticker;

/// Reports a run's progress.
pub struct Progress {
    rounds: usize,
    shown: Shown,
}

enum Shown {
    Nothing,
    /// A line or a JSON object for each round, and others on the way through long ones.
    Lines(Ticker),
    Bars(Bars),
    /// The dashboard, and the device whose memory it shows.
    Dashboard(Dashboard, Device),
}

impl Progress {
    /// Progress of a run of `rounds` rounds.
    ///
    /// `every` is `train.log_every`.
    pub fn new(rounds: usize, quiet: bool, every: Option<f64>) -> Progress {
        let shown = match (quiet, draws_bars()) {
            (true, _) => Shown::Nothing,
            (false, false) => Shown::Lines(Ticker::new(rounds, every)),
            (false, true) => Shown::Bars(Bars::new(rounds)),
        };
        Progress { rounds, shown }
    }

    /// The same on a dashboard, which fills the terminal until [`Self::finish`].
    ///
    /// # Errors
    /// The terminal cannot be drawn on.
    pub fn dashboard(rounds: usize, about: About, device: Device, ctrl_c: Arc<CtrlC>) -> Result<Progress> {
        let dashboard = Dashboard::open(State::new(about, rounds), ctrl_c)?;
        Ok(Progress { rounds, shown: Shown::Dashboard(dashboard, device) })
    }

    /// The rounds that were done before, in a run that is resumed.
    pub fn past(&mut self, rounds: &[RoundMetrics]) {
        match &mut self.shown {
            Shown::Bars(bars) => bars.past(rounds.iter().filter(|row| row.round > 0).count()),
            Shown::Dashboard(dashboard, _) => dashboard.shared().state().past(rounds),
            Shown::Lines(ticker) => ticker.past(rounds.iter().filter(|row| row.round > 0).count()),
            Shown::Nothing => {}
        }
    }

    /// The run is over: bars and dashboard go.
    pub fn finish(&mut self) {
        if let Shown::Bars(bars) = &self.shown {
            bars.clear();
        }
        self.shown = Shown::Nothing;
    }
}

impl Watch for Progress {
    fn evaluated_before(&mut self, metrics: &RoundMetrics) -> ControlFlow<()> {
        let line = || round_line(metrics, self.rounds, 0, width());
        match &mut self.shown {
            Shown::Nothing => {}
            Shown::Lines(_) if is_json() => say_row("the untrained model", metrics, ""),
            Shown::Lines(_) | Shown::Bars(_) => say(line()),
            Shown::Dashboard(dashboard, _) => {
                let mut state = dashboard.shared().state();
                state.begin(metrics);
                state.log(&line());
            }
        }
        ControlFlow::Continue(())
    }

    fn round_started(&mut self, round: usize, phase: &str, clients: usize) -> ControlFlow<()> {
        let words = phase_words(phase);
        match &mut self.shown {
            Shown::Bars(bars) => bars.round_started(clients, words),
            Shown::Lines(ticker) => ticker.round_started(round, clients, words),
            Shown::Dashboard(dashboard, _) => {
                let mut state = dashboard.shared().state();
                (state.round, state.phase, state.clients) = (round, words, clients);
                state.pace.round_started();
            }
            Shown::Nothing => {}
        }
        ControlFlow::Continue(())
    }

    fn step_done(&mut self, steps: Steps) -> ControlFlow<()> {
        let Steps { done, total, tokens, clients_done } = steps;
        match &mut self.shown {
            Shown::Bars(bars) => bars.trained(done, total, tokens, clients_done),
            Shown::Dashboard(dashboard, _) => dashboard.shared().state().pace.trained(done, total, tokens),
            Shown::Lines(ticker) => ticker.trained(steps),
            Shown::Nothing => {}
        }
        ControlFlow::Continue(())
    }

    fn round_ended(&mut self, metrics: &RoundMetrics, clients: &[ClientMetrics], upload_bytes: u64) -> ControlFlow<()> {
        let line = || round_line(metrics, self.rounds, upload_bytes, width());
        match &mut self.shown {
            Shown::Nothing => {}
            Shown::Lines(ticker) => {
                ticker.round_ended();
                say_row(&format!("round {} of {}", metrics.round, self.rounds), metrics, line());
            }
            Shown::Bars(bars) => {
                bars.round_ended(metrics.round);
                say(line());
            }
            Shown::Dashboard(dashboard, device) => {
                let memory = device_memory_reserved(device);
                let mut state = dashboard.shared().state();
                state.round_ended(metrics, clients);
                (state.device_memory, state.uploaded) = (memory, upload_bytes);
                state.log(&line());
            }
        }
        ControlFlow::Continue(())
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

/// Columns of the terminal that lines are printed on; endless elsewhere.
fn width() -> usize {
    if stdout().is_terminal() { usize::from(console::Term::stdout().size().1) } else { usize::MAX }
}

/// One line for a finished round: all of it, or as much as `width` columns hold.
fn round_line(metrics: &RoundMetrics, rounds: usize, uploaded: u64, width: usize) -> String {
    let digits = rounds.to_string().len();
    let (round, phase, loss) = (metrics.round, &metrics.phase, metrics.train_loss);
    if round == 0 {
        let score = if width == usize::MAX { score(metrics) } else { short_score(metrics) };
        return format!("round {round:>digits$}/{rounds}  {:<21}  {score}", "the untrained model");
    }
    if loss.is_nan() {
        // What is of clients is kept back: see `privacy.publish`.
        let score = if width == usize::MAX { score(metrics) } else { short_score(metrics) };
        return format!("round {round:>digits$}/{rounds}  {phase:<2}  {score}{}", extras(metrics));
    }
    let (upload, time) = (bytes(metrics.upload_bytes), seconds(metrics.seconds));
    let full = format!(
        "round {round:>digits$}/{rounds}  {phase:<2}  train loss {loss:.4}  {}  upload {upload:>7} (sum {:>7})  {time}{}",
        score(metrics),
        bytes(uploaded),
        extras(metrics),
    );
    let short = short_score(metrics);
    let middle = format!(
        "round {round:>digits$}/{rounds}  {phase:<2}  train loss {loss:.4}  {short}  upload {upload:>7}  {time}"
    );
    let least = format!("{round:>digits$}/{rounds}  {phase:<2}  loss {loss:.4}  {short}  {upload:>7}  {time}");
    let forms = [full, middle];
    forms.into_iter().find(|line| line.chars().count() < width).unwrap_or(least)
}

/// What was measured on the test split.
fn score(metrics: &RoundMetrics) -> String {
    let test = match metrics.test_perplexity {
        Some(perplexity) => Some(match metrics.test_exact_match {
            // Of running text nothing is ever matched exactly.
            Some(exact) if exact > 0.0 => {
                format!("test perplexity {perplexity:>6.3}, exact match {:>6}", percent(exact))
            }
            _ => format!("test perplexity {perplexity:>6.3}"),
        }),
        None => {
            let pearson = metrics.test_pearson.map(|test| format!("test Pearson {test:>6.3}"));
            let f1 = metrics.test_f1.map(|test| format!("test F1 {:>6}", percent(test)));
            // Of classes that exclude each other it is the accuracy.
            let of_sets = |accuracy: f64| metrics.test_micro_f1.filter(|f1| (f1 - accuracy).abs() > 1e-9);
            let accuracy = metrics.test_accuracy.map(|test| match of_sets(test) {
                Some(f1) => format!("test micro F1 {:>6}, whole sets {:>6}", percent(f1), percent(test)),
                None => format!("test accuracy {:>6}", percent(test)),
            });
            pearson.or(f1).or(accuracy)
        }
    };
    if let Some(own) = metrics.personal_pearson {
        return format!("clients' own Pearson {own:>6.3}");
    }
    if let Some(own) = metrics.personal_f1 {
        return format!("clients' own F1 {:>6}", percent(own));
    }
    match (test, metrics.personal_accuracy) {
        (Some(test), None) => test,
        (Some(test), Some(own)) => format!("{test}, clients' own accuracy {:>6}", percent(own)),
        (None, Some(own)) => format!("clients' own accuracy {:>6}", percent(own)),
        (None, None) => format!("test accuracy {:>6}", "-"),
    }
}

/// The most important of it.
fn short_score(metrics: &RoundMetrics) -> String {
    match (metrics.test_perplexity, metrics.test_accuracy.or(metrics.personal_accuracy)) {
        (Some(perplexity), _) => format!("perplexity {perplexity:>6.3}"),
        (None, None) if metrics.test_pearson.or(metrics.personal_pearson).is_some() => {
            format!("Pearson {:>6.3}", metrics.test_pearson.or(metrics.personal_pearson).unwrap_or_default())
        }
        (None, _) if metrics.test_f1.or(metrics.personal_f1).is_some() => {
            format!("F1 {:>6}", percent(metrics.test_f1.or(metrics.personal_f1).unwrap_or_default()))
        }
        (None, accuracy) => format!("accuracy {:>6}", accuracy.map_or("-".to_owned(), percent)),
    }
}

/// What only some runs have.
fn extras(metrics: &RoundMetrics) -> String {
    let mut text = String::new();
    if !metrics.dropped.is_empty() {
        text += &format!("  {} dropped out", metrics.dropped.len());
    }
    if !metrics.late.is_empty() {
        text += &format!("  {} late", metrics.late.len());
    }
    if !metrics.skipped.is_empty() {
        text += &format!("  {} skipped", metrics.skipped.len());
    }
    if !metrics.no_room_for.is_empty() {
        text += &format!("  {} in flight", metrics.in_flight);
    }
    if let Some(share) = metrics.attack_success {
        text += &format!("  backdoor {}", percent(share));
    }
    if let Some(simulated) = metrics.simulated_seconds {
        text += &format!("  {} on devices", seconds(simulated));
    }
    if let Some(slots) = metrics.live_slots {
        text += &format!("  {slots} slots live");
    }
    if metrics.simulated_privacy {
        text += "  privacy simulated";
    }
    if let Some(epsilon) = metrics.epsilon {
        // Rounded up, never to nothing.
        let shown =
            if epsilon < 0.095 { format!("{epsilon:.1e}") } else { format!("{:.2}", (epsilon * 100.0).ceil() / 100.0) };
        let delta = metrics.delta.filter(|delta| *delta > 0.0).map(|delta| format!(" at δ {delta:.0e}"));
        text += &format!("  ε {shown}{}", delta.unwrap_or_default());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::round;

    #[test]
    fn a_rounds_line_is_one_line_on_every_terminal() {
        let of = |width| round_line(&round(7, 0.5), 10, 5_000_000, width);
        assert_eq!(
            of(usize::MAX),
            "round  7/10  B   train loss 1.0000  test accuracy  50.0%  upload   100 B (sum  5.0 MB)  2.0 s"
        );
        assert_eq!(of(80), "round  7/10  B   train loss 1.0000  accuracy  50.0%  upload   100 B  2.0 s");
        let before = round_line(&round(0, 0.05), 10, 0, usize::MAX);
        assert_eq!(before, "round  0/10  the untrained model    test accuracy   5.0%");
        assert_eq!(of(60), " 7/10  B   loss 1.0000  accuracy  50.0%    100 B  2.0 s");
    }
}
