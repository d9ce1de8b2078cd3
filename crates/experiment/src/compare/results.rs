//! What cells measured, read back from their run folders, and the means over seeds.

use std::path::Path;

use anyhow::Result;
use bonfire_federation::{Personalised, Summary};
use serde::{Deserialize, Serialize};

use super::grid::{Grid, Rank};
use crate::run_folder::read;

/// How a cell stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Not run yet, or cut short.
    Missing,
    /// Training failed, with the message.
    Failed(String),
    /// All rounds done.
    Done(Box<Measured>),
    /// Dropped by a sweep, which found others better.
    Dropped {
        /// After this round.
        after: usize,
        /// What its rounds so far measured.
        measured: Box<Measured>,
    },
}

/// What a complete run measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Measured {
    /// Test accuracy of the untrained model, 0 to 1, where it was evaluated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub untrained_accuracy: Option<f64>,
    /// Of a language model, the untrained model's test perplexity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub untrained_perplexity: Option<f64>,
    /// Test accuracy at the last evaluation, 0 to 1; of a language model the share of tokens foretold.
    pub final_accuracy: Option<f64>,
    /// Of a language model, test perplexity at the last evaluation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub final_perplexity: Option<f64>,
    /// Of a language model, share of test responses that greedy generation gives exactly, at the last evaluation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub final_exact_match: Option<f64>,
    /// Where numbers are foretold, Pearson's correlation at the last evaluation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub final_pearson: Option<f64>,
    /// Spearman's, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub final_spearman: Option<f64>,
    /// Where words are tagged, F1 of the spans at the last evaluation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub final_f1: Option<f64>,
    /// Where clients plant a backdoor, how often it was answered at the last evaluation, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub final_attack_success: Option<f64>,
    /// Best test accuracy at any evaluation, 0 to 1.
    pub best_accuracy: Option<f64>,
    /// Mean accuracy of the clients' own models at the last evaluation, where the strategy has such.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub personal_accuracy: Option<f64>,
    /// What fine-tuning on the clients' own rows gained after the last round, with `evaluate.personalise`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub personalised: Option<Personalised>,
    /// Uploaded scalars.
    pub upload_params: u64,
    /// Uploaded bytes, as serialised.
    pub upload_bytes: u64,
    /// Downloaded scalars.
    pub download_params: u64,
    /// Downloaded bytes, as serialised.
    pub download_bytes: u64,
    /// Wall time of local training, seconds.
    pub train_seconds: f64,
    /// Tokens trained, probes included.
    pub tokens_trained: u64,
    /// Seconds that the run would have taken on the devices of `clients.devices`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub simulated_seconds: Option<f64>,
    /// Watt hours that the clients would have drawn there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watt_hours: Option<f64>,
    /// The device, in words.
    pub device: String,
    /// One point for every evaluation.
    pub curve: Vec<Point>,
}

/// An evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// Round, from 1; 0: the untrained model.
    pub round: usize,
    /// Test accuracy, 0 to 1; where numbers are foretold, Pearson's correlation; where words are tagged, F1 of the spans.
    pub accuracy: f64,
    /// Bytes uploaded up to here.
    pub upload_bytes: u64,
}

/// The fields of a row of `metrics.jsonl` that are read here.
#[derive(Deserialize)]
struct Row {
    round: usize,
    test_accuracy: Option<f64>,
    test_pearson: Option<f64>,
    test_f1: Option<f64>,
    personal_accuracy: Option<f64>,
    upload_bytes: u64,
}

impl Measured {
    /// Reads a complete run folder.
    ///
    /// # Errors
    /// A file that is missing or not as a run leaves it.
    pub fn read(folder: &Path) -> Result<Measured> {
        let summary: Summary = read::json(&folder.join("summary.json"))?;
        let (path, mut rows) = (folder.join("metrics.jsonl"), Vec::<Row>::new());
        let cut = read::rows(&path, |row| rows.push(row))?;
        anyhow::ensure!(!cut, "{} is not as a run leaves it: its last line is cut", path.display());
        Ok(Measured::of(summary, &rows))
    }

    fn of(summary: Summary, rows: &[Row]) -> Measured {
        let mut sent = 0;
        let mut curve = Vec::new();
        for row in rows {
            sent = row.upload_bytes.saturating_add(sent);
            curve.extend(row.test_f1.or(row.test_accuracy).or(row.test_pearson).map(|accuracy| Point {
                round: row.round,
                accuracy,
                upload_bytes: sent,
            }));
        }
        Measured {
            untrained_accuracy: summary.untrained_accuracy,
            untrained_perplexity: summary.untrained_perplexity,
            final_accuracy: summary.final_accuracy,
            final_perplexity: summary.final_perplexity,
            final_exact_match: summary.final_exact_match,
            final_pearson: summary.final_pearson,
            final_spearman: summary.final_spearman,
            final_f1: summary.final_f1,
            final_attack_success: summary.final_attack_success,
            best_accuracy: summary.best_accuracy,
            personal_accuracy: rows.iter().rev().find_map(|row| row.personal_accuracy),
            personalised: summary.personalised,
            upload_params: summary.upload_params,
            upload_bytes: summary.upload_bytes,
            download_params: summary.download_params,
            download_bytes: summary.download_bytes,
            train_seconds: summary.train_seconds,
            tokens_trained: summary.tokens_trained,
            simulated_seconds: summary.simulated_seconds,
            watt_hours: summary.watt_hours,
            device: summary.device,
            curve,
        }
    }
}

