//! Ctrl-C: the first press lets the round finish its writing, the second leaves at once. While nothing is there yet that could
//! be finished, the first leaves.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use anyhow::{Context, Result};

use crate::console::{note, note_after_key};
use crate::tui;
use crate::user_error::ABANDONED;

/// What the run and the signal handler share.
#[derive(Debug, Default)]
pub struct Interrupt {
    /// Data and models are being read or fetched: no run has begun that could be lost.
    preparing: AtomicBool,
    pressed: AtomicBool,
    /// The round that runs is to be given up.
    gives_up: AtomicBool,
    round: AtomicUsize,
    writing: Mutex<()>,
    /// The command that goes on with the run, where there is one.
    go_on: OnceLock<String>,
}

impl Interrupt {
    /// Takes over Ctrl-C and the signals that ask a program to end.
    ///
    /// # Errors
    /// The system refuses the handler.
    pub fn install() -> Result<Arc<Interrupt>> {
        let shared = Arc::new(Interrupt::default());
        let handler = Arc::clone(&shared);
        ctrlc::set_handler(move || handler.press()).context("cannot listen for Ctrl-C")?;
        Ok(shared)
    }

    /// Ctrl-C, or what stands for it on the dashboard.
    pub fn press(&self) {
        let preparing = self.preparing.load(Ordering::SeqCst);
        if self.pressed.swap(true, Ordering::SeqCst) || preparing {
            // Waits for files that are being written; nothing else may hold a run up now.
            let _written = self.writing();
            tui::leave();
            note_after_key(match self.round.load(Ordering::SeqCst) {
                _ if preparing => "abandoned before the run began",
                0 => "abandoned before round 1",
                _ => "abandoned; the run folder holds the rounds that ended",
            });
            if let Some(command) = self.go_on.get().filter(|_| !preparing) {
                note(format!("go on with: {command}"));
            }
            std::process::exit(ABANDONED);
        }
        match self.round.load(Ordering::SeqCst) {
            0 => note_after_key("stopping before round 1; press again to leave at once"),
            round => note_after_key(format!("finishing round {round}; press again to leave at once")),
        }
    }

    /// Ends the run without a word, from another front end than the terminal: the round that runs is given up, the run folder
    /// holds those before it.
    pub fn give_up(&self) {
        self.gives_up.store(true, Ordering::SeqCst);
        self.pressed.store(true, Ordering::SeqCst);
    }

    /// Whether the round that runs is to be given up.
    pub fn gives_up(&self) -> bool {
        self.gives_up.load(Ordering::SeqCst)
    }

    /// Whether the run should stop when the round's files are written.
    pub fn pressed(&self) -> bool {
        self.pressed.load(Ordering::SeqCst)
    }

    /// Data and models are being read or fetched while `work` goes on: a press leaves at once.
    pub fn while_preparing<T>(&self, work: impl FnOnce() -> T) -> T {
        self.preparing.store(true, Ordering::SeqCst);
        let done = work();
        self.preparing.store(false, Ordering::SeqCst);
        done
    }

    /// Says which command goes on with the run that is beginning.
    pub fn resume_command(&self, command: String) {
        // A process trains one run that can be gone on with by a command of its own.
        let _ = self.go_on.set(command);
    }

    /// Says which round is running.
    pub fn enter_round(&self, round: usize) {
        self.round.store(round, Ordering::SeqCst);
    }

    /// Held while a round's files are written: leaving waits for it.
    pub fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
