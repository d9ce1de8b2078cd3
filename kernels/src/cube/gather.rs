//! The matrices that a stack `[C, rows, cols]` holds of some of its clients, copied into a table: one launch for all of them.

#![allow(unsafe_code)] // launches without bounds checks: the kernel checks for itself

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::tensor::CubeTensor;

use super::product::UNITS;
use super::tensors::{groups, owned, stack};

/// See [`crate::gather_lanes`].
pub(super) fn gather(table: CubeTensor, from: CubeTensor, lanes: CubeTensor, at: usize) -> CubeTensor {
    let table = owned(table);
    let [ends, count] = [table.meta.shape()[0], from.meta.shape()[1] * from.meta.shape()[2]];
    if ends * count == 0 {
        return table;
    }
    let each = count.div_ceil(UNITS as usize);
    // SAFETY: the kernel writes `count` columns from `at` on, which the caller has seen to be there, and reads the clients that
    // `lanes` names, which are clients of the stack.
    unsafe {
        gather_kernel::launch_unchecked(
            &table.client,
            groups(ends * each),
            CubeDim::new_1d(UNITS),
            table.clone().into_tensor_arg(),
            stack(from, false).into_tensor_arg(),
            lanes.into_tensor_arg(),
            each,
            at,
        );
    }
    table
}

/// One unit an element, `each` workgroups a row of the table.
#[cube(launch_unchecked)]
fn gather_kernel(table: &mut Tensor<f32>, from: &Tensor<f32>, lanes: &Tensor<f32>, each: usize, at: usize) {
    let end = CUBE_POS / each;
    let index = CUBE_POS % each * comptime!(UNITS as usize) + UNIT_POS as usize;
    let cols = from.shape(2);
    let (row, col) = (index / cols, index % cols);
    if end < table.shape(0) && row < from.shape(1) {
        let lane = usize::cast_from(lanes[end * lanes.stride(0)]);
        let value = from[lane * from.stride(0) + row * from.stride(1) + col * from.stride(2)];
        let to = end * table.stride(0) + (at + index) * table.stride(1);
        table[to] = value;
    }
}
