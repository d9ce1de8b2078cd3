//! What ends a run from outside: of Ctrl-C the first press lets the round finish, the second leaves at once; a request to end soon,
//! such as SIGTERM, gives the round up and lets the run be saved. While nothing is there yet that could be saved, the first leaves.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What the run and whoever ends it share.
#[derive(Debug, Default)]
pub struct Interrupt {
    /// Data and models are being read or fetched: no run has begun that could be lost.
    preparing: AtomicBool,
    pressed: AtomicBool,
    /// The round that runs is to be given up.
    gives_up: AtomicBool,
    round: AtomicUsize,
    writing: Mutex<()>,
}

/// What a press asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Press {
    /// The run ends with the round of this number; 0: before the first.
    Finish {
        /// The round, from 1.
        round: usize,
    },
    /// The round of this number is given up within a step, and the run ends with those before it, saved; 0: before the first.
    GiveUp {
        /// The round, from 1.
        round: usize,
    },
    /// The program is to leave at once. No file of the run is being written until the answer to the press returns.
    Leave {
        /// Whether no run has begun yet.
        preparing: bool,
        /// The round that is given up, from 1; 0: none has begun.
        round: usize,
    },
}

impl Interrupt {
    /// Ctrl-C, or what stands for it; `answer` does what it asks for.
    pub fn press(&self, answer: impl FnOnce(Press)) {
        let preparing = self.preparing.load(Ordering::SeqCst);
        let again = self.pressed.swap(true, Ordering::SeqCst);
        self.ask(preparing, again, |round| Press::Finish { round }, answer);
    }

    /// A request to end soon, such as SIGTERM: whoever asks kills what does not obey. `answer` does what it asks for.
    pub fn terminate(&self, answer: impl FnOnce(Press)) {
        let preparing = self.preparing.load(Ordering::SeqCst);
        self.pressed.store(true, Ordering::SeqCst);
        let again = self.gives_up.swap(true, Ordering::SeqCst);
        self.ask(preparing, again, |round| Press::GiveUp { round }, answer);
    }

    /// Has `answer` leave at once where it was asked before or nothing is there yet, else do the `first` thing.
    fn ask(&self, preparing: bool, again: bool, first: fn(usize) -> Press, answer: impl FnOnce(Press)) {
        let round = || self.round.load(Ordering::SeqCst);
        if again || preparing {
            // Waits for files that are being written; nothing else may hold a run up now.
            let _written = self.writing();
            answer(Press::Leave { preparing, round: round() });
        } else {
            answer(first(round()));
        }
    }

    /// Ends the run without a word: the round that runs is given up, the run folder holds those before it.
    pub fn give_up(&self) {
        self.gives_up.store(true, Ordering::SeqCst);
        self.pressed.store(true, Ordering::SeqCst);
    }

    /// Whether somebody wants the run to end.
    pub fn pressed(&self) -> bool {
        self.pressed.load(Ordering::SeqCst)
    }

    /// Whether the round that runs goes on.
    pub fn inside_round(&self) -> ControlFlow<()> {
        if self.gives_up.load(Ordering::SeqCst) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Whether another round is begun.
    pub fn between_rounds(&self) -> ControlFlow<()> {
        if self.pressed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Data and models are being read or fetched while `work` goes on: a press leaves at once.
    pub fn while_preparing<T>(&self, work: impl FnOnce() -> T) -> T {
        self.preparing.store(true, Ordering::SeqCst);
        let done = work();
        self.preparing.store(false, Ordering::SeqCst);
        done
    }

    /// Says which round is running.
    pub(crate) fn enter_round(&self, round: usize) {
        self.round.store(round, Ordering::SeqCst);
    }

    /// Held while a round's files are written: leaving waits for it.
    pub(crate) fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pressed(interrupt: &Interrupt) -> Press {
        let mut found = None;
        interrupt.press(|press| found = Some(press));
        found.expect("an answer")
    }

    #[test]
    fn the_first_press_finishes_the_round_and_the_second_leaves() {
        let interrupt = Interrupt::default();
        assert!(interrupt.between_rounds().is_continue());
        interrupt.enter_round(3);
        assert_eq!(pressed(&interrupt), Press::Finish { round: 3 });
        assert!(interrupt.between_rounds().is_break() && interrupt.inside_round().is_continue());
        assert_eq!(pressed(&interrupt), Press::Leave { preparing: false, round: 3 });
        interrupt.give_up();
        assert!(interrupt.inside_round().is_break());
    }

    #[test]
    fn a_request_to_end_gives_the_round_up_after_a_press_too() {
        let asked = |interrupt: &Interrupt| {
            let mut found = None;
            interrupt.terminate(|press| found = Some(press));
            found.expect("an answer")
        };
        let interrupt = Interrupt::default();
        interrupt.enter_round(3);
        assert_eq!(pressed(&interrupt), Press::Finish { round: 3 });
        assert_eq!(asked(&interrupt), Press::GiveUp { round: 3 });
        assert!(interrupt.between_rounds().is_break() && interrupt.inside_round().is_break());
        assert_eq!(asked(&interrupt), Press::Leave { preparing: false, round: 3 });
        let early = Interrupt::default();
        assert_eq!(early.while_preparing(|| asked(&early)), Press::Leave { preparing: true, round: 0 });
    }

    #[test]
    fn a_press_while_preparing_leaves() {
        let interrupt = Interrupt::default();
        let press = interrupt.while_preparing(|| pressed(&interrupt));
        assert_eq!(press, Press::Leave { preparing: true, round: 0 });
    }
}
