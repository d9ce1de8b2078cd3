//! Gradients of packed attention. The weights are computed again from the saved denominators; one kernel walks the keys
//! for each tile of queries, another the queries for each tile of keys, so that nobody adds to another's sums.

#![allow(unsafe_code)] // launches without bounds checks: the kernels check for themselves

use burn::backend::DType;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::tensor::CubeTensor;

use super::attention::{Form, Qkv, SHARED, TILE, add_blocks, rows_at, share, write_row};
use super::product::{UNITS, accumulate, agreed, col_of, row_of, slices, zeros};
use super::tensors::{elem, empty, groups, room};
use super::tiles::{TileTable, place};

/// Gradients of [`attend`](super::attention::attend) for queries, keys and values, side by side.
///
/// # Shapes
/// `out`, `dy` `[T, D]`, `lse` `[T, heads]` -> `[T, 3·D]`.
pub(crate) fn attend_backward(
    qkv: &Qkv,
    out: CubeTensor,
    lse: CubeTensor,
    dy: CubeTensor,
    tiles: &TileTable,
) -> CubeTensor {
    let tokens = dy.meta.shape()[0];
    let grads = room(&dy, [tokens, 3 * qkv.features()], tokens > tiles.segments.rows());
    attend_backward_into(qkv, out, lse, dy, tiles, &grads);
    grads
}

/// [`attend_backward`] into a tensor that is there.
pub(super) fn attend_backward_into(
    qkv: &Qkv,
    out: CubeTensor,
    lse: CubeTensor,
    dy: CubeTensor,
    tiles: &TileTable,
    grads: &CubeTensor,
) {
    qkv.check(tiles);
    let tokens = dy.meta.shape()[0];
    for tensor in [&out, &dy] {
        assert_eq!(tensor.meta.shape().as_slice(), [tokens, qkv.features()], "one row a token");
    }
    if tiles.count > 0 {
        let stats = row_stats(qkv, out, lse, dy.clone(), tokens);
        launch(qkv, &dy, &stats, tiles, grads, true);
        launch(qkv, &dy, &stats, tiles, grads, false);
    }
}

/// For every token and head the softmax's logarithmic denominator, then `Σ dy · out`: `[T, heads, 2]`.
fn row_stats(qkv: &Qkv, out: CubeTensor, lse: CubeTensor, dy: CubeTensor, tokens: usize) -> CubeTensor {
    let stats = empty(&out, [tokens, qkv.heads, 2], DType::F32);
    let types = [elem(&out), elem(&dy)];
    // SAFETY: a unit beyond the last row of a head returns at once.
    unsafe {
        stats_kernel::launch_unchecked(
            &stats.client,
            groups((tokens * qkv.heads).div_ceil(UNITS as usize)),
            CubeDim::new_1d(UNITS),
            out.into_tensor_arg(),
            lse.into_tensor_arg(),
            dy.into_tensor_arg(),
            stats.clone().into_tensor_arg(),
            qkv.form.width,
            types,
        );
    }
    stats
}

#[cube(launch_unchecked)]
fn stats_kernel<E: Float, G: Float>(
    out: &Tensor<E>,
    lse: &Tensor<f32>,
    dy: &Tensor<G>,
    stats: &mut Tensor<f32>,
    #[comptime] width: usize,
    #[define(E, G)] _types: [ElemType; 2],
) {
    let heads = stats.shape(1);
    let unit = CUBE_POS * comptime!(UNITS as usize) + UNIT_POS as usize;
    let (token, head) = (unit / heads, unit % heads);
    if token < stats.shape(0) {
        let mut sum = 0f32;
        for i in 0..width {
            let column = head * width + i;
            let y = f32::cast_from(out[token * out.stride(0) + column * out.stride(1)]);
            sum += y * f32::cast_from(dy[token * dy.stride(0) + column * dy.stride(1)]);
        }
        let at = token * stats.stride(0) + head * stats.stride(1);
        stats[at] = lse[token * lse.stride(0) + head * lse.stride(1)];
        stats[at + 1] = sum;
    }
}

