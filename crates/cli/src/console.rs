//! Writing to the terminal. What is printed holds names and texts of others, so nothing in it can steer the terminal. A closed pipe (`bonfire train | head`) must not stop a run, so write errors are dropped.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use bonfire_experiment::format::harmless;
use bonfire_experiment::log::{Entry, ROUND, note};
use serde::Serialize;
use tracing::Level;

/// Target of the event that ends a run, whose text is printed by [`crate::failure`].
pub const FAILURE: &str = "bonfire::failure";

/// What lies on the terminal besides lines, and must not be broken by them.
pub trait Screen: Send {
    /// Shows `lines`, which `write` would print as they are.
    fn show(&self, lines: &str, write: &mut dyn FnMut());
}

static SCREEN: Mutex<Option<Box<dyn Screen>>> = Mutex::new(None);

/// Gives the terminal back as it was.
static CLOSE: OnceLock<fn()> = OnceLock::new();

/// Whether only the result is printed.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Whether everything printed is a JSON object a line.
static JSON: AtomicBool = AtomicBool::new(false);

/// Says how to print.
pub fn set_up(json: bool, quiet: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
    JSON.store(json, Ordering::Relaxed);
}

/// Whether only the result is printed.
pub fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Whether everything printed is a JSON object a line.
pub fn is_json() -> bool {
    JSON.load(Ordering::Relaxed)
}

/// Whether progress is drawn: somebody watches and wants to see it.
pub fn draws_bars() -> bool {
    !is_quiet() && !is_json() && io::stderr().is_terminal()
}

/// Says what lies on the terminal; `None`: lines alone.
pub fn set_screen(screen: Option<Box<dyn Screen>>) {
    *self::screen() = screen;
}

/// Says what gives the terminal back, from a screen that fills all of it.
pub fn set_close(close: fn()) {
    // There is one such screen.
    let _ = CLOSE.set(close);
}

/// Gives the terminal back as it was: before the program prints its last words, whatever they are.
pub fn close_screen() {
    if let Some(close) = CLOSE.get() {
        close();
    }
}

fn screen() -> MutexGuard<'static, Option<Box<dyn Screen>>> {
    SCREEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prints lines where whoever watches sees them.
fn print(lines: &str, mut to: impl Write) {
    let lines = &*harmless(lines);
    // Flushed, so that a program reading a pipe sees each line when it comes.
    let mut write = || drop(writeln!(to, "{lines}").and_then(|()| to.flush()));
    match &*screen() {
        None => write(),
        Some(screen) => screen.show(lines, &mut write),
    }
}

/// Prints on stderr the block that ends the program. Above bars or on the dashboard it would be lost with them.
pub fn complain(block: &str) {
    let _ = writeln!(io::stderr(), "{}", harmless(block));
}

/// Prints a line on stdout.
pub fn say(line: impl Display) {
    let line = line.to_string();
    if !is_json() {
        print(&line, io::stdout());
    } else if !line.is_empty() {
        // (An empty line parts what people read.)
        print(&Entry::new(Level::INFO, line.trim_end().to_owned()).json(), io::stdout());
    }
}

/// Prints on stdout what people read as `text` and programs as the fields of `row`, with `message` to tell what it is.
pub fn say_row(message: &str, row: &impl Serialize, text: impl Display) {
    if is_json() {
        print(&Entry::new(Level::INFO, message.to_owned()).with(row).json(), io::stdout())
    } else {
        say(text)
    }
}

/// Prints on stdout what was asked for in a form of its own, such as with `--json`.
pub fn put(text: impl Display) {
    print(&text.to_string(), io::stdout());
}

/// Like [`note`], after a key whose echo (`^C`) stands on the line already.
pub fn note_after_key(line: impl Display) {
    // Bars are cleared with the echo on them, and the dashboard's terminal echoes nothing.
    if screen().is_none() && !is_json() && io::stderr().is_terminal() {
        let _ = writeln!(io::stderr());
    }
    note(line);
}

/// Shows an event that came from `target` of the program.
pub fn show(entry: &Entry, target: &str) {
    // A round's line is printed by whoever shows progress.
    if target == ROUND || entry.level() == Level::DEBUG {
        return;
    }
    if is_json() {
        return print(&entry.json(), io::stderr());
    }
    // So is the block that ends a run.
    if target == FAILURE {
        return;
    }
    let word = match entry.level() {
        Level::ERROR => "error",
        Level::WARN => "warning",
        _ => "note",
    };
    print(&format!("{word}: {}", entry.message), io::stderr());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_printed_steers_the_terminal() {
        let mut printed = Vec::new();
        print("\u{1b}[2Jgone", &mut printed);
        assert_eq!(String::from_utf8(printed).expect("text"), "\\u001b[2Jgone\n");
    }
}
