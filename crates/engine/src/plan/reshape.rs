//! What a client makes of its factors before they leave: the same product in other factors, or sketches of it.

use bonfire_models::Factor;
use serde::{Deserialize, Serialize};

/// Each client turns its slots among themselves so that one factor comes as near as it can to the round's start
/// (FedRot-LoRA, arXiv 2602.23638): see [`crate::alignment`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alignment {
    /// The factor that is brought near.
    pub to: Factor,
    /// λ: 1 turns all the way, 0 not at all.
    pub strength: f64,
}

/// Clients send `A_k·B_k·Ω` and `Ψ·A_k·B_k` of every target, Ω and Ψ by chance from the seed, in place of factors: see
/// [`crate::product_sketch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProductSketch {
    /// The run's seed.
    pub seed: u64,
    /// Columns of Ω, of a target as many as it has features at most.
    pub columns: usize,
    /// Rows of Ψ, likewise.
    pub rows: usize,
}
