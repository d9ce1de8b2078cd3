//! Dropout, elementwise: the backward pass computes a mask again and keeps none (`masks.rs`).

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

use crate::backends::Kernels;
use crate::graph::of_one_input;
use crate::masks::DropMask;

/// Dropout as Burn sees it, with and without a graph.
#[backend_extension(Flex: cfg(feature = "flex"), Cube: cfg(feature = "cube"), Autodiff)]
pub trait DropoutOps: Backend {
    /// See [`dropout`]: `[T, D] -> [T, D]`.
    fn dropout(x: FloatTensor<Self>, mask: DropMask) -> FloatTensor<Self>;
}

impl<B: Kernels> DropoutOps for B {
    fn dropout(x: FloatTensor<Self>, mask: DropMask) -> FloatTensor<Self> {
        Self::drop_elements(x, &mask)
    }
}

impl<B: Kernels, C: CheckpointStrategy> DropoutOps for Autodiff<B, C> {
    fn dropout(x: FloatTensor<Self>, mask: DropMask) -> FloatTensor<Self> {
        let (x, input) = x.into_parts();
        let y = B::drop_elements(x, &mask); // [T, D]
        // What was dropped passes no gradient; what was kept passes it as much larger.
        of_one_input::<B, C, _>(input, y, mask, |mask, dy| B::drop_elements(dy, &mask))
    }
}

/// `x` with a share of its elements zero and the others as much larger that the mean stays (arXiv 1207.0580, inverted as PyTorch has
/// it). An element goes where `mix(mix(column ^ a) + b) < rate · 2³²`, with `a = mix(k₀ ^ mix(place))` and `b = mix(k₁ + place)` of the
/// row's key `(k₀, k₁)`, `mix` being `lowbias32` and sums and products those of 32-bit words.
///
/// # Shapes
/// `x` `[blocks · T, D]` with the `T` rows of the mask -> the same, of `x`'s type.
///
/// # Panics
/// Rows that are no multiple of the mask's, or a rate outside [0, 1).
pub fn dropout(x: Tensor<2>, mask: DropMask) -> Tensor<2> {
    let rows = x.dims()[0];
    assert!((0.0..1.0).contains(&mask.rate), "a share of {} is dropped", mask.rate);
    assert!(mask.rows.end <= mask.keys.len(), "rows {:?} of {} with a key", mask.rows, mask.keys.len());
    assert!(
        rows == 0 || (!mask.rows.is_empty() && rows.is_multiple_of(mask.rows.len())),
        "{rows} rows, mask {:?}",
        mask.rows
    );
    if mask.rate == 0.0 {
        return x;
    }
    Tensor::from_dispatch(<Dispatch as DropoutOps>::dropout(x.into_dispatch(), mask))
}
