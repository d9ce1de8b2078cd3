//! `bonfire train`: runs a federation and leaves a run folder.

mod resume;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use bonfire_data::{Dataset, Shards};
use bonfire_engine::{Split, TokenizedData};
use bonfire_federation::{Publish, RoundMetrics, Run, StrategySettings, Summary};
use bonfire_models::{Model, ModelInfo, Task};

use crate::args::{Common, TrainArgs};
use crate::checkup::Purpose;
use crate::checkup::admit::admit;
use crate::config::{self, Loaded};
use crate::console::{note, percent, say, say_row};
use crate::device;
use crate::interrupt::Interrupt;
use crate::job;
use crate::log;
use crate::memory::Expected;
use crate::partition_file::PartitionFile;
use crate::progress::Progress;
use crate::recorder::Recorder;
use crate::run_folder::{self, RunFolder};
use crate::tui::{self, About};

/// Runs the command.
///
/// # Errors
/// A configuration, data or model that cannot be used, a run that fails, a disk that cannot be written.
pub fn run(args: &TrainArgs, common: &Common) -> Result<()> {
    if args.tui {
        tui::check_terminal()?;
    }
    match &args.resume {
        None => begin(args, common),
        Some(folder) => resume::run(folder, args, common),
    }
}

fn begin(args: &TrainArgs, common: &Common) -> Result<()> {
    let loaded = load(args.config.as_deref(), common)?;
    let place = run_folder::choose(args.out.as_deref(), loaded.config.name())?;
    let ready = prepare(&loaded, &place, common.quiet, Interrupt::install)?;
    let recorder = record(&loaded, &place, &ready)?;
    follow(args, &loaded, ready, recorder, common.quiet)
}

/// Makes the run folder.
fn record(loaded: &Loaded, place: &Path, ready: &Ready) -> Result<Recorder> {
    let folder = RunFolder::create(place, &loaded.config.to_toml())?;
    log::to_file(place)?;
    if loaded.config.settings().publish() == Publish::All {
        ready.holdings.write(place)?;
    }
    let keys = Arc::clone(&ready.interrupt);
    Recorder::new(folder, &loaded.config, &ready.devices, &ready.run, &ready.holdings.labels, keys)
}

/// The command for another front end: nothing is printed, `on_round` is told every round, `interrupt` ends it. Gives the run's
/// folder and its last row.
///
/// # Errors
/// As [`run`].
pub fn quietly_run(
    loaded: &Loaded,
    out: Option<&Path>,
    interrupt: Arc<Interrupt>,
    on_round: Box<dyn FnMut(&RoundMetrics)>,
) -> Result<(PathBuf, Summary)> {
    let place = run_folder::choose(out, loaded.config.name())?;
    let mut ready = prepare(loaded, &place, true, || Ok(interrupt))?;
    let mut recorder = record(loaded, &place, &ready)?;
    let trained = recorder.train(&mut ready.run, &mut Progress::told(recorder.rounds(), on_round));
    log::leave_file();
    trained.and_then(|trained| Ok(trained?)).with_context(|| recorder.what_is_left())?;
    Ok((place, recorder.summary()))
}

/// Reads the configuration, `--set` and `--device` applied.
fn load(file: Option<&Path>, common: &Common) -> Result<Loaded> {
    Ok(with_device(config::load(file, &common.sets)?, common))
}

/// Says what was noticed on reading, and lets `--device` go before the configuration's own.
fn with_device(mut loaded: Loaded, common: &Common) -> Loaded {
    loaded.notices.iter().for_each(note);
    if let Some(devices) = &common.device {
        loaded.config.engine.device = devices.clone();
    }
    loaded
}

/// A federation that can train.
struct Ready {
    run: Run,
    holdings: PartitionFile,
    devices: String,
    interrupt: Arc<Interrupt>,
}

/// Opens the devices, reads data and model, and says what will run in `place`.
fn prepare(
    loaded: &Loaded,
    place: &Path,
    quiet: bool,
    interrupt: impl FnOnce() -> Result<Arc<Interrupt>>,
) -> Result<Ready> {
    let config = &loaded.config;
    let opened = config.engine.device.open()?;
    opened.iter().filter_map(|o| o.notice.as_ref()).for_each(note);
    job::refuse_precision(loaded, &opened)?;
    admit(&opened, || Purpose::of(config), quiet)?;
    let devices = device::names(&opened);
    let interrupt = interrupt()?;
    interrupt.resume_command(command(place));
    let (run, holdings) = interrupt.while_preparing(|| federation(loaded, &opened, &devices, place, quiet))?;
    Ok(Ready { run, holdings, devices, interrupt })
}

