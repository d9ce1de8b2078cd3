//! The operations between the products: norms, GELU, gated activations, rotary positions.

use burn::backend::Dispatch;
use burn::tensor::Tensor;

use crate::ops::PackedOps;

/// Normalises each row of `x + r` `[T, D]` to mean 0 and variance 1 (biased), then scales by `gamma` `[D]` and shifts by
/// `beta` `[D]`, which must not be tracked: the backbone is frozen.
///
/// # Panics
/// Shapes that do not agree.
pub fn add_norm(x: Tensor<2>, r: Tensor<2>, gamma: Tensor<1>, beta: Tensor<1>, eps: f64) -> Tensor<2> {
    let shapes = [x.dims(), r.dims(), [x.dims()[0], gamma.dims()[0]], [x.dims()[0], beta.dims()[0]]];
    assert!(shapes.iter().all(|shape| *shape == x.dims()), "add_norm of x, r, gamma, beta (rows added): {shapes:?}");
    Tensor::from_dispatch(<Dispatch as PackedOps>::add_norm(
        x.into_dispatch(),
        r.into_dispatch(),
        gamma.into_dispatch(),
        beta.into_dispatch(),
        eps,
    ))
}

/// `x · Φ(x)` elementwise, Φ the standard normal distribution (the exact GELU): `[T, D] -> [T, D]`.
pub fn gelu(x: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as PackedOps>::gelu_rows(x.into_dispatch()))
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
    assert_eq!(x.dims()[1], gamma.dims()[0], "rms_norm: one gain a column");
    let (x, gamma) = (x.into_dispatch(), gamma.into_dispatch());
    Tensor::from_dispatch(<Dispatch as PackedOps>::rms_norm_rows(x, gamma, offset, eps))
}

/// How a gate bends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bend {
    /// `x · σ(x)`, σ the logistic function: SwiGLU (arXiv 2002.05202).
    Silu,
    /// `x · Φ(x)`: GeGLU with the exact GELU.
    Gelu,
    /// `½·x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`: GeGLU as Gemma has it.
    GeluTanh,
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
    Tensor::from_dispatch(<Dispatch as PackedOps>::glu_rows(wide.into_dispatch(), bend))
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
    Tensor::from_dispatch(<Dispatch as PackedOps>::rotate_rows(x, cos, sin, heads))
}
