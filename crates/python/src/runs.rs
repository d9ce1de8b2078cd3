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

use crate::comparison::Comparison;
use crate::config_input::{self, plain};
use crate::errors::{of, user_error};
use crate::interruptible::patiently;
use crate::predictions;

/// A run that has ended, and its folder.
#[pyclass(frozen, get_all, module = "bonfire")]
pub struct Run {
    /// The run folder; `folder + "/adapter"` is the adapter in PEFT's layout.
    folder: String,
    /// A row a round, as in `metrics.jsonl`; round 0 is the untrained model.
    rounds: Py<PyAny>,
    /// A row a client and round, as in `clients.jsonl`.
    clients: Py<PyAny>,
    /// The run in one object, as `summary.json`.
    summary: Py<PyAny>,
}

impl Run {
    /// The run folder.
    pub fn folder(&self) -> &str {
        &self.folder
    }
}

#[pymethods]
impl Run {
    /// What the run's model says of `texts`: as `bonfire.predict` of its folder.
    #[pyo3(signature = (texts, *, best = false, device = None))]
    fn predict<'py>(&self, texts: &Bound<'py, PyAny>, best: bool, device: Option<&str>) -> PyResult<Bound<'py, PyAny>> {
        predictions::ask(texts.py(), self.folder.clone().into(), texts, best, device)
    }

    fn __repr__(&self) -> String {
        format!("Run({:?})", self.folder)
    }
}

/// The lines of a file, an object each, for Python to read: its numbers are then those of the file to the last bit.
fn lines(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(format!("[{}]", text.lines().collect::<Vec<_>>().join(",")))
}

/// JSON as Python's plain values.
fn read<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyAny>> {
    py.import("json")?.call_method1("loads", (text,))
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

/// Runs a federation in this process, as `bonfire train`; without `config` the built-in quickstart.
///
/// `config` is a TOML file's path or a mapping of sections, `overrides` a mapping of keys that go before it, such as
/// `{"data.path": "my.csv", "data.split": {"test": 0.2}, "train.rounds": 5}`; `bonfire config --init full` prints every key. `out` is the
/// run folder, `runs/<name>-<time>` unless named. `on_round` is called with each round's row. Ctrl-C, or an exception of `on_round`, gives
/// up the round that runs; the folder holds those before it, and `bonfire predict`, `report` and `export` read it.
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
        rounds: read(py, &rounds)?.unbind(),
        clients: read(py, &clients)?.unbind(),
        summary: plain(py, &summary)?.unbind(),
    })
}

/// Strategies side by side on the same data and seeds, as `bonfire compare`: a row a run.
///
/// `strategies` is a list of names, each perhaps with keys of its own (`"fedit:train.lr_b=5x"`). The folder `out`, `compare/<name>` unless
/// named, holds the table and the runs; what is there already is not run again. Pictures are drawn by `bonfire compare` with the same
/// options and folder.
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
    let path = match config {
        Some(it) if it.cast::<PyMapping>().is_ok() => {
            return Err(user_error(py, "compare reads its configuration from a file; give a path, and overrides"));
        }
        Some(it) => Some(config_input::path(it)?),
        None => None,
    };
    let loaded = config_input::load(config, overrides, device.as_deref(), py)?;
    let config = path;
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