/// Mean and sample standard deviation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The sample standard deviation (over n - 1); of a single value there is none.
    pub deviation: Option<f64>,
}

impl Spread {
    /// Of `values`; `None` when there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let values: Vec<f64> = values.into_iter().collect();
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
        (n > 0.0).then(|| Spread { mean, deviation: (n > 1.0).then(|| (squares / (n - 1.0)).sqrt()) })
    }
}

/// The cells of one variant, rank and partition, over seeds.
#[derive(Debug)]
pub struct Group<'r> {
    /// Place in [`Grid::variants`].
    pub variant: usize,
    /// Place in [`Grid::columns`].
    pub column: usize,
    /// The rank.
    pub rank: &'r Rank,
    /// Seeds and outcomes, in the order of the seeds.
    pub outcomes: Vec<(u64, &'r Outcome)>,
}

impl<'r> Group<'r> {
    /// The groups of a grid, in the order of their first cells.
    pub fn all(grid: &'r Grid, outcomes: &'r [Outcome]) -> Vec<Group<'r>> {
        let mut groups: Vec<Group<'r>> = Vec::new();
        for (cell, outcome) in grid.cells.iter().zip(outcomes) {
            let same = |g: &&mut Group<'_>| (g.variant, g.column, g.rank) == (cell.variant, cell.column, &cell.rank);
            match groups.iter_mut().find(same) {
                Some(group) => group.outcomes.push((cell.seed, outcome)),
                None => groups.push(Group {
                    variant: cell.variant,
                    column: cell.column,
                    rank: &cell.rank,
                    outcomes: vec![(cell.seed, outcome)],
                }),
            }
        }
        groups
    }

    /// The complete runs by seed.
    pub fn runs(&self) -> impl Iterator<Item = (u64, &'r Measured)> {
        self.outcomes.iter().filter_map(|(seed, outcome)| match outcome {
            Outcome::Done(measured) => Some((*seed, &**measured)),
            _ => None,
        })
    }

    /// What the complete runs measured.
    pub fn measured(&self) -> impl Iterator<Item = &'r Measured> {
        self.runs().map(|(_, measured)| measured)
    }

    /// Mean and deviation of `value` over the complete runs that have it.
    pub fn spread(&self, value: impl Fn(&Measured) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.measured().filter_map(value))
    }

    /// The round after which its runs were dropped, and what those measured.
    pub fn dropped(&self) -> Option<(usize, Vec<&'r Measured>)> {
        let dropped = self.outcomes.iter().filter_map(|(_, outcome)| match outcome {
            Outcome::Dropped { after, measured } => Some((*after, &**measured)),
            _ => None,
        });
        let (after, measured): (Vec<usize>, Vec<&Measured>) = dropped.unzip();
        Some((*after.first()?, measured))
    }

    /// How many of its runs failed.
    pub fn failed(&self) -> usize {
        self.outcomes.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Failed(_))).count()
    }

    /// The mean curve: round, mean bytes uploaded, accuracy; over the rounds that all complete runs evaluated.
    pub fn curve(&self) -> Vec<(usize, f64, Spread)> {
        let runs: Vec<&Measured> = self.measured().collect();
        let rounds = runs.first().map(|run| run.curve.iter().map(|point| point.round)).into_iter().flatten();
        let at = |round: usize| -> Option<(usize, f64, Spread)> {
            let points: Option<Vec<&Point>> =
                runs.iter().map(|run| run.curve.iter().find(|point| point.round == round)).collect();
            let points = points?;
            let bytes = points.iter().map(|p| p.upload_bytes as f64).sum::<f64>() / points.len() as f64;
            Some((round, bytes, Spread::of(points.iter().map(|p| p.accuracy))?))
        };
        rounds.filter_map(at).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deviations_are_of_a_sample() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([2.0]), Some(Spread { mean: 2.0, deviation: None }));
        assert_eq!(Spread::of([1.0, 2.0, 3.0]), Some(Spread { mean: 2.0, deviation: Some(1.0) }));
    }

    #[test]
    fn mean_curves_hold_the_rounds_that_all_have() {
        let run = |points: &[(usize, f64, u64)]| {
            let point = |&(round, accuracy, upload_bytes): &(usize, f64, u64)| Point { round, accuracy, upload_bytes };
            Outcome::Done(Box::new(Measured { curve: points.iter().map(point).collect(), ..Measured::default() }))
        };
        let (a, b) = (run(&[(1, 0.2, 10), (2, 0.4, 20)]), run(&[(2, 0.6, 40)]));
        let rank = Rank::Same(1);
        let group =
            Group { variant: 0, column: 0, rank: &rank, outcomes: vec![(0, &a), (1, &b), (2, &Outcome::Missing)] };
        let curve = group.curve();
        let [(2, bytes, spread)] = curve.as_slice() else { panic!("{curve:?}") };
        assert_eq!(*bytes, 30.0);
        assert!((spread.mean - 0.5).abs() < 1e-12);
        assert_eq!(group.spread(|run| run.final_accuracy), None);
    }
}
