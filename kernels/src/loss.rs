//! Softmax cross-entropy on packed sequences, kept apart by client.

use burn::tensor::{Int, Tensor, activation::log_softmax};

use crate::Segments;

/// Cross-entropy of every sequence: `logits` `[S, K]`, `targets` `[S]` -> `[S]`.
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    log_softmax(logits, 1).gather(1, targets.unsqueeze_dim::<2>(1)).squeeze_dim::<1>(1).neg()
}

/// The mean over each client's rows: `[S] -> [C]`; 0 for a client without rows.
///
/// Written as a product with a constant `[C, S]` matrix, so that nothing is summed over clients and the gradient of
/// one client's loss reaches its own rows only.
pub fn mean_per_client(values: Tensor<1>, clients: &Segments) -> Tensor<1> {
    let rows = clients.rows();
    let mut weights = vec![0f32; clients.len() * rows];
    for (c, range) in clients.ranges().enumerate() {
        let share = 1.0 / range.len().max(1) as f32;
        weights[c * rows..][range].fill(share);
    }
    let data = burn::tensor::TensorData::new(weights, [clients.len(), rows]);
    let weights = Tensor::<2>::from_data(data, &values.device());
    weights.matmul(values.unsqueeze_dim::<2>(1)).squeeze_dim(1)
}
