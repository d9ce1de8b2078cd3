//! The two classifier heads: on the first token of every sequence, with weights shared or per client.

use burn::tensor::Tensor;
use rand::Rng;

use crate::adapter::standard_normal;
use crate::weights::Weights;
use crate::{Architecture, DeviceBatch, HeadTensor, Matrix, ModelError, ModelInfo};

/// `(module, d_in, d_out)` of the head's linears, in the order of the forward pass.
pub(crate) fn linears(info: &ModelInfo, classes: usize) -> Vec<(&'static str, usize, usize)> {
    match info.architecture {
        Architecture::Roberta => {
            vec![("classifier.dense", info.hidden, info.hidden), ("classifier.out_proj", info.hidden, classes)]
        }
        Architecture::Bert => vec![("classifier", info.hidden, classes)],
    }
}

/// The head's tensors: from the checkpoint where it has them, else drawn as Transformers does
/// (normal with `initializer_range`, biases zero).
pub(crate) fn load(
    weights: &mut Weights,
    info: &ModelInfo,
    classes: usize,
    rng: &mut impl Rng,
) -> Result<Vec<HeadTensor>, ModelError> {
    const HINT: &str = "; the checkpoint's head was made for another number of classes than the data has";
    let mut head = Vec::new();
    for (module, d_in, d_out) in linears(info, classes) {
        let (weight, bias) = (format!("{module}.weight"), format!("{module}.bias"));
        let value = match weights.has(&weight) {
            true => weights.take_linear_with(&weight, d_in, d_out, HINT)?,
            false => {
                let data = (0..d_in * d_out).map(|_| (standard_normal(rng) * info.initializer_range) as f32).collect();
                Matrix::new(d_in, d_out, data)
            }
        };
        head.push(HeadTensor { name: weight, value });
        let value = match weights.has(&bias) {
            true => Matrix::new(1, d_out, weights.take_with(&bias, &[d_out], HINT)?),
            false => Matrix::zeros(1, d_out),
        };
        head.push(HeadTensor { name: bias, value });
    }
    Ok(head)
}

/// Class scores `[S, K]` from the hidden state of every sequence's first token `[S, D]`.
pub(crate) fn logits(first: Tensor<2>, head: &[Tensor<3>], batch: &DeviceBatch) -> Tensor<2> {
    let linears = head.len() / 2;
    let mut x = first;
    for (i, pair) in head.chunks(2).enumerate() {
        x = batch.by_client.linear(x, pair[0].clone(), pair[1].clone());
        if i + 1 < linears {
            x = x.tanh();
        }
    }
    x
}
