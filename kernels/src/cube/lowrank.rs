//! The low-rank update for all clients in one launch each way: tokens down to their client's slots, slots up to
//! features. Work is proportional to the slots a client really has.
#![allow(unsafe_code)] // launches without bounds checks: the kernels check for themselves

use std::ops::Range;

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::tensor::CubeTensor;

use super::product::{Side, Tile, UNITS, accumulate, agreed, col_of, row_of, side, slices, zeros};
use super::tensors::{elem, empty, groups, owned, runs_along, stack};
use super::tiles::{RankTable, TileTable, place};

/// `h[t, r] = scale · Σₖ x[t, x_cols.start + k] · a[c, k, r]` with `c` the client of token `t`; exactly 0 for slots the
/// client does not have.
///
/// # Shapes
/// `x` `[T, Dx]`, `a` `[C|1, K, R]` with `K = x_cols.len()`, or its transpose `[C|1, R, K]` -> `[T, R]`, of `a`'s type.
pub(crate) fn down(
    x: CubeTensor,
    x_cols: Range<usize>,
    a: CubeTensor,
    transposed: bool,
    scale: f32,
    tiles: &TileTable,
    ranks: Option<&RankTable>,
) -> CubeTensor {
    let a = stack(a, transposed);
    let slots = a.meta.shape()[2];
    check(&x, &x_cols, tiles);
    check_stack(&a, x_cols.len(), tiles);
    let h = empty(&x, [tiles.segments.rows(), slots], a.dtype);
    if tiles.count == 0 || slots == 0 {
        return h;
    }
    let tile = Tile::new(tiles.rows, side(slots, 64));
    let along = (runs_along(&x, 1, 0), runs_along(&a, 1, 2));
    let types = [elem(&x), elem(&a)];
    // SAFETY: the kernel reads and writes inside the shapes checked above.
    unsafe {
        down_kernel::launch_unchecked(
            &h.client,
            groups(tiles.count * slots.div_ceil(tile.cols)),
            CubeDim::new_1d(UNITS),
            x.into_tensor_arg(),
            a.into_tensor_arg(),
            tiles.tiles.clone().into_buffer_arg(),
            ranks.unwrap_or(&tiles.unlimited).0.clone().into_buffer_arg(),
            h.clone().into_tensor_arg(),
            tiles.count,
            x_cols.start,
            scale,
            along,
            tile,
            types,
        );
    }
    h
}

#[cube(launch_unchecked)]
fn down_kernel<E: Float, W: Float>(
    x: &Tensor<E>,
    a: &Tensor<W>,
    tiles: &[u32],
    ranks: &[u32],
    h: &mut Tensor<W>,
    count: usize,
    column: usize,
    scale: f32,
    #[comptime] along: (bool, bool),
    #[comptime] tile: Tile,
    #[define(E, W)] _types: [ElemType; 2],
) {
    let first = CUBE_POS / count * tile.cols;
    let slots = h.shape(1);
    if first >= slots {
        terminate!();
    }
    let here = place(tiles, CUBE_POS % count);
    let rank = (ranks[here.segment] as usize).min(slots);
    let mut slices = slices(tile);
    let mut sums = zeros(comptime!(tile.each()));
    // Slots that the client does not have are sums of nothing.
    let depth = agreed(select(first < rank, a.shape(1), 0));
    let rows = Side {
        base: here.first * x.stride(0) + column * x.stride(1),
        count: here.rows,
        step: x.stride(0),
        depth_step: x.stride(1),
    };
    let cols = Side {
        base: here.segment * a.stride(0) + first * a.stride(2),
        count: rank.max(first) - first,
        step: a.stride(2),
        depth_step: a.stride(1),
    };
    accumulate::<E, W>(&mut sums, &mut slices, x, rows, a, cols, depth, along, tile);
    #[unroll]
    for i in 0..tile.unit_rows {
        #[unroll]
        for j in 0..tile.unit_cols {
            let row = row_of(i, tile);
            let col = first + col_of(j, tile);
            if row < here.rows && col < slots {
                let at = (here.first + row) * h.stride(0) + col * h.stride(1);
                h[at] = W::cast_from(scale * sums[comptime!(i * tile.unit_cols + j)]);
            }
        }
    }
}

