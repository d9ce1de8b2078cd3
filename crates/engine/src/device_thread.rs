//! Work on a device, on a thread of its own: what breaks there is an error of the round, not the end of the program.
//! A device that fails in the middle of a step shows as a panic inside Burn, which has no other way to say it.

use std::any::Any;
use std::ops::ControlFlow;
use std::sync::mpsc::Sender;
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, Scope, ScopedJoinHandle};

use burn::tensor::Device;
use tracing::dispatcher::{self, Dispatch};

use crate::EngineError;

/// Name of the threads whose panics are told as an [`EngineError::Device`]; a panic hook has nothing to say of them.
pub const DEVICE_THREAD: &str = "device";

/// What the threads are called on which CubeCL talks to a device, before the device's own number.
const WORKERS: [&str; 2] = ["DSU-", "DSD-"];

/// The first thing that broke on one of these since work was last handed to a device.
static HEARD: Mutex<Option<String>> = Mutex::new(None);

/// Whether what breaks on a thread of this name is told by someone else than a panic hook: a [`DEVICE_THREAD`]'s is the
/// round's error, and CubeCL catches its workers' (tuning tries what may not work) and hands on what matters where the
/// result is read.
pub fn is_told_elsewhere(thread: Option<&str>) -> bool {
    thread.is_some_and(|name| name == DEVICE_THREAD || WORKERS.iter().any(|worker| name.starts_with(worker)))
}

/// Takes note of what a panic said that [is told elsewhere](is_told_elsewhere): whoever reads the result learns of many
/// failures only that there was one, and then hears this.
pub fn overhear(thread: Option<&str>, said: &str) {
    if thread != Some(DEVICE_THREAD) {
        heard().get_or_insert_with(|| said.to_string());
    }
}

/// What broke on a device's worker since work was last handed to one, and was not told yet.
pub fn overheard() -> Option<String> {
    heard().take()
}

fn heard() -> std::sync::MutexGuard<'static, Option<String>> {
    HEARD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts `work`.
///
/// # Errors
/// The system refuses a thread.
pub(crate) fn start<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> Result<T, EngineError> + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, Result<T, EngineError>>, EngineError> {
    let refused = |e: std::io::Error| EngineError::Device(format!("no thread for it: {e}"));
    heard().take();
    // What is said there is said to whoever listens to the run.
    let listener = dispatcher::get_default(Dispatch::clone);
    let work = move || dispatcher::with_default(&listener, work);
    Builder::new().name(DEVICE_THREAD.into()).spawn_scoped(scope, work).map_err(refused)
}

/// What came of it.
///
/// # Errors
/// The work's own, or that of [`failed`] where it panicked.
pub(crate) fn end<T>(worker: ScopedJoinHandle<'_, Result<T, EngineError>>) -> Result<T, EngineError> {
    worker.join().unwrap_or_else(|panic| Err(failed(words(panic.as_ref()))))
}

/// What a device meant by these words, and by what was overheard before.
pub(crate) fn failed(words: String) -> EngineError {
    meaning(words, overheard())
}

/// What a panic on a device said, so that whoever panics with these words is understood as the first would have been.
pub(crate) fn what_failed(panic: &(dyn Any + Send)) -> String {
    match failed(words(panic)) {
        EngineError::OutOfMemory { words, .. } | EngineError::Device(words) => words,
        other => other.to_string(),
    }
}

/// Whether its memory does not hold what was asked of it, or it is broken. Words are all that Burn hands on.
fn meaning(words: String, first: Option<String>) -> EngineError {
    let words = match first {
        Some(first) if !words.contains(&first) => format!("{words}\n{first}"),
        _ => words,
    };
    match words.lines().find(|line| speaks_of_memory(line)) {
        Some(line) => EngineError::OutOfMemory { what: "one batch", words: line.trim().to_string() },
        None => EngineError::Device(words),
    }
}

/// Whether a line is one of those by which CubeCL and the drivers under it say that an allocation failed: its `IoError`s and
/// `LaunchError`, wgpu's error, and the codes of CUDA and Vulkan.
fn speaks_of_memory(line: &str) -> bool {
    const PHRASES: [&str; 5] =
        ["out of memory", "out of device memory", "out of host memory", "can't allocate", "not enough memory"];
    // `CUDA_ERROR_OUT_OF_MEMORY`, "out-of-memory error".
    let line = line.to_lowercase().replace(['_', '-'], " ");
    PHRASES.iter().any(|phrase| line.contains(phrase))
}

/// Gives back what `device` holds of memory for reuse, before less is tried: what failed has left large pieces behind.
pub(crate) fn give_back(device: &Device) {
    let device = device.clone().inner();
    // A device that cannot even do this fails at the next try.
    let _ = on_device(|| {
        device.memory_cleanup();
        Ok(())
    });
}

/// Where it is dropped before the device has done its part, by an error or a panic, the round is told to break off on the
/// other devices too.
pub(crate) struct EndsAll<'t, T>(pub &'t Sender<ControlFlow<(), T>>);

impl<T> EndsAll<'_, T> {
    /// The device has done its part.
    pub fn done(self) {
        std::mem::forget(self);
    }
}

impl<T> Drop for EndsAll<'_, T> {
    fn drop(&mut self) {
        // Where nobody listens any more the round has ended already.
        let _ = self.0.send(ControlFlow::Break(()));
    }
}

/// Does `work` on a device and waits for it.
///
/// # Errors
/// The work's own; what a panic said, as [`EngineError::OutOfMemory`] or [`EngineError::Device`].
pub fn on_device<T: Send>(work: impl FnOnce() -> Result<T, EngineError> + Send) -> Result<T, EngineError> {
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

    #[test]
    fn memory_that_ran_out_is_told_from_a_broken_device() {
        // As the dependencies' sources word it.
        for words in [
            "An IO error happened\nCaused by:\n  out of device memory allocating 1048576 bytes\n",
            "can't allocate buffer of size: 4294967296\n",
            "An out-of-memory error happened during launch\nCaused by:\n  out of memory launching kernel x",
            "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")",
            "wgpu error: Out of Memory",
            "Not enough memory left.",
            "ERROR_OUT_OF_DEVICE_MEMORY",
        ] {
            let found = meaning(words.into(), None);
            assert!(
                matches!(&found, EngineError::OutOfMemory { words: line, .. } if words.contains(line)),
                "{found:?}"
            );
        }
        for words in ["the device is lost", "an illegal memory access was encountered", "shared memory exceeds maximum"]
        {
            assert!(matches!(meaning(words.into(), None), EngineError::Device(said) if said == words), "{words}");
        }
        // wgpu says it on a thread of CubeCL's, and whoever reads the tensor learns that it was never written.
        let torn = "The work writing this buffer was torn down before it could say what went wrong";
        let found = meaning(torn.into(), Some("wgpu error: Out of Memory".into()));
        assert!(matches!(found, EngineError::OutOfMemory { words, .. } if words == "wgpu error: Out of Memory"));
        let found = meaning(torn.into(), Some("wgpu error: Validation".into())).to_string();
        assert!(found.contains(torn) && found.ends_with("\nwgpu error: Validation"), "{found}");
    }

    #[test]
    fn panics_of_devices_and_their_workers_are_told_elsewhere() {
        for (name, elsewhere) in [
            (Some(DEVICE_THREAD), true),
            (Some("DSD-0-0"), true),
            (Some("DSU-3-1"), true),
            (Some("main"), false),
            (Some("DS"), false),
            (None, false),
        ] {
            assert_eq!(is_told_elsewhere(name), elsewhere, "{name:?}");
        }
    }
}
