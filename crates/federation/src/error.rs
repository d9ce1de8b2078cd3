//! What can end a federation before its last round.

use bonfire_engine::{EngineError, Problem};

/// A run that cannot start or go on. The server keeps the state after the last complete round.
#[derive(Debug, thiserror::Error)]
pub enum FederationError {
    /// A setting that cannot be.
    #[error("{key} {problem}")]
    Setting {
        /// The key, as `section.key`.
        key: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// Local training or evaluation failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Factors that cannot be combined.
    #[error("uploads cannot be combined: {0}")]
    Algebra(#[from] crate::algebra::AlgebraError),
    /// Orders that cannot be carried out here.
    #[error("{problem}")]
    Orders {
        /// What is wrong.
        problem: String,
    },
    /// Every client's update was left out because it was not finite, or too large to be believed.
    #[error("round {round}: the loss or update of every client is not finite, or above server.max_norm; lower train.lr_a, train.lr_b or train.lr_head, or set train.clip_norm; the state after round {} is kept", round - 1)]
    NobodyLeft {
        /// Round, from 1.
        round: usize,
    },
    /// Averaging gave numbers that are not finite.
    #[error("round {round}: the aggregated adapter is not finite; the state after round {} is kept", round - 1)]
    NotFinite {
        /// Round, from 1.
        round: usize,
    },
}

impl From<Problem> for FederationError {
    fn from(Problem { key, what }: Problem) -> Self {
        FederationError::Setting { key: key.into(), problem: what }
    }
}
