//! The loss over a whole vocabulary, a block of rows at a time: a step's scores `[N, V]` would be larger than all else that the step
//! keeps, so they never exist at once. `N` rows that are read (tokens with a target), `V` words, `D` features.

use bonfire_kernels::{
    Arithmetic, cross_entropy, cross_entropy_and_slopes, device_buffer_limit, device_memory, product, runs_on_cpu,
};
use burn::tensor::{Device, FloatDType, Int, Tensor};

/// Numbers in a block of scores, at least: on a CPU they stay in cache, and every device has room for them.
const BLOCK: usize = 1 << 22;
/// Numbers in a block at most. A block of a thousand rows of the largest vocabularies reads the embeddings seldom enough that
/// matrix units are kept busy.
const LARGEST_BLOCK: usize = 1 << 27;
/// The part of a device's memory that a block may take: one of so many, small beside what a plan of its memory may be off by.
const MEMORY_SHARE: u64 = 128;

/// Numbers in the smallest block of scores over a vocabulary of `words`, which any device must be able to hold.
pub fn vocabulary_block(words: usize) -> usize {
    BLOCK.max(words)
}

/// Numbers in a block of scores on `device`, by the memory it says it has. Asks the device.
pub(crate) fn block_on(device: &Device) -> usize {
    let memory = if runs_on_cpu(device) { None } else { device_memory(device) };
    let Some(memory) = memory else { return BLOCK };
    let bytes = (memory / MEMORY_SHARE).min(device_buffer_limit(device).unwrap_or(u64::MAX));
    usize::try_from(bytes / 4).unwrap_or(LARGEST_BLOCK).clamp(BLOCK, LARGEST_BLOCK)
}

/// Output embeddings, and how they are used.
#[derive(Clone, Copy)]
pub(crate) struct Vocabulary<'v> {
    /// `[V, D]`.
    pub words: &'v Tensor<2>,
    /// Of products with them.
    pub arithmetic: Arithmetic,
    /// Numbers in a block of scores; see [`block_on`].
    pub block: usize,
}

