//! A run on an MLflow tracking server, through its REST API (2.0) while the run goes. What the server does not take is kept and
//! sent with the next round; training never waits for it longer than [`super::PATIENCE`] a request, and `metrics.jsonl` has everything.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bonfire_federation::RoundMetrics;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use ureq::Agent;

use super::scalars::finite;
use super::{agent, run_name, variable};
use crate::config::{RunConfig, values_of};
use crate::log::note;
use crate::run_folder::{MLFLOW, replace};
use crate::user_error::UserError;

/// Metrics and parameters that the server takes at once.
const METRICS_AT_ONCE: usize = 1000;
const PARAMS_AT_ONCE: usize = 100;
/// Characters of a parameter's value that the server keeps.
const LONGEST: usize = 6000;
/// The experiment, unless MLFLOW_EXPERIMENT_NAME says otherwise.
const EXPERIMENT: &str = "bonfire";

/// A run there.
#[derive(Debug)]
pub struct Mlflow {
    server: Server,
    run: Kept,
    /// Where that is kept.
    path: PathBuf,
    /// Metrics that the server has not taken yet.
    waiting: Vec<Value>,
    /// Whether the user was told that the server is away.
    told: bool,
}

/// What the run folder keeps, so that a run that goes on is the same one there.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    address: String,
    run_id: String,
    /// The last round that the server has.
    sent: Option<usize>,
}

impl Mlflow {
    /// Begins a run at the server `address` for the run in `folder`; one that goes on after its round `last` is the same there.
    ///
    /// # Errors
    /// Nobody answers, or what answers is no MLflow.
    pub fn open(folder: &Path, config: &RunConfig, address: &str, last: Option<usize>) -> Result<Mlflow> {
        let server = Server::at(address);
        let refused = |error: anyhow::Error| {
            let wrong = UserError::new(format!("`track.mlflow`: {error:#}"));
            wrong.help("start one with `mlflow server`, give its address, or leave it out: --set track.mlflow=none")
        };
        let path = folder.join(MLFLOW);
        let kept = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Kept>(&bytes).ok());
        let run = match kept.filter(|kept| last.is_some() && kept.address == server.address) {
            Some(kept) => {
                server.ask("runs/update", json!({ "run_id": kept.run_id, "status": "RUNNING" })).map_err(refused)?;
                // Rounds that are trained again are sent again.
                Kept { sent: kept.sent.min(last), ..kept }
            }
            None => Kept {
                run_id: begin(&server, folder, config).map_err(refused)?,
                address: server.address.clone(),
                sent: None,
            },
        };
        replace(&path, &serde_json::to_vec(&run)?)?;
        Ok(Mlflow { server, run, path, waiting: Vec::new(), told: false })
    }

    /// Adds a round, unless the server has it.
    pub fn round(&mut self, metrics: &RoundMetrics, scalars: &[Option<f64>]) {
        if self.run.sent.is_some_and(|sent| metrics.round <= sent) {
            return;
        }
        let (now, step) = (milliseconds(), metrics.round);
        let found = finite(scalars);
        self.waiting
            .extend(found.map(|(key, value)| json!({ "key": key, "value": value, "timestamp": now, "step": step })));
    }

    /// Sends what waits. Where the server is away it says so once, and keeps it.
    pub fn send(&mut self) {
        while !self.waiting.is_empty() {
            let count = self.waiting.len().min(METRICS_AT_ONCE);
            let batch = json!({ "run_id": self.run.run_id, "metrics": self.waiting[..count] });
            match self.server.ask("runs/log-batch", batch) {
                Ok(_) => self.sent(count),
                Err(error) => {
                    if !std::mem::replace(&mut self.told, true) {
                        note(format!(
                            "track.mlflow: {error:#}; training goes on, and what is missing there is sent when it answers"
                        ));
                    }
                    return;
                }
            }
        }
        self.told = false;
    }

    /// The server has the first `count` of what waits.
    fn sent(&mut self, count: usize) {
        let step = |metric: &Value| metric["step"].as_u64().map(|step| step as usize);
        let last = self.waiting.drain(..count).next_back().as_ref().and_then(step);
        // A round of which a part waits is sent again after a stop.
        self.run.sent = match self.waiting.first().and_then(step) {
            Some(next) => next.checked_sub(1),
            None => last,
        };
        // Only which rounds are sent again after a stop depends on it.
        let _ = serde_json::to_vec(&self.run).map(|bytes| replace(&self.path, &bytes));
    }

    /// Sends the last of it and says how the run ended: as a whole, or to be gone on with.
    pub fn finish(&mut self, whole: bool) {
        self.send();
        let status = if whole { "FINISHED" } else { "KILLED" };
        let ended = json!({ "run_id": self.run.run_id, "status": status, "end_time": milliseconds() });
        let left = match self.server.ask("runs/update", ended) {
            Ok(_) if self.waiting.is_empty() => return,
            Ok(_) => format!("{} numbers did not get there", self.waiting.len()),
            Err(error) => format!("{error:#}; the run's end and {} numbers did not get there", self.waiting.len()),
        };
        note(format!("track.mlflow: {left}; metrics.jsonl has them"));
    }
}

