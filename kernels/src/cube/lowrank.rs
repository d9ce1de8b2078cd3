//! The low-rank update for all clients and all adapters of a linear in one launch each way: tokens down to their client's
//! slots, slots up to features. Work is proportional to the slots a client really has.
//!
//! Letters in shapes: `T` tokens, `D` features that are read, `N` features that are written, `ΣR` slots of all adapters.
#![allow(unsafe_code)] // launches without bounds checks: the kernels check for themselves

use burn::tensor::Shape;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::cubecl::zspace::metadata::Metadata;
use burn_cubecl::tensor::CubeTensor;

use super::cooperative::{self, Units};
use super::factors::{Factors, Part, Window, load_factors, part};
use super::gelu::{below, gelu_slope};
use super::product::{Side, Tile, UNITS, agreed, col_of, load, multiply, row_of, side, slices, zeros};
use super::share::{across, check, share, widest};
use super::tensors::{elem, empty, groups, owned, runs_along};
use super::tiles::{TileTable, place_of_all, surplus_tiles};

/// `h[t, r] = Σⱼ x[t, j] · factors[c, r, j]` with `c` the client of token `t`; exactly 0 for slots the client does not have.
///
/// # Shapes
/// `x` `[T, D]`, `factors` `[C, ΣR, D]` -> `[T, ΣR]`, of the factors' type; rows of nobody are not written.
pub(crate) fn down(x: CubeTensor, factors: &Factors, tiles: &TileTable) -> CubeTensor {
    factors.check(tiles);
    check(&x, &factors.columns(), tiles);
    let slots = factors.slots();
    // As many rows as the input, though those of nobody are not written: a shape that comes again costs the host less.
    let h = empty(&x, [x.meta.shape()[0], slots], factors.first().dtype); // [T, ΣR]
    if tiles.count == 0 || slots == 0 {
        return h;
    }
    if let Some(units) = Units::of(&x, tiles.rows, widest(factors)) {
        return cooperative::down(x, h, factors, tiles, units);
    }
    let apart = !factors.overlap();
    let tile = Tile::new(tiles.rows, side(widest(factors), 64));
    let across = across(factors, tile.cols);
    let along = runs_along(&x, 1, 0);
    let types = [elem(&x), elem(&h)];
    // SAFETY: the kernel reads and writes inside the shapes checked above.
    unsafe {
        down_kernel::launch_unchecked(
            &h.client,
            groups(tiles.count * across),
            CubeDim::new_1d(UNITS),
            x.into_tensor_arg(),
            factors.tensor_args(),
            factors.column_args(),
            tiles.tiles.clone().into_buffer_arg(),
            factors.rank_table(tiles).into_buffer_arg(),
            h.clone().into_tensor_arg(),
            tiles.count,
            tiles.segments.len(),
            factors.limited(),
            apart,
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
    factors: &Sequence<OwnedTensor<W>>,
    columns: &Sequence<usize>,
    tiles: &[u32],
    ranks: &[u32],
    h: &mut Tensor<W>,
    count: usize,
    clients: usize,
    #[comptime] limited: bool,
    #[comptime] apart: bool,
    #[comptime] along: bool,
    #[comptime] tile: Tile,
    #[define(E, W)] _types: [ElemType; 2],
) {
    let its = share::<W>(tiles, factors, columns, ranks, h.shape(1), count, clients, tile.cols, apart, limited);
    if its.first >= h.shape(1) {
        terminate!();
    }
    let here = its.here;
    let mut slices = slices(tile);
    let mut sums = zeros(comptime!(tile.each()));
    let rows = Side { base: here.first * x.stride(0), count: here.rows, step: x.stride(0), depth_step: x.stride(1) };
    for at in range_stepped(its.column, its.column_end, tile.depth) {
        let window = Window { slot: its.first, slot_end: its.end, column: at, column_end: its.column_end };
        load::<E>(&mut slices.left, x, rows, at, its.column_end, tile.rows, tile.depth, along);
        load_factors::<W>(&mut slices.right, factors, &its.parts, window, true, tile);
        sync_cube();
        multiply(&mut sums, &slices.left, &slices.right, 0usize, tile);
        sync_cube();
    }
    #[unroll]
    for i in 0..tile.unit_rows {
        #[unroll]
        for j in 0..tile.unit_cols {
            let row = row_of(i, tile);
            let slot = its.first + col_of(j, tile);
            if row < here.rows && slot < its.end {
                let at = (here.first + row) * h.stride(0) + slot * h.stride(1);
                h[at] = W::cast_from(sums[comptime!(i * tile.unit_cols + j)]);
            }
        }
    }
}

/// `y[t, n] += more[t, n] + scale · Σᵣ h[t, r] · factors[c, r, n]` over the slots that client `c` has; `more` for tokens of
/// nobody too. In place where nothing else holds `y`.
///
/// # Shapes
/// `y` `[T, N]`, `h` `[T, ΣR]`, `factors` `[C, ΣR, N]`; `more`, what else is to be added: a bias `[N]`, or `[T, N]`.
pub(crate) fn up_add(
    y: CubeTensor,
    h: CubeTensor,
    factors: &Factors,
    scale: f32,
    more: Option<CubeTensor>,
    tiles: &TileTable,
) -> CubeTensor {
    up(y, h, factors, scale, Besides { more, ..Besides::default() }, tiles)
}

/// [`up_add`], and GELU of the sums beside them, in every row; of the sums as `y` holds them. Three adapters and a bias make nine tensors, one
/// more than WebGPU promises; what GELU follows in models has one adapter.
///
/// # Shapes
/// As [`up_add`] -> `y` and GELU of it, both `[T, N]`.
pub(crate) fn up_gelu(
    y: CubeTensor,
    h: CubeTensor,
    factors: &Factors,
    scale: f32,
    more: Option<CubeTensor>,
    tiles: &TileTable,
) -> [CubeTensor; 2] {
    let bent = empty(&y, y.meta.shape().clone(), y.dtype); // [T, N]
    let besides = Besides { more, bent: Some(bent.clone()), ..Besides::default() };
    [up(y, h, factors, scale, besides, tiles), bent]
}

/// [`up_add`] of a gradient by what GELU gave: the sums times GELU's slope at `before`, what it was given, in every row.
///
/// # Shapes
/// As [`up_add`], `before` `[T, N]` of `y`'s type.
pub(crate) fn up_through_gelu(
    y: CubeTensor,
    h: CubeTensor,
    factors: &Factors,
    scale: f32,
    before: CubeTensor,
    tiles: &TileTable,
) -> CubeTensor {
    assert!(before.meta.shape() == y.meta.shape() && before.dtype == y.dtype, "a gradient for each number");
    up(y, h, factors, scale, Besides { before: Some(before), ..Besides::default() }, tiles)
}

/// What [`up`] reads or writes in every row, of nobody's tokens too.
#[derive(Debug, Default)]
struct Besides {
    /// What is added.
    more: Option<CubeTensor>,
    /// At what GELU's slope is multiplied in.
    before: Option<CubeTensor>,
    /// Where GELU of the sums goes.
    bent: Option<CubeTensor>,
}

impl Besides {
    fn any(&self) -> bool {
        self.more.is_some() || self.before.is_some() || self.bent.is_some()
    }
}

fn up(y: CubeTensor, h: CubeTensor, factors: &Factors, scale: f32, besides: Besides, tiles: &TileTable) -> CubeTensor {
    factors.check(tiles);
    check(&y, &factors.columns(), tiles);
    check(&h, &(0..factors.slots()), tiles);
    let [rows, width] = [y.meta.shape()[0], y.meta.shape()[1]];
    let everywhere = besides.any();
    let Besides { more, before, bent } = besides;
    let more = more.map(|more| on_rows(more, [rows, width]));
    let y = owned(y);
    let columns = if everywhere { 0..width } else { factors.columns() };
    let tile = Tile::new(tiles.rows, side(columns.len(), 64));
    let all = tiles.count + if everywhere { surplus_tiles(tiles, rows) } else { 0 };
    if all == 0 || columns.is_empty() {
        return y;
    }
    let along = runs_along(&h, 1, 0);
    let types = [elem(&y), elem(&h), elem(factors.first()), elem(more.as_ref().unwrap_or(&y))];
    // SAFETY: the kernel reads and writes inside the shapes checked above.
    unsafe {
        up_kernel::launch_unchecked(
            &y.client,
            groups(all * columns.len().div_ceil(tile.cols)),
            CubeDim::new_1d(UNITS),
            h.into_tensor_arg(),
            factors.tensor_args(),
            factors.column_args(),
            more.into_iter().map(CubeTensor::into_tensor_arg).collect(),
            before.into_iter().map(CubeTensor::into_tensor_arg).collect(),
            bent.into_iter().map(CubeTensor::into_tensor_arg).collect(),
            tiles.tiles.clone().into_buffer_arg(),
            factors.rank_table(tiles).into_buffer_arg(),
            y.clone().into_tensor_arg(),
            tiles.count,
            all,
            tiles.segments.rows(),
            tiles.segments.len(),
            columns.start,
            columns.end,
            scale,
            factors.limited(),
            along,
            tile,
            types,
        );
    }
    y
}

#[cube(launch_unchecked)]
fn up_kernel<E: Float, H: Float, W: Float, B: Float>(
    h: &Tensor<H>,
    factors: &Sequence<OwnedTensor<W>>,
    columns: &Sequence<usize>,
    more: &Sequence<OwnedTensor<B>>,
    before: &Sequence<OwnedTensor<E>>,
    bent: &mut Sequence<OwnedTensor<E>>,
    tiles: &[u32],
    ranks: &[u32],
    y: &mut Tensor<E>,
    count: usize,
    all: usize,
    tokens: usize,
    clients: usize,
    column: usize,
    column_end: usize,
    scale: f32,
    #[comptime] limited: bool,
    #[comptime] along: bool,
    #[comptime] tile: Tile,
    #[define(E, H, W, B)] _types: [ElemType; 4],
) {
    let first = column + CUBE_POS / all * tile.cols;
    if first >= column_end {
        terminate!();
    }
    let last = column_end.min(first + tile.cols);
    // Tiles of clients first, then those of nobody's rows.
    let number = CUBE_POS % all;
    let owned = number < count;
    let here = place_of_all(tiles, number, count, tokens, y.shape(0), tile.rows);
    // The slots of the adapters that write these columns.
    let mut slot = h.shape(1);
    let mut slot_end = 0usize.runtime();
    let mut parts = Sequence::<Part>::new();
    #[unroll]
    for i in 0..factors.len() {
        let own = part::<W>(factors, columns, ranks, here.segment, clients, i, limited);
        if own.column < last && own.column_end > first {
            slot = slot.min(own.slot);
            slot_end = slot_end.max(own.end);
        }
        parts.push(own);
    }
    let end = agreed(select(owned, slot_end, 0));
    let mut slices = slices(tile);
    let mut sums = zeros(comptime!(tile.each()));
    let rows = Side { base: here.first * h.stride(0), count: here.rows, step: h.stride(0), depth_step: h.stride(1) };
    for at in range_stepped(slot, end, tile.depth) {
        let window = Window { slot: at, slot_end: end, column: first, column_end: last };
        load::<H>(&mut slices.left, h, rows, at, end, tile.rows, tile.depth, along);
        load_factors::<W>(&mut slices.right, factors, &parts, window, false, tile);
        sync_cube();
        multiply(&mut sums, &slices.left, &slices.right, 0usize, tile);
        sync_cube();
    }
    #[unroll]
    for i in 0..tile.unit_rows {
        #[unroll]
        for j in 0..tile.unit_cols {
            let row = row_of(i, tile);
            let col = first + col_of(j, tile);
            // Where a client has no slots and there is nothing besides, its rows stay as they are.
            if row < here.rows && col < last && (comptime!(more.len() + before.len() + bent.len() > 0) || end > slot) {
                let row = here.first + row;
                let at = row * y.stride(0) + col * y.stride(1);
                let mut sum = f32::cast_from(y[at]) + scale * sums[comptime!(i * tile.unit_cols + j)];
                #[unroll]
                for only in 0..more.len() {
                    sum += f32::cast_from(more[only][row * more[only].stride(0) + col * more[only].stride(1)]);
                }
                #[unroll]
                for only in 0..before.len() {
                    let from = row * before[only].stride(0) + col * before[only].stride(1);
                    sum *= gelu_slope(f32::cast_from(before[only][from]));
                }
                let held = E::cast_from(sum);
                y[at] = held;
                #[unroll]
                for only in 0..bent.len() {
                    let value = f32::cast_from(held);
                    let out = &mut bent[only];
                    let to = row * out.stride(0) + col * out.stride(1);
                    out[to] = E::cast_from(value * below(value));
                }
            }
        }
    }
}

/// `[N]` as the same row again and again, `[T, N]` as it is; by strides alone.
fn on_rows(mut tensor: CubeTensor, [rows, width]: [usize; 2]) -> CubeTensor {
    if tensor.meta.shape().num_dims() == 1 {
        let (columns, step) = (tensor.meta.shape()[0], tensor.meta.strides()[0]);
        tensor.meta = Box::new(Metadata::new(Shape::from([rows, columns]), vec![0, step]));
    }
    assert_eq!(tensor.meta.shape().as_slice(), [rows, width], "a number for each, or one a column");
    tensor
}
