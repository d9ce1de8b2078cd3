//! What a model answers, example by example: the scores themselves, for comparing models rather than evaluating one.

use bonfire_models::{Adapter, ClientAdapter, Matrix, Model, PackedBatch, Rounding};

use crate::device_thread::failed;
use crate::evaluate::shared_head;
use crate::{EngineError, Split};

/// A model with an adapter in its weights.
pub struct Scorer {
    model: Box<dyn Model>,
    head: ClientAdapter,
}

impl Scorer {
    /// `model` with `adapter`.
    pub fn new(model: &dyn Model, adapter: &Adapter) -> Scorer {
        Scorer { head: shared_head(adapter, model.device()), model: model.folded(adapter) }
    }

    /// The scores of `rows` of `split`, all in one batch: for each a row of scores an answer, `[1, K]`, or
    /// `[answers, V]` of a language model.
    ///
    /// # Errors
    /// The device fails.
    pub fn scores(&self, split: &Split, rows: &[usize]) -> Result<Vec<Matrix>, EngineError> {
        let device = self.model.device();
        let packed = PackedBatch::pack(&[rows.iter().map(|&r| split.example(r)).collect()]);
        let batch = packed.to_device(self.model.info(), Rounding::of(device), device);
        let scores = self.model.logits(&self.head, &batch).inner(); // [N, K] or [N, V]
        let cols = scores.dims()[1];
        let all: Vec<f32> = scores.into_data().try_to_vec().map_err(|e| failed(e.to_string()))?;
        let mut rest = all.as_slice();
        let one = |&row: &usize| {
            let answers = split.goals[row].answers(split.ids[row].len());
            let (own, later) = rest.split_at(answers * cols);
            rest = later;
            Matrix::new(answers, cols, own.to_vec())
        };
        Ok(rows.iter().map(one).collect())
    }
}
