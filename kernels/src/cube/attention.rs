//! Attention over packed sequences without padding and without scores in memory: a workgroup takes a tile of queries of
//! one head through the keys of its sequence, softmax carried along. Short and long sequences cost what they are.

#![allow(unsafe_code)] // launches without bounds checks: the kernels check for themselves

use burn::backend::DType;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::tensor::CubeTensor;

use super::attention_softmax::{Softmax, rescale, write_scores};
use super::attention_tile::{Form, SHARED, TILE};
use super::product::{Side, Slices, UNITS, accumulate, agreed, col_of, load, multiply, row_of, slices, zeros};
use super::tensors::{elem, empty, groups};
use super::tiles::{TileTable, place_of_all, surplus_tiles};
use crate::attention::WIDEST_HEAD;

/// Queries, keys and values of a layer, each of them columns of a tensor with a row a token, head by head.
#[derive(Clone, Debug)]
pub(crate) struct Qkv {
    /// The tensors and where their columns begin.
    pub(super) parts: [(CubeTensor, usize); 3],
    /// Heads of queries.
    pub(super) heads: usize,
    pub(super) form: Form,
}

impl Qkv {
    /// One tensor `[T, (heads + 2·kv_heads)·width]`: queries, keys, values. `kv_heads` heads of keys and of values serve as many
    /// query heads each.
    pub(crate) fn fused(qkv: CubeTensor, heads: usize, kv_heads: usize, causal: bool) -> Self {
        assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads), "{heads} query heads for {kv_heads} heads of keys");
        let (columns, all) = (qkv.meta.shape()[1], heads + 2 * kv_heads);
        assert!(columns.is_multiple_of(all), "{all} heads share {columns} columns evenly");
        let form = Form { width: columns / all, causal, group: heads / kv_heads };
        assert!(form.width <= WIDEST_HEAD, "heads of at most {WIDEST_HEAD} columns, not {}", form.width);
        let parts = [0, heads, heads + kv_heads].map(|first| (qkv.clone(), first * form.width));
        Qkv { parts, heads, form }
    }

    /// Columns of all queries, and of the result.
    pub(super) fn features(&self) -> usize {
        self.heads * self.form.width
    }

    /// Heads of keys, and of values.
    pub(super) fn kv_heads(&self) -> usize {
        self.heads / self.form.group
    }

    /// Columns of queries, keys and values together.
    pub(super) fn columns(&self) -> usize {
        (self.heads + 2 * self.kv_heads()) * self.form.width
    }

    pub(super) fn scale(&self) -> f32 {
        1.0 / (self.form.width as f32).sqrt()
    }

    /// Every part has a row a token.
    pub(super) fn check(&self, tiles: &TileTable) {
        assert_eq!(tiles.rows, TILE.rows, "a table made for attention");
        for (tensor, _) in &self.parts {
            assert!(tensor.meta.shape()[0] >= tiles.segments.rows(), "one row a token");
        }
    }
}

/// Scaled dot-product attention inside every sequence of `tiles` (made by [`TileTable::for_sequences`]).
///
/// # Shapes
/// -> the output `[T, D]` with `T = tokens`, zero for tokens of no sequence, and for the backward the logarithm of each softmax's denominator `[T, heads]` in f32.
pub(crate) fn attend(qkv: &Qkv, tokens: usize, tiles: &TileTable) -> (CubeTensor, CubeTensor) {
    qkv.check(tiles);
    let q = &qkv.parts[0].0;
    let out = empty(q, [tokens, qkv.features()], q.dtype); // [T, H·w]
    let lse = empty(q, [tokens, qkv.heads], DType::F32); // [T, H]
    attend_into(qkv, tiles, &out, &lse);
    (out, lse)
}

/// [`attend`] into tensors that are there.
pub(super) fn attend_into(qkv: &Qkv, tiles: &TileTable, out: &CubeTensor, lse: &CubeTensor) {
    let [(q, at_q), (k, at_k), (v, at_v)] = qkv.parts.clone();
    let all = tiles.count + surplus_tiles(tiles, out.meta.shape()[0]);
    if all > 0 {
        let element = elem(&q);
        // SAFETY: the kernel reads and writes inside the shapes checked above.
        unsafe {
            attend_kernel::launch_unchecked(
                &out.client,
                groups(all * qkv.heads * qkv.form.parts()),
                CubeDim::new_1d(UNITS),
                q.into_tensor_arg(),
                k.into_tensor_arg(),
                v.into_tensor_arg(),
                tiles.tiles.clone().into_buffer_arg(),
                out.clone().into_tensor_arg(),
                lse.clone().into_tensor_arg(),
                tiles.count,
                all,
                tiles.segments.rows(),
                at_q,
                at_k,
                at_v,
                qkv.scale(),
                qkv.form,
                element,
            );
        }
    }
}

