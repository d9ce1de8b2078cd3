//! Classifier heads: class scores from one row a sequence, or from one a token, with weights that all clients share or each has of its own.

use bonfire_kernels::{Arithmetic, RowKeys, gelu, product};
use burn::tensor::activation::relu;
use burn::tensor::{Tensor, TensorData};
use rand::Rng;

use crate::adapter::standard_normal;
use crate::description::{Bend, Width};
use crate::dropout::{Place, dropped};
use crate::weights::Weights;
use crate::{DeviceBatch, HeadTensor, Matrix, ModelError, ModelInfo, Task};

/// A linear of a head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadLinear {
    pub module: &'static str,
    pub d_in: usize,
    pub d_out: usize,
    pub bias: bool,
    /// What is done to its result.
    pub bend: Bend,
    /// Whether training drops a share of what it reads.
    pub dropped: bool,
}

/// The head's linears, in the order of the forward pass; none where a model has none for the task. A pooler that the
/// checkpoint lacks is one of them.
pub(crate) fn linears(info: &ModelInfo, task: Task) -> Vec<HeadLinear> {
    let (d, description) = (info.hidden, info.architecture.describe());
    let Some(outputs) = task.outputs() else { return Vec::new() };
    let pooler = description.pooler_of(task).filter(|_| info.draws_pooler);
    let pooler =
        pooler.map(|p| HeadLinear { module: p.linear, d_in: d, d_out: d, bias: true, bend: p.bend, dropped: false });
    let own = description.head_of(task).iter().map(|form| HeadLinear {
        module: form.module,
        d_in: d,
        d_out: if form.width == Width::Classes { outputs } else { d },
        bias: form.bias,
        bend: form.bend,
        dropped: form.dropped,
    });
    pooler.into_iter().chain(own).collect()
}

/// The modules of a head as PEFT saves them whole (`modules_to_save`), with the two that it always adds for classifiers.
pub(crate) fn saved_modules(head: &[HeadTensor]) -> Vec<String> {
    let mut modules = vec!["classifier".to_string(), "score".to_string()];
    for HeadTensor { name, .. } in head {
        let path = name.rsplit_once('.').map_or(name.as_str(), |(path, _)| path);
        // Whatever is below `classifier` is saved with it.
        if !path.starts_with("classifier") && !modules.iter().any(|m| m == path) {
            modules.push(path.to_string());
        }
    }
    modules
}

/// The head's tensors as the checkpoint has them, zero where it lacks them; and the places of the weights that it lacks,
/// for [`draw`]. `new`: as if it lacked all.
pub(crate) fn load(
    weights: &mut Weights,
    info: &ModelInfo,
    task: Task,
    new: bool,
) -> Result<(Vec<HeadTensor>, Vec<usize>), ModelError> {
    const HINT: &str = "; the checkpoint's head was made for another number of classes than the data has: set \
                        model.new_head = true to draw a new one";
    let (mut head, mut lacking) = (Vec::new(), Vec::new());
    for HeadLinear { module, d_in, d_out, bias, .. } in linears(info, task) {
        let weight = format!("{module}.weight");
        if new {
            weights.drop(&weight);
            weights.drop(&format!("{module}.bias"));
        }
        let value = if weights.has(&weight) {
            weights.take_linear_with(&weight, d_in, d_out, HINT)?
        } else {
            lacking.push(head.len());
            Matrix::zeros(d_in, d_out)
        };
        weights.refuse_not_finite(&weight, &value.data)?;
        head.push(HeadTensor { name: weight, value });
        if !bias {
            continue;
        }
        let bias = format!("{module}.bias");
        let value = if weights.has(&bias) {
            Matrix::new(1, d_out, weights.take_with(&bias, &[d_out], HINT)?)
        } else {
            Matrix::zeros(1, d_out)
        };
        weights.refuse_not_finite(&bias, &value.data)?;
        head.push(HeadTensor { name: bias, value });
    }
    Ok((head, lacking))
}

/// The head's tensors, all zero: for those who need shapes alone.
pub fn blank(info: &ModelInfo, task: Task) -> Vec<HeadTensor> {
    let tensors = |HeadLinear { module, d_in, d_out, bias, .. }: HeadLinear| {
        let weight = HeadTensor { name: format!("{module}.weight"), value: Matrix::zeros(d_in, d_out) };
        let bias = bias.then(|| HeadTensor { name: format!("{module}.bias"), value: Matrix::zeros(1, d_out) });
        std::iter::once(weight).chain(bias)
    };
    linears(info, task).into_iter().flat_map(tensors).collect()
}

/// Draws the weights that the checkpoint lacks as Transformers does: normal with `initializer_range`.
pub(crate) fn draw(head: &mut [HeadTensor], lacking: &[usize], info: &ModelInfo, rng: &mut impl Rng) {
    for &i in lacking {
        head[i].value.data.fill_with(|| (standard_normal(rng) * info.initializer_range) as f32);
    }
}

/// Class scores `[N, K]` from the hidden states that are read `[N, D]`; in training, with the keys of these rows, a `share` of what
/// linears read is dropped.
pub(crate) fn logits(
    read: Tensor<2>,
    linears: &[HeadLinear],
    head: &[Tensor<3>],
    batch: &DeviceBatch,
    keys: Option<&RowKeys>,
    share: f64,
) -> Tensor<2> {
    let (mut x, mut tensors) = (read, head.iter());
    let mut next = || tensors.next().expect("a tensor for every part of the head").clone();
    for (i, linear) in linears.iter().enumerate() {
        if linear.dropped {
            x = dropped(x, keys, Place::Head(i).number(None), share);
        }
        let weight = next();
        let bias = if linear.bias { next() } else { Tensor::zeros([1, 1, linear.d_out], &x.device()) };
        x = batch.by_client.linear(x, weight, bias); // [N, d_out]
        x = bent(x, linear.bend);
    }
    x
}

/// The mean of every sequence's rows of `x` `[T, D]`, as rows of a head's `[N, D]`: one product with a matrix of shares.
pub(crate) fn means(x: Tensor<2>, batch: &DeviceBatch) -> Tensor<2> {
    let (rows, tokens) = (batch.read.dims()[0], x.dims()[0]);
    let mut shares = vec![0f32; rows * tokens];
    for (s, range) in batch.sequences.ranges().enumerate() {
        let share = 1.0 / range.len().max(1) as f32;
        shares[s * tokens + range.start..s * tokens + range.end].fill(share);
    }
    product(Tensor::from_data(TensorData::new(shares, [rows, tokens]), &x.device()), x, Arithmetic::F32)
}

/// A linear's result, bent.
pub(crate) fn bent(x: Tensor<2>, bend: Bend) -> Tensor<2> {
    match bend {
        Bend::None => x,
        Bend::Tanh => x.tanh(),
        Bend::Relu => relu(x),
        Bend::Gelu => gelu(x),
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use crate::{Model, ModelSource, TargetKind, Task, Transformer};

    #[test]
    fn a_model_used_again_is_the_model_loaded_again() {
        let seed = ChaCha8Rng::seed_from_u64;
        let device = Device::flex().autodiff();
        let load = |kinds: &[TargetKind], n| {
            Transformer::load(&ModelSource::Builtin, Task::Classify(5), kinds, &mut seed(n), &device)
                .expect("the built-in model loads")
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
