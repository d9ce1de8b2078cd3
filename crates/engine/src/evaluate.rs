//! The global model on held-out examples.

use std::sync::Arc;

use bonfire_models::{Adapter, ClientAdapter, Goal, HeadTensor, Model, PackedBatch, Rounding, Task};
use burn::tensor::{Device, Tensor, TensorData};
use serde::Serialize;

use crate::device_thread::{failed, give_back, on_device};
use crate::room::Room;
use crate::tally::RowTally;
use crate::{ClassScores, Confusion, EngineError, NumberScores, SpanScores, Split, Tally};

/// Tokens of one evaluation batch, to begin with.
pub(crate) const TOKENS: usize = 4_096;

/// How good a model is on some examples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Evaluation {
    /// Examples looked at.
    pub examples: usize,
    /// Answers asked for: one an example, or one for every token that is to be foretold or word that is tagged.
    pub answers: usize,
    /// Mean cross-entropy of an answer, in nats; its exponential is a language model's perplexity. Where numbers are foretold, their
    /// mean squared error; where a text may have several labels, the mean binary cross-entropy of all of them.
    pub loss: f64,
    /// Share of answers whose highest score is the right one, 0 to 1; where a text may have several labels, share of texts of which all
    /// are right and none is missing. Not a number (left out) where numbers are foretold, as all shares here.
    #[serde(skip_serializing_if = "is_nan")]
    pub accuracy: f64,
    /// Share of examples with no wrong answer, 0 to 1. A response whose every token is the likeliest after those before
    /// it is what greedy generation gives, so this is a language model's exact match.
    #[serde(skip_serializing_if = "is_nan")]
    pub exact_match: f64,
    /// Of a classifier, its scores over all classes.
    #[serde(flatten)]
    pub classes: Option<ClassScores>,
    /// Where numbers are foretold, how they go along with the right ones.
    #[serde(flatten)]
    pub numbers: Option<NumberScores>,
    /// Where words are tagged, the scores of spans.
    #[serde(flatten)]
    pub spans: Option<SpanScores>,
    /// Where clients plant a backdoor, the share of the texts of other classes than its target that are taken for the target when they
    /// hold the trigger, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attack_success: Option<f64>,
}

impl Evaluation {
    /// The accuracy, where there is one.
    pub fn accuracy(&self) -> Option<f64> {
        Some(self.accuracy).filter(|share| !share.is_nan())
    }
}

fn is_nan(share: &f64) -> bool {
    share.is_nan()
}

/// One example's outcome.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowEvaluation {
    /// Summed over its answers.
    pub(crate) loss: f64,
    pub(crate) right: usize,
    pub(crate) answers: usize,
    /// Of a classifier, the class that is right and the one that was said.
    pub(crate) class: Option<[usize; 2]>,
    /// Where numbers are foretold, the one that is right and the one that was said.
    pub(crate) number: Option<[f64; 2]>,
    /// Where words are tagged or a text may have several labels, what was there and what was said.
    pub(crate) tally: Option<Arc<RowTally>>,
}

impl RowEvaluation {
    /// Of an example of which `right` was asked and `said` foretold.
    fn of_number(right: f64, said: f64) -> RowEvaluation {
        RowEvaluation {
            loss: (said - right).powi(2),
            answers: 1,
            number: Some([right, said]),
            ..RowEvaluation::default()
        }
    }

    /// Its loss, summed over its answers.
    pub fn loss(&self) -> f64 {
        self.loss
    }

