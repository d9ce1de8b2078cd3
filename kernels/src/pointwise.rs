//! Operations that compute every number from one or two others: GELU, gated linear units, rotary positions.

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

use crate::backends::Kernels;
use crate::graph::of_one_input;
use crate::options::Bend;

/// These operations as Burn sees them, with and without a graph.
#[backend_extension(Flex: cfg(feature = "flex"), Cube: cfg(feature = "cube"), Autodiff)]
pub trait PointwiseOps: Backend {
    /// See [`gelu`]: `[T, D] -> [T, D]`.
    fn gelu(x: FloatTensor<Self>) -> FloatTensor<Self>;

    /// See [`glu`]: `[T, 2·I] -> [T, I]`.
    fn glu(wide: FloatTensor<Self>, bend: Bend) -> FloatTensor<Self>;

    /// See [`rotate`]: `x` `[T, N]`, `cos`, `sin` `[T, w/2]` -> `[T, N]`.
    fn rotate(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>, heads: usize) -> FloatTensor<Self>;
}

impl<B: Kernels> PointwiseOps for B {
    fn gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::gelu_elements(&x)
    }

    fn glu(wide: FloatTensor<Self>, bend: Bend) -> FloatTensor<Self> {
        Self::glu_forward(&wide, bend)
    }

    fn rotate(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>, heads: usize) -> FloatTensor<Self> {
        Self::turn(x, cos, sin, heads, false)
    }
}

impl<B: Kernels, C: CheckpointStrategy> PointwiseOps for Autodiff<B, C> {
    fn gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x, input) = x.into_parts();
        let y = B::gelu_elements(&x); // [T, D]
        of_one_input::<B, C, _>(input, y, x, |x, dy| B::gelu_elements_backward(&x, dy))
    }

    fn glu(wide: FloatTensor<Self>, bend: Bend) -> FloatTensor<Self> {
        let (wide, input) = wide.into_parts();
        let y = B::glu_forward(&wide, bend); // [T, I]
        of_one_input::<B, C, _>(input, y, (wide, bend), |(wide, bend), dy| {
            B::glu_backward(&wide, dy, bend) // [T, I] -> [T, 2·I]
        })
    }

    fn rotate(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>, heads: usize) -> FloatTensor<Self> {
        assert!(!cos.is_tracked() && !sin.is_tracked(), "angles are no parameters");
        let (x, input) = x.into_parts();
        let [cos, sin] = [cos, sin].map(|t| t.into_primitive());
        let y = B::turn(x, cos.clone(), sin.clone(), heads, false); // [T, N]
        // A rotation's gradient is the rotation back.
        of_one_input::<B, C, _>(input, y, (cos, sin, heads), |(cos, sin, heads), dy| B::turn(dy, cos, sin, heads, true))
    }
}

/// `x · Φ(x)` elementwise, Φ the standard normal distribution (the exact GELU): `[T, D] -> [T, D]`.
pub fn gelu(x: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as PointwiseOps>::gelu(x.into_dispatch()))
}

/// A gated linear unit: `bend(gate) · up`, gates in the first half of the columns. In f32 whatever `wide` is.
///
/// # Shapes
/// `wide` `[T, 2·I]` -> `[T, I]`, of `wide`'s type.
///
/// # Panics
/// An odd number of columns.
pub fn glu(wide: Tensor<2>, bend: Bend) -> Tensor<2> {
    assert!(wide.dims()[1].is_multiple_of(2), "glu: gates and what they let through are as many");
    Tensor::from_dispatch(<Dispatch as PointwiseOps>::glu(wide.into_dispatch(), bend))
}

/// Rotary positions (arXiv 2104.09864): the first `heads` heads of every row are turned by the token's angles, the first half of
/// a head's features pairing with the second, as Hugging Face lays them; what lies behind these heads stays. In f32 whatever
/// `x` is.
///
/// # Shapes
/// `x` `[T, N]` with `heads · w ≤ N`; `cos`, `sin` `[T, w/2]`, not tracked -> `[T, N]`, of `x`'s type.
///
/// # Panics
/// Shapes that do not agree.
pub fn rotate(x: Tensor<2>, cos: Tensor<2>, sin: Tensor<2>, heads: usize) -> Tensor<2> {
    let ([tokens, columns], [rows, half]) = (x.dims(), cos.dims());
    let fits = rows == tokens && sin.dims() == cos.dims() && heads * 2 * half <= columns;
    assert!(fits, "rotate: {heads} heads of {} features in [{tokens}, {columns}], angles of {rows} tokens", 2 * half);
    let [x, cos, sin] = [x, cos, sin].map(Tensor::into_dispatch);
    Tensor::from_dispatch(<Dispatch as PointwiseOps>::rotate(x, cos, sin, heads))
}
