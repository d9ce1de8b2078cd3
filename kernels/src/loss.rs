//! Softmax cross-entropy on packed sequences.

use burn::tensor::{Int, Tensor, activation::log_softmax};

/// Cross-entropy of every sequence: `logits` `[S, K]`, `targets` `[S]` -> `[S]`.
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    log_softmax(logits, 1).gather(1, targets.unsqueeze_dim::<2>(1)).squeeze_dim::<1>(1).neg() // [S, K] -> [S, 1] -> [S]
}
