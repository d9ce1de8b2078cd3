//! Softmax cross-entropy: as a loss with a graph, and together with its gradient where that is wanted at once.

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend, Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{FloatDType, Int, Shape, Tensor, activation::log_softmax};

use crate::graph::of_one_input;

/// Cross-entropy of every sequence in f32: `logits` `[S, K]`, `targets` `[S]` -> `[S]`. The gradient is computed with it.
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    assert_eq!(logits.dims()[0], targets.dims()[0], "an answer for every row of scores");
    let targets = targets.float().cast(FloatDType::F32);
    Tensor::from_dispatch(<Dispatch as LossOps>::loss(logits.into_dispatch(), targets.into_dispatch()))
}

/// The reference of [`cross_entropy`] in plain tensor operations.
pub fn cross_entropy_composed(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    log_softmax(logits, 1).gather(1, targets.unsqueeze_dim::<2>(1)).squeeze_dim::<1>(1).neg() // [S, K] -> [S, 1] -> [S]
}

/// Cross-entropy of every row in f32 and, in the memory of its scores, its gradient for them: `softmax − onehot`. One visit to
/// memory for both; computed in f32 whatever the scores are.
///
/// # Shapes
/// `scores` `[N, V]`, to which nothing of this passes a gradient; `targets` `[N]`, the number of each row's answer in f32, which holds whole numbers up to
/// 2²⁴ -> `[N]`, and `[N, V]` of the scores' type.
pub fn cross_entropy_and_slopes(scores: Tensor<2>, targets: Tensor<1>) -> (Tensor<1>, Tensor<2>) {
    assert_eq!(scores.dims()[0], targets.dims()[0], "an answer for every row of scores");
    let (losses, slopes) = <Dispatch as LossOps>::loss_and_slopes(scores.into_dispatch(), targets.into_dispatch());
    (Tensor::from_dispatch(losses), Tensor::from_dispatch(slopes))
}

/// The loss with its gradient, on each backend.
#[backend_extension(Flex: cfg(feature = "flex"), Cube: cfg(feature = "cube"), Autodiff)]
pub trait LossOps: Backend {
    /// See [`cross_entropy_and_slopes`].
    fn loss_and_slopes(scores: FloatTensor<Self>, targets: FloatTensor<Self>)
    -> (FloatTensor<Self>, FloatTensor<Self>);

    /// See [`cross_entropy`].
    fn loss(scores: FloatTensor<Self>, targets: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::loss_and_slopes(scores, targets).0
    }
}

impl<B: LossOps, C: CheckpointStrategy> LossOps for Autodiff<B, C> {
    fn loss_and_slopes(
        scores: FloatTensor<Self>,
        targets: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        // Both are constants to the graph: the gradient is not computed again in a backward pass, it is here.
        let (losses, slopes) = B::loss_and_slopes(scores.into_primitive(), targets.into_primitive());
        (Self::from_inner(losses), Self::from_inner(slopes))
    }

    fn loss(scores: FloatTensor<Self>, targets: FloatTensor<Self>) -> FloatTensor<Self> {
        let node = scores.node();
        let (losses, slopes) = B::loss_and_slopes(scores.into_primitive(), targets.into_primitive());
        of_one_input::<B, C, _>(node, losses, slopes, |slopes, dy| {
            let rows = dy.shape()[0];
            let dy = B::float_cast(B::float_reshape(dy, Shape::from([rows, 1])), slopes.dtype().into());
            B::float_mul(slopes, dy) // [S, K]
        })
    }
}
