//! Kernels of our own for CubeCL devices (CUDA, Vulkan, Metal, WebGPU): what Burn's operations would need a launch per
//! client or a padded batch for. Each file holds its kernels and the plain functions that launch them.
//!
//! All of them read strides, so views need no copy; sum in f32 whatever the tensors hold; stay within what WebGPU
//! promises (8 tensors a kernel, 256 units a workgroup, 16 KiB of shared memory) and use no subgroup operations.
#![allow(dead_code)] // until the operations of `ops.rs` call them
#![allow(clippy::too_many_arguments)] // a kernel's arguments are its tensors and sizes, one by one

pub(crate) mod adamw;
pub(crate) mod attention;
pub(crate) mod attention_backward;
mod attention_softmax;
pub(crate) mod lowrank;
pub(crate) mod norm;
pub(crate) mod outer;
mod product;
pub(crate) mod scores;
mod tensors;
pub(crate) mod tiles;

#[cfg(test)]
mod tests;
