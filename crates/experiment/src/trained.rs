//! What a run trained, read back from its folder.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bonfire_models::{Adapter, Model, Transformer, peft};

use crate::config::{self, CheckedConfig, Source};
use crate::job;
use crate::log::note;
use crate::partition_file::PartitionFile;
use crate::run_folder::{ADAPTER, BEST_ADAPTER, BEST_MODEL, CONFIG, LABELS, METRICS, MODEL, read};
use crate::user_error::UserError;
use crate::watch::Watch;

/// The configuration of the run in the folder `run`, with the model that it left behind; `sets` are `--set` texts.
///
/// # Errors
/// `run` is not a run folder, or its configuration cannot be used any more.
pub fn load(run: &Path, which: Which, sets: &[String]) -> Result<CheckedConfig> {
    let mut loaded = config::load_of_run(&config_of(run)?, sets)?;
    let [adapter, model] = which.folders();
    let whole = loaded.config.strategy.traits().trains_weights;
    if which == Which::Best && !run.join(if whole { model } else { adapter }).is_dir() {
        let what = format!("{} has no best round", run.display());
        return Err(UserError::new(what).help("a run keeps one with `--set evaluate.best=accuracy`").into());
    }
    if whole {
        // Every weight was trained: the run holds a model of its own.
        loaded.config.model.path = Source::Folder(run.join(model));
    }
    Ok(loaded)
}

/// Which of a run's models is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Which {
    /// That of the last round.
    #[default]
    Last,
    /// That of the best round, by `evaluate.best`.
    Best,
}

impl Which {
    /// The folder of a run's adapter, and that of its model where every weight trained.
    pub fn folders(self) -> [&'static str; 2] {
        match self {
            Which::Last => [ADAPTER, MODEL],
            Which::Best => [BEST_ADAPTER, BEST_MODEL],
        }
    }
}

/// What a run trained, to go on its `model`.
///
/// # Errors
/// An adapter that is damaged or belongs to another model.
pub fn adapter(run: &Path, which: Which, loaded: &CheckedConfig, model: &Transformer) -> Result<Adapter> {
    if loaded.config.strategy.traits().trains_weights {
        Ok(Adapter::of_weights(Vec::new(), model.head().to_vec()))
    } else {
        if !loaded.config.strategy.traits().has_global_model {
            note(format!(
                "{} has no global model: this is what all clients begin with. `bonfire export RUN --client N` writes a client's own",
                loaded.config.strategy.name()
            ));
        }
        peft::read(&run.join(which.folders()[0]), model.info(), model.task()).context("cannot read the adapter")
    }
}

/// The names of the labels that a run's model tells apart: as the run wrote them down, else as its data have them.
///
/// # Errors
/// The run is of a version that wrote none, and its data are not there any more.
pub fn labels(run: &Path, loaded: &CheckedConfig, watch: &mut dyn Watch) -> Result<Vec<String>> {
    if let Some(partition) = PartitionFile::read(run)? {
        return Ok(partition.labels);
    }
    // A federation across machines sees no partition.
    let path = run.join(LABELS);
    match read::optional(&path)? {
        Some(text) => serde_json::from_str(&text).with_context(|| format!("{} is no list of names", path.display())),
        None => Ok(job::measured(loaded, watch).context("the labels' names are in the run's data")?.labels),
    }
}

/// The configuration in a run folder.
///
/// # Errors
/// `run` is not a run folder, or holds what no run makes.
pub fn config_of(run: &Path) -> Result<PathBuf> {
    let shown = run.display();
    if run.is_file() {
        let error = UserError::new(format!("{shown} is a file; what is wanted is the folder of a run"));
        return Err(error.help("name a folder that `bonfire train` wrote, such as runs/NAME").into());
    }
    read::check(run)?;
    let config = run.join(CONFIG);
    if config.is_file() {
        return Ok(config);
    }
    let what = if run.is_dir() {
        format!("{shown} is not a run folder: it has no {CONFIG}")
    } else {
        format!("{shown} is not a run folder: there is nothing of that name")
    };
    let around = run.parent().filter(|parent| parent.join(CONFIG).is_file() && parent.join(METRICS).is_file());
    Err(UserError::new(what)
        .help(match around {
            _ if run.join("runs").is_dir() && run.join("compare.json").is_file() => {
                format!("it is a comparison's; its runs are {shown}/runs/*")
            }
            Some(parent) => format!("did you mean the run that it belongs to, {}?", parent.display()),
            None => "name a folder that `bonfire train` wrote, such as runs/NAME".to_string(),
        })
        .into())
}
