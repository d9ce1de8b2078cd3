//! A run on a Trackio server, through its HTTP API (version 1) while the run goes. What the server does not take is kept and sent with
//! the next round; training never waits for it longer than [`super::PATIENCE`] a request, and `metrics.jsonl` has everything.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use bonfire_federation::RoundMetrics;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use ureq::Agent;

use super::scalars::finite;
use super::{agent, new_id, run_name, variable};
use crate::config::{RunConfig, values_of};
use crate::log::note;
use crate::run_folder::{TRACKIO, replace};
use crate::user_error::UserError;

/// Rounds that are sent at once.
const AT_ONCE: usize = 100;
/// The project, unless TRACKIO_PROJECT says otherwise.
const PROJECT: &str = "bonfire";
/// The variable with the token that lets its bearer write.
const TOKEN: &str = "TRACKIO_WRITE_TOKEN";

/// A run there.
#[derive(Debug)]
pub struct Trackio {
    agent: Agent,
    token: Option<String>,
    name: String,
    /// The settings, which go with the first round that is sent.
    config: Value,
    run: Kept,
    /// Where that is kept.
    path: PathBuf,
    /// Rounds that the server has not taken yet.
    waiting: Vec<Value>,
    /// Whether the user was told that the server is away.
    told: bool,
}

/// What the run folder keeps, so that a run that goes on is the same one there.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    address: String,
    project: String,
    run_id: String,
    /// The last round that the server has.
    sent: Option<usize>,
}

impl Trackio {
    /// Begins a run at the server `address` for the run in `folder`; one that goes on after its round `last` is the same there.
    ///
    /// # Errors
    /// Nobody answers, or what answers does not let us write.
    pub fn open(folder: &Path, config: &RunConfig, address: &str, last: Option<usize>) -> Result<Trackio> {
        let (path, address) = (folder.join(TRACKIO), address.trim_end_matches('/').to_owned());
        let kept = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Kept>(&bytes).ok());
        let project = variable("TRACKIO_PROJECT").unwrap_or_else(|| PROJECT.to_owned());
        let same = |kept: &Kept| last.is_some() && kept.address == address && kept.project == project;
        let run = match kept.filter(same) {
            // Rounds that are trained again are sent again.
            Some(kept) => Kept { sent: kept.sent.min(last), ..kept },
            None => Kept { address, project, run_id: new_id(), sent: None },
        };
        let settings: Map<String, Value> =
            values_of(config).into_iter().map(|(key, value)| (key, value.into())).collect();
        let mut trackio = Trackio {
            agent: agent(),
            token: variable(TOKEN),
            name: run_name(folder, config),
            config: settings.into(),
            run,
            path,
            waiting: Vec::new(),
            told: false,
        };
        trackio.log(0).map_err(|error| {
            let wrong = UserError::new(format!("`track.trackio`: {error:#}"));
            wrong.help(format!("start one with `trackio show`, give its address, and in {TOKEN} the token it shows; or leave it out: --set track.trackio=none"))
        })?;
        trackio.keep()?;
        Ok(trackio)
    }

    /// Adds a round, unless the server has it.
    pub fn round(&mut self, metrics: &RoundMetrics, scalars: &[Option<f64>]) {
        if self.run.sent.is_some_and(|sent| metrics.round <= sent) {
            return;
        }
        let found = finite(scalars);
        let found: Map<String, Value> = found.map(|(tag, value)| (tag.to_owned(), value.into())).collect();
        let Trackio { name, run, .. } = self;
        let round = json!({ "project": run.project, "run": name, "run_id": run.run_id, "step": metrics.round, "metrics": found });
        self.waiting.push(round);
    }

    /// Sends what waits. Where the server is away it says so once, and keeps it.
    pub fn send(&mut self) {
        while !self.waiting.is_empty() {
            let count = self.waiting.len().min(AT_ONCE);
            if let Err(error) = self.log(count) {
                if !std::mem::replace(&mut self.told, true) {
                    note(format!(
                        "track.trackio: {error:#}; training goes on, and what is missing there is sent when it answers"
                    ));
                }
                return;
            }
            let last = self.waiting.drain(..count).next_back();
            self.run.sent = last.and_then(|round| round["step"].as_u64()).map(|step| step as usize);
            // Only which rounds are sent again after a stop depends on it.
            let _ = self.keep();
        }
        self.told = false;
    }

    /// Sends the last of it. Trackio knows no end of a run.
    pub fn finish(&mut self) {
        self.send();
        if !self.waiting.is_empty() {
            note(format!("track.trackio: {} rounds did not get there; metrics.jsonl has them", self.waiting.len()));
        }
    }

    fn keep(&self) -> Result<()> {
        replace(&self.path, &serde_json::to_vec(&self.run)?)
    }

    /// Posts the first `count` rounds that wait; of none the server says whether it would take some.
    fn log(&mut self, count: usize) -> Result<()> {
        let mut logs = self.waiting[..count].to_vec();
        if let Some(first) = logs.first_mut().filter(|_| self.run.sent.is_none()) {
            first["config"] = self.config.clone();
        }
        let address = &self.run.address;
        let mut request = self.agent.post(format!("{address}/api/bulk_log")).header("Content-Type", "application/json");
        if let Some(token) = &self.token {
            request = request.header("X-Trackio-Write-Token", token);
        }
        let body = json!({ "args": [], "kwargs": { "logs": logs, "hf_token": null } });
        let mut response = request.send(body.to_string()).map_err(|error| anyhow!("{address}: {error}"))?;
        let status = response.status();
        let text = response.body_mut().read_to_string().with_context(|| address.clone())?;
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        match answer["error"].as_str() {
            Some(why) => Err(anyhow!("{address} answers {}: {why}", status.as_u16())),
            None if status.is_success() && answer.get("data").is_some() => Ok(()),
            None => Err(anyhow!("{address} answers {} what no Trackio does", status.as_u16())),
        }
    }
}

#[cfg(test)]
mod tests;
