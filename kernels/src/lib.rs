//! The operations that let many clients train in one pass over one frozen backbone: linears to which every client adds its own
//! low-rank update, attention over packed sequences, norms whose parameters are frozen, classifier heads and losses by
//! client, and an optimizer step with a client axis. Models and engine are written in terms of these; nothing here knows of
//! models, data or strategies.
//!
//! Most operations have three parts. The public function stands beside its place in autodiff's graph (`linear.rs`,
//! `attention.rs`, …); what each backend computes for it is a method of `backends.rs`, implemented in `cpu/` and `cube/`; and a
//! reference composed of Burn's operations is what tests hold it to.
//!
//! Letters in shapes: `C` clients in flight, `S` sequences, `T` tokens, `D` features, `R` rank (slots of an
//! adapter: a slot is one row of A with its row of B), `K` classes, `H` heads.
#![deny(missing_docs)]

mod attention;
mod backends;
pub mod check;
mod clip;
#[cfg(feature = "flex")]
mod cpu;
#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "cuda")]
mod cuda_driver;
#[cfg(feature = "cuda")]
mod device_math;
mod dropout;
mod flat;
mod gather;
mod graph;
mod grouped;
mod linear;
mod lists;
mod loss;
mod masks;
mod memory;
mod norm;
mod optimizer;
mod options;
mod pointwise;
mod product;
pub mod runtime;
mod scores;
mod segments;

pub use attention::{
    packed_attention, packed_attention_composed, packed_attention_dropped, packed_attention_with, widest_head,
};
pub use clip::{clip, clip_composed};
#[cfg(feature = "cuda")]
pub use cuda_driver::{CudaFault, cuda_driver};
#[cfg(feature = "cuda")]
pub use device_math::DeviceMath;
pub use dropout::dropout;
pub use flat::{FlatLayout, Place};
pub use gather::{gather_lanes, lanes_on};
pub use grouped::Grouped;
pub use linear::{
    Activated, LowRank, adapted_linear, adapted_linear_and_input, adapted_linear_composed, adapted_linear_gelu,
    adapted_linear_of_gelu, dropped_update,
};
pub use lists::lists_on;
pub use loss::{cross_entropy, cross_entropy_and_slopes, cross_entropy_composed};
pub use masks::{DropMask, RowKeys};
pub use memory::{device_buffer_limit, device_memory, device_memory_reserved};
pub use norm::{add_norm, rms_norm, rms_norm_and_input};
pub use optimizer::{AdamW, Moving, Sgd, StepRule, optimizer_step, optimizer_step_composed};
pub use options::{Arithmetic, AttentionLayout, Bend};
pub use pointwise::{gelu, glu, rotate};
pub use product::{has_tf32, product, product_kernel};
pub use scores::slot_scores;
pub use segments::{Segments, SlotCounts};

/// Whether tensors on `device` are computed by the CPU backend.
#[cfg(feature = "flex")]
pub fn runs_on_cpu(device: &burn::tensor::Device) -> bool {
    matches!(device.clone().inner().as_dispatch(), burn::backend::DispatchDevice::Flex(_))
}

/// Whether tensors on `device` are computed by the CPU backend.
#[cfg(not(feature = "flex"))]
pub fn runs_on_cpu(_: &burn::tensor::Device) -> bool {
    false
}