fn launch(qkv: &Qkv, dy: &CubeTensor, stats: &CubeTensor, tiles: &TileTable, grads: &CubeTensor, queries: bool) {
    let [(q, at_q), (k, at_k), (v, at_v)] = qkv.parts.clone();
    let types = [elem(&q), elem(dy)];
    let kernel = if queries { dq_kernel::launch_unchecked } else { dkv_kernel::launch_unchecked };
    // SAFETY: the kernels read and write inside the shapes checked by the caller.
    unsafe {
        kernel(
            &grads.client,
            groups(tiles.count * qkv.heads * qkv.form.parts()),
            CubeDim::new_1d(UNITS),
            q.into_tensor_arg(),
            k.into_tensor_arg(),
            v.into_tensor_arg(),
            dy.clone().into_tensor_arg(),
            stats.clone().into_tensor_arg(),
            tiles.tiles.clone().into_buffer_arg(),
            grads.clone().into_tensor_arg(),
            tiles.count,
            at_q,
            at_k,
            at_v,
            qkv.scale(),
            qkv.form,
            types,
        );
    }
}

/// Replaces a unit's score by its weight, and the weight's gradient by the score's.
#[cube]
fn differentiate(
    scores: &mut Array<f32>,
    grads: &mut Array<f32>,
    stats: &Tensor<f32>,
    number: usize,
    query: usize,
    key: usize,
    seen: bool,
    scale: f32,
    #[comptime] at: usize,
    #[comptime] form: Form,
) {
    let mut weight = 0f32;
    let mut grad = 0f32;
    if seen && (comptime!(!form.causal) || key <= query) {
        let stat = query * stats.stride(0) + number * stats.stride(1);
        weight = (scale * scores[at] - stats[stat]).exp();
        grad = scale * weight * (grads[at] - stats[stat + 1]);
    }
    scores[at] = weight;
    grads[at] = grad;
}

/// Puts a unit's elements where a product takes its left side from, `[column][row]`.
#[cube]
fn write_left(shared: &mut Shared<[f32]>, elements: &Array<f32>) {
    #[unroll]
    for i in 0..TILE.unit_rows {
        #[unroll]
        for j in 0..TILE.unit_cols {
            let at = col_of(j, TILE) * comptime!(TILE.rows + 1) + row_of(i, TILE);
            shared[at] = elements[comptime!(i * TILE.unit_cols + j)];
        }
    }
}

/// `dQ = scale · (W ∘ (dY·Vᵀ − Σ dy·out)) · K` for a tile of queries.
#[cube(launch_unchecked)]
fn dq_kernel<E: Float, G: Float>(
    q: &Tensor<E>,
    k: &Tensor<E>,
    v: &Tensor<E>,
    dy: &Tensor<G>,
    stats: &Tensor<f32>,
    tiles: &[u32],
    grads: &mut Tensor<G>,
    count: usize,
    at_q: usize,
    at_k: usize,
    at_v: usize,
    scale: f32,
    #[comptime] form: Form,
    #[define(E, G)] _types: [ElemType; 2],
) {
    let (number, own) = share(count, form);
    if number >= stats.shape(1) {
        terminate!();
    }
    let head = number * form.width;
    let here = place(tiles, CUBE_POS % count);
    let mut slices = slices(TILE);
    let mut left = Shared::<[f32]>::new_slice(SHARED);
    let mut sums = zeros(comptime!(form.blocks() * TILE.each()));
    let queries = rows_at::<E>(q, here.first, at_q + head, here.rows);
    let arriving = rows_at::<G>(dy, here.first, head, here.rows);
    let end = if comptime!(form.causal) { here.first + here.rows } else { here.end };
    let steps = agreed((end - here.start).div_ceil(TILE.cols));
    for step in 0..steps {
        let first = here.start + step * TILE.cols;
        let mut scores = zeros(comptime!(TILE.each()));
        let mut wgrads = zeros(comptime!(TILE.each()));
        let keys = rows_at::<E>(k, first, at_k + head, end - first);
        let values = rows_at::<E>(v, first, at_v + head, end - first);
        accumulate::<E, E>(&mut scores, &mut slices, q, queries, k, keys, form.width, (true, true), TILE);
        accumulate::<G, E>(&mut wgrads, &mut slices, dy, arriving, v, values, form.width, (true, true), TILE);
        #[unroll]
        for i in 0..TILE.unit_rows {
            #[unroll]
            for j in 0..TILE.unit_cols {
                let (row, key) = (row_of(i, TILE), first + col_of(j, TILE));
                let seen = row < here.rows && key < end;
                let at = comptime!(i * TILE.unit_cols + j);
                differentiate(&mut scores, &mut wgrads, stats, number, here.first + row, key, seen, scale, at, form);
            }
        }
        write_left(&mut left, &wgrads);
        add_blocks::<E>(&mut sums, &left, &mut slices, k, at_k + head, own, first, end, form);
    }
    #[unroll]
    for i in 0..TILE.unit_rows {
        let row = row_of(i, TILE);
        if row < here.rows {
            let base = (here.first + row) * grads.stride(0);
            write_row::<G>(grads, &sums, base, head, own, 1.0, i, form);
        }
    }
}

