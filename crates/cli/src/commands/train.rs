//! `bonfire train`: runs a federation and leaves a run folder.

mod find_lr;
mod resume;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use bonfire_engine::Split;
use bonfire_experiment::config::{self, CheckedConfig};
use bonfire_experiment::format::{bytes, percent};
use bonfire_experiment::log::note;
use bonfire_experiment::memory::Expected;
use bonfire_experiment::prepare::{self, Prepared};
use bonfire_experiment::recorder::Recorder;
use bonfire_experiment::{Facts, RunLog, run_folder};
use bonfire_federation::{BudgetUse, MemoryUse, Run};
use bonfire_models::Task;
use clap::Args;

use crate::common::Common;
use crate::console::{is_json, say, say_row};
use crate::interrupt::{CtrlC, end_unfinished};
use crate::progress::{Preparing, Progress, Waiting};
use crate::tui::{self, About};

/// Options of `train`.
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// Configuration file
    pub config: Option<PathBuf>,
    /// Run folder [default: runs/<name>-<time>]
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    pub out: Option<PathBuf>,
    /// Go on with the run in this folder after its last checkpoint; its own configuration holds, unless CONFIG is given
    #[arg(long, value_name = "RUN")]
    pub resume: Option<PathBuf>,
    /// Go on after this round instead of the last one that was saved; what the run has of later rounds goes
    #[arg(long, value_name = "N", requires = "resume")]
    pub round: Option<usize>,
    /// Go on although the configuration is not what it was
    #[arg(long, requires = "resume")]
    pub accept_changes: bool,
    /// Print the whole configuration, all defaults filled in, before the run begins
    #[arg(long, short)]
    pub verbose: bool,
    /// Do not train, but try learning rates: nine of them, two rounds each (or train.rounds by --set), side by side; says which
    /// gives the lowest loss, and draws it
    #[arg(long, conflicts_with_all = ["resume", "tui"])]
    pub find_lr: bool,
    /// Watch the run on a dashboard that fills the terminal; ? there explains its keys
    #[arg(long)]
    pub tui: bool,
}

/// Runs the command.
///
/// # Errors
/// A configuration, data or model that cannot be used, a run that fails, a disk that cannot be written.
pub fn run(args: &TrainArgs, common: &Common, log: &RunLog) -> Result<()> {
    if args.find_lr {
        return find_lr::run(args, common);
    }
    if args.tui {
        tui::check_terminal()?;
    }
    match &args.resume {
        None => begin(args, common, log),
        Some(folder) => resume::run(folder, args, common, log),
    }
}

fn begin(args: &TrainArgs, common: &Common, log: &RunLog) -> Result<()> {
    let loaded = load(args.config.as_deref(), common)?;
    announce(&loaded, common.quiet);
    let place = run_folder::choose(args.out.as_deref(), loaded.config.name())?;
    let ready = prepare(&loaded, &place, args, common.quiet)?;
    let recorder = ready.prepared.record(&loaded.config, &place, log)?;
    follow(args, &loaded, ready, recorder, common.quiet)
}

/// Says what was asked for, before anything that takes time: a GPU's first check, a download, a large model.
fn announce(loaded: &CheckedConfig, quiet: bool) {
    if !quiet {
        let config = &loaded.config;
        let (name, strategy, rounds) = (config.name(), config.strategy.name(), config.train.rounds);
        let rounds = if rounds == 1 { "1 round".to_string() } else { format!("{rounds} rounds") };
        say(format!("federation  {name}: {strategy}, {rounds}; opening the device, reading model and data"));
    }
}

/// Reads the configuration, `--set` and `--device` applied.
fn load(file: Option<&Path>, common: &Common) -> Result<CheckedConfig> {
    Ok(common.applied_to(config::load(file, &common.sets)?))
}

/// A federation that can train, and what ends it.
struct Ready {
    prepared: Prepared,
    ctrl_c: Arc<CtrlC>,
}