/// Makes the run there, with its settings as parameters.
fn begin(server: &Server, folder: &Path, config: &RunConfig) -> Result<String> {
    let experiment = server.experiment()?;
    let tags = json!([{ "key": "mlflow.source.name", "value": "bonfire" }, { "key": "bonfire.version", "value": env!("CARGO_PKG_VERSION") }]);
    let asked = json!({ "experiment_id": experiment, "run_name": run_name(folder, config), "start_time": milliseconds(), "tags": tags });
    let made = server.ask("runs/create", asked)?;
    let run = made["run"]["info"]["run_id"].as_str().ok_or_else(|| server.strange("runs/create"))?.to_owned();
    let params: Vec<Value> = values_of(config)
        .into_iter()
        .map(|(key, value)| json!({ "key": key, "value": value.chars().take(LONGEST).collect::<String>() }))
        .collect();
    for some in params.chunks(PARAMS_AT_ONCE) {
        server.ask("runs/log-batch", json!({ "run_id": run, "params": some }))?;
    }
    Ok(run)
}

/// A tracking server.
#[derive(Debug)]
struct Server {
    agent: Agent,
    /// Without a stroke at the end.
    address: String,
    /// The header that says who asks.
    authorization: Option<String>,
}

impl Server {
    fn at(address: &str) -> Server {
        Server { agent: agent(), address: address.trim_end_matches('/').to_owned(), authorization: authorization() }
    }

    /// The experiment's number; it is made where there is none.
    fn experiment(&self) -> Result<String> {
        let name = variable("MLFLOW_EXPERIMENT_NAME").unwrap_or_else(|| EXPERIMENT.to_owned());
        let found = self.ask(
            "experiments/search",
            json!({ "filter": format!("name = '{}'", name.replace('\'', "\\'")), "max_results": 1 }),
        )?;
        if let Some(number) = found["experiments"][0]["experiment_id"].as_str() {
            return Ok(number.to_owned());
        }
        let made = self.ask("experiments/create", json!({ "name": name }))?;
        made["experiment_id"].as_str().map(str::to_owned).ok_or_else(|| self.strange("experiments/create"))
    }

    /// Posts `body` to an endpoint.
    fn ask(&self, endpoint: &str, body: Value) -> Result<Value> {
        let mut request = self.agent.post(format!("{}/api/2.0/mlflow/{endpoint}", self.address));
        request = request.header("Content-Type", "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        let mut response = request.send(body.to_string()).map_err(|error| anyhow!("{}: {error}", self.address))?;
        let status = response.status();
        let text = response.body_mut().read_to_string().with_context(|| self.address.clone())?;
        let answer: Option<Value> = serde_json::from_str(&text).ok();
        if !status.is_success() {
            let why = answer.as_ref().and_then(|answer| answer["message"].as_str()).unwrap_or("and does not say why");
            return Err(anyhow!("{} answers {} to {endpoint}: {why}", self.address, status.as_u16()));
        }
        answer.ok_or_else(|| self.strange(endpoint))
    }

    fn strange(&self, endpoint: &str) -> anyhow::Error {
        anyhow!("{} answers to {endpoint} what no MLflow does", self.address)
    }
}

/// What MLflow's own client takes from the environment: MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and _PASSWORD.
fn authorization() -> Option<String> {
    if let Some(token) = variable("MLFLOW_TRACKING_TOKEN") {
        return Some(format!("Bearer {token}"));
    }
    let name = variable("MLFLOW_TRACKING_USERNAME")?;
    let password = variable("MLFLOW_TRACKING_PASSWORD").unwrap_or_default();
    Some(format!("Basic {}", BASE64_STANDARD.encode(format!("{name}:{password}"))))
}

fn milliseconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests;
