//! The operations between the products: layer normalisation of a sum, and GELU.

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