/// `dV = Wᵀ · dY` and `dK = scale · (W ∘ (dY·Vᵀ − Σ dy·out))ᵀ · Q` for a tile of keys.
#[cube(launch_unchecked)]
fn dkv_kernel<E: Float, G: Float>(
    q: &Tensor<E>,
    k: &Tensor<E>,
    v: &Tensor<E>,
    dy: &Tensor<G>,
    stats: &Tensor<f32>,
    tiles: &[u32],
    grads: &mut Tensor<G>,
    count: usize,
    at_q: usize,
    at_k: usize,
    at_v: usize,
    scale: f32,
    #[comptime] form: Form,
    #[define(E, G)] _types: [ElemType; 2],
) {
    let (number, own) = share(count, form);
    if number >= stats.shape(1) {
        terminate!();
    }
    let head = number * form.width;
    let here = place(tiles, CUBE_POS % count);
    let mut slices = slices(TILE);
    let mut left = Shared::<[f32]>::new_slice(SHARED);
    let mut dk = zeros(comptime!(form.blocks() * TILE.each()));
    let mut dv = zeros(comptime!(form.blocks() * TILE.each()));
    let keys = rows_at::<E>(k, here.first, at_k + head, here.rows);
    let values = rows_at::<E>(v, here.first, at_v + head, here.rows);
    let start = if comptime!(form.causal) { here.first } else { here.start };
    let steps = agreed((here.end - start).div_ceil(TILE.cols));
    for step in 0..steps {
        let first = start + step * TILE.cols;
        let mut scores = zeros(comptime!(TILE.each()));
        let mut wgrads = zeros(comptime!(TILE.each()));
        let queries = rows_at::<E>(q, first, at_q + head, here.end - first);
        let arriving = rows_at::<G>(dy, first, head, here.end - first);
        accumulate::<E, E>(&mut scores, &mut slices, k, keys, q, queries, form.width, (true, true), TILE);
        accumulate::<E, G>(&mut wgrads, &mut slices, v, values, dy, arriving, form.width, (true, true), TILE);
        #[unroll]
        for i in 0..TILE.unit_rows {
            #[unroll]
            for j in 0..TILE.unit_cols {
                let (row, query) = (row_of(i, TILE), first + col_of(j, TILE));
                let seen = row < here.rows && query < here.end;
                let at = comptime!(i * TILE.unit_cols + j);
                differentiate(&mut scores, &mut wgrads, stats, number, query, here.first + row, seen, scale, at, form);
            }
        }
        write_left(&mut left, &scores);
        add_blocks::<G>(&mut dv, &left, &mut slices, dy, head, own, first, here.end, form);
        write_left(&mut left, &wgrads);
        add_blocks::<E>(&mut dk, &left, &mut slices, q, at_q + head, own, first, here.end, form);
    }
    let features = stats.shape(1) * form.width;
    #[unroll]
    for i in 0..TILE.unit_rows {
        let row = row_of(i, TILE);
        if row < here.rows {
            let base = (here.first + row) * grads.stride(0);
            write_row::<G>(grads, &dk, base, features + head, own, 1.0, i, form);
            write_row::<G>(grads, &dv, base, 2 * features + head, own, 1.0, i, form);
        }
    }
}
