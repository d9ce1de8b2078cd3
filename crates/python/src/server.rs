//! `bonfire.Server`: a strategy, its state and the ledger. It trains nothing.

mod inner;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use bonfire_experiment::{CheckedConfig, server};
use bonfire_federation::RoundMetrics;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyMapping};

use self::inner::{Inner, Message};
use crate::arrays;
use crate::config_input::{self, plain};
use crate::errors::{of, user_error};
use crate::interruptible::patiently;
use crate::messages::{Download, Plan, Upload};

/// A strategy, its state and the ledger. It trains nothing and needs no training rows.
#[pyclass(frozen, module = "bonfire")]
pub struct Server(Mutex<Inner>);

impl Server {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server, once nobody else works with it.
    fn here<T: Send>(&self, py: Python<'_>, look: impl FnOnce(&mut Inner) -> T + Send) -> T {
        py.detach(|| look(&mut self.lock()))
    }

    fn open(py: Python<'_>, loaded: &CheckedConfig, evaluates: bool, state: Option<&[u8]>) -> PyResult<Server> {
        let work = |_| {
            let mut inner =
                Inner { open: server(loaded, &mut ())?, history: vec![], clients: vec![], began: None, evaluates };
            state.map_or(Ok(()), |state| inner.take_up(state))?;
            Ok(inner)
        };
        let opened: Result<Inner> = patiently(py, || (), |()| Ok(()), work)?;
        opened.map(|inner| Server(Mutex::new(inner))).map_err(|e| of(py, &e))
    }
}

/// Clients of the federation, each once.
fn clients(py: Python<'_>, clients: Vec<usize>, count: usize) -> PyResult<Vec<usize>> {
    if let Some(client) = clients.iter().find(|client| **client >= count) {
        return Err(user_error(py, format!("there is no client {client}: the federation has {count}, counted from 0")));
    }
    Ok(clients.into_iter().collect::<BTreeSet<_>>().into_iter().collect())
}

#[pymethods]
impl Server {
    /// Reads the model, the labels and, to evaluate every `evaluate.every` rounds, the test rows.
    #[new]
    #[pyo3(signature = (config = None, *, overrides = None, device = None, evaluate = true))]
    fn new(
        py: Python<'_>,
        config: Option<&Bound<'_, PyAny>>,
        overrides: Option<&Bound<'_, PyMapping>>,
        device: Option<&str>,
        evaluate: bool,
    ) -> PyResult<Server> {
        let loaded = config_input::load(config, overrides, Some(device.unwrap_or("cpu")), py)?;
        Server::open(py, &loaded, evaluate, None)
    }

    /// Goes on from what `state` gave, with the same configuration.
    #[staticmethod]
    #[pyo3(signature = (state, config = None, *, overrides = None, device = None, evaluate = true))]
    fn from_state(
        py: Python<'_>,
        state: &[u8],
        config: Option<&Bound<'_, PyAny>>,
        overrides: Option<&Bound<'_, PyMapping>>,
        device: Option<&str>,
        evaluate: bool,
    ) -> PyResult<Server> {
        let loaded = config_input::load(config, overrides, Some(device.unwrap_or("cpu")), py)?;
        Server::open(py, &loaded, evaluate, Some(state))
    }

    /// Complete rounds.
    #[getter]
    fn round(&self, py: Python<'_>) -> usize {
        self.here(py, |it| it.open.coordinator.server().round)
    }

    /// Rounds of the whole run.
    #[getter]
    fn rounds(&self, py: Python<'_>) -> usize {
        self.here(py, |it| it.open.coordinator.settings().train.rounds)
    }

    /// Whether all rounds are done.
    #[getter]
    fn finished(&self, py: Python<'_>) -> bool {
        self.here(py, |it| it.open.coordinator.is_finished())
    }

    /// The labels' names, in the order that numbers them; empty where nothing has labels.
    #[getter]
    fn labels(&self, py: Python<'_>) -> Vec<String> {
        self.here(py, |it| it.open.labels.clone())
    }

    /// Clients of the federation.
    #[getter]
    fn clients(&self, py: Python<'_>) -> usize {
        self.here(py, |it| it.open.coordinator.clients())
    }

    /// The strategy's name.
    #[getter]
    fn strategy(&self, py: Python<'_>) -> &'static str {
        self.here(py, |it| it.open.coordinator.strategy_name())
    }

    /// Of what a server and its sites must agree on: see `Site.fingerprint`.
    #[getter]
    fn fingerprint(&self, py: Python<'_>) -> String {
        self.here(py, |it| it.open.fingerprint.clone())
    }

    /// The resolved configuration as TOML.
    #[getter]
    fn config(&self, py: Python<'_>) -> String {
        self.here(py, |it| it.open.config.clone())
    }

    /// All that a site needs that holds nothing.
    #[getter]
    fn adapter(&self, py: Python<'_>) -> Download {
        Download(self.here(py, |it| it.open.coordinator.download(0, None)))
    }

    /// What crossed so far, summed over the rounds: scalars and bytes.
    #[getter]
    fn ledger<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        plain(py, &self.here(py, |it| it.sums()))
    }

