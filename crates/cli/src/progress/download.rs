//! What is seen while data and models are fetched.

use bonfire_experiment::log::note;
use bonfire_experiment::{Facts, Watch};
use indicatif::{ProgressBar, ProgressStyle};

use crate::console::{draws_bars, is_quiet};

/// Says what takes a while, and draws a bar for each file where somebody watches.
#[derive(Default)]
pub struct Waiting {
    bar: Option<ProgressBar>,
}

impl Waiting {
    fn start(&mut self, file: &str, from: u64, size: u64) {
        let bar = ProgressBar::new(size);
        let style = ProgressStyle::with_template("{msg}  {bar:24} {bytes}/{total_bytes}  {bytes_per_sec}, {eta} left");
        bar.set_style(style.expect("a template of this file").progress_chars("█▉▊▋▌▍▎▏ "));
        bar.set_message(file.to_owned());
        bar.set_position(from);
        self.bar = Some(bar);
    }
}

impl Watch for Waiting {
    fn note(&mut self, words: &str) {
        if !is_quiet() {
            note(words);
        }
    }

    fn fetching(&mut self, file: &str, done: u64, size: u64) {
        match &self.bar {
            Some(bar) => bar.set_position(done),
            None if draws_bars() => self.start(file, done, size),
            None => {}
        }
    }

    fn fetched(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// The same before a run, of which `tell` is told what was read.
pub struct Preparing<F> {
    /// What is seen meanwhile.
    pub waiting: Waiting,
    /// Hears what was read.
    pub tell: F,
}

impl<F: FnMut(&Facts<'_>)> Watch for Preparing<F> {
    fn note(&mut self, words: &str) {
        self.waiting.note(words);
    }

    fn fetching(&mut self, file: &str, done: u64, size: u64) {
        self.waiting.fetching(file, done, size);
    }

    fn fetched(&mut self) {
        self.waiting.fetched();
    }

    fn prepared(&mut self, facts: &Facts<'_>) {
        (self.tell)(facts);
    }
}
