//! Libraries that read files of unknown origin may panic on them; here a panic becomes an error, so that it does not end the program.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many attempts are under way.
static ATTEMPTS: AtomicUsize = AtomicUsize::new(0);

/// Whether a panic now would be caught and become an error, so that a panic hook has nothing to say. It holds for the whole
/// process: libraries panic on threads of their own.
pub fn is_contained() -> bool {
    ATTEMPTS.load(Ordering::SeqCst) > 0
}

/// Runs `attempt`; a panic in it comes back as its message.
pub(crate) fn catch_panic<T>(attempt: impl FnOnce() -> T) -> Result<T, String> {
    ATTEMPTS.fetch_add(1, Ordering::SeqCst);
    // What panicked is not used again.
    let outcome = catch_unwind(AssertUnwindSafe(attempt));
    ATTEMPTS.fetch_sub(1, Ordering::SeqCst);
    outcome.map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
    })
}
