//! The global model on held-out examples.

use bonfire_models::{Adapter, ClientAdapter, Model, PackedBatch, Rounding};
use burn::tensor::{Tensor, TensorData};
use serde::Serialize;

use crate::{EngineError, Split};

/// Tokens of one evaluation batch.
const TOKENS: usize = 4_096;

/// How good a model is on some examples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Evaluation {
    /// Examples looked at.
    pub examples: usize,
    /// Mean cross-entropy.
    pub loss: f64,
    /// Share of examples whose highest score is their class, 0 to 1.
    pub accuracy: f64,
}

/// One example's outcome.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judged {
    loss: f64,
    right: bool,
}

/// Judges `rows` of `split` by the global `adapter`; `None` for a row means it was not asked for.
///
/// # Errors
/// The device fails.
pub fn judge(
    model: &dyn Model,
    adapter: &Adapter,
    split: &Split,
    rows: &[usize],
) -> Result<Vec<Option<Judged>>, EngineError> {
    let model = model.folded(adapter);
    let device = model.device();
    let head = adapter.head.iter().map(|t| {
        let m = &t.value;
        Tensor::from_data(TensorData::new(m.data.clone(), [1, m.rows, m.cols]), device)
    });
    let shared = ClientAdapter::new(Vec::new(), head.collect());
    // Like lengths together keep the composed attention's groups full.
    let mut order = rows.to_vec();
    order.sort_by_key(|&r| (split.ids[r].len(), r));
    let mut judged = vec![None; split.len()];
    let mut rest = order.as_slice();
    while !rest.is_empty() {
        let mut tokens = 0;
        let fits = rest.iter().take_while(|&&r| {
            tokens += split.ids[r].len();
            tokens <= TOKENS
        });
        let (now, later) = rest.split_at(fits.count().max(1));
        rest = later;
        let batch = PackedBatch::pack(&[now.iter().map(|&r| split.example(r)).collect()]);
        let logits = model.logits(&shared, &batch.to_device(model.info().first_position, Rounding::of(device), device));
        let scores: Vec<f32> = logits
            .inner()
            .try_into_data()
            .map_err(|e| EngineError::Device(e.to_string()))?
            .try_to_vec()
            .expect("f32 scores");
        for (&row, scores) in now.iter().zip(scores.chunks(model.classes())) {
            judged[row] = Some(judge_one(scores, split.labels[row]));
        }
    }
    Ok(judged)
}

fn judge_one(scores: &[f32], label: usize) -> Judged {
    let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = scores.iter().map(|&s| f64::from(s - top).exp()).sum();
    let loss = sum.ln() - f64::from(scores[label] - top);
    let best = scores.iter().enumerate().max_by(|x, y| x.1.total_cmp(y.1).then(y.0.cmp(&x.0)));
    Judged { loss, right: best.is_some_and(|(i, _)| i == label) }
}

/// Sums up the judged ones of `rows`.
pub fn summarise(judged: &[Option<Judged>], rows: &[usize]) -> Evaluation {
    let seen: Vec<Judged> = rows.iter().filter_map(|&r| judged[r]).collect();
    let n = seen.len().max(1) as f64;
    Evaluation {
        examples: seen.len(),
        loss: seen.iter().map(|j| j.loss).sum::<f64>() / n,
        accuracy: seen.iter().filter(|j| j.right).count() as f64 / n,
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
    Ok(summarise(&judge(model, adapter, split, rows)?, rows))
}
