//! The operations that make many clients train in one pass: products segmented by client, the masked low-rank
//! update, attention over packed sequences, layer normalisation with a short backward, and the client-axis optimizer
//! step. Models and engine are written in terms of these; nothing here knows of models, data or strategies.
//!
//! Letters in shapes: `C` clients in flight, `S` sequences, `T` tokens, `D` features, `R` rank, `K` classes,
//! `H` heads.
#![deny(missing_docs)]

mod adamw;
mod attention;
#[cfg(feature = "flex")]
mod attention_cpu;
#[cfg(feature = "cube")]
mod cube;
mod gelu;
mod loss;
mod lowrank;
mod norm;
mod ops;
mod scores;
mod segments;

pub use adamw::{AdamW, Moments, StepFactors, adamw_step};
pub use attention::{AttentionPlan, packed_attention, packed_attention_composed, runs_on_cpu};
pub use gelu::gelu;
pub use loss::{cross_entropy, mean_per_client};
pub use lowrank::{LowRank, lowrank_update, segmented_matmul, segmented_matmul_composed};
pub use norm::layer_norm;
pub use scores::slot_scores;
pub use segments::Segments;