impl Vocabulary<'_> {
    /// Scores `[n, V]` of hidden states `[n, D]`, in the embeddings' type.
    fn scores(&self, hidden: Tensor<2>) -> Tensor<2> {
        product(hidden.cast(self.words.dtype()), self.words.clone().transpose(), self.arithmetic)
    }

    /// All scores `[N, V]` in f32 of hidden states `[N, D]`.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.scores(hidden).cast(FloatDType::F32)
    }

    /// First row and number of rows of each block, of `n` rows.
    fn blocks(&self, n: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let rows = (self.block / self.words.dims()[0]).clamp(1, n.max(1));
        (0..n).step_by(rows).map(move |start| (start, rows.min(n - start)))
    }

    /// Cross-entropy of every row `[N]`; `labels` `[N]`.
    ///
    /// The output embeddings are frozen, so a row's gradient `(softmax − onehot)·words` is known in the forward pass and
    /// `[N, D]` of it is all that backward needs.
    ///
    /// With a `smoothing` ε of labels, `ε·(s_y − mean(s))` is added, of scores s: of hidden states a linear function too.
    pub fn losses(&self, hidden: Tensor<2>, labels: Tensor<1, Int>, smoothing: f64) -> Tensor<1> {
        let spread = (smoothing > 0.0).then(|| {
            let words = self.words.clone().cast(FloatDType::F32); // [V, D]
            let apart = words.clone().select(0, labels.clone()) - words.mean_dim(0); // [N, D]
            (hidden.clone() * apart).sum_dim(1).squeeze_dim::<1>(1) * smoothing // [N]
        });
        let plain = hidden.clone().detach();
        let answers = labels.float().cast(FloatDType::F32); // [N]
        let (mut losses, mut gradients) = (Vec::new(), Vec::new());
        for (start, n) in self.blocks(plain.dims()[0]) {
            let scores = self.scores(plain.clone().narrow(0, start, n)); // [n, V]
            let (loss, slopes) = cross_entropy_and_slopes(scores, answers.clone().narrow(0, start, n)); // [n], [n, V]
            losses.push(loss);
            gradients.push(product(slopes, self.words.clone(), self.arithmetic).cast(FloatDType::F32)); // [n, D]
        }
        // Zero, with the gradient that the losses have.
        let linear = ((hidden - plain) * Tensor::cat(gradients, 0)).sum_dim(1).squeeze_dim::<1>(1); // [N]
        let losses = Tensor::cat(losses, 0) + linear;
        match spread {
            Some(spread) => losses + spread,
            None => losses,
        }
    }

    /// Cross-entropy of every row `[N]` and its likeliest token `[N]`.
    pub fn evaluate(&self, hidden: Tensor<2>, labels: Tensor<1, Int>) -> (Tensor<1>, Tensor<1, Int>) {
        let one = |(start, n)| {
            let scores = self.logits(hidden.clone().narrow(0, start, n)); // [n, V]
            let labels = labels.clone().narrow(0, start, n);
            (cross_entropy(scores.clone(), labels), scores.argmax(1).squeeze_dim::<1>(1))
        };
        let (losses, best) = self.blocks(hidden.dims()[0]).map(one).unzip();
        (Tensor::cat(losses, 0), Tensor::cat(best, 0))
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    /// Smoothed labels, against the objective over all scores at once.
    #[test]
    fn smoothed_blocks_are_the_smoothed_loss_of_all_at_once() {
        let device = Device::flex().autodiff();
        let (n, v, d) = (3, 6, 4);
        let numbers =
            |count: usize, by: usize| (0..count).map(|i| ((i * by) % 13) as f32 / 4.0 - 1.5).collect::<Vec<_>>();
        let put = |values: Vec<f32>, shape: [usize; 2]| {
            Tensor::<2>::from_data(burn::tensor::TensorData::new(values, shape), &device)
        };
        let (words, hidden) = (put(numbers(v * d, 5), [v, d]), put(numbers(n * d, 7), [n, d]).require_grad());
        let labels = Tensor::<1, Int>::from_ints([5, 0, 2], &device);
        let vocabulary = Vocabulary { words: &words, arithmetic: Arithmetic::F32, block: 2 * v };
        let objective = crate::Objective { smoothing: 0.3, ..Default::default() };
        let found = vocabulary.losses(hidden.clone(), labels.clone(), 0.3);
        let expected = objective.losses(vocabulary.logits(hidden.clone()), labels);
        let read = |t: Tensor<1>| t.into_data().iter::<f64>().collect::<Vec<_>>();
        let apart = |x: Vec<f64>, y: Vec<f64>| x.iter().zip(&y).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
        assert!(apart(read(found.clone()), read(expected.clone())) < 1e-5);
        let gradient = |losses: Tensor<1>| {
            hidden.grad(&losses.sum().backward()).expect("a gradient").into_data().iter::<f64>().collect::<Vec<_>>()
        };
        assert!(apart(gradient(found), gradient(expected)) < 1e-5);
    }

    /// Blocks of one row, of some and of all say the same, and what the plain loss of all scores at once says.
    #[test]
    fn blocks_are_the_loss_of_all_at_once() {
        let device = Device::flex().autodiff();
        let (n, v, d) = (7, 11, 5);
        let numbers =
            |count: usize, by: usize| (0..count).map(|i| ((i * by) % 17) as f32 / 4.0 - 2.0).collect::<Vec<_>>();
        let put = |values: Vec<f32>, shape: [usize; 2]| {
            Tensor::<2>::from_data(burn::tensor::TensorData::new(values, shape), &device)
        };
        let words = put(numbers(v * d, 5), [v, d]);
        let hidden = put(numbers(n * d, 7), [n, d]).require_grad();
        let labels = Tensor::<1, Int>::from_ints([0, 10, 3, 3, 7, 1, 9], &device);
        let read = |t: Tensor<2>| t.into_data().try_to_vec::<f32>().expect("f32");
        let vocabulary = |block| Vocabulary { words: &words, arithmetic: Arithmetic::F32, block };
        let plain = bonfire_kernels::cross_entropy_composed(vocabulary(0).logits(hidden.clone()), labels.clone());
        let weights = Tensor::<1>::from_floats([1.0, -2.0, 0.5, 3.0, 1.0, 0.25, -1.0], &device);
        let gradient = |losses: &Tensor<1>| {
            let gradients = (losses.clone() * weights.clone()).sum().backward();
            read(hidden.grad(&gradients).expect("hidden states train"))
        };
        // A graph is gone once it was walked back.
        let (expected, expected_gradient) = (read(plain.clone().unsqueeze()), gradient(&plain));
        for block in [0, 3 * v, 1 << 20] {
            let found = vocabulary(block).losses(hidden.clone(), labels.clone(), 0.0);
            let (evaluated, _) = vocabulary(block).evaluate(hidden.clone(), labels.clone());
            let close =
                |a: Vec<f32>, b: Vec<f32>| a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-5) && a.len() == b.len();
            assert!(close(gradient(&found), expected_gradient.clone()), "gradients in blocks of {block}");
            for losses in [found, evaluated] {
                assert!(close(read(losses.unsqueeze()), expected.clone()), "losses in blocks of {block}");
            }
        }
    }
}