/// Reads data and model, and says what will run in `place`.
fn federation(
    loaded: &Loaded,
    opened: &[device::Opened],
    devices: &str,
    place: &Path,
    quiet: bool,
) -> Result<(Run, PartitionFile)> {
    let config = &loaded.config;
    let data = job::dataset_for_model(loaded)?;
    let shards = job::shards(loaded, &data)?;
    job::refuse_empty(&shards)?;
    let holdings = PartitionFile::of(&data, &shards);
    let load = |o: &device::Opened| job::model(loaded, job::task(config, data.labels.len()), &o.device);
    let models = opened.iter().map(load).collect::<Result<Vec<_>>>()?;
    job::note_on_adapter(config)?;
    let info = models[0].info().clone();
    let tokens = job::tokens(loaded, &data, &info)?;
    if !quiet {
        say_row("configuration", config, config.to_toml());
        describe(&config.strategy, &data, &tokens, &shards, &info, devices, place);
    }
    let models = models.into_iter().map(|m| Box::new(m) as Box<dyn Model>).collect();
    let run = Run::new(config.settings(), models, tokens, shards).map_err(|e| job::federation_error(loaded, e))?;
    if !quiet {
        say(format!("memory      {}\n", Expected::of(&run)));
    }
    Ok((run, holdings))
}

/// The command that goes on with the run in `place`.
fn command(place: &Path) -> String {
    format!("bonfire train --resume {}", place.display())
}

/// Trains, writing and reporting each round; then the last lines.
fn follow(args: &TrainArgs, loaded: &Loaded, ready: Ready, mut recorder: Recorder, quiet: bool) -> Result<()> {
    let Ready { mut run, devices, interrupt, .. } = ready;
    let mut progress = if args.tui {
        let about = About::of(&run, &loaded.config, &devices);
        Progress::dashboard(recorder.rounds(), about, run.model().device().clone(), interrupt)?
    } else {
        Progress::new(recorder.rounds(), quiet)
    };
    progress.past(&recorder.past()?);
    let rounds = recorder.rounds();
    let outcome = recorder.train(&mut run, &mut progress);
    progress.finish();
    let go_on = command(recorder.path());
    outcome.and_then(|trained| Ok(trained?)).with_context(|| {
        if recorder.is_there() {
            format!("{}; go on with: {go_on}", recorder.what_is_left())
        } else {
            recorder.what_is_left()
        }
    })?;
    let done = recorder.tally().rounds();
    if done < rounds {
        note(format!("stopped after {done} of {rounds} rounds; go on with: {go_on}"));
    }
    recorder.say_result(quiet);
    Ok(())
}

/// How long the texts of a causal language model are, and what of them is scored.
fn scored_words(split: &Split) -> String {
    let tokens: usize = split.ids.iter().map(Vec::len).sum();
    let scored: usize = split.goals.iter().zip(&split.ids).map(|(goal, ids)| goal.answers(ids.len())).sum();
    let each = tokens as f64 / split.len().max(1) as f64;
    format!("{each:.1} tokens a text, {} of them scored", percent(scored as f64 / tokens.max(1) as f64))
}

/// What will run on what, a line each.
fn describe(
    strategy: &StrategySettings,
    data: &Dataset,
    tokens: &TokenizedData,
    shards: &Shards,
    model: &ModelInfo,
    device: &str,
    place: &Path,
) {
    if strategy.traits().our_form {
        say(format!("strategy    {}, in a federated form of our own: see docs/methods.md", strategy.name()));
    }
    let sizes = || shards.train.iter().map(Vec::len);
    say(format!(
        "data        {}: {} training and {} test texts, {}",
        data.name,
        data.train.len(),
        data.test.len(),
        match tokens.task {
            Task::Classify(labels) => format!("{labels} labels"),
            Task::Causal => scored_words(&tokens.train),
        }
    ));
    say(format!(
        "clients     {} with {} to {} training texts",
        shards.train.len(),
        sizes().min().unwrap_or(0),
        sizes().max().unwrap_or(0)
    ));
    say(format!("model       {}, {} layers of {} features", model.architecture.name(), model.layers, model.hidden));
    say(format!("device      {device}"));
    say(format!("run folder  {}", place.display()));
}
