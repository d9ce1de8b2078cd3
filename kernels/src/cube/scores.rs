//! Slot scores of one target for all clients in one launch.

#![allow(unsafe_code)] // launches without bounds checks: the kernel checks for itself

use burn::backend::DType;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::tensor::CubeTensor;

use super::product::UNITS;
use super::tensors::{elem, empty, groups, stack};

/// Slots a workgroup scores, and units that share one.
const SLOTS: usize = 16;

/// `‖a[c, r, ·]‖₂ · ‖b[c, r, ·]‖₂` for every slot `r` of every client.
///
/// # Shapes
/// `a` `[C|1, R, d_in]`, `b` `[C|1, R, d_out]` -> `[C, R]` in f32.
pub(crate) fn slot_scores(a: CubeTensor, b: CubeTensor) -> CubeTensor {
    let (clients, slots) = (a.meta.shape()[0].max(b.meta.shape()[0]), a.meta.shape()[1]);
    for factor in [&a, &b] {
        assert!([1, clients].contains(&factor.meta.shape()[0]), "one matrix a client, or one for all");
    }
    assert_eq!(b.meta.shape()[1], slots, "both factors of the same slots");
    let scores = empty(&a, [clients, slots], DType::F32); // [C, R]
    if clients * slots > 0 {
        let types = [elem(&a), elem(&b)];
        // SAFETY: the kernel reads and writes inside the shapes checked above.
        unsafe {
            scores_kernel::launch_unchecked(
                &scores.client,
                groups(clients * slots.div_ceil(SLOTS)),
                CubeDim::new_1d(UNITS),
                stack(a, false).into_tensor_arg(),
                stack(b, false).into_tensor_arg(),
                scores.clone().into_tensor_arg(),
                types,
            );
        }
    }
    scores
}

/// Neighbouring units read neighbouring columns.
#[cube(launch_unchecked)]
fn scores_kernel<A: Float, B: Float>(
    a: &Tensor<A>,
    b: &Tensor<B>,
    scores: &mut Tensor<f32>,
    #[define(A, B)] _types: [ElemType; 2],
) {
    let slots = scores.shape(1);
    let blocks = slots.div_ceil(SLOTS);
    let (client, first) = (CUBE_POS / blocks, CUBE_POS % blocks * SLOTS);
    if client >= scores.shape(0) {
        terminate!();
    }
    let (major, minor) = (UNIT_POS as usize / SLOTS, UNIT_POS as usize % SLOTS);
    let mut squares_a = Shared::<[f32]>::new_slice(UNITS as usize);
    let mut squares_b = Shared::<[f32]>::new_slice(UNITS as usize);
    let mut sum_a = 0f32;
    let mut sum_b = 0f32;
    if first + major < slots {
        sum_a = squares::<A>(a, client, first + major, minor);
        sum_b = squares::<B>(b, client, first + major, minor);
    }
    squares_a[major * SLOTS + minor] = sum_a;
    squares_b[major * SLOTS + minor] = sum_b;
    sync_cube();
    let slot = UNIT_POS as usize;
    if slot < SLOTS && first + slot < slots {
        sum_a = 0.0;
        sum_b = 0.0;
        for i in 0..SLOTS {
            sum_a += squares_a[slot * SLOTS + i];
            sum_b += squares_b[slot * SLOTS + i];
        }
        scores[client * slots + first + slot] = sum_a.sqrt() * sum_b.sqrt();
    }
}

/// Sum of squares over every 16th column of a slot, from `start` on.
#[cube]
fn squares<E: Float>(factor: &Tensor<E>, client: usize, slot: usize, start: usize) -> f32 {
    let base = client * factor.stride(0) + slot * factor.stride(1);
    let mut sum = 0f32;
    for n in range_stepped(start, factor.shape(2), SLOTS) {
        let value = f32::cast_from(factor[base + n * factor.stride(2)]);
        sum += value * value;
    }
    sum
}
