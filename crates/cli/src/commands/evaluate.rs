//! `bonfire evaluate`: measures a run's adapter, or its whole model, on the test split.

mod predictions;

use std::path::Path;

use anyhow::{Context, Result, bail};
use bonfire_engine::evaluate;
use bonfire_models::{Adapter, Model, peft};
use serde_json::json;

use crate::args::{Common, EvaluateArgs};
use crate::config::{self, Source};
use crate::console::{note, percent, say};
use crate::device;
use crate::job;
use crate::run_folder::{ADAPTER, CONFIG, MODEL};

/// Runs the command.
///
/// # Errors
/// No run folder, or a model, data or adapter that cannot be used any more.
pub fn run(args: &EvaluateArgs, common: &Common) -> Result<()> {
    let mut loaded = config::load(Some(&config_of(&args.run)?), &common.sets)?;
    let full = loaded.config.strategy.is_full();
    if full {
        // Every weight was trained: the run holds a model of its own.
        loaded.config.model.path = Source::Folder(args.run.join(MODEL));
    }
    let device = common.device.as_ref().unwrap_or(&loaded.config.engine.device).first();
    let opened = device::open(device)?;
    opened.notice.iter().for_each(note);
    let data = job::dataset(&loaded)?;
    let task = job::task(&loaded.config, data.labels.len());
    let model = job::model(&loaded, task, &opened.device)?;
    let tokens = job::tokens(&loaded, &data, model.info())?;
    let adapter = match full {
        true => Adapter::of_weights(Vec::new(), model.head().to_vec()),
        false => peft::read(&args.run.join(ADAPTER), model.info(), task).context("cannot read the adapter")?,
    };
    let rows: Vec<usize> = (0..data.test.len()).collect();
    let result = evaluate(&model, &adapter, &tokens.test, &rows)?;
    if let Some(path) = &args.predictions {
        predictions::write(path, &model, &adapter, &tokens.test, &data.labels)?;
    }
    match args.json {
        true => say(json!(result)),
        false => say(format!(
            "test loss {:.4}, accuracy {} on {} texts of {} ({})",
            result.loss,
            percent(result.accuracy),
            result.examples,
            data.name,
            opened.name
        )),
    }
    Ok(())
}

/// The configuration in a run folder.
///
/// # Errors
/// `run` is not a run folder.
pub fn config_of(run: &Path) -> Result<std::path::PathBuf> {
    let config = run.join(CONFIG);
    if !config.is_file() {
        bail!("{} is not a run folder: it has no {CONFIG}", run.display());
    }
    Ok(config)
}
