//! Gradients of the factors for all clients in one launch: for each client the sum over its tokens of outer products.
#![allow(unsafe_code)] // launches without bounds checks: the kernels check for themselves

use std::ops::Range;

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::tensor::CubeTensor;

use super::lowrank::check;
use super::product::{Side, Tile, UNITS, accumulate, agreed, col_of, row_of, side, slices, zeros};
use super::tensors::{elem, empty, groups, runs_along};
use super::tiles::{RankTable, TileTable};

/// `out[c, k, n] = scale · Σ left[t, left_cols.start + k] · right[t, right_cols.start + n]` over the tokens `t` of client
/// `c`; zeros for clients without tokens and for slots a client does not have.
///
/// # Shapes
/// `left` `[T, Dl]`, whose columns are slots, `right` `[T, Dr]` -> `[C, K, N]`, or `[1, K, N]` with one sum over all
/// tokens where the factor is `shared` (slots are then not limited by rank), of `left`'s type.
pub(crate) fn outer(
    left: CubeTensor,
    left_cols: Range<usize>,
    right: CubeTensor,
    right_cols: Range<usize>,
    scale: f32,
    tiles: &TileTable,
    shared: bool,
    ranks: Option<&RankTable>,
) -> CubeTensor {
    check(&left, &left_cols, tiles);
    check(&right, &right_cols, tiles);
    let (rows, cols) = (left_cols.len(), right_cols.len());
    let matrices = if shared { 1 } else { tiles.segments.len() };
    let ranks = ranks.filter(|_| !shared).unwrap_or(&tiles.unlimited);
    let out = empty(&left, [matrices, rows, cols], left.dtype);
    if matrices * rows * cols == 0 {
        return out;
    }
    let tile = Tile::new(side(rows, 32), side(cols, 64));
    let along = (runs_along(&left, 0, 1), runs_along(&right, 0, 1));
    let types = [elem(&left), elem(&right), elem(&out)];
    // SAFETY: the kernel reads and writes inside the shapes checked above.
    unsafe {
        outer_kernel::launch_unchecked(
            &out.client,
            groups(matrices * rows.div_ceil(tile.rows) * cols.div_ceil(tile.cols)),
            CubeDim::new_1d(UNITS),
            left.clone().into_tensor_arg(),
            right.clone().into_tensor_arg(),
            tiles.offsets.clone().into_buffer_arg(),
            ranks.0.clone().into_buffer_arg(),
            out.clone().into_tensor_arg(),
            left_cols.start,
            right_cols.start,
            tiles.segments.rows(),
            scale,
            shared,
            along,
            tile,
            types,
        );
    }
    out
}

#[cube(launch_unchecked)]
fn outer_kernel<L: Float, R: Float, O: Float>(
    left: &Tensor<L>,
    right: &Tensor<R>,
    offsets: &[u32],
    ranks: &[u32],
    out: &mut Tensor<O>,
    left_column: usize,
    right_column: usize,
    tokens: usize,
    scale: f32,
    #[comptime] shared: bool,
    #[comptime] along: (bool, bool),
    #[comptime] tile: Tile,
    #[define(L, R, O)] _types: [ElemType; 3],
) {
    let across = out.shape(1).div_ceil(tile.rows);
    let down = out.shape(2).div_ceil(tile.cols);
    let client = CUBE_POS / (across * down);
    if client >= out.shape(0) {
        terminate!();
    }
    let start = if comptime!(shared) { 0usize.runtime() } else { offsets[client] as usize };
    let end = if comptime!(shared) { tokens } else { offsets[client + 1] as usize };
    let rank = ranks[client] as usize;
    let (rows, cols) = (rank.min(out.shape(1)), out.shape(2));
    let first_row = CUBE_POS % across * tile.rows;
    let first_col = CUBE_POS / across % down * tile.cols;
    let mut slices = slices(tile);
    let mut sums = zeros(comptime!(tile.each()));
    // Slots that the client does not have are sums of nothing.
    let depth = agreed(select(first_row < rows, end - start, 0));
    let at_left = Side {
        base: start * left.stride(0) + (left_column + first_row) * left.stride(1),
        count: rows.max(first_row) - first_row,
        step: left.stride(1),
        depth_step: left.stride(0),
    };
    let at_right = Side {
        base: start * right.stride(0) + (right_column + first_col) * right.stride(1),
        count: cols - first_col,
        step: right.stride(1),
        depth_step: right.stride(0),
    };
    accumulate::<L, R>(&mut sums, &mut slices, left, at_left, right, at_right, depth, along, tile);
    #[unroll]
    for i in 0..tile.unit_rows {
        #[unroll]
        for j in 0..tile.unit_cols {
            let row = first_row + row_of(i, tile);
            let col = first_col + col_of(j, tile);
            if row < out.shape(1) && col < out.shape(2) {
                let at = client * out.stride(0) + row * out.stride(1) + col * out.stride(2);
                out[at] = O::cast_from(scale * sums[comptime!(i * tile.unit_cols + j)]);
            }
        }
    }
}
