//! `bonfire.train` and `bonfire.compare`: whole runs in this process, for notebooks.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;

use anyhow::{Context, Result};
use bonfire_experiment::{Experiment, Interrupt, Watch};
use bonfire_federation::{ClientMetrics, RoundMetrics, Summary};
use pyo3::prelude::*;
use pyo3::types::PyMapping;
use serde_json::Value;

use crate::comparison::Comparison;
use crate::config_input::{self, plain};
use crate::errors::{of, user_error};
use crate::interruptible::patiently;

/// A run that has ended, and its folder.
#[pyclass(frozen, get_all, module = "bonfire")]
pub struct Run {
    folder: String,
    rounds: Py<PyAny>,
    clients: Py<PyAny>,
    summary: Py<PyAny>,
}

#[pymethods]
impl Run {
    fn __repr__(&self) -> String {
        format!("Run({:?})", self.folder)
    }
}

/// The JSON objects of a file, a line each.
fn lines(path: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let line = |line: &str| serde_json::from_str(line).with_context(|| format!("cannot read {}", path.display()));
    text.lines().map(line).collect()
}

/// Sends every round to the thread that called.
struct Rounds(Sender<RoundMetrics>);

impl Watch for Rounds {
    fn round_ended(&mut self, metrics: &RoundMetrics, _: &[ClientMetrics], _: u64) -> ControlFlow<()> {
        // Nobody hears where the caller has gone; the interrupt ends the run then.
        let _ = self.0.send(metrics.clone());
        ControlFlow::Continue(())
    }
}

#[pyfunction]
#[pyo3(signature = (config = None, *, overrides = None, device = None, out = None, on_round = None))]
pub fn train(
    py: Python<'_>,
    config: Option<&Bound<'_, PyAny>>,
    overrides: Option<&Bound<'_, PyMapping>>,
    device: Option<&str>,
    out: Option<PathBuf>,
    on_round: Option<&Bound<'_, PyAny>>,
) -> PyResult<Run> {
    let loaded = config_input::load(config, overrides, device, py)?;
    let interrupt = Arc::new(Interrupt::default());
    let on_round = |row: RoundMetrics| match on_round {
        Some(call) => call.call1((plain(py, &row)?,)).map(drop),
        None => Ok(()),
    };
    let stop = Arc::clone(&interrupt);
    let done: Result<(PathBuf, Summary)> = patiently(
        py,
        || stop.give_up(),
        on_round,
        |tell| {
            let mut rounds = Rounds(tell);
            let mut experiment = Experiment::load(loaded, out.as_deref(), interrupt, &mut rounds)?;
            let summary = experiment.train(&mut rounds)?;
            Ok((experiment.folder().to_path_buf(), summary))
        },
    )?;
    let ended = done.and_then(|(folder, summary)| {
        Ok((lines(&folder.join("metrics.jsonl"))?, lines(&folder.join("clients.jsonl"))?, folder, summary))
    });
    let (rounds, clients, folder, summary) = ended.map_err(|e| of(py, &e))?;
    Ok(Run {
        folder: folder.display().to_string(),
        rounds: plain(py, &rounds)?.unbind(),
        clients: plain(py, &clients)?.unbind(),
        summary: plain(py, &summary)?.unbind(),
    })
}

#[pyfunction]
#[pyo3(signature = (config = None, *, strategies = None, seeds = vec![], ranks = vec![], alphas = vec![], out = None, overrides = None, device = None))]
#[allow(clippy::too_many_arguments, reason = "the options of a command")]
pub fn compare<'py>(
    py: Python<'py>,
    config: Option<&Bound<'py, PyAny>>,
    strategies: Option<&Bound<'py, PyAny>>,
    seeds: Vec<u64>,
    ranks: Vec<usize>,
    alphas: Vec<f64>,
    out: Option<PathBuf>,
    overrides: Option<&Bound<'py, PyMapping>>,
    device: Option<String>,
) -> PyResult<Bound<'py, PyAny>> {
    let loaded = config_input::load(config, overrides, device.as_deref(), py)?;
    let config = match config {
        Some(it) if it.cast::<PyMapping>().is_ok() => {
            return Err(user_error(py, "compare reads its configuration from a file; give a path"));
        }
        Some(it) => Some(config_input::path(it)?),
        None => None,
    };
    let strategies = match strategies {
        None => None,
        Some(it) => match it.extract::<String>() {
            Ok(text) => Some(text),
            Err(_) => Some(it.extract::<Vec<String>>()?.join(",")),
        },
    };
    let out = out.unwrap_or_else(|| Path::new("compare").join(loaded.config.name()));
    let sets = config_input::sets(overrides)?;
    let asked = Comparison { config, sets, loaded, strategies, seeds, ranks, alphas, out };
    let interrupt = Arc::new(Interrupt::default());
    let stop = Arc::clone(&interrupt);
    let cells = patiently(py, || stop.give_up(), |()| Ok(()), |_tell| asked.run(interrupt))?;
    plain(py, &cells.map_err(|e| of(py, &e))?)
}
