//! `bonfire train --find-lr`: which learning rate to begin with. The configuration is trained for a few rounds at each of nine
//! rates, all of them in the same forward and backward passes.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bonfire_engine::Rate;
use bonfire_experiment::UserError;
use bonfire_experiment::compare::sweep::{self, Sweep};
use bonfire_experiment::compare::{Asked, Grid, Outputs, Swept};
use bonfire_experiment::config;
use bonfire_experiment::format::count_of;
use bonfire_experiment::log::note;
use bonfire_federation::BestBy;

use super::TrainArgs;
use crate::commands::compare::figure::{self, Axis, Dot, Figure, Line, Panel, Scale};
use crate::commands::compare::{command, plots};
use crate::commands::sweep::follow;
use crate::common::Common;
use crate::console::say;

/// The rates, half a power of ten from each other.
const RATES: [&str; 9] = ["1e-5", "3e-5", "1e-4", "3e-4", "1e-3", "3e-3", "1e-2", "3e-2", "1e-1"];
/// Rounds at each, unless `--set` says otherwise. A strategy that trains A and B in turns has then trained both.
const ROUNDS: usize = 2;
const PICTURE: &str = "find-lr.svg";

/// What came of a rate.
struct Tried {
    rate: &'static str,
    /// Mean training loss of the last round.
    train: Option<f64>,
    /// Loss of the global model on the split of `evaluate.on`.
    measured: Option<f64>,
}

/// Runs the command.
///
/// # Errors
/// As training; a rate that is set by `--set`; a strategy without a global model; no rate at which numbers stay numbers.
pub fn run(args: &TrainArgs, common: &Common) -> Result<()> {
    let set = |key: &str| common.sets.iter().find(|set| set.split('=').next().is_some_and(|k| k.trim() == key));
    if let Some(set) = set("train.lr_a") {
        let mistake =
            UserError::new("--find-lr tries rates of its own for train.lr_a").at(Some(format!("--set {set}")));
        return Err(mistake.help("leave one of the two out").into());
    }
    let mut sets = common.sets.clone();
    if set("train.rounds").is_none() {
        sets.push(format!("train.rounds={ROUNDS}"));
    }
    let config = config::load(args.config.as_deref(), &sets)?.config;
    if matches!(config.train.lr_b, Some(Rate::Value(_))) {
        note("train.lr_b stays what it is; as a multiple, train.lr_b = \"5x\", it would move with train.lr_a");
    }
    sets.push(format!("train.lr_a={}", RATES.join(",")));
    let Swept { variants, sets } = Swept::new(args.config.as_deref(), &sets, None)?;
    let asked = Asked { variants, seeds: &[config.train.seed], ranks: &[], alphas: &[] };
    let grid = Grid::new(args.config.as_deref(), &sets, common.device.as_ref(), &asked)?;
    let how = Sweep::default();
    sweep::check(&grid, &how)?;
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from("find-lr").join(grid.name()));
    let mut outputs = Outputs::open(&out, &grid, false, command(), plots::draw)?;
    if !common.quiet {
        grid.notices.iter().for_each(note);
        say(format!("{} rates, {} each", RATES.len(), count_of(config.train.rounds, "round")));
        how.notice(&grid).iter().for_each(note);
    }
    follow(&mut outputs, &how, common.quiet)?;
    let on = config.evaluate.on;
    let of = |(cell, rate): (usize, &&'static str)| -> Result<Tried> {
        let rows = outputs.rows_of(cell)?;
        let last = rows.iter().rev().find(|row| row.round > 0);
        let finite = |loss: &f64| loss.is_finite();
        Ok(Tried {
            rate,
            train: last.map(|row| row.train_loss).filter(finite),
            measured: last.and_then(|row| BestBy::Loss.of(on, row).or(row.personal_loss)).filter(finite),
        })
    };
    let tried = RATES.iter().enumerate().map(of).collect::<Result<Vec<_>>>()?;
    let picture = out.join(PICTURE);
    std::fs::write(&picture, figure::draw(&drawn(&tried, on.name()))?)
        .with_context(|| format!("cannot write {}", picture.display()))?;
    show(&tried, on.name(), &picture)
}

/// The rate at which the loss is lowest.
fn best(tried: &[Tried]) -> Option<&Tried> {
    let measured = tried.iter().filter(|one| one.measured.is_some());
    measured.min_by(|x, y| x.measured.unwrap_or(f64::MAX).total_cmp(&y.measured.unwrap_or(f64::MAX)))
}

fn show(tried: &[Tried], on: &str, picture: &Path) -> Result<()> {
    let number = |loss: Option<f64>| loss.map_or("not a number".to_string(), |loss| format!("{loss:.4}"));
    say(format!("\n{:>10}  {:>13}  {:>13}", "train.lr_a", "training loss", format!("{on} loss")));
    for one in tried {
        say(format!("{:>10}  {:>13}  {:>13}", one.rate, number(one.train), number(one.measured)));
    }
    let best = best(tried).ok_or_else(|| {
        UserError::new("at no rate there is a loss to go by")
            .help("look into the runs' logs: rows, labels or the model itself may be wrong")
    })?;
    say(format!("\nlowest {on} loss: --set train.lr_a={}", best.rate));
    if [RATES[0], RATES[RATES.len() - 1]].contains(&best.rate) {
        note("that is the last rate on its side: the best may lie beyond it");
    }
    note("a few rounds tell which rates learn and which break; a long run may want a lower one");
    say(format!("picture: {}", picture.display()));
    Ok(())
}

fn drawn(tried: &[Tried], on: &str) -> Figure {
    let line = |series, of: fn(&Tried) -> Option<f64>| {
        let dot = |one: &Tried| Some(Dot { x: one.rate.parse().ok()?, y: of(one)?, deviation: 0.0 });
        Line { series, points: tried.iter().filter_map(dot).collect() }
    };
    Figure {
        title: "loss against learning rate".into(),
        x: Axis { words: "train.lr_a", scale: Scale::Listed, show: |rate| format!("{rate:.0e}") },
        y: "loss",
        percent: false,
        names: vec!["training".into(), on.into()],
        rows: vec![vec![Panel {
            title: String::new(),
            lines: vec![line(0, |one| one.train), line(1, |one| one.measured)],
        }]],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_loss_counts_and_broken_rates_do_not() {
        let one = |rate, measured| Tried { rate, train: Some(1.0), measured };
        let tried = [one("1e-5", Some(2.0)), one("1e-3", Some(1.5)), one("1e-1", None)];
        assert_eq!(best(&tried).map(|one| one.rate), Some("1e-3"));
        assert!(best(&tried[2..]).is_none());
        let svg = figure::draw(&drawn(&tried, "test")).expect("drawn");
        for words in ["1e-5", "1e-3", "train.lr_a", "training", "loss against"] {
            assert!(svg.contains(words), "no {words:?} in {svg}");
        }
    }
}
