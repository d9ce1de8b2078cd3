//! Which cell of a comparison runs and how far it is: a line at the bottom of a terminal, elsewhere a line from time to time.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::rc::Rc;

use bonfire_engine::Progress as Steps;
use bonfire_experiment::Watch;
use bonfire_federation::{ClientMetrics, RoundMetrics};

use crate::console::{draws_bars, say};
use crate::progress::{CellBar, Silence, Waiting};

/// What is seen while cells run.
pub struct Cells {
    waiting: Waiting,
    /// Name and rounds of every cell that is to run.
    cells: Vec<(String, usize)>,
    /// Cells that have run.
    done: Rc<Cell<usize>>,
    round: usize,
    bar: Option<CellBar>,
    silence: Silence,
}

impl Cells {
    /// Of cells that run in this order, of which `done` are done; `log_every` is `train.log_every`.
    pub fn new(cells: Vec<(String, usize)>, done: Rc<Cell<usize>>, quiet: bool, log_every: Option<f64>) -> Cells {
        let silence = if quiet { Silence::for_ever() } else { Silence::new(log_every) };
        let bar = draws_bars().then(CellBar::new);
        Cells { waiting: Waiting::default(), cells, done, round: 0, bar, silence }
    }

    fn tell(&mut self, steps: Option<Steps>) {
        let at = self.done.get();
        let Some((name, rounds)) = self.cells.get(at) else { return };
        if self.bar.is_none() && !self.silence.ends() {
            return;
        }
        let steps = steps.map_or(String::new(), |steps| format!(", {} of {} steps", steps.done, steps.total));
        let (number, all) = (at + 1, self.cells.len());
        let words = format!("cell {number} of {all}, {}: round {} of {rounds}{steps}", name.trim_end(), self.round);
        match &self.bar {
            Some(bar) => bar.set(words),
            None => say(words),
        }
    }
}

impl Watch for Cells {
    fn note(&mut self, words: &str) {
        self.waiting.note(words);
    }

    fn fetching(&mut self, file: &str, done: u64, size: u64) {
        self.waiting.fetching(file, done, size);
    }

    fn fetched(&mut self) {
        self.waiting.fetched();
    }

    fn round_started(&mut self, round: usize, _: &str, _: usize) -> ControlFlow<()> {
        self.round = round;
        self.tell(None);
        ControlFlow::Continue(())
    }

    fn step_done(&mut self, steps: Steps) -> ControlFlow<()> {
        self.tell(Some(steps));
        ControlFlow::Continue(())
    }

    fn round_ended(&mut self, _: &RoundMetrics, _: &[ClientMetrics], _: u64) -> ControlFlow<()> {
        self.tell(None);
        ControlFlow::Continue(())
    }
}
