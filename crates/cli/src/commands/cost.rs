//! `bonfire cost`: what a federation would send and how long it would take, before anything is trained. Shapes are enough for what is
//! sent: no weights, no texts.

pub mod tables;
mod time;

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Result;
use bonfire_experiment::compare::{Asked, Cell, Grid, Rank, Variant, Variants, our_forms};
use bonfire_experiment::config::{self, RunConfig, TaskKind};
use bonfire_experiment::format::short;
use bonfire_experiment::log::note;
use bonfire_experiment::{UserError, job};
use bonfire_federation::{Choice, Forecast, PrivacyForecast, StrategySettings, forecast_of};
use bonfire_models::{ModelInfo, Task};
use clap::Args;
use serde::Serialize;

use self::time::Time;
use crate::common::{Common, positive};
use crate::console::{put, say};
use crate::progress::Waiting;

/// What is counted where nobody names a strategy.
const USUAL: [&str; 7] = ["full", "fedit", "ffa-lora", "rolora", "lora-a2", "flexlora", "flora"];

/// Options of `cost`.
#[derive(Debug, Args)]
pub struct CostArgs {
    /// Configuration file; without it the built-in quickstart. Of the model config.json alone is read
    pub config: Option<PathBuf>,
    /// NAME or NAME:key=value[:key=value…], with commas, as for compare [default:
    /// full,fedit,ffa-lora,rolora,lora-a2,flexlora,flora and the configuration's own]
    #[arg(long, value_name = "LIST")]
    pub strategies: Option<Variants>,
    /// clients.budget of lora-a2, fslora and fed-plora, adapter.rank of the others [default: clients.budget for all, so that all send
    /// alike; where it is not one number, as configured]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub ranks: Vec<usize>,
    /// Labels of the head, where it is sent and no data is at hand
    #[arg(long, value_name = "N")]
    pub labels: Option<usize>,
    /// Every client's uplink in Mbit/s, in place of clients.devices [default: 20]
    #[arg(long, value_name = "MBIT", value_parser = positive)]
    pub up: Option<f64>,
    /// Every client's downlink in Mbit/s, in place of clients.devices [default: 100]
    #[arg(long, value_name = "MBIT", value_parser = positive)]
    pub down: Option<f64>,
    /// Seconds that every message takes beside its bytes, in place of clients.devices [default: 0]
    #[arg(long, value_name = "SECONDS", value_parser = not_negative)]
    pub latency: Option<f64>,
    /// Tokens that every client trains on in a second, in place of clients.devices; without either, a round is sending alone
    #[arg(long, value_name = "N", value_parser = positive)]
    pub tokens_per_second: Option<f64>,
    /// Rows that a client holds, for its time of training [default: counted where the data are at hand]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub rows: Option<u64>,
    /// Tokens of a row, for the same [default: counted where the data are at hand]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub tokens: Option<f64>,
    /// ε of the whole run: says what noise on the mean it takes
    #[arg(long, value_name = "EPSILON", value_parser = positive)]
    pub epsilon: Option<f64>,
    /// Price of a GB that crosses, in whatever currency
    #[arg(long, value_name = "PRICE", value_parser = not_negative)]
    pub price_per_gb: Option<f64>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(v) if v >= 0.0 && f64::is_finite(v) => Ok(v),
        _ => Err("expected a number, not negative".into()),
    }
}

/// One row of the answer.
#[derive(Serialize)]
pub struct Cost {
    pub strategy: String,
    /// The strategy with its keys as it was given.
    #[serde(skip)]
    pub variant: String,
    #[serde(skip)]
    pub rounds: usize,
    /// Whether uploads are at most so long.
    #[serde(skip)]
    pub bounded: bool,
    /// What it is, as TOML, but for where the data are where these are not at hand.
    #[serde(skip)]
    pub config: String,
    #[serde(skip)]
    pub has_data: bool,
    pub rank: Rank,
    /// What is sent, or the least of it where clients choose.
    pub low: Forecast,
    /// The most of it.
    pub high: Forecast,
    /// Whether shapes tell this about and not exactly: which slots are left depends on what clients learn.
    pub about: bool,
    /// Seconds of the longest round: low and high.
    seconds_a_round: [f64; 2],
    /// Whether training is in them, and not sending alone.
    pub with_training: bool,
    /// What all that crosses costs, low and high, by `--price-per-gb`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price: Option<[f64; 2]>,
    /// ε and δ of the whole run, and the noise multiplier, where the configuration protects clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub privacy: Option<PrivacyCost>,
    /// A warning where the noise leaves hardly anything to learn from.
    #[serde(skip)]
    pub drowned: Option<String>,
    /// Whether the server needs no more than a sum of uploads, and why not.
    secure_aggregation: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    against_secure_aggregation: Option<String>,
}