    /// A row a round, as in `metrics.jsonl`.
    #[getter]
    fn history<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        plain(py, &self.here(py, |it| it.history.clone()))
    }

    /// A row for each client of the last round, as in `clients.jsonl`.
    #[getter]
    fn client_rows<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        plain(py, &self.here(py, |it| it.clients.clone()))
    }

    /// The run in one object, as `summary.json`.
    #[getter]
    fn summary<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        plain(py, &self.here(py, |it| it.open.summary()))
    }

    /// The orders for the next round; the same until `aggregate` ends it.
    fn plan(&self, py: Python<'_>) -> Plan {
        self.here(py, Inner::plan)
    }

    /// What a site lacks that holds `since`.
    #[pyo3(signature = (since = 0, clients = None))]
    fn download(&self, py: Python<'_>, since: usize, clients: Option<Vec<usize>>) -> PyResult<Download> {
        let count = self.clients(py);
        let own = clients.map(|own| self::clients(py, own, count)).transpose()?;
        Ok(Download(self.here(py, |it| it.open.coordinator.download(since, own.as_deref()))))
    }

    /// A site was lost with all that it held: its clients' next download is whole, and the ledger counts it so.
    fn forget(&self, py: Python<'_>, clients: Vec<usize>) -> PyResult<()> {
        let lost = self::clients(py, clients, self.clients(py))?;
        self.here(py, |it| it.open.coordinator.forget(&lost));
        Ok(())
    }

    /// Raises what `aggregate` would raise of this upload alone. One that is whole but not believed raises nothing: `aggregate`
    /// leaves it out, and its row names the client under `skipped`.
    fn check(&self, py: Python<'_>, upload: PyRef<'_, Upload>) -> PyResult<()> {
        let message = Message::of(&upload);
        let work = move |it: &mut Inner| {
            let (plan, cohort) = (it.open.coordinator.plan(), it.open.coordinator.cohort());
            it.read(&Plan { orders: plan, cohort: cohort.clone() }, &[message], &cohort).map(drop)
        };
        self.here(py, work).map_err(|e| of(py, &e))
    }

    /// Ends the round and gives its row, as in `metrics.jsonl`.
    #[pyo3(signature = (uploads, asked = None))]
    fn aggregate<'py>(
        &self,
        py: Python<'py>,
        uploads: Vec<PyRef<'_, Upload>>,
        asked: Option<Vec<usize>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let messages: Vec<Message> = uploads.iter().map(|upload| Message::of(upload)).collect();
        let asked = asked.map(|asked| self::clients(py, asked, self.clients(py))).transpose()?;
        let work = |_| {
            let inner = &mut self.lock();
            let (plan, asked) = inner.running(asked)?;
            inner.aggregate(&plan, &messages, &asked)
        };
        let row: Result<RoundMetrics> = patiently(py, || (), |()| Ok(()), work)?;
        plain(py, &row.map_err(|e| of(py, &e))?)
    }

    /// Ends a round of which no upload was seen, only their `mean` (secure aggregation), and gives its row.
    #[pyo3(signature = (mean, examples, *, sites, sent_bytes, asked = None))]
    fn aggregate_mean<'py>(
        &self,
        py: Python<'py>,
        mean: PyRef<'_, Upload>,
        examples: BTreeMap<usize, usize>,
        sites: u64,
        sent_bytes: u64,
        asked: Option<Vec<usize>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mean = Message::of(&mean);
        let asked = asked.map(|asked| self::clients(py, asked, self.clients(py))).transpose()?;
        let work = |_| {
            let inner = &mut self.lock();
            let (plan, asked) = inner.running(asked)?;
            inner.aggregate_mean(&plan, &mean, examples, (sites, sent_bytes), &asked)
        };
        let row: Result<RoundMetrics> = patiently(py, || (), |()| Ok(()), work)?;
        plain(py, &row.map_err(|e| of(py, &e))?)
    }

    /// Why the sum of uploads does not do for this run, by the key in its way; `None`: it does, and secure aggregation can take it.
    #[getter]
    fn against_secure_aggregation(&self, py: Python<'_>) -> Option<String> {
        let problem = self.here(py, |it| it.open.coordinator.settings().against_secure_aggregation());
        problem.map(|problem| format!("{} {}", problem.key, problem.what))
    }

    /// The global model on the configuration's test rows: `examples`, `answers`, `loss`, `accuracy` (0 to 1), `exact_match`.
    fn evaluate<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let found = patiently(py, || (), |()| Ok(()), |_| self.lock().open.evaluate())?;
        found.map_err(|e| of(py, &e))?.map(|found| plain(py, &found)).transpose()
    }

    /// All that is needed to go on: model, strategy's state, ledger, rows.
    fn state<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.here(py, |it| it.state()))
    }

    /// Writes the global adapter in PEFT layout.
    fn save(&self, py: Python<'_>, folder: PathBuf) -> PyResult<()> {
        self.here(py, |it| it.open.save(&folder)).map_err(|e| of(py, &e))
    }

    /// The global adapter by PEFT's names, in its shapes: `lora_A` `[r, in]`, `lora_B` `[out, r]`.
    fn tensors<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        for tensor in self.here(py, |it| it.open.tensors()).map_err(|e| of(py, &e))? {
            dict.set_item(&tensor.name, arrays::shaped(py, &tensor.shape, &tensor.numbers)?)?;
        }
        Ok(dict)
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let words = |it: &mut Inner| {
            let it = &it.open.coordinator;
            let (round, rounds) = (it.server().round, it.settings().train.rounds);
            format!("Server({}, round {round} of {rounds}, {} clients)", it.strategy_name(), it.clients())
        };
        self.here(py, words)
    }
}