/// Opens the devices, reads data and model, and says what will run in `place`.
fn prepare(loaded: &CheckedConfig, place: &Path, args: &TrainArgs, quiet: bool) -> Result<Ready> {
    let mut installed = None;
    let interrupt = || {
        let ctrl_c = CtrlC::install(Some(command(place)))?;
        let interrupt = Arc::clone(&ctrl_c.interrupt);
        installed = Some(ctrl_c);
        Ok(interrupt)
    };
    let tell = |facts: &Facts<'_>| {
        if !quiet {
            if is_json() || args.verbose {
                say_row("configuration", &loaded.config, loaded.config.to_toml());
            }
            describe(loaded, facts, place);
        }
    };
    let prepared = prepare::prepare(loaded, interrupt, &mut Preparing { waiting: Waiting::default(), tell })?;
    if !quiet {
        describe_training(loaded, &prepared.run);
        prepared.run.drowned().iter().for_each(note);
        say(format!("memory      {}\n", Expected::of(&prepared.run)));
    }
    Ok(Ready { prepared, ctrl_c: installed.expect("asked for on the way") })
}

/// The command that goes on with the run in `place`.
fn command(place: &Path) -> String {
    format!("bonfire train --resume {}", place.display())
}

/// Trains, writing and reporting each round; then the last lines.
fn follow(args: &TrainArgs, loaded: &CheckedConfig, ready: Ready, mut recorder: Recorder, quiet: bool) -> Result<()> {
    let Ready { prepared: Prepared { mut run, devices, .. }, ctrl_c } = ready;
    let rounds = recorder.rounds();
    let mut progress = if args.tui {
        let about = About::of(&run, &loaded.config, &devices);
        Progress::dashboard(rounds, about, run.model().device().clone(), ctrl_c)?
    } else {
        Progress::new(rounds, quiet, loaded.config.train.log_every)
    };
    progress.past(&recorder.past()?);
    let trained = run.train(&mut |event| recorder.hear(event, &mut progress));
    let written = recorder.finish(&run);
    progress.finish();
    let go_on = command(recorder.path());
    written.and_then(|()| Ok(trained?)).with_context(|| {
        if recorder.is_there() {
            format!("{}; go on with: {go_on}", recorder.what_is_left())
        } else {
            recorder.what_is_left()
        }
    })?;
    let done = recorder.totals().rounds();
    if !recorder.is_done() {
        note(format!("stopped after {done} of {rounds} rounds; go on with: {go_on}"));
    }
    say_result(&recorder, quiet);
    if recorder.is_done() { Ok(()) } else { end_unfinished() }
}

/// The run's last lines.
fn say_result(recorder: &Recorder, quiet: bool) {
    let (totals, identity) = (recorder.totals(), recorder.identity());
    let upload = totals.upload_line(identity);
    let (path, summary) = (recorder.path().display(), recorder.summary());
    if is_json() {
        return say_row(&format!("the run is in {path}"), &summary, "");
    }
    if quiet {
        let accuracy = summary.final_accuracy.or(summary.personal_accuracy);
        let score = match (summary.final_pearson, accuracy) {
            _ if summary.final_perplexity.is_some() => {
                format!("perplexity {:.3}", summary.final_perplexity.unwrap_or_default())
            }
            _ if summary.final_f1.is_some() => format!("F1 {}", percent(summary.final_f1.unwrap_or_default())),
            (Some(pearson), _) => format!("Pearson {pearson:.3}"),
            (None, Some(accuracy)) => format!("accuracy {}", percent(accuracy)),
            (None, None) => "not evaluated".to_string(),
        };
        let upload = upload.map(|line| format!("; {line}")).unwrap_or_default();
        return say(format!("{}: {score}{upload}; {path}", identity.name));
    }
    say("");
    let memory = summary.memory.map(|memory| memory_line(memory, &identity.device));
    let [accuracy, attack, personalised] = [totals.accuracy_line(), totals.attack_line(), totals.personalised_line()];
    let lines = [accuracy, attack, personalised, totals.best_line(identity), upload, totals.clock_line(), memory];
    lines.into_iter().flatten().for_each(say);
    say(format!("run folder: {path}"));
}

