//! `bonfire cost`: what a federation would send, before anything is trained. Shapes are enough: no weights, no texts.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Result;
use bonfire_experiment::compare::{Asked, Cell, Grid, Rank, Variant, Variants, our_forms};
use bonfire_experiment::config::{RunConfig, TaskKind};
use bonfire_experiment::format::table::{aligned, row};
use bonfire_experiment::format::{bytes, seconds, short};
use bonfire_experiment::log::note;
use bonfire_experiment::{UserError, job};
use bonfire_federation::{Choice, Forecast, StrategySettings, forecast};
use bonfire_models::{ModelInfo, Task};
use clap::Args;
use serde::Serialize;

use crate::common::Common;
use crate::console::{put, say};
use crate::progress::Waiting;

/// Options of `cost`.
#[derive(Debug, Args)]
pub struct CostArgs {
    /// Configuration file; without it the built-in quickstart. Of the model config.json alone is read
    pub config: Option<PathBuf>,
    /// NAME or NAME:key=value[:key=value…], with commas, as for compare
    #[arg(long, value_name = "LIST", default_value = "full,fedit,ffa-lora,rolora,lora-a2,flexlora,flora")]
    pub strategies: Variants,
    /// clients.budget of lora-a2, fslora and fed-plora, adapter.rank of the others [default: as configured]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub ranks: Vec<usize>,
    /// Labels of the head, where it is sent and no data is at hand
    #[arg(long, value_name = "N")]
    pub labels: Option<usize>,
    /// A client's uplink in Mbit/s
    #[arg(long, value_name = "MBIT", default_value_t = 20.0, value_parser = speed)]
    pub up: f64,
    /// A client's downlink in Mbit/s
    #[arg(long, value_name = "MBIT", default_value_t = 100.0, value_parser = speed)]
    pub down: f64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

fn speed(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(v) if v > 0.0 && f64::is_finite(v) => Ok(v),
        _ => Err("expected a positive number of Mbit/s".into()),
    }
}

/// One row of the answer.
#[derive(Serialize)]
struct Cost {
    strategy: String,
    rank: Rank,
    /// What is sent, or the least of it where clients choose.
    low: Forecast,
    /// The most of it.
    high: Forecast,
    /// Whether shapes tell this about and not exactly: which slots are left depends on what clients learn.
    about: bool,
    /// Seconds of the slowest client in a round, at the link speeds given: low and high.
    seconds_a_round: [f64; 2],
    /// Whether the server needs no more than a sum of uploads, and why not.
    secure_aggregation: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    against_secure_aggregation: Option<&'static str>,
}

/// A strategy that the configuration does not fit.
#[derive(Serialize)]
struct Refused {
    strategy: String,
    /// Why.
    refused: String,
}

