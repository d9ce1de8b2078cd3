//! `bonfire evaluate`: measures a run's adapter, or its whole model, on the test split or another.

mod predictions;

use std::path::Path;

use anyhow::{Context, Result, bail};
use bonfire_engine::{Evaluation, evaluate};
use bonfire_models::{Adapter, Model, Task, Transformer, peft};
use serde_json::json;

use crate::args::{Common, EvaluateArgs, SplitName};
use crate::config::{self, Loaded, Source};
use crate::console::{note, percent, put, say};
use crate::device;
use crate::job;
use crate::run_folder::{ADAPTER, CONFIG, MODEL, read};

/// Runs the command.
///
/// # Errors
/// No run folder, or a model, data or adapter that cannot be used any more.
pub fn run(args: &EvaluateArgs, common: &Common) -> Result<()> {
    let loaded = load(&args.run, common)?;
    let device = common.device.as_ref().unwrap_or(&loaded.config.engine.device).first();
    let opened = device::open(device)?;
    opened.notice.iter().for_each(note);
    let data = job::dataset_for_model(&loaded)?;
    let task = job::task(&loaded.config, data.labels.len());
    let model = job::model(&loaded, task, &opened.device)?;
    let (examples, name) = match args.split {
        SplitName::Train => (&data.train, "train"),
        SplitName::Validation => (&data.validation, "validation"),
        SplitName::Test => (&data.test, "test"),
    };
    if examples.is_empty() {
        bail!("data set {} has no {name} split; bonfire partition shows which there are", data.name);
    }
    let split = job::split_tokens(&loaded, examples, name, model.info())?;
    let adapter = adapter(&args.run, &loaded, &model)?;
    let rows: Vec<usize> = (0..split.len()).collect();
    let result = evaluate(&model, &adapter, &split, &rows)?;
    if let Some(path) = &args.predictions {
        predictions::write(path, &model, &adapter, &split, &data.labels)?;
    }
    if args.json {
        put(json!(result))
    } else {
        say(format!(
            "{name} loss {:.4}, {} on {} texts of {} ({})",
            result.loss,
            in_words(&result, task),
            result.examples,
            data.name,
            opened.name
        ))
    }
    Ok(())
}

fn in_words(result: &Evaluation, task: Task) -> String {
    let accuracy = percent(result.accuracy);
    match task {
        Task::Classify(_) => format!("accuracy {accuracy}"),
        Task::Causal => {
            let (perplexity, exact) = (result.loss.exp(), percent(result.exact_match));
            format!("perplexity {perplexity:.3}, {accuracy} of {} tokens, exact match {exact}", result.answers)
        }
    }
}

/// The configuration of a run, with the model that it left behind.
///
/// # Errors
/// `run` is not a run folder, or its configuration cannot be used any more.
pub fn load(run: &Path, common: &Common) -> Result<Loaded> {
    let mut loaded = config::load_of_run(&config_of(run)?, &common.sets)?;
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
pub fn adapter(run: &Path, loaded: &Loaded, model: &Transformer) -> Result<Adapter> {
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
pub fn config_of(run: &Path) -> Result<std::path::PathBuf> {
    read::check(run)?;
    let config = run.join(CONFIG);
    if !config.is_file() {
        bail!("{} is not a run folder: it has no {CONFIG}", run.display());
    }
    Ok(config)
}
