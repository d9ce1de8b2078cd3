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

/// The head's tensors as the checkpoint has them, zero where it lacks them; and the places of the weights that it lacks,
/// for [`draw`].
pub(crate) fn load(
    weights: &mut Weights,
    info: &ModelInfo,
    classes: usize,
) -> Result<(Vec<HeadTensor>, Vec<usize>), ModelError> {
    const HINT: &str = "; the checkpoint's head was made for another number of classes than the data has";
    let (mut head, mut lacking) = (Vec::new(), Vec::new());
    for (module, d_in, d_out) in linears(info, classes) {
        let (weight, bias) = (format!("{module}.weight"), format!("{module}.bias"));
        let value = match weights.has(&weight) {
            true => weights.take_linear_with(&weight, d_in, d_out, HINT)?,
            false => {
                lacking.push(head.len());
                Matrix::zeros(d_in, d_out)
            }
        };
        head.push(HeadTensor { name: weight, value });
        let value = match weights.has(&bias) {
            true => Matrix::new(1, d_out, weights.take_with(&bias, &[d_out], HINT)?),
            false => Matrix::zeros(1, d_out),
        };
        head.push(HeadTensor { name: bias, value });
    }
    Ok((head, lacking))
}

/// The head's tensors, all zero: for those who need shapes alone.
pub fn blank(info: &ModelInfo, classes: usize) -> Vec<HeadTensor> {
    let tensors = |(module, d_in, d_out): (&str, usize, usize)| {
        let (weight, bias) = (Matrix::zeros(d_in, d_out), Matrix::zeros(1, d_out));
        [("weight", weight), ("bias", bias)].map(|(part, value)| HeadTensor { name: format!("{module}.{part}"), value })
    };
    linears(info, classes).into_iter().flat_map(tensors).collect()
}

/// Draws the weights that the checkpoint lacks as Transformers does: normal with `initializer_range`.
pub(crate) fn draw(head: &mut [HeadTensor], lacking: &[usize], info: &ModelInfo, rng: &mut impl Rng) {
    for &i in lacking {
        head[i].value.data.fill_with(|| (standard_normal(rng) * info.initializer_range) as f32);
    }
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

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use crate::{Encoder, Model, ModelSource, TargetKind};

    #[test]
    fn a_model_used_again_is_the_model_loaded_again() {
        let seed = ChaCha8Rng::seed_from_u64;
        let device = Device::flex().autodiff();
        let load = |kinds: &[TargetKind], n| {
            Encoder::load(&ModelSource::Builtin, 5, kinds, &mut seed(n), &device).expect("the built-in model loads")
        };
        let kinds = [TargetKind::Query, TargetKind::Output];
        let (first, fresh) = (load(&TargetKind::all(), 1), load(&kinds, 2));
        assert_ne!(first.head(), fresh.head());
        let again = first.again(&kinds, &mut seed(2));
        assert_eq!((again.head(), again.targets()), (fresh.head(), fresh.targets()));
        // The first is left as it was.
        assert_eq!(first.head(), load(&TargetKind::all(), 1).head());
    }
}
