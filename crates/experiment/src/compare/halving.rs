//! Successive halving (arXiv 1502.07943): at given rounds the worse half of the settings is dropped, each partition by itself. A
//! setting is a variant at a rank, over all its seeds, so that no seed's luck decides.

use std::cmp::Ordering;

use anyhow::{Result, ensure};
use bonfire_federation::{BestBy, EvaluateOn, RoundMetrics};

use super::grid::Grid;
use super::outputs::Outputs;
use super::results::Outcome;
use crate::config::TaskKind;
use crate::format::percent;
use crate::user_error::UserError;

/// What settings are ranked by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Criterion {
    by: BestBy,
    on: EvaluateOn,
}

/// A setting that is dropped.
#[derive(Clone, Debug, PartialEq)]
pub struct Dropped {
    /// Its cells.
    pub cells: Vec<usize>,
    /// The mean of its cells' scores; `None`: one of them has none.
    pub score: Option<f64>,
}

impl Criterion {
    /// `evaluate.best` on `evaluate.on`; without it accuracy, of language models the loss, of tagged words F1.
    pub fn of(grid: &Grid) -> Criterion {
        let config = &grid.base.config;
        let usual = match config.model.task {
            TaskKind::CausalLm => BestBy::Loss,
            TaskKind::TokenClassification => BestBy::F1,
            _ => BestBy::Accuracy,
        };
        Criterion { by: config.evaluate.best.unwrap_or(usual), on: config.evaluate.on }
    }

    /// In words, such as `test accuracy`.
    pub fn words(self) -> String {
        format!("{} {}", self.on.name(), self.by.name())
    }

    /// A score as people read it.
    pub fn shown(self, score: Option<f64>) -> String {
        match score {
            None => "no number".into(),
            Some(score) if matches!(self.by, BestBy::Accuracy | BestBy::F1) => percent(score).trim().to_string(),
            Some(score) => format!("{score:.3}"),
        }
    }

    /// What the last evaluation up to `round` found. Where there is no global model, it is how the clients' own models do.
    fn score(self, rows: &[RoundMetrics], round: usize) -> Option<f64> {
        let own = |row: &RoundMetrics| row.personal_accuracy.filter(|_| self.by == BestBy::Accuracy);
        let of = |row: &RoundMetrics| self.by.of(self.on, row).or_else(|| own(row)).filter(|score| score.is_finite());
        rows.iter().rev().filter(|row| row.round <= round).find_map(of)
    }

    fn order(self, x: Option<f64>, y: Option<f64>) -> Ordering {
        match (x, y) {
            (Some(x), Some(y)) if self.by.is_better(x, y) => Ordering::Less,
            (Some(x), Some(y)) if self.by.is_better(y, x) => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            _ => Ordering::Equal,
        }
    }
}

/// Refuses rounds at which nothing can be halved.
///
/// # Errors
/// As said, with what would be right.
pub fn check(grid: &Grid, halving: &[usize]) -> Result<(), UserError> {
    if halving.is_empty() {
        return Ok(());
    }
    let list = halving.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    let wrong = |what: String| UserError::new(what).at(Some(format!("--halving {list}")));
    let config = |cell: usize| &grid.cells[cell].loaded.config;
    let rounds = config(0).train.rounds;
    if let Some(other) = (1..grid.cells.len()).map(|cell| config(cell).train.rounds).find(|other| *other != rounds) {
        return Err(wrong(format!(
            "halving ranks cells after the same round, and some have {rounds} rounds, others {other}"
        ))
        .help("leave --halving out, or train.rounds as it is for all"));
    }
    if !halving.is_sorted_by(|x, y| x < y) {
        return Err(wrong("rounds to halve at must rise".into()).help("name each round once, the earliest first"));
    }
    if let Some(round) = halving.iter().find(|round| !(1..rounds).contains(*round)) {
        return Err(wrong(format!("round {round} is not between the rounds of these runs, which have {rounds}"))
            .help(format!("name rounds from 1 to {}", rounds.saturating_sub(1))));
    }
    let criterion = Criterion::of(grid);
    for cell in &grid.cells {
        let (config, name) = (&cell.loaded.config, &grid.variants[cell.variant].text);
        let every = config.evaluate.every;
        if let Some(round) = halving.iter().find(|round| !round.is_multiple_of(every)) {
            return Err(wrong(format!("round {round} is not evaluated: evaluate.every = {every}"))
                .help(format!("name multiples of {every}, or set evaluate.every")));
        }
        let own = !config.strategy.traits().has_global_model;
        if own && criterion != (Criterion { by: BestBy::Accuracy, on: EvaluateOn::Test }) {
            let what = format!("`{name}` has no global model, so it has no {}", criterion.words());
            return Err(wrong(what).help("halve by test accuracy: leave evaluate.best and evaluate.on out"));
        }
    }
    Ok(())
}

