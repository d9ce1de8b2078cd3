//! Trackers: a run's numbers in the forms that other tools read. A file is written anew from the rounds that are there
//! when a run begins or goes on, and grows by a round at a time.

mod events;
mod mlflow;
mod moments;
mod scalars;
mod tensorboard;
mod wandb;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bonfire_federation::{ClientMetrics, RoundMetrics};

use crate::config::RunConfig;
use crate::run_folder::{CSV, own, replace};
use mlflow::Mlflow;
use scalars::Totals;
use tensorboard::TensorBoard;
use wandb::Wandb;

/// What follows a run.
#[derive(Debug)]
pub struct Trackers {
    totals: Totals,
    csv: Option<Csv>,
    tensorboard: Option<TensorBoard>,
    wandb: Option<Wandb>,
    mlflow: Option<Mlflow>,
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
        let mlflow = settings.mlflow.as_deref().map(|address| Mlflow::open(run, config, address, last)).transpose()?;
        let mut trackers = Trackers {
            totals: Totals::default(),
            csv: settings.csv.then(|| Csv::create(run)).transpose()?,
            tensorboard: settings.tensorboard.then(|| TensorBoard::create(run, past)).transpose()?,
            wandb: settings.wandb.then(|| Wandb::create(run, config, past)).transpose()?,
            mlflow,
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
        Ok(())
    }

    /// The run ends: `whole`, or to be gone on with.
    pub fn finish(&mut self, whole: bool) {
        self.wandb.iter_mut().for_each(|wandb| wandb.finish(whole));
        self.mlflow.iter_mut().for_each(|mlflow| mlflow.finish(whole));
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
        Ok(())
    }
}

/// What a tracker calls the run: as its folder.
fn run_name(run: &Path, config: &RunConfig) -> String {
    run.file_name().map_or_else(|| config.name().to_owned(), |name| name.to_string_lossy().into_owned())
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