    /// Of an example that has the labels `there`, by the score of each: said is what has a probability above one half. The loss is
    /// the mean binary cross-entropy of the labels.
    pub fn of_labels(there: &[bool], scores: &[f64]) -> RowEvaluation {
        let said: Vec<bool> = scores.iter().map(|score| *score > 0.0).collect();
        // −ln σ(x) of what is there, −ln σ(−x) of what is not.
        let loss = |(there, score): (&bool, &f64)| {
            let x = if *there { *score } else { -score };
            (-x).max(0.0) + (-x.abs()).exp().ln_1p()
        };
        RowEvaluation {
            loss: there.iter().zip(scores).map(loss).sum::<f64>() / there.len().max(1) as f64,
            answers: 1,
            right: usize::from(said == there),
            tally: Some(RowTally::labels(there, &said).into()),
            ..RowEvaluation::default()
        }
    }
}

/// The head of `adapter` for everybody, and no updates: those are folded.
pub(crate) fn shared_head(adapter: &Adapter, device: &Device) -> ClientAdapter {
    let put = |t: &HeadTensor| {
        let m = &t.value;
        Tensor::from_data(TensorData::new(m.data.clone(), [1, m.rows, m.cols]), device)
    };
    ClientAdapter::new(Vec::new(), adapter.head.iter().map(put).collect())
}

/// Evaluates `rows` of `split` by the global `adapter`; `None` for a row means it was not asked for. Batches that the device's
/// memory does not hold are halved.
///
/// # Errors
/// The device fails, or does not even hold one text.
pub fn evaluate_rows(
    model: &dyn Model,
    adapter: &Adapter,
    split: &Split,
    rows: &[usize],
) -> Result<Vec<Option<RowEvaluation>>, EngineError> {
    evaluate_groups_within(&Room::new(TOKENS), model, adapter, split, &[rows])
}

/// [`evaluate_rows`] of several groups of rows in batches that the devices turned out to hold, none with rows of two groups: what is
/// found of one does not depend on the others, down to the last bit.
pub(crate) fn evaluate_groups_within(
    room: &Room,
    model: &dyn Model,
    adapter: &Adapter,
    split: &Split,
    groups: &[&[usize]],
) -> Result<Vec<Option<RowEvaluation>>, EngineError> {
    let longest = groups.iter().copied().flatten().map(|&row| split.ids[row].len()).max().unwrap_or(0);
    loop {
        let tokens = room.evaluated();
        let words = match on_device(|| evaluate_here(model, adapter, split, groups, tokens)) {
            Err(EngineError::OutOfMemory { words, .. }) => words,
            other => return other,
        };
        give_back(model.device());
        let Some(next) = room.halve_evaluated(tokens, longest) else {
            return Err(EngineError::OutOfMemory { what: "one text to be evaluated", words });
        };
        tracing::info!(
            "the device's memory does not hold {tokens} tokens of texts to be evaluated ({words}); trying {next}"
        );
    }
}

/// Rows of each group in batches of at most so many tokens, or of one row. Like lengths together keep the composed attention's groups full.
fn batches(split: &Split, groups: &[&[usize]], most: usize) -> Vec<Vec<usize>> {
    let of_group = |rows: &&[usize]| {
        let (mut order, mut tokens) = (rows.to_vec(), 0);
        order.sort_by_key(|&row| (split.ids[row].len(), row));
        let mut all: Vec<Vec<usize>> = Vec::new();
        for row in order {
            let length = split.ids[row].len();
            match all.last_mut().filter(|_| tokens + length <= most) {
                Some(last) => last.push(row),
                None => {
                    all.push(vec![row]);
                    tokens = 0;
                }
            }
            tokens += length;
        }
        all
    };
    groups.iter().flat_map(of_group).collect()
}

