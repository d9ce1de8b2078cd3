//! `bonfire.Site`: a backbone on a device, with one client's data or many clients'.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bonfire_experiment::{Holding, OpenSite, site};
use bonfire_federation::DownloadError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyMapping};
use serde_json::json;

use crate::config_input::{self, plain};
use crate::errors::{of, of_download, user_error};
use crate::interruptible::patiently;
use crate::messages::{Download, Plan, Upload};

/// What training may end with.
enum Trouble {
    Download(DownloadError),
    Other(anyhow::Error),
}

/// A backbone on a device with one client's data or many clients', which train in one batched pass.
#[pyclass(frozen, module = "bonfire")]
pub struct Site(Mutex<OpenSite>);

impl Site {
    fn lock(&self) -> MutexGuard<'_, OpenSite> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The site, once nobody else works with it.
    fn here<T: Send>(&self, py: Python<'_>, look: impl FnOnce(&mut OpenSite) -> T + Send) -> T {
        py.detach(|| look(&mut self.lock()))
    }
}

/// Client numbers, or a folder by client.
fn holding(shards: Option<&Bound<'_, PyAny>>) -> PyResult<Holding> {
    let Some(shards) = shards else { return Ok(Holding::All) };
    let py = shards.py();
    let wrong =
        |_| user_error(py, "shards are a list of client numbers, a mapping from client numbers to folders, or None");
    if let Ok(folders) = shards.cast::<PyMapping>() {
        let pairs: Vec<(usize, PathBuf)> = folders.items()?.extract().map_err(wrong)?;
        return Ok(Holding::Folders(BTreeMap::from_iter(pairs)));
    }
    Ok(Holding::Some(shards.try_iter()?.map(|item| item?.extract()).collect::<PyResult<_>>().map_err(wrong)?))
}

#[pymethods]
impl Site {
    /// Opens the device and reads model and data.
    #[new]
    #[pyo3(signature = (config = None, shards = None, *, overrides = None, device = None))]
    fn new(
        py: Python<'_>,
        config: Option<&Bound<'_, PyAny>>,
        shards: Option<&Bound<'_, PyAny>>,
        overrides: Option<&Bound<'_, PyMapping>>,
        device: Option<&str>,
    ) -> PyResult<Site> {
        let loaded = config_input::load(config, overrides, device, py)?;
        let holding = holding(shards)?;
        let opened = patiently(py, || (), |()| Ok(()), |_| site(&loaded, &holding, &mut ()))?;
        opened.map(|site| Site(Mutex::new(site))).map_err(|e| of(py, &e))
    }

    /// The clients that are here, ascending.
    #[getter]
    fn clients(&self, py: Python<'_>) -> Vec<usize> {
        self.here(py, |it| it.site.clients().to_vec())
    }

    /// Training examples by client.
    #[getter]
    fn examples<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        let each = self.here(py, |it| it.site.clients().iter().map(|&c| (c, it.site.examples(c))).collect::<Vec<_>>());
        for (client, examples) in each {
            dict.set_item(client, examples)?;
        }
        Ok(dict)
    }

    /// The round whose start it last received; 0: nothing yet.
    #[getter]
    fn holds(&self, py: Python<'_>) -> usize {
        self.here(py, |it| it.site.holds())
    }

    /// Of what a server and its sites must agree on: settings, labels, tokenizer, backbone.
    #[getter]
    fn fingerprint(&self, py: Python<'_>) -> String {
        self.here(py, |it| it.fingerprint.clone())
    }

    /// Trains those of its clients that the plan names, from `adapter` on top of what the site holds.
    #[pyo3(signature = (adapter, plan, round = None))]
    fn train(&self, py: Python<'_>, adapter: &Download, plan: &Plan, round: Option<usize>) -> PyResult<Vec<Upload>> {
        let own = plan.orders.round;
        if let Some(round) = round.filter(|&round| round != own) {
            return Err(user_error(py, format!("round {round} was asked for, with the plan of round {own}")));
        }
        if adapter.0.round != own {
            return Err(user_error(py, format!("the download is for round {}, the plan for {own}", adapter.0.round)));
        }
        let stop = AtomicBool::new(false);
        let (download, orders, cohort) = (adapter.0.clone(), &plan.orders, &plan.cohort);
        let work = |_| {
            let site = &mut self.lock().site;
            site.receive(download, Some(orders)).map_err(Trouble::Download)?;
            let mut on =
                |_| if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
            let trained = site.train(orders, cohort, &mut on).map_err(|e| Trouble::Other(e.into()))?;
            Ok(trained.continue_value().map(|it| it.uploads).unwrap_or_default().iter().map(Upload::of).collect())
        };
        match patiently(py, || stop.store(true, Ordering::Relaxed), |()| Ok(()), work)? {
            Ok(uploads) => Ok(uploads),
            Err(Trouble::Download(error)) => Err(of_download(py, &error)),
            Err(Trouble::Other(error)) => Err(of(py, &error)),
        }
    }

    /// Evaluates the global model on the test rows of each client here, or the client's own model where clients keep a part for themselves (`personal`).
    #[pyo3(signature = (adapter = None))]
    fn evaluate<'py>(&self, py: Python<'py>, adapter: Option<&Download>) -> PyResult<Bound<'py, PyList>> {
        let download = adapter.map(|adapter| adapter.0.clone());
        let work = |_| {
            let site = &mut self.lock().site;
            download.map_or(Ok(()), |download| site.receive(download, None)).map_err(Trouble::Download)?;
            let rows = site.evaluate().map_err(|e| Trouble::Other(e.into()))?;
            Ok((rows, site.has_private_parts()))
        };
        let (rows, personal) = match patiently(py, || (), |()| Ok(()), work)? {
            Ok(found) => found,
            Err(Trouble::Download(error)) => return Err(of_download(py, &error)),
            Err(Trouble::Other(error)) => return Err(of(py, &error)),
        };
        let list = PyList::empty(py);
        for (client, found) in rows {
            let mut row = json!(found);
            row["client"] = json!(client);
            row["personal"] = json!(personal);
            list.append(plain(py, &row)?)?;
        }
        Ok(list)
    }

    /// Its copy of the global model, and what its clients keep for themselves.
    fn state<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.here(py, |it| it.site.state()))
    }

    /// Takes up what `state` gave, on a site of the same configuration, data and clients.
    fn restore(&self, py: Python<'_>, state: &[u8]) -> PyResult<()> {
        let restored = self.here(py, |it| it.site.restore(state));
        restored.map_err(|e| user_error(py, format!("the state cannot be taken up: it {e}")))
    }

    /// Writes the clients' own adapters in PEFT layout, `folder/0007`, where clients keep a part of the model for themselves.
    fn save_clients(&self, py: Python<'_>, folder: PathBuf) -> PyResult<Vec<usize>> {
        self.here(py, |it| it.save_clients(&folder)).map_err(|e| of(py, &e))
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        self.here(py, |it| format!("Site(clients={:?}, holds={})", it.site.clients(), it.site.holds()))
    }
}
