//! The masked low-rank update on packed tokens: `s · ((x·A_k) restricted to client k's slots) · B_k`
//! for every token, where `k` is the client the token belongs to.

use burn::backend::Dispatch;
use burn::tensor::Tensor;

use crate::Segments;
use crate::ops::PackedOps;

/// The factors of one target for the clients in flight.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// `[C, d_in, R]`, or `[1, d_in, R]` when all clients share it.
    pub a: Tensor<3>,
    /// `[C, R, d_out]`, or `[1, R, d_out]` when all clients share it.
    pub b: Tensor<3>,
    /// `[C, R]`, 1 for a client's slots and 0 elsewhere; `None`: all slots.
    pub slots: Option<Tensor<2>>,
    /// LoRA's scale `s = alpha / rank`.
    pub scale: f32,
}

/// The masked low-rank update of `x` `[T, d_in]`; `clients` are the token ranges of the `C` clients.
///
/// # Shapes
/// `[T, d_in] -> [T, d_out]`. A factor with first axis 1 costs one product for all tokens.
pub fn lowrank_update(x: Tensor<2>, factors: &LowRank, clients: &Segments) -> Tensor<2> {
    let (mut a, mut b) = (factors.a.clone(), factors.b.clone());
    if let Some(slots) = &factors.slots {
        // The mask goes onto the factor that is per client: small, and it zeroes the other slots' gradients.
        if b.dims()[0] > 1 || a.dims()[0] == 1 {
            b = b * slots.clone().unsqueeze_dim::<3>(2);
        } else {
            a = a * slots.clone().unsqueeze_dim::<3>(1);
        }
    }
    let hidden = segmented_matmul(x, a, clients).mul_scalar(factors.scale);
    segmented_matmul(hidden, b, clients)
}

/// `[T, K] × [C, K, N] -> [T, N]`: the rows of segment `c` meet matrix `c`; with `C = 1` all rows meet the one matrix.
pub fn segmented_matmul(x: Tensor<2>, w: Tensor<3>, segments: &Segments) -> Tensor<2> {
    if w.dims()[0] == 1 {
        return x.matmul(w.squeeze_dim(0));
    }
    Tensor::from_dispatch(<Dispatch as PackedOps>::segmented_matmul(
        x.into_dispatch(),
        w.into_dispatch(),
        segments.clone(),
    ))
}

/// The reference of [`segmented_matmul`] in plain tensor operations, slice by slice; for tests.
pub fn segmented_matmul_composed(x: Tensor<2>, w: Tensor<3>, segments: &Segments) -> Tensor<2> {
    let parts = segments
        .ranges()
        .enumerate()
        .filter(|(_, r)| !r.is_empty())
        .map(|(c, r)| x.clone().narrow(0, r.start, r.len()).matmul(w.clone().narrow(0, c, 1).squeeze_dim(0)))
        .collect();
    Tensor::cat(parts, 0)
}
