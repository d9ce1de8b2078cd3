//! Bonfire in somebody else's process, as in a Python interpreter.

use std::io::Write as _;
use std::sync::Once;

use crate::{format, log, memory, panics};

/// Makes ready to say notes on stderr, and keeps freed memory for the next step (the caller's allocator must be mimalloc, as
/// the program's is), but not for ever: other work goes on in the process. May be called again.
pub fn begin() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        bonfire_kernels::runtime::prepare();
        memory::keep_freed_awhile();
        panics::overhear_devices();
        log::listen(|entry, target| {
            let word = match entry.level() {
                tracing::Level::ERROR => "error",
                tracing::Level::WARN => "warning",
                tracing::Level::INFO if target != log::ROUND => "note",
                _ => return,
            };
            // A stream that is closed is no reason to stop a run.
            let _ = writeln!(std::io::stderr(), "{}", format::harmless(&format!("{word}: {}", entry.message)));
        });
    });
}