#[cube(launch_unchecked)]
fn attend_kernel<E: Float>(
    q: &Tensor<E>,
    k: &Tensor<E>,
    v: &Tensor<E>,
    tiles: &[u32],
    out: &mut Tensor<E>,
    lse: &mut Tensor<f32>,
    count: usize,
    all: usize,
    tokens: usize,
    at_q: usize,
    at_k: usize,
    at_v: usize,
    scale: f32,
    #[comptime] form: Form,
    #[define(E)] _element: ElemType,
) {
    let (number, own) = share(all, form);
    if number >= lse.shape(1) {
        terminate!();
    }
    let head = number * form.width;
    // Of the keys and values that it shares with others.
    let shared = number / comptime!(form.group) * form.width;
    // Rows of nobody see nothing and come out as zeros.
    let here = place_of_all(tiles, CUBE_POS % all, count, tokens, out.shape(0), TILE.rows);
    let owned = CUBE_POS % all < count;
    let mut slices = slices(TILE);
    let mut weights = Shared::<[f32]>::new_slice(SHARED);
    let mut softmax = Softmax::new();
    let mut sums = zeros(comptime!(form.blocks() * TILE.each())); // [queries, w] of the tile
    let queries = rows_at::<E>(q, here.first, at_q + head, here.rows);
    let end = if comptime!(form.causal) { here.first + here.rows } else { here.end };
    let steps = agreed(select(owned, (end - here.start).div_ceil(TILE.cols), 0));
    for step in 0..steps {
        let first = here.start + step * TILE.cols;
        let mut scores = zeros(comptime!(TILE.each())); // [queries, keys] of the tile
        let keys = rows_at::<E>(k, first, at_k + shared, end - first);
        accumulate::<E, E>(&mut scores, &mut slices, q, queries, k, keys, form.width, (true, true), TILE);
        write_scores(&mut weights, &scores, here, first, end, scale, form);
        softmax.step(&mut weights, &mut slices);
        rescale(&mut sums, &softmax, form);
        add_blocks::<E>(&mut sums, &weights, &mut slices, v, at_v + shared, own, first, end, form);
    }
    #[unroll]
    for i in 0..TILE.unit_rows {
        let row = row_of(i, TILE);
        if row < here.rows {
            let total = softmax.total[row];
            let base = (here.first + row) * out.stride(0);
            write_row::<E>(out, &sums, base, head, own, select(owned, 1.0 / total, 0.0), i, form);
            if own == 0 && col_of(0usize, TILE) == 0 {
                let at = (here.first + row) * lse.stride(0) + number * lse.stride(1);
                lse[at] = softmax.highest[row] + total.ln();
            }
        }
    }
}

/// The head that a workgroup computes a part of, and the first of the head's columns that are its own. `count`: tiles, those of
/// nobody's rows included.
#[cube]
pub(super) fn share(count: usize, #[comptime] form: Form) -> (usize, usize) {
    let number = CUBE_POS / count;
    let parts = comptime!(form.parts());
    if comptime!(parts == 1) {
        (number, 0usize.runtime())
    } else {
        (number / parts, number % parts * comptime!(form.blocks() * TILE.cols))
    }
}

/// Rows `first..first + count` of a tensor, one head's columns as depth.
#[cube]
pub(super) fn rows_at<E: Float>(tensor: &Tensor<E>, first: usize, column: usize, count: usize) -> Side {
    Side {
        base: first * tensor.stride(0) + column * tensor.stride(1),
        count,
        step: tensor.stride(0),
        depth_step: tensor.stride(1),
    }
}

/// `sums += W · X` with `W` in shared memory and `X` the rows `first..end` of a tensor, one head's columns from its `own`
/// on, two blocks of them at a time: both slices are free here. A barrier between writing `W` and reading it is included.
#[cube]
pub(super) fn add_blocks<E: Float>(
    sums: &mut Array<f32>,
    weights: &Shared<[f32]>,
    slices: &mut Slices,
    from: &Tensor<E>,
    column: usize,
    own: usize,
    first: usize,
    end: usize,
    #[comptime] form: Form,
) {
    #[unroll]
    for pair in 0..comptime!(form.blocks().div_ceil(2)) {
        let one = comptime!(2 * pair);
        let two = comptime!(2 * pair + 1);
        load_block::<E>(&mut slices.left, from, column, own, first, end, one, form);
        if comptime!(two < form.blocks()) {
            load_block::<E>(&mut slices.right, from, column, own, first, end, two, form);
        }
        sync_cube();
        multiply(sums, weights, &slices.left, comptime!(one * TILE.each()), TILE);
        if comptime!(two < form.blocks()) {
            multiply(sums, weights, &slices.right, comptime!(two * TILE.each()), TILE);
        }
        sync_cube();
    }
}

/// Brings the rows `first..end` of one block of a head's columns into shared memory.
#[cube]
fn load_block<E: Float>(
    shared: &mut Shared<[f32]>,
    from: &Tensor<E>,
    column: usize,
    own: usize,
    first: usize,
    end: usize,
    #[comptime] block: usize,
    #[comptime] form: Form,
) {
    let done = own + comptime!(block * TILE.cols);
    let side = Side {
        base: (column + done) * from.stride(1),
        // A head's last part may need fewer blocks than the others.
        count: done.max(form.width) - done,
        step: from.stride(1),
        depth_step: from.stride(0),
    };
    load::<E>(shared, from, side, first, end, TILE.cols, TILE.depth, false);
}

/// Writes a unit's `i`-th row of sums over all blocks, times `factor`, into one head's columns from its `own` on.
#[cube]
pub(super) fn write_row<E: Float>(
    out: &mut Tensor<E>,
    sums: &Array<f32>,
    base: usize,
    column: usize,
    own: usize,
    factor: f32,
    #[comptime] i: usize,
    #[comptime] form: Form,
) {
    #[unroll]
    for block in 0..comptime!(form.blocks()) {
        #[unroll]
        for j in 0..TILE.unit_cols {
            let col = own + col_of(j, TILE) + comptime!(block * TILE.cols);
            if col < form.width {
                let sum = sums[comptime!(block * TILE.each() + i * TILE.unit_cols + j)];
                let at = base + (column + col) * out.stride(1);
                out[at] = E::cast_from(factor * sum);
            }
        }
    }
}
