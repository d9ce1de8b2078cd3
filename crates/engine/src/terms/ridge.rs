//! A ridge on the factors that train, `λ·(‖A‖² + ‖B‖²)` (XGBLoRA, arXiv 2410.19694).

use burn::tensor::Tensor;

/// The gradient of the term, `2λ·θ`, at `weight = start + movement` `[C, rows, cols]`.
pub(crate) fn pull(lambda: f64, weight: Tensor<3>) -> Tensor<3> {
    weight * (2.0 * lambda)
}
