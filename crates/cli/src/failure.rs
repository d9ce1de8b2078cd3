//! How the program ends when something went wrong: one block on stderr, or a JSON line, and an exit code.

use std::sync::atomic::{AtomicBool, Ordering};

use bonfire_engine::overheard;
use bonfire_experiment::panics;
use bonfire_experiment::user_error::{UserError, block, causes, row};

use crate::console;
use crate::interrupt::Stopped;

/// Exit code for a mistake in the arguments or the configuration; everything else that fails exits with 1.
pub const USAGE: u8 = 2;

/// Prints the block for `error` on stderr, or a JSON line where such are asked for; returns the exit code.
pub fn report(error: &anyhow::Error) -> u8 {
    if let Some(stopped) = error.downcast_ref::<Stopped>() {
        return stopped.code;
    }
    let mistake = error.chain().find_map(|cause| cause.downcast_ref::<UserError>());
    let because = causes(error).join("; ");
    tracing::error!(
        target: console::FAILURE,
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
        if panics::is_told(text) {
            return;
        }
        SAID.store(true, Ordering::Relaxed);
        console::close_screen();
        let place = info.location().map(|l| format!("{}:{}", file_name(l.file()), l.line())).unwrap_or_default();
        let what = format!("internal error in bonfire {} at {place}: {text}", env!("CARGO_PKG_VERSION"));
        let help = "this is a fault of the program; please report it with the command you ran";
        tracing::error!(target: console::FAILURE, help, "{what}");
        if !console::is_json() {
            console::complain(&format!("error: {what}\n{}", row("help", help)));
        }
    }));
}

/// The last part of a source path; the rest belongs to the machine that built the binary.
fn file_name(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}
