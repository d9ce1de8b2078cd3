//! A run folder opened for export: its configuration, the shape of its model, its adapters.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bonfire_experiment::config::{self, CheckedConfig, TaskKind};
use bonfire_experiment::run_folder::{ADAPTER, CLIENTS, client_folder};
use bonfire_experiment::trained::{self, config_of};
use bonfire_experiment::{UserError, job};
pub use bonfire_models::Task;
use bonfire_models::{ModelInfo, ModelSource, peft};

use super::args::ExportArgs;
use crate::common::Common;
use crate::progress::Waiting;

/// The file of a GGUF export.
pub const GGUF: &str = "adapter.gguf";

/// What an export needs to know of a run.
pub struct OpenedRun {
    /// The run's folder.
    pub folder: PathBuf,
    /// Its configuration.
    pub loaded: CheckedConfig,
    /// Where its model comes from.
    pub source: ModelSource,
    /// The model's shape.
    pub info: ModelInfo,
}

impl OpenedRun {
    /// Opens the run in `folder`.
    ///
    /// # Errors
    /// No run folder, or a model that cannot be found any more.
    pub fn open(folder: &Path, common: &Common) -> Result<OpenedRun> {
        let loaded = config::load_of_run(&config_of(folder)?, &common.sets)?;
        let source = job::source(&loaded, &mut Waiting::default())?;
        let info = source.info().context("cannot read the model's shape")?;
        Ok(OpenedRun { folder: folder.to_path_buf(), loaded, source, info })
    }

    /// Whether it trained every weight.
    pub fn is_whole(&self) -> bool {
        self.loaded.config.strategy.traits().trains_weights
    }

    /// The adapters asked for, and the folders they go to below the output's.
    ///
    /// # Errors
    /// A client's own adapter that the run does not have.
    pub fn adapters(&self, args: &ExportArgs) -> Result<Vec<(PathBuf, Option<String>)>> {
        if let Some(client) = args.client {
            let folder = client_folder(&self.folder, CLIENTS, client);
            return if folder.is_dir() {
                Ok(vec![(folder, None)])
            } else if self.client_names().is_empty() {
                Err(no_clients(self).into())
            } else {
                Err(no_client(self, client).into())
            };
        }
        if !args.clients {
            return Ok(vec![(self.folder.join(ADAPTER), None)]);
        }
        match self.client_names() {
            names if names.is_empty() => Err(no_clients(self).into()),
            names => Ok(names.into_iter().map(|n| (self.folder.join(CLIENTS).join(&n), Some(n))).collect()),
        }
    }

    /// Folders of clients' own adapters.
    fn client_names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.join(CLIENTS)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
        names.retain(|name| name.parse::<usize>().is_ok());
        names.sort();
        names
    }

    /// What the model does: of a classifier the head in `adapter` says how many classes it tells apart.
    ///
    /// # Errors
    /// Weights that cannot be read, or hold no head.
    pub fn task(&self, adapter: &Path) -> Result<Task> {
        if self.loaded.config.model.task == TaskKind::CausalLm {
            return Ok(Task::Causal);
        }
        let like = job::task(&self.loaded.config, 1);
        let classes = peft::classes(adapter, &self.info, like).context("cannot read the adapter")?;
        let name = self.info.architecture.name();
        let text = || format!("{} holds no classifier's head of a {name} model", adapter.display());
        let classes = classes.with_context(text)?;
        Ok(job::task(&self.loaded.config, classes))
    }

    /// Names of the classes: as the run wrote them down, or of its data where those are still there.
    pub fn labels(&self) -> Option<Vec<String>> {
        trained::labels(&self.folder, &self.loaded, &mut Waiting::default()).ok()
    }
}

/// The run has no clients' own adapters.
pub fn no_clients(run: &OpenedRun) -> UserError {
    let strategy = &run.loaded.config.strategy;
    let mistake = UserError::new(format!("{} holds no clients' own adapters", run.folder.display()));
    if strategy.traits().keeps_private {
        mistake.help("`bonfire train` writes them when a run ends; this one was cut, or not made by `train`")
    } else {
        mistake.help(format!(
            "the clients of {} keep nothing for themselves: leave --client and --clients out",
            strategy.name()
        ))
    }
}

fn no_client(run: &OpenedRun, client: usize) -> UserError {
    let (names, count) = (run.client_names().join(", "), run.loaded.config.clients.count);
    UserError::new(format!("client {client} has no adapter of its own"))
        .help(format!("of {count} clients, those that took part have one: {names}"))
}
