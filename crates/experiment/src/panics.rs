//! Panics that are answers: of a device that is tried, and of threads whose failure somebody else tells.

use std::sync::atomic::{AtomicBool, Ordering};

use bonfire_engine::{is_told_elsewhere, overhear};

/// While set, panics say nothing: a device is being tried, and a failure is an answer.
static TRYING: AtomicBool = AtomicBool::new(false);

/// Whether a panic with this text on this thread is an answer, or is told elsewhere, so that a panic hook says nothing of it.
pub fn is_told(text: &str) -> bool {
    TRYING.load(Ordering::Relaxed) || bonfire_data::is_contained() || left_to_others(text)
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
