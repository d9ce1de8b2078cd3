//! Bars at the bottom of a terminal: how far the run and its round are.

use std::io;
use std::time::Duration;

use console::Term;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};

use super::Pace;
use crate::console::{Screen, seconds, set_screen, short};

/// Two bars, of the run and of the round.
pub struct Bars {
    all: MultiProgress,
    rounds: ProgressBar,
    steps: ProgressBar,
    pace: Pace,
}

impl Bars {
    /// Of a run of `rounds` rounds that begins now.
    pub fn new(rounds: usize) -> Bars {
        let style = |template: &str| {
            ProgressStyle::with_template(template).expect("a template of this file").progress_chars("█▉▊▋▌▍▎▏ ")
        };
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(Narrow(Term::stderr())), 10);
        let (all, pace) = (MultiProgress::with_draw_target(target), Pace::new(rounds));
        let rounds = all.add(ProgressBar::new(rounds as u64));
        rounds.set_style(style("run   {bar:10} {pos}/{len} rounds  {wide_msg}"));
        let steps = all.add(ProgressBar::new(0));
        steps.set_style(style("round {bar:10} {pos}/{len} steps  {wide_msg}"));
        rounds.enable_steady_tick(Duration::from_millis(500));
        set_screen(Screen::Bars(all.clone()));
        Bars { all, rounds, steps, pace }
    }

    /// So many rounds were done before.
    pub fn past(&mut self, rounds: usize) {
        self.pace.past(rounds);
        self.rounds.set_position(rounds as u64);
    }

    /// A round begins, with so many clients that train so, in `words`.
    pub fn round_started(&mut self, words: String) {
        self.pace.round_started();
        self.steps.set_length(0);
        self.steps.set_position(0);
        self.steps.set_message(words);
    }

    /// `done` of the round's `total` steps are done, on `tokens` tokens.
    pub fn trained(&mut self, done: usize, total: usize, tokens: u64) {
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
        set_screen(Screen::Plain);
        let _ = self.all.clear();
    }
}

/// A terminal of which at most 59 columns are used: when a terminal is made narrower, longer lines wrap, and are not found
/// again when they are to be cleared.
#[derive(Debug)]
struct Narrow(Term);

impl TermLike for Narrow {
    fn width(&self) -> u16 {
        self.0.size().1.clamp(2, 60) - 1
    }

    fn height(&self) -> u16 {
        self.0.size().0
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_up(n)
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_down(n)
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_right(n)
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_left(n)
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.0.write_line(text)
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.0.write_str(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.0.clear_line()
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }
}
