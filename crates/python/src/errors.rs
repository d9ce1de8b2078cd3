//! The exceptions: one for all, and two that a caller may want to tell apart.

use bonfire_experiment::user_error::{UserError, block};
use bonfire_federation::{DownloadError, FederationError};
use pyo3::exceptions::{PyException, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple, PyType};

static BASE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static CONFIG: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static STALE: PyOnceLock<Py<PyType>> = PyOnceLock::new();

/// A class of exceptions with these bases.
fn class(py: Python<'_>, name: &str, doc: &str, bases: &[Bound<'_, PyType>]) -> PyResult<Py<PyType>> {
    let members = PyDict::new(py);
    members.set_item("__module__", "bonfire")?;
    members.set_item("__doc__", doc)?;
    let made = py.get_type::<PyType>().call1((name, PyTuple::new(py, bases)?, members))?;
    Ok(made.cast_into::<PyType>()?.unbind())
}

/// Everything that goes wrong in Bonfire.
pub fn base(py: Python<'_>) -> PyResult<&Py<PyType>> {
    let make = || class(py, "BonfireError", "Something went wrong in Bonfire.", &[py.get_type::<PyException>()]);
    BASE.get_or_try_init(py, make)
}

/// A mistake in a configuration, an argument or a message; a `ValueError` too.
pub fn config(py: Python<'_>) -> PyResult<&Py<PyType>> {
    let bases = [base(py)?.bind(py).clone(), py.get_type::<PyValueError>()];
    let doc = "A mistake in a configuration, an argument or a message.";
    CONFIG.get_or_try_init(py, || class(py, "ConfigError", doc, &bases))
}

/// A download on top of what the site does not hold.
pub fn stale(py: Python<'_>) -> PyResult<&Py<PyType>> {
    let bases = [base(py)?.bind(py).clone()];
    let doc = "A download that completes what the site does not hold.";
    STALE.get_or_try_init(py, || class(py, "StaleError", doc, &bases))
}

fn raise(py: Python<'_>, kind: PyResult<&Py<PyType>>, words: String) -> PyErr {
    match kind {
        Ok(kind) => PyErr::from_type(kind.bind(py).clone(), words),
        Err(error) => error,
    }
}

/// An error of the program, in the lines that the command line prints.
pub fn of(py: Python<'_>, error: &anyhow::Error) -> PyErr {
    let words = block(error);
    let words = words.strip_prefix("error: ").unwrap_or(&words).to_string();
    let setting = matches!(error.downcast_ref::<FederationError>(), Some(FederationError::Setting { .. }));
    if setting || error.chain().any(|cause| cause.is::<UserError>()) {
        user_error(py, words)
    } else {
        raise(py, base(py), words)
    }
}

/// Something else that went wrong.
pub fn other(py: Python<'_>, words: impl ToString) -> PyErr {
    raise(py, base(py), words.to_string())
}

/// What a caller did wrong.
pub fn user_error(py: Python<'_>, words: impl ToString) -> PyErr {
    raise(py, config(py), words.to_string())
}

/// A download that does not fit.
pub fn of_download(py: Python<'_>, error: &DownloadError) -> PyErr {
    let words = format!("the download does not fit: {error}");
    match error {
        DownloadError::Stale { .. } => raise(py, stale(py), words),
        DownloadError::Part { .. } => user_error(py, words),
    }
}
