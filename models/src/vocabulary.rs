//! The loss over a whole vocabulary, a block of rows at a time: a step's scores `[N, V]` would be larger than all else that it
//! keeps, so they never exist at once. `N` rows that are read, `V` words, `D` features.

use bonfire_kernels::{Arithmetic, cross_entropy, product};
use burn::tensor::{FloatDType, Int, Tensor};

/// Numbers in one block of scores.
const BLOCK: usize = 1 << 22;

/// Numbers in the largest block of scores over a vocabulary of `words`.
pub fn vocabulary_block(words: usize) -> usize {
    BLOCK.max(words)
}

/// All scores `[N, V]` in f32 of hidden states `[N, D]`; `words` are the output embeddings `[V, D]`.
pub(crate) fn logits(hidden: Tensor<2>, words: &Tensor<2>, arithmetic: Arithmetic) -> Tensor<2> {
    product(hidden.cast(words.dtype()), words.clone().transpose(), arithmetic).cast(FloatDType::F32)
}

/// Hidden states and answers block by block.
fn blocks(hidden: &Tensor<2>, words: &Tensor<2>, labels: &Tensor<1, Int>) -> Vec<(Tensor<2>, Tensor<1, Int>)> {
    let ([n, _], [v, _]) = (hidden.dims(), words.dims());
    let rows = (BLOCK / v).clamp(1, n.max(1));
    let starts = (0..n).step_by(rows).map(|start| (start, rows.min(n - start)));
    starts.map(|(at, n)| (hidden.clone().narrow(0, at, n), labels.clone().narrow(0, at, n))).collect()
}

/// Cross-entropy of every row `[N]`.
///
/// The output embeddings are frozen, so a row's gradient `(softmax - onehot)·words` is known in the forward pass and
/// `[N, D]` of it is all that backward needs.
pub(crate) fn losses(
    hidden: Tensor<2>,
    words: &Tensor<2>,
    labels: Tensor<1, Int>,
    arithmetic: Arithmetic,
) -> Tensor<1> {
    let plain = hidden.clone().detach();
    let (mut losses, mut slopes) = (Vec::new(), Vec::new());
    for (block, labels) in blocks(&plain, words, &labels) {
        // Softmax by hand: one exponential serves the loss and its gradient.
        let scores = logits(block, words, arithmetic);
        let scores = scores.clone() - scores.max_dim(1);
        let right = scores.clone().gather(1, labels.clone().unsqueeze_dim::<2>(1)); // [n, 1]
        let weights = scores.exp(); // [n, V]
        let total = weights.clone().sum_dim(1); // [n, 1]
        losses.push((total.clone().log() - right).squeeze_dim::<1>(1)); // [n]
        let expected = product((weights / total).cast(words.dtype()), words.clone(), arithmetic); // [n, D]
        slopes.push((expected - words.clone().select(0, labels)).cast(FloatDType::F32)); // [n, D]
    }
    // Zero, with the gradient that the losses have.
    let linear = ((hidden - plain) * Tensor::cat(slopes, 0)).sum_dim(1).squeeze_dim::<1>(1); // [N]
    Tensor::cat(losses, 0) + linear
}

/// Cross-entropy of every row `[N]` and its likeliest token `[N]`.
pub(crate) fn evaluate(
    hidden: Tensor<2>,
    words: &Tensor<2>,
    labels: Tensor<1, Int>,
    arithmetic: Arithmetic,
) -> (Tensor<1>, Tensor<1, Int>) {
    let one = |(block, labels): (Tensor<2>, Tensor<1, Int>)| {
        let scores = logits(block, words, arithmetic);
        (cross_entropy(scores.clone(), labels), scores.argmax(1).squeeze_dim::<1>(1))
    };
    let (losses, best) = blocks(&hidden, words, &labels).into_iter().map(one).unzip();
    (Tensor::cat(losses, 0), Tensor::cat(best, 0))
}
