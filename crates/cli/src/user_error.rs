//! How the binary tells a user what went wrong: one block on stderr, never a panic or a debug dump.
//! What is wrong with data, weights or settings is said by the crate that owns them; here it is only laid out.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};

use bonfire_engine::{is_told_elsewhere, overhear, overheard};
use thiserror::Error;

use crate::{console, tui};

/// Exit code for a mistake in the arguments or the configuration; everything else that fails exits with 1.
pub const USAGE: u8 = 2;

/// Exit code after a second Ctrl-C: 128 + SIGINT, as shells report it.
pub const ABANDONED: i32 = 130;

/// A mistake in the arguments or the configuration, with its place and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{what}")]
pub struct UserError {
    /// What is wrong.
    pub what: String,
    /// File and line, or the `--set` text.
    pub place: Option<String>,
    /// What would be right.
    pub help: Option<String>,
}

impl UserError {
    /// A mistake that has no place in a file.
    pub fn new(what: impl Into<String>) -> Self {
        UserError { what: what.into(), place: None, help: None }
    }

    /// The same with what would be right.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same with its place.
    pub fn at(mut self, place: Option<String>) -> Self {
        self.place = place;
        self
    }
}

/// Where events come from that end a run: the console leaves their text to this module.
pub const TARGET: &str = module_path!();

/// Prints the block for `error` on stderr, or a JSON line where such are asked for; returns the exit code.
pub fn report(error: &anyhow::Error) -> u8 {
    let mistake = error.chain().find_map(|cause| cause.downcast_ref::<UserError>());
    let because = causes(error).join("; ");
    tracing::error!(
        because = Some(because.as_str()).filter(|text| !text.is_empty()),
        at = mistake.and_then(|mistake| mistake.place.as_deref()),
        help = mistake.and_then(|mistake| mistake.help.as_deref()),
        "{error}"
    );
    if !console::is_json() {
        console::complain(&block(error));
    }
    if error.chain().any(|cause| cause.is::<UserError>()) { USAGE } else { 1 }
}

/// The block: the error, its causes, its place and the way out. Nothing in it steers a terminal.
pub fn block(error: &anyhow::Error) -> String {
    let mut lines = vec![format!("error: {}", cut(error.to_string()))];
    lines.extend(causes(error).into_iter().map(|cause| row("because", cut(cause))));
    if let Some(mistake) = error.chain().find_map(|cause| cause.downcast_ref::<UserError>()) {
        lines.extend(mistake.place.as_ref().map(|place| row("at", place)));
        lines.extend(mistake.help.as_ref().map(|help| row("help", help)));
    }
    console::harmless(&lines.join("\n")).into_owned()
}

/// A text without what nobody reads: names in files of others can be of any length.
fn cut(text: String) -> String {
    const MOST: usize = 4000;
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}… ({} bytes more)", &text[..at], text.len() - at),
        None => text,
    }
}

/// The causes of `error`, the last of them the first to happen.
fn causes(error: &anyhow::Error) -> Vec<String> {
    let mut said = vec![error.to_string()];
    for cause in error.chain().skip(1) {
        let text = cause.to_string();
        // Some libraries repeat the cause in their own message.
        if said.last().is_some_and(|last| !last.contains(&text)) {
            said.push(text);
        }
    }
    said.split_off(1)
}

/// One labelled row of the block; further lines of the text line up under the first.
fn row(label: &str, text: impl Display) -> String {
    format!("  {:<8} {}", format!("{label}:"), text.to_string().replace('\n', "\n           "))
}

/// While set, panics say nothing: a device is being tried, and a failure is an answer.
static TRYING: AtomicBool = AtomicBool::new(false);

/// Whether the panic hook has told of a panic.
static SAID: AtomicBool = AtomicBool::new(false);

/// The program ends by a panic: says it where the hook has left that to others. One of a device's own threads is handed on
/// to whoever asked the device, without a word.
pub fn say_if_unsaid() {
    if !SAID.load(Ordering::Relaxed) {
        let words = overheard().unwrap_or_else(|| "it broke off without a word".into());
        report(&anyhow::anyhow!("the device failed in the middle of its work: {words}"));
    }
}

