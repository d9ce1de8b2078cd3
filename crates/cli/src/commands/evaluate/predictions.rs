//! `--predictions`: a JSON line for every test example, to compare models example by example.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use bonfire_engine::{RowEvaluation, Scorer, Split};
use bonfire_experiment::predict::likeliest;
use bonfire_models::{Adapter, Matrix, Model};
use serde::Serialize;

/// Examples of one batch.
const BATCH: usize = 32;

/// What is said of an example.
#[derive(Default, Serialize)]
struct Row<'r> {
    /// Its place in the test split, from 0.
    row: usize,
    /// Of a classifier: the right class.
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<&'r str>,
    /// The class of highest score.
    #[serde(skip_serializing_if = "Option::is_none")]
    prediction: Option<&'r str>,
    /// Where a text may have several labels: those that it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<Vec<&'r str>>,
    /// Those that were said: the ones with a probability above 0.5.
    #[serde(skip_serializing_if = "Option::is_none")]
    predictions: Option<Vec<&'r str>>,
    /// Where words are tagged: the right tag of every word that is scored.
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<Vec<&'r str>>,
    /// The tag that was said of each of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    predicted_tags: Option<Vec<&'r str>>,
    /// Where numbers are foretold: the right one.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<f32>,
    /// The one that was foretold.
    #[serde(skip_serializing_if = "Option::is_none")]
    predicted_value: Option<f32>,
    /// Answers asked for: one, or one for every token that is to be foretold.
    answers: usize,
    /// How many of them have the highest score; no such thing where numbers are foretold.
    #[serde(skip_serializing_if = "Option::is_none")]
    right: Option<usize>,
    /// Mean cross-entropy of an answer, in nats; the squared error of a number; the mean binary cross-entropy of labels.
    loss: f64,
    /// Of a classifier: the score of every class; where words are tagged, of every tag, word after word.
    #[serde(skip_serializing_if = "Option::is_none")]
    logits: Option<&'r [f32]>,
    /// Of a language model: the text's tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<&'r [u32]>,
    /// Of a language model: the ranges of tokens that were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    asked: Option<Vec<[usize; 2]>>,
}

/// Writes what `model` with `adapter` says of every example of `split`; `labels` names the classes.
///
/// # Errors
/// The device fails, or the file cannot be written.
pub fn write(path: &Path, model: &dyn Model, adapter: &Adapter, split: &Split, labels: &[String]) -> Result<()> {
    let failed = || format!("cannot write {}", path.display());
    let mut out = BufWriter::new(File::create(path).with_context(failed)?);
    let scorer = Scorer::new(model, adapter);
    let rows: Vec<usize> = (0..split.len()).collect();
    for rows in rows.chunks(BATCH) {
        for (&row, scores) in rows.iter().zip(scorer.scores(split, rows)?) {
            let line = serde_json::to_string(&line(row, &scores, split, labels)).context("scores are numbers")?;
            writeln!(out, "{line}").with_context(failed)?;
        }
    }
    out.flush().with_context(failed)
}

fn line<'r>(row: usize, scores: &'r Matrix, split: &'r Split, labels: &'r [String]) -> Row<'r> {
    let (goal, ids) = (&split.goals[row], &split.ids[row]);
    let next = goal.scored(ids.len()).flatten().map(|token| ids[token] as usize);
    let right: Vec<usize> = goal.classes().chain(next).collect();
    if let Some(value) = goal.value() {
        let said = scores.data[0];
        return Row {
            row,
            value: Some(value),
            predicted_value: Some(said),
            answers: 1,
            loss: f64::from(said - value).powi(2),
            ..Row::default()
        };
    }
    if let Some(there) = goal.labels() {
        let said: Vec<bool> = scores.data.iter().map(|score| *score > 0.0).collect();
        let named = |which: &[bool]| {
            labels.iter().zip(which).filter(|(_, there)| **there).map(|(name, _)| name.as_str()).collect()
        };
        let exact: Vec<f64> = scores.data.iter().map(|score| f64::from(*score)).collect();
        return Row {
            row,
            labels: Some(named(there)),
            predictions: Some(named(&said)),
            answers: 1,
            right: Some(usize::from(said == there)),
            loss: RowEvaluation::of_labels(there, &exact).loss(),
            logits: Some(&scores.data),
            ..Row::default()
        };
    }
    let judged: Vec<(usize, f64)> = right
        .iter()
        .zip(scores.data.chunks(scores.cols.max(1)))
        .map(|(&right, row)| best_and_loss(row, right))
        .collect();
    let class = goal.class().is_some();
    let name = |class: usize| labels.get(class).map(String::as_str);
    let tagged = !goal.tags().is_empty();
    let names = |classes: &mut dyn Iterator<Item = usize>| tagged.then(|| classes.filter_map(name).collect());
    Row {
        row,
        label: class.then(|| name(right[0])).flatten(),
        prediction: class.then(|| name(judged[0].0)).flatten(),
        tags: names(&mut right.iter().copied()),
        predicted_tags: names(&mut judged.iter().map(|(said, _)| *said)),
        answers: right.len(),
        right: Some(right.iter().zip(&judged).filter(|(right, (best, _))| *right == best).count()),
        loss: judged.iter().map(|(_, loss)| loss).sum::<f64>() / judged.len().max(1) as f64,
        logits: (class || tagged).then_some(&scores.data),
        tokens: (!class && !tagged).then_some(ids),
        asked: (!class && !tagged).then(|| goal.scored(ids.len()).map(|range| [range.start, range.end]).collect()),
        ..Row::default()
    }
}

/// The place of the highest score, and the cross-entropy of the right one.
fn best_and_loss(scores: &[f32], right: usize) -> (usize, f64) {
    let best = likeliest(scores);
    let top = f64::from(scores[best]);
    let sum: f64 = scores.iter().map(|s| (f64::from(*s) - top).exp()).sum();
    (best, top + sum.ln() - f64::from(scores[right]))
}

#[cfg(test)]
mod tests {
    use bonfire_models::Goal;

    use super::*;

    #[test]
    fn losses_are_those_of_the_scores() {
        let (best, loss) = best_and_loss(&[1.0, 3.0, 3.0], 0);
        assert_eq!(best, 1, "the first of equals");
        let want = (1f64.exp() + 2.0 * 3f64.exp()).ln() - 1.0;
        assert!((loss - want).abs() < 1e-12);
        let split = Split::new(vec![vec![5, 1, 0]], vec![Goal::Next(1)]);
        let scores = Matrix::new(2, 2, vec![0.0, 1.0, 0.0, 1.0]);
        let labels = [String::from("x")];
        let row = line(0, &scores, &split, &labels);
        assert_eq!((row.answers, row.right, row.logits), (2, Some(1), None));
        let want = (1.0 + 1f64.exp()).ln();
        assert!((row.loss - (want - 0.5)).abs() < 1e-7);
    }
}
