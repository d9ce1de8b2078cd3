//! `bonfire plan`: candidates beside each other by what they send, how long they take and how good runs have shown them to be. Bytes and
//! hours are forecast; accuracies are those of finished runs and nothing else.

mod candidate;
mod picture;
mod runs;

use std::path::PathBuf;

use anyhow::{Context, Result};
use bonfire_experiment::format::table::aligned;
use bonfire_experiment::format::{bytes, percent, seconds};
use bonfire_experiment::log::note;
use bonfire_experiment::run_folder::replace;
use clap::Args;
use serde::Serialize;

use self::candidate::{Candidate, Limits, mark_front};
use super::cost::tables::{priced_at, protected};
use super::cost::{CostArgs, count, say_refused};
use crate::common::{Common, positive};
use crate::console::{put, say};

/// Options of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pub cost: CostArgs,
    /// compare.json of finished comparisons of this configuration: where accuracies come from
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    pub runs: Vec<PathBuf>,
    /// Accuracy to be reached, 0 to 1
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub reach: Option<f64>,
    /// GB that may cross in the whole run, both ways and all clients
    #[arg(long, value_name = "GB", value_parser = positive)]
    pub max_gb: Option<f64>,
    /// Hours that the run may take on the clients' devices
    #[arg(long, value_name = "HOURS", value_parser = positive)]
    pub max_hours: Option<f64>,
    /// Draw accuracy against bytes into this SVG file
    #[arg(long, value_name = "FILE.svg", value_parser = svg)]
    pub svg: Option<PathBuf>,
}

fn svg(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match path.extension() {
        Some(end) if end.eq_ignore_ascii_case("svg") => Ok(path),
        _ => Err("it is written as SVG: expected a name that ends in .svg".into()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(v) if (0.0..=1.0).contains(&v) => Ok(v),
        _ => Err("expected a share of 1, such as 0.8".into()),
    }
}

/// What JSON has.
#[derive(Serialize)]
struct Answer<'a> {
    limits: Limits,
    candidates: &'a [Candidate],
}

