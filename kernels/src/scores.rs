//! How much a slot contributed to a probe: LoRA-A²'s selection score.

use burn::backend::Dispatch;
use burn::tensor::Tensor;

use crate::optimizer::OptimizerOps;

/// Scores of every slot of one target (LoRA-A², section 4.2): the Frobenius norm of the slot's outer product
/// `‖ΔB_i ⊗ A_i‖_F = ‖ΔB_i‖₂ · ‖A_i‖₂` (and with the factors' roles exchanged when A is active).
///
/// # Shapes
/// `a` `[C|1, R, d_in]`, `b` `[C|1, R, d_out]`, one of them the active factor's movement, both without a graph -> `[C, R]`.
pub fn slot_scores(a: Tensor<3>, b: Tensor<3>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as OptimizerOps>::slot_norms(a.into_dispatch(), b.into_dispatch()))
}