/// Whether a cell has nothing left to do before the round after `round`.
///
/// # Errors
/// Its rows cannot be read.
pub fn has_reached(outputs: &Outputs<'_>, cell: usize, round: usize) -> Result<bool> {
    let done = |rows: &[RoundMetrics]| rows.last().is_some_and(|row| row.round >= round);
    Ok(*outputs.outcome(cell) != Outcome::Missing || done(&outputs.rows_of(cell)?))
}

/// The settings that are dropped after `round`, the worst first: of `n` in a partition the `n/2` worst.
///
/// # Errors
/// Rows that cannot be read, or that hold no number to rank by.
pub fn worse(outputs: &Outputs<'_>, criterion: Criterion, round: usize) -> Result<Vec<Dropped>> {
    let grid = outputs.grid();
    let mut settings: Vec<(usize, Dropped)> = Vec::new();
    for (cell, of) in grid.cells.iter().enumerate() {
        if matches!(outputs.outcome(cell), Outcome::Dropped { .. }) {
            continue;
        }
        let same = |(_, setting): &&mut (usize, Dropped)| {
            let other = &grid.cells[setting.cells[0]];
            (other.column, other.variant, &other.rank) == (of.column, of.variant, &of.rank)
        };
        match settings.iter_mut().find(same) {
            Some((_, setting)) => setting.cells.push(cell),
            None => settings.push((of.column, Dropped { cells: vec![cell], score: None })),
        }
    }
    for (_, setting) in &mut settings {
        let score = |&cell: &usize| match outputs.outcome(cell) {
            Outcome::Failed(_) => Ok(None),
            _ => Ok(criterion.score(&outputs.rows_of(cell)?, round)),
        };
        let scores: Vec<Option<f64>> = setting.cells.iter().map(score).collect::<Result<_>>()?;
        let sum: Option<f64> = scores.iter().copied().sum();
        setting.score = sum.map(|sum| sum / scores.len() as f64);
    }
    ensure!(
        settings.is_empty() || settings.iter().any(|(_, setting)| setting.score.is_some()),
        "no run has a {} up to round {round} to halve by",
        criterion.words()
    );
    let mut dropped = Vec::new();
    for column in 0..grid.columns.len() {
        let mut here: Vec<&Dropped> =
            settings.iter().filter(|(own, _)| *own == column).map(|(_, setting)| setting).collect();
        // Of equals the one that was named first stays.
        here.sort_by(|x, y| criterion.order(x.score, y.score));
        let stay = here.len().div_ceil(2);
        dropped.extend(here[stay..].iter().rev().map(|setting| (*setting).clone()));
    }
    Ok(dropped)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::grid::tests::{grid, with_sets};
    use super::*;
    use crate::run_folder::METRICS;

    fn no_pictures(_: &Grid, _: &[super::super::results::Group<'_>]) -> Result<Vec<(&'static str, String)>> {
        Ok(Vec::new())
    }

    /// What is dropped after round 2 of a grid whose runs have these accuracies in rounds 1 to 3, cell by cell; no numbers: the
    /// cell failed.
    fn dropped(strategies: &str, seeds: &[u64], alphas: &[f64], cells: &[[f64; 3]]) -> Vec<(Vec<usize>, Option<f64>)> {
        let room = tempfile::tempdir().expect("a folder");
        let grid = grid(strategies, seeds, &[], alphas);
        let mut outputs = Outputs::open(room.path(), &grid, false, String::new(), no_pictures).expect("nothing there");
        for (cell, accuracies) in cells.iter().enumerate() {
            let folder = outputs.folder_of(cell);
            fs::create_dir_all(&folder).expect("made");
            let row = |(i, accuracy): (usize, &f64)| {
                let row = crate::summary::tests::round(i + 1, *accuracy);
                format!("{}\n", serde_json::to_string(&row).expect("a row"))
            };
            fs::write(folder.join(METRICS), accuracies.iter().enumerate().map(row).collect::<String>())
                .expect("written");
            if accuracies[0].is_nan() {
                fs::write(folder.join(METRICS), "").expect("written");
                outputs.set(cell, Outcome::Failed("not finite".into()));
            }
        }
        let worse = worse(&outputs, Criterion::of(&grid), 2).expect("ranked");
        worse.into_iter().map(|setting| (setting.cells, setting.score)).collect()
    }

    #[test]
    fn the_worse_half_by_the_mean_over_seeds_at_that_round() {
        // Three settings by two seeds; round 3 does not count. Means after round 2: 0.5, 0.4, 0.7.
        let cells =
            [[0.1, 0.9, 0.0], [0.1, 0.3, 0.9], [0.1, 0.8, 0.9], [0.9, 0.1, 0.9], [0.1, 0.5, 0.9], [0.1, 0.6, 0.9]];
        assert_eq!(dropped("fedit,ffa-lora,rolora", &[0, 1], &[], &cells), [(vec![1, 4], Some(0.4))]);
    }

    #[test]
    fn partitions_are_halved_by_themselves_and_failures_go_first() {
        let nothing = [f64::NAN; 3];
        let cells = [[0.1, 0.9, 0.1], [0.1, 0.8, 0.1], nothing, [0.1, 0.2, 0.1]];
        assert_eq!(dropped("fedit,ffa-lora", &[0], &[0.5, 0.1], &cells), [(vec![1], Some(0.8)), (vec![2], None)]);
        let one = [[0.1, 0.2, 0.3]];
        assert!(dropped("fedit", &[0], &[], &one).is_empty(), "the last one stays");
    }

    #[test]
    fn rounds_that_cannot_be_halved_at_are_refused() {
        let refused = |sets: &[&str], strategies: &str, halving: &[usize], words: &[&str]| {
            let grid = with_sets(strategies, &[], &[], &[], sets).expect("a grid");
            let mistake = check(&grid, halving).expect_err("refused");
            let all = format!("{} {:?} {:?}", mistake.what, mistake.place, mistake.help);
            words.iter().for_each(|word| assert!(all.contains(word), "no {word:?} in {all}"));
        };
        let rounds = "train.rounds=6";
        refused(&[rounds], "fedit", &[6], &["round 6", "have 6", "from 1 to 5", "--halving 6"]);
        refused(&[rounds], "fedit", &[0], &["round 0"]);
        refused(&[rounds], "fedit", &[3, 2], &["must rise"]);
        refused(&[rounds, "evaluate.every=2"], "fedit", &[3], &["evaluate.every = 2", "multiples of 2"]);
        refused(&[rounds], "fedit,rolora:train.rounds=4", &[2], &["6 rounds", "others 4"]);
        refused(&[rounds, "evaluate.best=loss"], "fedsa-lora", &[2], &["no global model", "test loss"]);
        let grid = with_sets("fedsa-lora,fedit", &[], &[], &[], &[rounds]).expect("a grid");
        assert!(check(&grid, &[2, 4]).is_ok());
    }
}
