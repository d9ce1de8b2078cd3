//! Work on a device, on a thread of its own: what breaks there is an error of the round, not the end of the program.
//! A device that fails in the middle of a step shows as a panic inside Burn, which has no other way to say it.

use std::any::Any;
use std::thread::{Builder, Scope, ScopedJoinHandle};

use crate::EngineError;

/// Name of the threads whose panics are told as an [`EngineError::Device`]; a panic hook has nothing to say of them.
pub const DEVICE_THREAD: &str = "device";

/// Starts `work`.
///
/// # Errors
/// The system refuses a thread.
pub(crate) fn start<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> Result<T, EngineError> + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, Result<T, EngineError>>, EngineError> {
    let refused = |e: std::io::Error| EngineError::Device(format!("no thread for it: {e}"));
    Builder::new().name(DEVICE_THREAD.into()).spawn_scoped(scope, work).map_err(refused)
}

/// What came of it.
///
/// # Errors
/// The work's own, or [`EngineError::Device`] where it panicked.
pub(crate) fn end<T>(worker: ScopedJoinHandle<'_, Result<T, EngineError>>) -> Result<T, EngineError> {
    worker.join().unwrap_or_else(|panic| Err(EngineError::Device(words(panic.as_ref()))))
}

/// Does `work` and waits for it.
///
/// # Errors
/// Those of [`end`].
pub(crate) fn on_device<T: Send>(work: impl FnOnce() -> Result<T, EngineError> + Send) -> Result<T, EngineError> {
    std::thread::scope(|scope| end(start(scope, work)?))
}

/// What a panic said.
fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("it broke off without a word").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_its_words() {
        let fails = |n: usize| on_device(move || -> Result<usize, EngineError> { panic!("lost at {n}") });
        assert!(matches!(fails(3), Err(EngineError::Device(words)) if words == "lost at 3"));
        assert!(matches!(on_device(|| Ok(4)), Ok(4)));
    }
}
