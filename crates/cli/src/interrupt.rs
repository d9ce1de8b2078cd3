//! What ends a run from outside: Ctrl-C and signals, what each says, and leaving.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context, Result};
use bonfire_experiment::log::note;
use bonfire_experiment::{Interrupt, Press};

use crate::console;

/// Exit code of a program that Ctrl-C ended: 128 + SIGINT, as shells report it.
const INTERRUPTED: u8 = 130;

/// Exit code for work that is left undone because of whoever asked last; 0: nobody did.
static ASKED: AtomicU8 = AtomicU8::new(0);

/// The program did what it was asked in time and ended before its work was done: nothing is wrong, yet what comes after it in a
/// script is not to take it for whole.
#[derive(Debug)]
pub struct Stopped {
    /// The exit code.
    pub code: u8,
}

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "stopped from outside before all was done")
    }
}

impl std::error::Error for Stopped {}

/// How to end where work is left; `Ok`: nobody asked for it.
///
/// # Errors
/// [`Stopped`], which is said nothing of.
pub fn end_unfinished() -> Result<()> {
    match ASKED.load(Ordering::SeqCst) {
        0 => Ok(()),
        code => Err(Stopped { code }.into()),
    }
}

/// Ctrl-C, what stands for it on the dashboard, and the signals that ask a program to end.
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
        listen(&shared)?;
        Ok(shared)
    }

    /// A press: says what it does, and ends the program where it is to leave at once.
    pub fn press(&self) {
        ASKED.store(INTERRUPTED, Ordering::SeqCst);
        self.interrupt.press(|press| match press {
            Press::Leave { preparing, round } => self.leave(preparing, round, INTERRUPTED.into()),
            Press::Finish { round: 0 } | Press::GiveUp { round: 0 } => {
                console::note_after_key("stopping before round 1; press again to leave at once");
            }
            Press::Finish { round } | Press::GiveUp { round } => {
                console::note_after_key(format!("finishing round {round}; press again to leave at once"));
            }
        });
    }

    /// A signal that is not Ctrl-C's. Whoever sends SIGTERM waits for seconds at most, so the round is given up; after a terminal
    /// that was closed (SIGHUP) nobody waits, and it is finished.
    #[cfg(unix)]
    fn end(&self, signal: i32) {
        ASKED.store(u8::try_from(128 + signal).unwrap_or(1), Ordering::SeqCst);
        let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
        let answer = |press| match press {
            Press::Leave { preparing, round } => self.leave(preparing, round, 128 + signal),
            Press::GiveUp { round: 0 } | Press::Finish { round: 0 } => note(format!("{name}: stopping before round 1")),
            Press::Finish { round } => note(format!("{name}: finishing round {round}")),
            Press::GiveUp { round } => {
                note(format!("{name}: round {round} is given up, and the run is saved as it was before it"));
            }
        };
        match signal {
            signal_hook::consts::SIGTERM => self.interrupt.terminate(answer),
            _ => self.interrupt.press(answer),
        }
    }

    fn leave(&self, preparing: bool, round: usize, code: i32) {
        console::close_screen();
        console::note_after_key(match round {
            _ if preparing => "abandoned before the run began",
            0 => "abandoned before round 1",
            _ => "abandoned; the run folder holds the rounds that ended",
        });
        if let Some(command) = self.resume_command.as_ref().filter(|_| !preparing) {
            note(format!("go on with: {command}"));
        }
        std::process::exit(code);
    }
}

/// Hands Ctrl-C on.
fn listen(handler: &Arc<CtrlC>) -> Result<()> {
    let keys = Arc::clone(handler);
    ctrlc::set_handler(move || keys.press()).context("cannot listen for Ctrl-C")?;
    #[cfg(unix)]
    listen_for_ends(handler).context("cannot listen for signals")?;
    Ok(())
}

/// Hands on the signals that ask a program to end. What was told to outlive its terminal (`nohup`) has SIGHUP ignored, and it stays so.
#[cfg(unix)]
fn listen_for_ends(handler: &Arc<CtrlC>) -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGTERM};

    let mut wanted = vec![SIGTERM];
    if !ignored(SIGHUP) {
        wanted.push(SIGHUP);
    }
    let mut signals = signal_hook::iterator::Signals::new(wanted)?;
    let handler = Arc::clone(handler);
    let listen = move || signals.forever().for_each(|signal| handler.end(signal));
    std::thread::Builder::new().name("signals".into()).spawn(listen)?;
    Ok(())
}

/// Whether the process was started with the signal ignored, where the system says so (Linux).
#[cfg(unix)]
fn ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}