/// Runs the command.
///
/// # Errors
/// As `bonfire cost`; a file that is no comparison's; nothing to draw.
pub fn run(args: &PlanArgs, common: &Common) -> Result<()> {
    let counted = count(&args.cost, common)?;
    let limits = Limits { reach: args.reach, max_gb: args.max_gb, max_hours: args.max_hours };
    let found = runs::read(&args.runs, &counted.partition)?;
    let mut candidates: Vec<Candidate> = counted.costs.iter().map(|cost| Candidate::of(cost, &found, limits)).collect();
    mark_front(&mut candidates);
    let draw = || -> Result<()> {
        let Some(path) = &args.svg else { return Ok(()) };
        let svg = picture::draw(&counted.config, &candidates)?;
        replace(path, svg.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
        note(format!("wrote {}", path.display()));
        Ok(())
    };
    if args.cost.json {
        put(serde_json::to_string_pretty(&Answer { limits, candidates: &candidates })?);
        return draw();
    }
    if let Some(privacy) = counted.costs.first().and_then(|cost| cost.privacy) {
        say(protected(privacy, &counted.config));
    }
    let mut rows = table(&candidates, limits);
    if counted.costs.iter().any(|cost| cost.price.is_some()) {
        rows[0].push("price".into());
        rows[1..].iter_mut().zip(&counted.costs).for_each(|(row, cost)| row.push(priced_at(cost)));
    }
    say(aligned(&rows));
    say(
        "*: no other that was run is better in bytes, time and accuracy at once. bytes: both ways, all clients, the whole run, of the runs\n\
         where there are some, else the most that clients could choose to send. time: forecast.",
    );
    if !counted.costs.iter().all(|cost| cost.with_training) {
        say("time: sending and receiving alone; --tokens-per-second, or clients.devices, puts training into it.");
    }
    unknown(args, &candidates).into_iter().for_each(say);
    answers(&candidates, limits).into_iter().for_each(say);
    say_refused(&counted.refused);
    draw()
}

fn table(candidates: &[Candidate], limits: Limits) -> Vec<Vec<String>> {
    let limited = limits.max_gb.is_some() || limits.max_hours.is_some();
    let mut head = vec!["", "strategy", "rank", "bytes", "time", "accuracy"];
    head.extend(limited.then_some(["rounds within", "accuracy then"]).into_iter().flatten());
    head.extend(
        limits.reach.is_some().then_some(["reached in", "bytes by then", "time by then"]).into_iter().flatten(),
    );
    let mut rows = vec![head.into_iter().map(String::from).collect::<Vec<String>>()];
    for candidate in candidates {
        let accuracy = candidate.accuracy.as_ref().map_or("not run".to_string(), |known| known.to_string());
        let mut row = vec![
            if candidate.front { "*" } else { "" }.to_string(),
            candidate.strategy.clone(),
            candidate.rank.to_string(),
            bytes(candidate.bytes),
            seconds(candidate.seconds),
            accuracy,
        ];
        let none = || "–".to_string();
        if limited {
            row.push(format!("{} of {}", candidate.rounds_within, candidate.rounds));
            row.push(candidate.accuracy_within.map_or_else(none, percent));
        }
        if limits.reach.is_some() {
            let reached = candidate.reached.as_ref();
            row.push(reached.map_or_else(none, |r| format!("{} rounds", r.round)));
            row.push(reached.map_or_else(none, |r| bytes(r.bytes)));
            row.push(reached.map_or_else(none, |r| seconds(r.seconds)));
        }
        rows.push(row);
    }
    rows
}

/// What is not known and why, a line for each reason.
fn unknown(args: &PlanArgs, candidates: &[Candidate]) -> Vec<String> {
    if args.runs.is_empty() {
        return vec![
            "accuracy: none is known; --runs takes the compare.json of a `bonfire compare` of this configuration."
                .into(),
        ];
    }
    let mut by_reason: Vec<(&String, Vec<String>)> = Vec::new();
    for candidate in candidates {
        let Some(why) = &candidate.unknown else { continue };
        let name = format!("{}, rank {}", candidate.strategy, candidate.rank);
        match by_reason.iter_mut().find(|(reason, _)| *reason == why) {
            Some((_, names)) => names.push(name),
            None => by_reason.push((why, vec![name])),
        }
    }
    by_reason.into_iter().map(|(why, names)| format!("No accuracy of {}: {why}.", names.join("; "))).collect()
}

/// What it would take, a line for each thing asked.
fn answers(candidates: &[Candidate], limits: Limits) -> Vec<String> {
    let name = |c: &Candidate| format!("{}, rank {}", c.strategy, c.rank);
    let mut said = Vec::new();
    if let Some(reach) = limits.reach {
        let reached = || candidates.iter().filter_map(|c| Some((c, c.reached.as_ref()?)));
        let (fewest, soonest) = (
            reached().min_by(|(_, a), (_, b)| a.bytes.cmp(&b.bytes)),
            reached().min_by(|(_, a), (_, b)| a.seconds.total_cmp(&b.seconds)),
        );
        let goal = percent(reach);
        match fewest.zip(soonest) {
            None => said.push(format!("{goal} is reached in none of the runs that are known.")),
            Some(((c, by), (d, on))) => {
                said.push(format!(
                    "{goal} with the fewest bytes: {}: {} by round {}.",
                    name(c),
                    bytes(by.bytes),
                    by.round
                ));
                said.push(format!("{goal} soonest: {}: {} by round {}.", name(d), seconds(on.seconds), on.round));
            }
        }
    }
    if limits.max_gb.is_some() || limits.max_hours.is_some() {
        let known = candidates.iter().filter_map(|c| Some((c, c.accuracy_within?)));
        said.push(match known.max_by(|(_, a), (_, b)| a.total_cmp(b)) {
            Some((c, accuracy)) => {
                format!("Best within the limits: {}: {} after {} rounds.", name(c), percent(accuracy), c.rounds_within)
            }
            None => "No run that is known has an accuracy within the limits.".to_string(),
        });
    }
    said
}
