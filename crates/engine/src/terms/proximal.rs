//! FedProx (Li et al., arXiv 1812.06127): `(μ/2)·‖θ − θᵗ‖²` over what trains keeps clients near the round's start.

use burn::tensor::Tensor;

/// The gradient of the term is `μ·(θ − θᵗ)`. `movement` is `θ` minus the *global* start; where a client goes on from a part of
/// its own, `centre` is where that part stood, as a movement too.
pub(crate) fn pull(mu: f64, movement: &Tensor<3>, centre: Option<&Tensor<3>>) -> Tensor<3> {
    let moved = match centre {
        Some(centre) => movement.clone() - centre.clone(), // [C, rows, cols]
        None => movement.clone(),
    };
    moved * mu
}
