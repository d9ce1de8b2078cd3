//! SoRA's proximal step (Ding et al., EMNLP 2023, arXiv 2311.11696): after every step of the optimizer the gates between A
//! and B are shrunk, `g ← sign(g)·max(|g| − ξ, 0)`, so that gates of little use reach zero.

use burn::tensor::Tensor;

use crate::Threshold;

/// The movement `[C, rows, cols]` that brings gates from `start` to where the soft threshold leaves `start + movement`.
pub(crate) fn shrink(threshold: Threshold, start: &Tensor<3>, movement: Tensor<3>) -> Tensor<3> {
    let gate = start.clone() + movement;
    let size = gate.clone().abs() - threshold.xi; // |g| − ξ
    // The published code also zeroes what was just shrunk below ξ.
    let floor = if threshold.twice { threshold.xi } else { 0.0 };
    let shrunk = gate.sign() * size.clone().clamp_min(0.0) * size.greater_elem(floor).float();
    shrunk - start.clone()
}