/// Replaces the panic message by one line that asks for a report.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
        let text = info.payload_as_str().unwrap_or("no message");
        if TRYING.load(Ordering::Relaxed) || bonfire_data::is_contained() || left_to_others(text) {
            return;
        }
        SAID.store(true, Ordering::Relaxed);
        tui::leave();
        let place = info.location().map(|l| format!("{}:{}", file_name(l.file()), l.line())).unwrap_or_default();
        let what = format!("internal error in bonfire {} at {place}: {text}", env!("CARGO_PKG_VERSION"));
        let help = "this is a fault of the program; please report it with the command you ran";
        tracing::error!(help, "{what}");
        if !console::is_json() {
            console::complain(&format!("error: {what}\n{}", row("help", help)));
        }
    }));
}

/// In somebody else's process: of panics on devices' threads alone, which the run tells as its error, nothing more is said.
pub fn overhear_devices() {
    let others = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !left_to_others(info.payload_as_str().unwrap_or("no message")) {
            others(info);
        }
    }));
}

/// Whether a panic on this thread is told elsewhere, to where its `text` is then handed.
fn left_to_others(text: &str) -> bool {
    let thread = std::thread::current();
    let elsewhere = is_told_elsewhere(thread.name());
    if elsewhere {
        tracing::debug!("a device's thread broke off: {text}");
        overhear(thread.name(), text);
    }
    elsewhere
}

/// The last part of a source path; the rest belongs to the machine that built the binary.
fn file_name(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

/// Runs `attempt`, taking a panic as `None` and printing nothing.
pub fn quietly<T>(attempt: impl FnOnce() -> T) -> Option<T> {
    let before = TRYING.swap(true, Ordering::Relaxed);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(attempt));
    TRYING.store(before, Ordering::Relaxed);
    outcome.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn the_block_has_what_where_and_the_way_out() {
        let mistake = UserError::new("unknown key `rouns` in [train]")
            .at(Some("x.toml, line 4".into()))
            .help("did you mean `rounds`?");
        let text = block(&mistake.into());
        assert_eq!(
            text,
            "error: unknown key `rouns` in [train]\n  at:      x.toml, line 4\n  help:    did you mean `rounds`?"
        );
    }

    #[test]
    fn what_others_named_does_not_steer_the_terminal() {
        let text = block(&UserError::new("unknown `\u{1b}]0;x\u{7}`").at(Some("a\u{9b}2J.toml".into())).into());
        assert_eq!(text, "error: unknown `\\u001b]0;x\\u0007`\n  at:      a\\u009b2J.toml");
    }

    #[test]
    fn what_is_endless_is_cut() {
        let text = block(&UserError::new("ü".repeat(1_000_000)).into());
        assert!(
            text.chars().count() < 4100 && text.ends_with("ü… (1992000 bytes more)"),
            "{}",
            &text[text.len() - 40..]
        );
    }

    #[test]
    fn causes_are_listed_once() {
        let cause: Result<(), _> = Err(std::io::Error::other("disk full"));
        let error = cause.context("cannot write runs/a").expect_err("an error");
        assert_eq!(block(&error), "error: cannot write runs/a\n  because: disk full");
        let doubled: anyhow::Result<()> = Err(anyhow::anyhow!("disk full")).context("cannot write: disk full");
        assert_eq!(block(&doubled.expect_err("an error")), "error: cannot write: disk full");
    }

    #[test]
    fn panics_of_devices_threads_are_left_to_others() {
        let on = |name: &str| {
            let thread = std::thread::Builder::new().name(name.into()).spawn(|| left_to_others("a probe overflowed"));
            thread.expect("a thread").join().expect("no panic")
        };
        assert!(on("DSD-0-0") && on("DSU-2-1") && on(bonfire_engine::DEVICE_THREAD));
        assert!(!on("rayon-3") && !on("DSD") && !on("main"));
    }

    #[test]
    fn a_panic_in_a_quiet_attempt_is_an_answer() {
        assert_eq!(quietly(|| 3), Some(3));
        assert_eq!(quietly(|| -> u8 { panic!("no driver") }), None);
    }
}
