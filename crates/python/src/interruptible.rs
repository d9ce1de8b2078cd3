//! Long work on a thread of its own: the interpreter is released, Ctrl-C is heard, and what the work tells on its way is
//! handed to the caller's thread.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use pyo3::prelude::*;

use crate::errors::other;

/// How long Ctrl-C may wait.
const PATIENCE: Duration = Duration::from_millis(100);

/// Does `work`. What it tells is given to `on_round` on this thread; where that fails, or a signal asks for an end, `stop` is
/// called once, and the exception raised when the work has ended.
pub fn patiently<T: Send, E: Send>(
    py: Python<'_>,
    stop: impl Fn(),
    mut on_round: impl FnMut(E) -> PyResult<()>,
    work: impl FnOnce(Sender<E>) -> T + Send,
) -> PyResult<T> {
    std::thread::scope(|scope| {
        let (tell, mut told) = channel();
        let worker = scope.spawn(move || work(tell));
        let mut failed = None;
        loop {
            let heard = {
                // A receiver may be moved to other threads, not shared with them.
                let told = &mut told;
                py.detach(move || told.recv_timeout(PATIENCE))
            };
            let outcome = match heard {
                Ok(event) => on_round(event),
                Err(RecvTimeoutError::Timeout) => py.check_signals(),
                // Whoever told is gone: the work has ended.
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if let Err(error) = outcome.and_then(|()| py.check_signals())
                && failed.is_none()
            {
                stop();
                failed = Some(error);
            }
        }
        let done = py.detach(|| worker.join());
        match (failed, done) {
            (Some(error), _) => Err(error),
            (None, Ok(done)) => Ok(done),
            (None, Err(_)) => Err(other(py, "internal error: a thread of bonfire broke off; please report it")),
        }
    })
}
