//! Trackers: a run's numbers in the forms that other tools read. A file is written anew from the rounds that are there
//! when a run begins or goes on, and grows by a round at a time.

mod events;
#[cfg(test)]
mod fake_server;
mod mlflow;
mod moments;
mod scalars;
mod tensorboard;
mod trackio;
mod wandb;

use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use bonfire_federation::{ClientMetrics, RoundMetrics};

use ureq::Agent;

use crate::config::RunConfig;
use crate::run_folder::{CSV, own, replace};
use mlflow::Mlflow;
use scalars::Totals;
use tensorboard::TensorBoard;
use trackio::Trackio;
use wandb::Wandb;

/// What follows a run.
#[derive(Debug)]
pub struct Trackers {
    totals: Totals,
    csv: Option<Csv>,
    tensorboard: Option<TensorBoard>,
    wandb: Option<Wandb>,
    mlflow: Option<Mlflow>,
    trackio: Option<Trackio>,
}

impl Trackers {
    /// Starts what `config` asks for in the folder `run`, which holds the rounds `past` already: files of before are
    /// replaced by files of these rounds.
    ///
    /// # Errors
    /// The system refuses a write; a server that is to follow the run does not answer.
    pub fn open(run: &Path, config: &RunConfig, past: &[RoundMetrics]) -> Result<Trackers> {
        let settings = &config.track;
        let last = past.last().map(|metrics| metrics.round);
        // What begins nothing at its server comes first.
        let trackio =
            settings.trackio.as_deref().map(|address| Trackio::open(run, config, address, last)).transpose()?;
        let mlflow = settings.mlflow.as_deref().map(|address| Mlflow::open(run, config, address, last)).transpose()?;
        let mut trackers = Trackers {
            totals: Totals::default(),
            csv: settings.csv.then(|| Csv::create(run)).transpose()?,
            tensorboard: settings.tensorboard.then(|| TensorBoard::create(run, past)).transpose()?,
            wandb: settings.wandb.then(|| Wandb::create(run, config, past)).transpose()?,
            mlflow,
            trackio,
        };
        past.iter().try_for_each(|metrics| trackers.add(metrics, &[]))?;
        Ok(trackers)
    }

    /// Adds a round; readers see it when this returns.
    ///
    /// # Errors
    /// The system refuses a write.
    pub fn round(&mut self, metrics: &RoundMetrics, clients: &[ClientMetrics]) -> Result<()> {
        self.add(metrics, clients)?;
        self.mlflow.iter_mut().for_each(Mlflow::send);
        self.trackio.iter_mut().for_each(Trackio::send);
        Ok(())
    }

    /// The run ends: `whole`, or to be gone on with.
    pub fn finish(&mut self, whole: bool) {
        self.wandb.iter_mut().for_each(|wandb| wandb.finish(whole));
        self.mlflow.iter_mut().for_each(|mlflow| mlflow.finish(whole));
        self.trackio.iter_mut().for_each(Trackio::finish);
    }

    fn add(&mut self, metrics: &RoundMetrics, clients: &[ClientMetrics]) -> Result<()> {
        self.totals.add(metrics);
        let scalars = self.totals.scalars(metrics);
        if let Some(csv) = &mut self.csv {
            csv.row(metrics, &scalars)?;
        }
        if let Some(tensorboard) = &mut self.tensorboard {
            tensorboard.round(metrics, &scalars, clients)?;
        }
        if let Some(wandb) = &mut self.wandb {
            wandb.round(metrics, &scalars)?;
        }
        if let Some(mlflow) = &mut self.mlflow {
            mlflow.round(metrics, &scalars);
        }
        if let Some(trackio) = &mut self.trackio {
            trackio.round(metrics, &scalars);
        }
        Ok(())
    }
}

/// What a tracker calls the run: as its folder.
fn run_name(run: &Path, config: &RunConfig) -> String {
    run.file_name().map_or_else(|| config.name().to_owned(), |name| name.to_string_lossy().into_owned())
}

/// How long a server may take for one request.
const PATIENCE: Duration = Duration::from_secs(5);

/// What asks servers.
fn agent() -> Agent {
    let config = Agent::config_builder()
        .user_agent(concat!("bonfire/", env!("CARGO_PKG_VERSION")))
        .http_status_as_error(false)
        .timeout_global(Some(PATIENCE));
    config.build().new_agent()
}

/// A variable of the environment that says something.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

/// Eight letters and digits, drawn anew for every run: seeds are the same in many.
fn new_id() -> String {
    let mut left = RandomState::new().build_hasher().finish();
    let mut letter = || {
        let digit = (left % 36) as u32;
        left /= 36;
        char::from_digit(digit, 36).expect("below 36")
    };
    (0..8).map(|_| letter()).collect()
}

/// `metrics.csv`: a row a round, a column a number, empty where a round has none.
#[derive(Debug)]
struct Csv {
    path: PathBuf,
    file: File,
}

impl Csv {
    fn create(run: &Path) -> Result<Csv> {
        let path = run.join(CSV);
        let heads = ["round", "phase"].into_iter().chain(scalars::COLUMNS.iter().map(|column| column.name));
        replace(&path, &line(heads.map(String::from))?)?;
        let file = own::write(&path, OpenOptions::new().append(true));
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Csv { path, file })
    }

    fn row(&mut self, metrics: &RoundMetrics, scalars: &[Option<f64>]) -> Result<()> {
        let numbers = scalars.iter().map(|scalar| scalar.map(|value| value.to_string()).unwrap_or_default());
        let row = line([metrics.round.to_string(), metrics.phase.clone()].into_iter().chain(numbers))?;
        let written = self.file.write_all(&row).and_then(|()| self.file.flush());
        written.with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// One line of CSV.
fn line(cells: impl Iterator<Item = String>) -> Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(cells)?;
    Ok(writer.into_inner().map_err(|error| error.into_error())?)
}

#[cfg(test)]
mod tests;