/// A strategy that the configuration does not fit.
#[derive(Serialize)]
pub(super) struct Refused {
    pub strategy: String,
    /// Why.
    pub refused: String,
}

/// What `[privacy]` comes to.
#[derive(Clone, Copy, PartialEq, Serialize)]
pub struct PrivacyCost {
    /// ε of the whole run; absent where none can be given.
    #[serde(skip_serializing_if = "Option::is_none")]
    epsilon: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<f64>,
    /// Deviation of the noise on the sum of uploads, in units of the clip.
    #[serde(skip_serializing_if = "Option::is_none")]
    noise: Option<f64>,
}

impl From<PrivacyForecast> for PrivacyCost {
    fn from(PrivacyForecast { noise, spent }: PrivacyForecast) -> Self {
        PrivacyCost { epsilon: spent.map(|s| s.epsilon), delta: spent.map(|s| s.delta), noise }
    }
}

/// What all cells have in common.
struct Federation<'f> {
    has_data: bool,
    model: &'f ModelInfo,
    task: Task,
    time: &'f Time,
}

/// What JSON has a list of.
#[derive(Serialize)]
#[serde(untagged)]
enum Answer<'c> {
    Cost(&'c Cost),
    Refused(&'c Refused),
}

/// What is asked, counted.
pub(super) struct Counted {
    /// The configuration without any strategy's own keys.
    pub config: RunConfig,
    /// How its rows are dealt out, in words.
    pub partition: String,
    pub time: Time,
    /// Rank by rank.
    pub costs: Vec<Cost>,
    pub refused: Vec<Refused>,
    /// Those that are not refused.
    pub variants: Vec<Variant>,
}

/// Runs the command. A strategy that the configuration does not fit is said beside the others.
///
/// # Errors
/// A configuration that fits no strategy, or a model's `config.json` that cannot be used; a trained head without a number of
/// labels.
pub fn run(args: &CostArgs, common: &Common) -> Result<()> {
    let counted = count(args, common)?;
    if args.json {
        let answers = counted.costs.iter().map(Answer::Cost).chain(counted.refused.iter().map(Answer::Refused));
        put(serde_json::to_string_pretty(&answers.collect::<Vec<_>>())?);
        return Ok(());
    }
    tables::print(&counted.config, &counted.time, &counted.costs);
    say_refused(&counted.refused);
    our_forms(&counted.variants).into_iter().for_each(say);
    Ok(())
}

/// A line for each strategy that the configuration does not fit.
pub(super) fn say_refused(refused: &[Refused]) {
    refused
        .iter()
        .for_each(|Refused { strategy, refused }| say(format!("Not with this configuration: {strategy}: {refused}.")));
}

/// The strategies that are asked for, else the usual ones and the configuration's own, as it is set there.
fn variants(args: &CostArgs, common: &Common) -> Vec<Variant> {
    if let Some(given) = &args.strategies {
        return given.0.clone();
    }
    let mut names = USUAL.to_vec();
    // What cannot be read is said where it is needed.
    if let Ok(loaded) = config::load(args.config.as_deref(), &common.sets) {
        names.extend(Some(loaded.config.strategy.name()).filter(|own| !USUAL.contains(own)));
    }
    names.into_iter().map(|name| name.parse().expect("a name alone")).collect()
}

/// Counts what is asked.
///
/// # Errors
/// As [`run`].
pub(super) fn count(args: &CostArgs, common: &Common) -> Result<Counted> {
    let asked =
        |variants: &[Variant]| Asked { variants: variants.to_vec(), seeds: &[], ranks: &args.ranks, alphas: &[] };
    let variants = variants(args, common);
    asked(&variants).check()?;
    let (mut opened, mut refused) = (Vec::new(), Vec::new());
    for variant in &variants {
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
    let has_data = opened.iter().all(|(_, has_data)| *has_data);
    let time = Time::of(args, base, has_data, &model)?;
    let federation = Federation { has_data, model: &model, task, time: &time };
    let mut costs = Vec::new();
    for (grid, _) in &opened {
        for (i, cell) in grid.cells.iter().enumerate() {
            let cost = cost(args, cell, &grid.variants[cell.variant], &federation);
            costs.push((i, cost.map_err(|error| grid.explain(i, error))?));
        }
    }
    costs.sort_by_key(|(rank, _)| *rank);
    Ok(Counted {
        config: base.config.clone(),
        partition: opened[0].0.columns[0].words.clone(),
        costs: costs.into_iter().map(|(_, cost)| cost).collect(),
        refused: refused.iter().map(|(variant, error)| Refused::of(variant, error)).collect(),
        variants: opened.iter().flat_map(|(grid, _)| grid.variants.clone()).collect(),
        time,
    })
}

/// The cells of what is asked, and whether the data is at hand.
fn open(args: &CostArgs, common: &Common, asked: &Asked) -> Result<(Grid, bool)> {
    let of = |sets: &[String]| Grid::new(args.config.as_deref(), sets, common.device.as_ref(), asked);
    let sets = with_epsilon(args, &common.sets)?;
    // A configuration whose data is still to be named is as good as any: texts are not read.
    let without_data = [sets.clone(), vec!["data.path=builtin".to_string()]].concat();
    match of(&sets) {
        Ok(grid) => Ok((grid, true)),
        Err(_) => Ok((of(&without_data)?, false)),
    }
}

/// `--set`, with noise on the mean for `--epsilon`.
///
/// # Errors
/// Another noise is asked for beside it.
fn with_epsilon(args: &CostArgs, sets: &[String]) -> Result<Vec<String>> {
    let Some(epsilon) = args.epsilon else { return Ok(sets.to_vec()) };
    if let Some(set) = sets.iter().find(|set| set.starts_with("privacy.") || set.starts_with("privacy=")) {
        let mistake = UserError::new("--epsilon asks for noise of its own, that of DP-FedAvg (Gaussian)");
        return Err(mistake.at(Some(format!("--set {set}"))).help("leave one of the two out").into());
    }
    // How far uploads are clipped has no part in ε, so any clip does.
    let privacy = format!("privacy={{kind=\"gaussian\",clip=1.0,epsilon={epsilon:?}}}");
    Ok(sets.iter().cloned().chain([privacy]).collect())
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
    if let TaskKind::Regression | TaskKind::CausalLm = config.model.task {
        return Ok(job::task(config, 0));
    }
    let mut cells = opened.iter().flat_map(|(grid, _)| &grid.cells);
    let sent = cells.any(|cell| cell.loaded.config.settings().trains_head());
    let has_data = opened.iter().all(|(_, has_data)| *has_data);
    let labels: Result<usize> = match (args.labels.or(config.data.labels), sent) {
        (Some(labels), _) => Ok(labels),
        (None, false) => Ok(2),
        (None, true) if has_data => Ok(job::dataset(base, &mut Waiting::default())?.labels.len()),
        (None, true) => Err(UserError::new("the head is sent too, and its size goes by the number of labels")
            .help("pass --labels N, or --set data.path=DIR to count them")
            .into()),
    };
    Ok(job::task(config, labels?))
}

fn cost(args: &CostArgs, cell: &Cell, variant: &Variant, of: &Federation<'_>) -> Result<Cost> {
    let (settings, has_data) = (of.time.on_devices(cell.loaded.config.settings()), of.has_data);
    let of = |choice| forecast_of(&settings, of.model, of.task, choice, &|client| of.time.texts(client));
    let low = of(Choice::Narrowest)?;
    let chooses = matches!(settings.strategy, StrategySettings::LoraA2 { .. });
    let high = if chooses { of(Choice::Widest)? } else { low };
    let against = settings.against_secure_aggregation().map(|problem| format!("{} {}", problem.key, problem.what));
    let (rank, secure_aggregation) = (cell.rank.clone(), against.is_none());
    let about = settings.strategy.traits().depends_on_data && low == high;
    let privacy = PrivacyForecast::of(&settings)?;
    let clients = settings.expected_clients();
    let sent = low.upload_params as f64 / (clients * settings.train.rounds as f64);
    let price = |f: Forecast| args.price_per_gb.map(|price| price * (f.upload_bytes + f.download_bytes) as f64 / 1e9);
    Ok(Cost {
        strategy: variant.label(),
        variant: variant.text.clone(),
        rounds: settings.train.rounds,
        bounded: settings.wire.top_k.is_some() || settings.wire.deflate,
        config: cell.loaded.config.to_toml(),
        has_data,
        rank,
        about,
        low,
        high,
        seconds_a_round: [low, high].map(|f| f.longest_round),
        with_training: settings.clients.devices.iter().all(|kind| kind.tokens_per_second.is_finite()),
        price: price(low).zip(price(high)).map(|(low, high)| [low, high]),
        drowned: privacy.and_then(|privacy| privacy.drowned(sent, clients)),
        privacy: privacy.map(PrivacyCost::from),
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
