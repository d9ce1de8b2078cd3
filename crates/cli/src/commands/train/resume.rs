//! `bonfire train --resume`: goes on with a run after its last checkpoint, as if it had never stopped.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bonfire_experiment::checkpoints::{self, Save};
use bonfire_experiment::config::bring_up_to_date;
use bonfire_experiment::config::{self, CheckedConfig, Difference, differences};
use bonfire_experiment::log::note;
use bonfire_experiment::recorder::Recorder;
use bonfire_experiment::run_folder::{CONFIG, Lengths, Lock, RunFolder, read};
use bonfire_experiment::{RunLog, UserError};
use toml::Table;

use super::{TrainArgs, follow, load, prepare};
use crate::common::Common;
use crate::console::say;

/// Goes on with the run in `folder`.
///
/// # Errors
/// As training; no run or no usable checkpoint there, or what no run makes; a configuration that is not the run's own and was not accepted; data or
/// a model that the checkpoint does not belong to.
pub fn run(folder: &Path, args: &TrainArgs, common: &Common, log: &RunLog) -> Result<()> {
    if folder.is_file() {
        return Err(no_run(folder).into());
    }
    read::check(folder)?;
    let own = folder.join(CONFIG);
    if !own.is_file() {
        return Err(no_run(folder).into());
    }
    let lock = Lock::take(folder)?;
    let (save, broken) = match args.round {
        Some(round) => (Some(checkpoints::of_round(folder, round)?), Vec::new()),
        None => checkpoints::newest(folder)?,
    };
    broken.iter().for_each(|line| note(format!("{line}; going on from the one before")));
    let mut loaded = match &args.config {
        Some(file) => load(Some(file), common)?,
        None => common.applied_to(config::load_of_run(&own, &common.sets)?),
    };
    if let Some(save) = &save {
        keep_name(&mut loaded, save)?;
        compare(&loaded, save, args.accept_changes)?;
    }
    let mut ready = prepare(&loaded, folder, args, common.quiet)?;
    let files = RunFolder::with(folder, lock)?;
    log.open(folder)?;
    let keys = Arc::clone(&ready.prepared.interrupt);
    let recorder = match save {
        None => {
            // Nothing was lost: a run that was cut before its first checkpoint has no round.
            if files.rounds()?.iter().any(|row| row.round > 0) {
                bail!("{} holds rounds but no checkpoint, so it cannot be gone on with; start anew", folder.display());
            }
            files.cut(Lengths { metrics: 0, clients: 0 })?;
            say_where(0, &loaded, common.quiet);
            let prepared = &ready.prepared;
            Recorder::new(files, &prepared.recorded(&loaded.config), &prepared.run, keys)?
        }
        Some(Save { path, checkpoint, notes }) => {
            let place = || format!("cannot go on from {}", path.display());
            ready.prepared.run.resume(checkpoint).with_context(place)?;
            say_where(ready.prepared.run.server().round, &loaded, common.quiet);
            if let Some(round) = args.round {
                checkpoints::forget_after(folder, round)?;
            }
            let prepared = &ready.prepared;
            Recorder::resumed(files, &prepared.recorded(&loaded.config), &prepared.run, notes, keys)
                .with_context(place)?
        }
    };
    ready.prepared.partition.write(folder)?;
    follow(args, &loaded, ready, recorder, common.quiet)
}

fn no_run(folder: &Path) -> UserError {
    let what = if folder.is_dir() {
        format!("{} holds no run: {CONFIG} is missing", folder.display())
    } else if folder.is_file() {
        format!("{} is a file; --resume takes the folder of a run", folder.display())
    } else {
        format!("there is no run folder {}", folder.display())
    };
    UserError::new(what).help("name a folder that `bonfire train` wrote, or start a run without --resume")
}

/// A configuration that names no run is called after its file; the run keeps its own name.
fn keep_name(loaded: &mut CheckedConfig, save: &Save) -> Result<()> {
    let old: Table = before(save)?;
    loaded.config.name = old.get("name").and_then(toml::Value::as_str).map(str::to_string);
    Ok(())
}

/// The configuration that the checkpoint was written with.
fn before(save: &Save) -> Result<Table> {
    let text = &save.notes.config;
    let mut table: Table =
        text.parse().with_context(|| format!("{} holds a configuration that is no TOML", save.path.display()))?;
    bring_up_to_date(&mut table);
    Ok(table)
}

/// Says what is not as it was, and refuses what would change the numbers unless that was asked for.
fn compare(loaded: &CheckedConfig, save: &Save, accept: bool) -> Result<()> {
    let counts_rounds = loaded.config.settings().counts_rounds();
    let matters = |found: &Difference| found.matters() && (counts_rounds || found.key != "train.rounds");
    let new: Table = loaded.config.to_toml().parse().context("cannot read a configuration that was just written")?;
    let (matter, others): (Vec<Difference>, Vec<Difference>) =
        differences(&before(save)?, &new).into_iter().partition(matters);
    others.iter().for_each(note);
    let version = env!("CARGO_PKG_VERSION");
    if save.notes.version != version {
        note(format!(
            "the run was saved by bonfire {}, this is {version}: the numbers may not be quite those of a run that never stopped",
            save.notes.version
        ));
    }
    if matter.is_empty() {
        return Ok(());
    }
    let list = matter.iter().map(Difference::to_string).collect::<Vec<_>>().join("; ");
    let round = save.checkpoint.round();
    if accept {
        note(format!("from round {} on: {list}", round + 1));
        return Ok(());
    }
    Err(UserError::new(format!(
        "the configuration is not what it was when the run was saved after round {round}: {list}"
    ))
    .help("take the change back, or pass --accept-changes to go on with the new values")
    .into())
}

fn say_where(round: usize, loaded: &CheckedConfig, quiet: bool) {
    let rounds = loaded.config.train.rounds;
    match round {
        _ if quiet => {}
        0 => say("going on from the beginning\n"),
        _ if round >= rounds => say(format!("all {rounds} rounds are done\n")),
        _ => say(format!("going on after round {round} of {rounds}\n")),
    }
}
