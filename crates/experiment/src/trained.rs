//! What a run trained, read back from its folder.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bonfire_models::{Adapter, Model, Transformer, peft};

use crate::config::{self, CheckedConfig, Source};
use crate::run_folder::{ADAPTER, CONFIG, MODEL, read};

/// The configuration of the run in the folder `run`, with the model that it left behind; `sets` are `--set` texts.
///
/// # Errors
/// `run` is not a run folder, or its configuration cannot be used any more.
pub fn load(run: &Path, sets: &[String]) -> Result<CheckedConfig> {
    let mut loaded = config::load_of_run(&config_of(run)?, sets)?;
    if loaded.config.strategy.traits().trains_weights {
        // Every weight was trained: the run holds a model of its own.
        loaded.config.model.path = Source::Folder(run.join(MODEL));
    }
    Ok(loaded)
}

/// What a run trained, to go on its `model`.
///
/// # Errors
/// An adapter that is damaged or belongs to another model.
pub fn adapter(run: &Path, loaded: &CheckedConfig, model: &Transformer) -> Result<Adapter> {
    if loaded.config.strategy.traits().trains_weights {
        Ok(Adapter::of_weights(Vec::new(), model.head().to_vec()))
    } else {
        peft::read(&run.join(ADAPTER), model.info(), model.task()).context("cannot read the adapter")
    }
}

/// The configuration in a run folder.
///
/// # Errors
/// `run` is not a run folder, or holds what no run makes.
pub fn config_of(run: &Path) -> Result<PathBuf> {
    read::check(run)?;
    let config = run.join(CONFIG);
    if !config.is_file() {
        bail!("{} is not a run folder: it has no {CONFIG}", run.display());
    }
    Ok(config)
}