/// [`evaluate_groups_within`], on this thread, in batches of at most so many tokens.
fn evaluate_here(
    model: &dyn Model,
    adapter: &Adapter,
    split: &Split,
    groups: &[&[usize]],
    most: usize,
) -> Result<Vec<Option<RowEvaluation>>, EngineError> {
    let shared = shared_head(adapter, model.device());
    let model = model.folded(adapter);
    let device = model.device();
    let mut evaluated = vec![None; split.len()];
    for now in batches(split, groups, most) {
        let packed = PackedBatch::pack(&[now.iter().map(|&r| split.example(r)).collect()]);
        let batch = packed.to_device(model.info(), Rounding::of(device), device);
        if model.task() == Task::Regress {
            let said = model.logits(&shared, &batch).inner().into_data(); // [N, 1]
            for (&row, said) in now.iter().zip(said.iter::<f64>()) {
                let right = split.goals[row].value().expect("a number of every text");
                evaluated[row] = Some(RowEvaluation::of_number(f64::from(right), said));
            }
            continue;
        }
        if let Task::MultiLabel(labels) = model.task() {
            let scores: Vec<f64> = model.logits(&shared, &batch).inner().into_data().iter().collect(); // [N, K]
            for (&row, scores) in now.iter().zip(scores.chunks(labels.max(1))) {
                let there = split.goals[row].labels().expect("labels of every text");
                evaluated[row] = Some(RowEvaluation::of_labels(there, scores));
            }
            continue;
        }
        let (losses, best) = model.evaluate(&shared, &batch); // [N] and [N]: one row an answer
        let broken = |e: burn::tensor::DataError| failed(e.to_string());
        let losses: Vec<f32> = losses.inner().into_data().try_to_vec().map_err(broken)?;
        let [best, labels] = [best, batch.labels].map(|t| t.into_data());
        let mut rows = losses.into_iter().zip(best.iter::<i64>().zip(labels.iter::<i64>()));
        for &row in &now {
            let answers = split.goals[row].answers(split.ids[row].len());
            let is_class = matches!(split.goals[row], Goal::Class(_) | Goal::PairClass { .. });
            let (mut there, mut said) = (Vec::new(), Vec::new());
            let one = |mut sum: RowEvaluation, (loss, (best, label)): (f32, (i64, i64))| {
                sum.loss += f64::from(loss);
                sum.right += usize::from(best == label);
                sum.class = is_class.then_some([label as usize, best as usize]);
                if split.tags.is_some() {
                    there.push(label as usize);
                    said.push(best as usize);
                }
                sum
            };
            let mut found =
                rows.by_ref().take(answers).fold(RowEvaluation { answers, ..RowEvaluation::default() }, one);
            found.tally = split.tags.as_ref().map(|tags| RowTally::spans(tags, &there, &said).into());
            evaluated[row] = Some(found);
        }
    }
    Ok(evaluated)
}

/// Sums up the evaluated ones of `rows`.
pub fn summarise(evaluated: &[Option<RowEvaluation>], rows: &[usize]) -> Evaluation {
    let seen: Vec<&RowEvaluation> = rows.iter().filter_map(|&r| evaluated[r].as_ref()).collect();
    let answers: usize = seen.iter().map(|j| j.answers).sum();
    let n = answers.max(1) as f64;
    let (numbers, tally) = (NumberScores::of(evaluated, rows), Tally::of(evaluated, rows));
    let share = |share: f64| if numbers.is_some() { f64::NAN } else { share };
    Evaluation {
        examples: seen.len(),
        answers,
        loss: seen.iter().map(|j| j.loss).sum::<f64>() / n,
        accuracy: share(seen.iter().map(|j| j.right).sum::<usize>() as f64 / n),
        classes: Confusion::of(evaluated, rows)
            .map(|confusion| confusion.scores())
            .or(tally.as_ref().and_then(Tally::labels)),
        numbers,
        spans: tally.as_ref().and_then(Tally::spans),
        attack_success: None,
        exact_match: share(seen.iter().filter(|j| j.right == j.answers).count() as f64 / seen.len().max(1) as f64),
    }
}

/// The global model on `rows` of `split`.
///
/// # Errors
/// The device fails.
pub fn evaluate(
    model: &dyn Model,
    adapter: &Adapter,
    split: &Split,
    rows: &[usize],
) -> Result<Evaluation, EngineError> {
    Ok(summarise(&evaluate_rows(model, adapter, split, rows)?, rows))
}
