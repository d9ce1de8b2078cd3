//! Cross-entropy with its gradient in one launch: a workgroup a row, the scores read twice and written once.

#![allow(unsafe_code)] // launches without bounds checks: the kernel checks for itself

use burn::backend::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::tensor::CubeTensor;

use super::norm::{TEAM, total};
use super::product::UNITS;
use super::tensors::{elem, empty, groups, owned};
use crate::loss::LossOps;

/// Below any score. Finite: WGSL has no infinity, and differences of it stay numbers.
const LOWEST: f32 = -1e30;

impl LossOps for CubeBackend {
    fn loss_and_slopes(scores: CubeTensor, targets: CubeTensor) -> (CubeTensor, CubeTensor) {
        loss_and_slopes(scores, targets)
    }
}

/// See [`crate::cross_entropy_and_slopes`]; in place where nothing else holds the scores.
pub(super) fn loss_and_slopes(scores: CubeTensor, targets: CubeTensor) -> (CubeTensor, CubeTensor) {
    let rows = scores.meta.shape()[0];
    assert!(targets.dtype == DType::F32 && targets.meta.shape()[0] == rows, "an answer for every row, in f32");
    let slopes = owned(scores); // [N, V]
    let losses = empty(&slopes, [rows], DType::F32); // [N]
    if slopes.meta.num_elements() > 0 {
        let element = elem(&slopes);
        // SAFETY: the kernel reads and writes inside the shapes checked above; answers are numbers of columns.
        unsafe {
            slopes_kernel::launch_unchecked(
                &slopes.client,
                groups(rows),
                CubeDim::new_1d(UNITS),
                slopes.clone().into_tensor_arg(),
                targets.into_tensor_arg(),
                losses.clone().into_tensor_arg(),
                element,
            );
        }
    }
    (losses, slopes)
}

#[cube(launch_unchecked)]
fn slopes_kernel<E: Float>(
    scores: &mut Tensor<E>,
    targets: &Tensor<f32>,
    losses: &mut Tensor<f32>,
    #[define(E)] _element: ElemType,
) {
    let row = CUBE_POS;
    if row < scores.shape(0) {
        let (width, base, step) = (scores.shape(1), row * scores.stride(0), scores.stride(1));
        let target = usize::cast_from(targets[row * targets.stride(0)]);
        let mut scratch = Shared::<[f32]>::new_slice(comptime!(UNITS as usize + TEAM));
        // Read before the barriers below, behind which it is overwritten.
        let right = f32::cast_from(scores[base + target * step]);
        // Each unit's sum of exponentials, relative to the highest score it has seen.
        let mut highest = LOWEST.runtime();
        let mut sum = 0f32;
        for i in range_stepped(UNIT_POS as usize, width, UNITS as usize) {
            let score = f32::cast_from(scores[base + i * step]);
            let top = highest.max(score);
            sum = sum * (highest - top).exp() + (score - top).exp();
            highest = top;
        }
        let top = largest(highest, &mut scratch);
        let all = total(sum * (highest - top).exp(), &mut scratch);
        for i in range_stepped(UNIT_POS as usize, width, UNITS as usize) {
            let weight = (f32::cast_from(scores[base + i * step]) - top).exp() / all;
            scores[base + i * step] = E::cast_from(weight - select(i == target, 1.0f32, 0.0f32));
        }
        if UNIT_POS == 0 {
            let at = row * losses.stride(0);
            losses[at] = top + all.ln() - right;
        }
    }
}

/// The largest number of all units of a workgroup, to every unit; as [`total`] otherwise.
#[cube]
fn largest(value: f32, scratch: &mut Shared<[f32]>) -> f32 {
    let unit = UNIT_POS as usize;
    scratch[unit] = value;
    sync_cube();
    if unit < TEAM {
        let mut most = value;
        for i in 0..comptime!(UNITS as usize / TEAM) {
            most = most.max(scratch[i * TEAM + unit]);
        }
        scratch[comptime!(UNITS as usize) + unit] = most;
    }
    sync_cube();
    let mut most = scratch[comptime!(UNITS as usize)];
    for i in 1..TEAM {
        most = most.max(scratch[comptime!(UNITS as usize) + i]);
    }
    most
}