/// `y[t, y_cols.start + j] += scale · Σᵣ h[t, r] · b[c, r, j]` over the slots client `c` has; in place where nothing
/// else holds `y`.
///
/// # Shapes
/// `y` `[T, N]`, `h` `[T, R]`, `b` `[C|1, R, n]` with `n = y_cols.len()`, or its transpose `[C|1, n, R]`.
pub(crate) fn up_add(
    y: CubeTensor,
    y_cols: Range<usize>,
    h: CubeTensor,
    b: CubeTensor,
    transposed: bool,
    scale: f32,
    tiles: &TileTable,
    ranks: Option<&RankTable>,
) -> CubeTensor {
    let b = stack(b, transposed);
    check(&y, &y_cols, tiles);
    check(&h, &(0..b.meta.shape()[1]), tiles);
    check_stack(&b, h.meta.shape()[1], tiles);
    assert_eq!(b.meta.shape()[2], y_cols.len(), "one column of the factor a feature");
    let y = owned(y);
    if tiles.count == 0 || y_cols.is_empty() {
        return y;
    }
    let tile = Tile::new(tiles.rows, side(y_cols.len(), 64));
    let along = (runs_along(&h, 1, 0), runs_along(&b, 1, 2));
    let types = [elem(&y), elem(&h), elem(&b)];
    // SAFETY: the kernel reads and writes inside the shapes checked above.
    unsafe {
        up_kernel::launch_unchecked(
            &y.client,
            groups(tiles.count * y_cols.len().div_ceil(tile.cols)),
            CubeDim::new_1d(UNITS),
            h.into_tensor_arg(),
            b.into_tensor_arg(),
            tiles.tiles.clone().into_buffer_arg(),
            ranks.unwrap_or(&tiles.unlimited).0.clone().into_buffer_arg(),
            y.clone().into_tensor_arg(),
            tiles.count,
            y_cols.start,
            scale,
            along,
            tile,
            types,
        );
    }
    y
}

#[cube(launch_unchecked)]
fn up_kernel<E: Float, H: Float, W: Float>(
    h: &Tensor<H>,
    b: &Tensor<W>,
    tiles: &[u32],
    ranks: &[u32],
    y: &mut Tensor<E>,
    count: usize,
    column: usize,
    scale: f32,
    #[comptime] along: (bool, bool),
    #[comptime] tile: Tile,
    #[define(E, H, W)] _types: [ElemType; 3],
) {
    let first = CUBE_POS / count * tile.cols;
    let features = b.shape(2);
    if first >= features {
        terminate!();
    }
    let here = place(tiles, CUBE_POS % count);
    let rank = agreed((ranks[here.segment] as usize).min(b.shape(1)));
    let mut slices = slices(tile);
    let mut sums = zeros(comptime!(tile.each()));
    let rows = Side { base: here.first * h.stride(0), count: here.rows, step: h.stride(0), depth_step: h.stride(1) };
    let cols = Side {
        base: here.segment * b.stride(0) + first * b.stride(2),
        count: features - first,
        step: b.stride(2),
        depth_step: b.stride(1),
    };
    accumulate::<H, W>(&mut sums, &mut slices, h, rows, b, cols, rank, along, tile);
    #[unroll]
    for i in 0..tile.unit_rows {
        #[unroll]
        for j in 0..tile.unit_cols {
            let row = row_of(i, tile);
            let col = first + col_of(j, tile);
            // A client without slots leaves its tokens untouched.
            if row < here.rows && col < features && rank > 0 {
                let at = (here.first + row) * y.stride(0) + (column + col) * y.stride(1);
                let sum = scale * sums[comptime!(i * tile.unit_cols + j)];
                y[at] = E::cast_from(f32::cast_from(y[at]) + sum);
            }
        }
    }
}

/// `tensor` has a row a token and the columns `cols`.
pub(super) fn check(tensor: &CubeTensor, cols: &Range<usize>, tiles: &TileTable) {
    let shape = tensor.meta.shape();
    assert!(shape[0] >= tiles.segments.rows(), "one row a token");
    assert!(cols.start <= cols.end && cols.end <= shape[1], "columns {cols:?} of {}", shape[1]);
}

/// `stack` has a matrix a client, or one for all, of `depth` rows.
fn check_stack(stack: &CubeTensor, depth: usize, tiles: &TileTable) {
    let shape = stack.meta.shape();
    assert!(shape[0] == 1 || shape[0] == tiles.segments.len(), "one matrix a client, or one for all");
    assert_eq!(shape[1], depth, "the depth of both sides");
}
