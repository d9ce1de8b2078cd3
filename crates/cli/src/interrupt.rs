//! Ctrl-C in the program: what a press says, and leaving.

use std::sync::Arc;

use anyhow::{Context, Result};
use bonfire_experiment::log::note;
use bonfire_experiment::{Interrupt, Press};

use crate::console;

/// Exit code after a second Ctrl-C: 128 + SIGINT, as shells report it.
const ABANDONED: i32 = 130;

/// Ctrl-C, and what stands for it on the dashboard.
#[derive(Debug)]
pub struct CtrlC {
    /// What the run sees of it.
    pub interrupt: Arc<Interrupt>,
    /// The command that goes on with the run, where there is one.
    resume_command: Option<String>,
}

impl CtrlC {
    /// Takes over Ctrl-C and the signals that ask a program to end; `resume_command` goes on with the run that is beginning.
    ///
    /// # Errors
    /// The system refuses the handler.
    pub fn install(resume_command: Option<String>) -> Result<Arc<CtrlC>> {
        let shared = Arc::new(CtrlC { interrupt: Arc::default(), resume_command });
        let handler = Arc::clone(&shared);
        ctrlc::set_handler(move || handler.press()).context("cannot listen for Ctrl-C")?;
        Ok(shared)
    }

    /// A press: says what it does, and ends the program where it is to leave at once.
    pub fn press(&self) {
        self.interrupt.press(|press| match press {
            Press::Finish { round: 0 } => {
                console::note_after_key("stopping before round 1; press again to leave at once");
            }
            Press::Finish { round } => {
                console::note_after_key(format!("finishing round {round}; press again to leave at once"));
            }
            Press::Leave { preparing, round } => {
                console::close_screen();
                console::note_after_key(match round {
                    _ if preparing => "abandoned before the run began",
                    0 => "abandoned before round 1",
                    _ => "abandoned; the run folder holds the rounds that ended",
                });
                if let Some(command) = self.resume_command.as_ref().filter(|_| !preparing) {
                    note(format!("go on with: {command}"));
                }
                std::process::exit(ABANDONED);
            }
        });
    }
}
