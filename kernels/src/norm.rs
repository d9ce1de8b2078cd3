//! Normalisation of rows: layer norm of a sum (a residual and what a block gave), and root mean square norm. Gains and shifts
//! belong to the frozen backbone, so no gradient is computed for them.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

use crate::backends::Kernels;
use crate::graph::{Residual, of_one_input, past};

/// Norms as Burn sees them, with and without a graph.
#[backend_extension(Flex: cfg(feature = "flex"), Cube: cfg(feature = "cube"), Autodiff)]
pub trait NormOps: Backend {
    /// See [`add_norm`]: `x`, `r` `[T, D]`, `gamma`, `beta` `[D]` -> `[T, D]`.
    fn add_norm(
        x: FloatTensor<Self>,
        r: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self>;

    /// See [`rms_norm_and_input`]: `x` `[T, D]`, `gamma` `[D]` -> `[T, D]`, and `x` once more.
    fn rms_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        offset: f64,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

impl<B: Kernels> NormOps for B {
    fn add_norm(
        x: FloatTensor<Self>,
        r: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        Self::add_norm_rows(x, r, gamma, beta, eps).0
    }

    fn rms_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        offset: f64,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        (Self::rms_rows(&x, gamma, offset, eps), x)
    }
}

impl<B: Kernels, C: CheckpointStrategy> NormOps for Autodiff<B, C> {
    fn add_norm(
        x: FloatTensor<Self>,
        r: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;
        impl<B: Kernels> Backward<B, 2> for Step {
            type State = (FloatTensor<B>, FloatTensor<B>, f64);

            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let dy = grads.consume::<B>(&ops.node); // [T, D]
                let (sum, gamma, eps) = ops.state; // [T, D], [D]
                // Both terms of a sum have the sum's gradient.
                let gradient = B::add_norm_backward(sum, gamma, dy, eps); // [T, D]
                for term in ops.parents.into_iter().flatten() {
                    grads.register::<B>(term.id, gradient.clone());
                }
            }
        }
        assert!(!gamma.is_tracked() && !beta.is_tracked(), "gain and bias of the norm are frozen");
        let terms = [x.node(), r.node()];
        let [x, r, gamma, beta] = [x, r, gamma, beta].map(|t| t.into_primitive());
        let (y, sum) = B::add_norm_rows(x, r, gamma.clone(), beta, eps); // [T, D] each
        match Step.prepare::<C>(terms).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((sum, gamma, eps), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn rms_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        offset: f64,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        assert!(!gamma.is_tracked(), "the gain of the norm is frozen");
        let again = x.clone();
        let (x, input) = x.into_parts();
        let gamma = gamma.into_primitive();
        let residual = Residual::new();
        let y = B::rms_rows(&x, gamma.clone(), offset, eps); // [T, D]
        let kept = (x, gamma, residual.clone(), offset, eps);
        let y = of_one_input::<B, C, _>(input, y, kept, |(x, gamma, residual, offset, eps), dy| {
            B::rms_backward(&x, gamma, dy, residual.take(), offset, eps) // [T, D]
        });
        // An input that wants no gradient goes on as it is.
        let again = if again.is_tracked() { past::<B, C>(&y, again.into_primitive(), residual) } else { again };
        (y, again)
    }
}

/// Normalises each row of `x + r` `[T, D]` to mean 0 and variance 1 (biased), then scales by `gamma` `[D]` and shifts by
/// `beta` `[D]`, which must not be tracked: the backbone is frozen.
///
/// # Panics
/// Shapes that do not agree.
pub fn add_norm(x: Tensor<2>, r: Tensor<2>, gamma: Tensor<1>, beta: Tensor<1>, eps: f64) -> Tensor<2> {
    let shapes = [x.dims(), r.dims(), [x.dims()[0], gamma.dims()[0]], [x.dims()[0], beta.dims()[0]]];
    assert!(shapes.iter().all(|shape| *shape == x.dims()), "add_norm of x, r, gamma, beta (rows added): {shapes:?}");
    Tensor::from_dispatch(<Dispatch as NormOps>::add_norm(
        x.into_dispatch(),
        r.into_dispatch(),
        gamma.into_dispatch(),
        beta.into_dispatch(),
        eps,
    ))
}

/// Each row over its root mean square (arXiv 1910.07467), times `gamma + offset` `[D]`, which must not be tracked: the backbone
/// is frozen. Gemma's gains are stored as what they are above 1 (`offset` 1), others whole (0). In f32 whatever `x` is.
///
/// # Shapes
/// `x` `[T, D]` -> the same, of `x`'s type.
///
/// # Panics
/// Shapes that do not agree.
pub fn rms_norm(x: Tensor<2>, gamma: Tensor<1>, offset: f64, eps: f64) -> Tensor<2> {
    rms_norm_and_input(x, gamma, offset, eps).0
}

/// [`rms_norm`], and `x` once more for a residual connection past the norm: what the connection adds to the gradient of `x` is
/// added where that is computed, and not in a pass of its own. For that `x` itself must not be used further.
///
/// # Panics
/// As [`rms_norm`]; and in the backward pass, where a loss depends on the second tensor and not on the first.
pub fn rms_norm_and_input(x: Tensor<2>, gamma: Tensor<1>, offset: f64, eps: f64) -> (Tensor<2>, Tensor<2>) {
    assert_eq!(x.dims()[1], gamma.dims()[0], "rms_norm: one gain a column");
    let (x, gamma) = (x.into_dispatch(), gamma.into_dispatch());
    let (y, x) = <Dispatch as NormOps>::rms_norm(x, gamma, offset, eps);
    (Tensor::from_dispatch(y), Tensor::from_dispatch(x))
}
