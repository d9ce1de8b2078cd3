//! Kernels of our own for CubeCL devices (CUDA, Vulkan, Metal, WebGPU): what Burn's operations would need a launch per
//! client or a padded batch for. Each file holds its kernels and the plain functions that launch them; `glue.rs` puts
//! them behind the crate's operations.
//!
//! All of them read strides, so views need no copy; sum in f32 whatever the tensors hold; stay within what WebGPU
//! promises (8 tensors a kernel, 256 units a workgroup, 16 KiB of shared memory, 65,535 workgroups a side) and use no
//! subgroup operations; barriers stand where a WGSL front end can prove that all units of a workgroup come. The one exception,
//! `cooperative.rs`, is launched only where a device has what it asks for.
#![allow(clippy::too_many_arguments)] // a kernel's arguments are its tensors and sizes, one by one

mod attention;
mod attention_backward;
mod attention_softmax;
mod attention_tile;
mod cooperative;
mod dense;
mod dropout;
mod factors;
mod gather;
mod gelu;
mod glu;
mod glue;
mod loss;
mod lowrank;
mod norm;
mod optimizer;
mod outer;
mod product;
mod scores;
mod share;
mod tensors;
mod tiles;

#[cfg(test)]
mod tests;

pub(crate) use dense::{has_tf32, product, product_kernel};
pub(crate) use dropout::KeyTable;
pub(crate) use optimizer::StepTables;
pub(crate) use tensors::view;
pub(crate) use tiles::{RankTables, Tables};