/// What was expected of `device` and what was taken, side by side.
fn memory_line(memory: MemoryUse, device: &str) -> String {
    let whose = if device.starts_with("cpu") { " by the whole process" } else { "" };
    let taken = memory.peak.map(|peak| format!(", at most {} taken{whose}", bytes(peak))).unwrap_or_default();
    format!("memory: about {} estimated{taken}", bytes(memory.estimated))
}

/// How long the texts of a causal language model are, and what of them is scored.
fn scored_words(split: &Split) -> String {
    let tokens: usize = split.ids.iter().map(Vec::len).sum();
    let scored: usize = split.goals.iter().zip(&split.ids).map(|(goal, ids)| goal.answers(ids.len())).sum();
    let each = tokens as f64 / split.len().max(1) as f64;
    format!("{each:.1} tokens a text, {} of them scored", percent(scored as f64 / tokens.max(1) as f64))
}

/// How it will be trained, a line each: what the configuration leaves to the strategy included.
fn describe_training(loaded: &CheckedConfig, run: &Run) {
    let config = &loaded.config;
    let (train, clients, plan) = (&config.train, config.clients.count, run.plan());
    let budget = match config.strategy.traits().budget {
        BudgetUse::None => String::new(),
        _ => format!(", budget {}", plain(&config.clients.budget)),
    };
    let adapter = match config.strategy.traits().trains_weights {
        true => "every weight".to_string(),
        false => format!(
            "rank {}, alpha {} on {}{budget}",
            config.adapter.rank,
            config.adapter.alpha,
            plain(&config.adapter.targets)
        ),
    };
    say(format!("strategy    {}: {adapter}", config.strategy.name()));
    let head = if config.settings().trains_head() { format!(", head {:e}", train.lr_head) } else { String::new() };
    let by_width = if train.lr_a.is_none() { " (by the model's width)" } else { "" };
    let rates = if config.strategy.traits().trains_weights {
        format!("{:e}{by_width}{head}", plan.lr_a)
    } else {
        format!("A {:e}{by_width}, B {:e}{head}", plan.lr_a, plan.lr_b)
    };
    let many = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    say(format!(
        "training    {} of {} of {}, {} in batches of {}; learning rates: {rates}",
        many(train.rounds, "round"),
        config.clients.per_round.unwrap_or(clients),
        many(clients, "client"),
        many(train.epochs, "epoch"),
        train.batch_size,
    ));
}

/// A setting as TOML writes it, without quotes.
fn plain(value: &impl serde::Serialize) -> String {
    toml::Value::try_from(value).map_or(String::new(), |value| value.to_string().replace('"', ""))
}

/// What will run on what, a line each.
fn describe(loaded: &CheckedConfig, facts: &Facts<'_>, place: &Path) {
    let Facts { data, tokens, shards, model, devices } = facts;
    let strategy = &loaded.config.strategy;
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
            Task::MultiLabel(labels) => format!("{labels} labels, of which a text has any number"),
            Task::Tag(tags) => format!("{tags} tags of words"),
            Task::Regress => "a number each".into(),
            Task::Causal => scored_words(&tokens.train),
        }
    ));
    if let Some(template) = &data.prompt_template {
        say(format!("prompts     {}", template.split("\n\nor, ").next().unwrap_or(template).replace('\n', "\\n")));
    }
    say(format!(
        "clients     {} with {} to {} training texts",
        shards.train.len(),
        sizes().min().unwrap_or(0),
        sizes().max().unwrap_or(0)
    ));
    say(format!("model       {}, {} layers of {} features", model.architecture.name(), model.layers, model.hidden));
    say(format!("device      {devices}"));
    say(format!("run folder  {} (config.toml: all settings; shown by -v)", place.display()));
}