/// What JSON has a list of.
#[derive(Serialize)]
#[serde(untagged)]
enum Answer<'c> {
    Cost(&'c Cost),
    Refused(&'c Refused),
}

/// Runs the command. A strategy that the configuration does not fit is said beside the others.
///
/// # Errors
/// A configuration that fits no strategy, or a model's `config.json` that cannot be used; a trained head without a number of
/// labels.
pub fn run(args: &CostArgs, common: &Common) -> Result<()> {
    let asked =
        |variants: &[Variant]| Asked { variants: variants.to_vec(), seeds: &[], ranks: &args.ranks, alphas: &[] };
    asked(&args.strategies.0).check()?;
    let (mut opened, mut refused) = (Vec::new(), Vec::new());
    for variant in &args.strategies.0 {
        match open(args, common, &asked(std::slice::from_ref(variant))) {
            Ok(one) => opened.push(one),
            Err(error) if StrategySettings::with_defaults(&variant.strategy).is_some() => {
                refused.push((variant, error))
            }
            Err(error) => return Err(error),
        }
    }
    if opened.is_empty() {
        return Err(refused.remove(0).1);
    }
    let base = &opened[0].0.base;
    let notices: BTreeSet<&String> = opened.iter().flat_map(|(grid, _)| &grid.notices).collect();
    notices.into_iter().for_each(note);
    let (model, task) = (job::info(base, &mut Waiting::default())?, task(args, &opened)?);
    let mut costs = Vec::new();
    for (grid, _) in &opened {
        for (i, cell) in grid.cells.iter().enumerate() {
            let cost = cost(args, cell, grid.variants[cell.variant].label(), &model, task);
            costs.push((i, cost.map_err(|error| grid.explain(i, error))?));
        }
    }
    // Rank by rank.
    costs.sort_by_key(|(rank, _)| *rank);
    let costs: Vec<Cost> = costs.into_iter().map(|(_, cost)| cost).collect();
    let refused: Vec<Refused> = refused.iter().map(|(variant, error)| Refused::of(variant, error)).collect();
    if args.json {
        let answers = costs.iter().map(Answer::Cost).chain(refused.iter().map(Answer::Refused));
        put(serde_json::to_string_pretty(&answers.collect::<Vec<_>>())?);
        return Ok(());
    }
    print(args, &base.config, &costs);
    refused
        .iter()
        .for_each(|Refused { strategy, refused }| say(format!("Not with this configuration: {strategy}: {refused}.")));
    let shown: Vec<Variant> = opened.iter().flat_map(|(grid, _)| grid.variants.clone()).collect();
    our_forms(&shown).into_iter().for_each(say);
    Ok(())
}

/// The cells of what is asked, and whether the data is at hand.
fn open(args: &CostArgs, common: &Common, asked: &Asked) -> Result<(Grid, bool)> {
    let of = |sets: &[String]| Grid::new(args.config.as_deref(), sets, common.device.as_ref(), asked);
    // A configuration whose data is still to be named is as good as any: texts are not read.
    let without_data = [common.sets.clone(), vec!["data.path=builtin".to_string()]].concat();
    match of(&common.sets) {
        Ok(grid) => Ok((grid, true)),
        Err(_) => Ok((of(&without_data)?, false)),
    }
}

impl Refused {
    fn of(variant: &Variant, error: &anyhow::Error) -> Refused {
        let text = error.to_string();
        let own = format!("in the variant `{}`: ", variant.text);
        Refused { strategy: variant.label(), refused: text.strip_prefix(&own).unwrap_or(&text).to_string() }
    }
}

/// What the model learns; how many labels there are is asked for only where the head is sent.
fn task(args: &CostArgs, opened: &[(Grid, bool)]) -> Result<Task> {
    let base = &opened[0].0.base;
    let config = &base.config;
    if config.model.task != TaskKind::Classification {
        return Ok(job::task(config, 0));
    }
    let mut cells = opened.iter().flat_map(|(grid, _)| &grid.cells);
    let sent = cells.any(|cell| cell.loaded.config.settings().trains_head());
    let has_data = opened.iter().all(|(_, has_data)| *has_data);
    let labels = match (args.labels.or(config.data.labels), sent) {
        (Some(labels), _) => Ok(labels),
        (None, false) => Ok(2),
        (None, true) if has_data => Ok(job::dataset(base, &mut Waiting::default())?.labels.len()),
        (None, true) => Err(UserError::new("the head is sent too, and its size goes by the number of labels")
            .help("pass --labels N, or --set data.path=DIR to count them")
            .into()),
    };
    labels.map(Task::Classify)
}

fn cost(args: &CostArgs, cell: &Cell, strategy: String, model: &ModelInfo, task: Task) -> Result<Cost> {
    let settings = cell.loaded.config.settings();
    let of = |choice| forecast(&settings, model, task, choice);
    let low = of(Choice::Narrowest)?;
    let chooses = matches!(settings.strategy, StrategySettings::LoraA2 { .. });
    let high = if chooses { of(Choice::Widest)? } else { low };
    let seconds = [low, high].map(|f| f.transfer_seconds(args.up, args.down));
    let coded =
        settings.wire.codes_uploads().then_some("short messages have scales or places of their own and do not add up");
    let against = settings.strategy.traits().against_secure_aggregation.or(coded);
    let (rank, secure_aggregation) = (cell.rank.clone(), against.is_none());
    let about = settings.strategy.traits().depends_on_data && low == high;
    Ok(Cost {
        strategy,
        rank,
        about,
        low,
        high,
        seconds_a_round: seconds,
        secure_aggregation,
        against_secure_aggregation: against,
    })
}

/// A count of scalars as the paper writes it: `1.991B`, `83.4M`.
fn scalars(count: u64) -> String {
    match count as f64 {
        n if n >= 1e9 => format!("{:.3}B", n / 1e9),
        n if n >= 1e6 => format!("{:.1}M", n / 1e6),
        n => short(n),
    }
}

fn print(args: &CostArgs, config: &RunConfig, costs: &[Cost]) {
    let (clients, rounds) = (config.clients.count, config.train.rounds);
    let cohort = config.clients.per_round.unwrap_or(clients);
    say(format!(
        "{rounds} rounds of {cohort} of {clients} clients; a client's link: {} Mbit/s up, {} Mbit/s down\n",
        args.up, args.down
    ));
    let mut rows =
        vec![row(["strategy", "rank", "sent", "bytes up", "bytes down", "largest upload", "a round", "secure sum"])];
    for cost in costs {
        let span = |low: String, high: String| {
            if low != high {
                format!("{low} to {high}")
            } else if cost.about {
                format!("about {low}")
            } else {
                low
            }
        };
        let range = |of: &dyn Fn(&Forecast) -> String| span(of(&cost.low), of(&cost.high));
        let [fast, slow] = cost.seconds_a_round.map(seconds);
        rows.push(row([
            &cost.strategy,
            &cost.rank.to_string(),
            &range(&|f| scalars(f.upload_params)),
            &range(&|f| bytes(f.upload_bytes)),
            &range(&|f| bytes(f.download_bytes)),
            &range(&|f| bytes(f.largest_upload)),
            &span(fast, slow),
            if cost.secure_aggregation { "yes" } else { "no" },
        ]));
    }
    say(aligned(&rows));
    say(
        "sent: uploaded scalars of the whole run, indices not counted; bytes: of the messages themselves. A range: between the\n\
         shortest and the longest vectors that clients could choose. A round: what the slowest client sends and receives.",
    );
    if config.wire.top_k.is_some() || config.wire.deflate {
        say("Uploads are at most so long: which numbers are sent, and how well they pack, shows when it runs.");
    }
}
