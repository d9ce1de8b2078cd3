//! Gradients of packed attention. The weights are computed again from the saved denominators; one kernel walks the keys
//! for each tile of queries, another the queries for each tile of keys, so that nobody adds to another's sums.

#![allow(unsafe_code)] // launches without bounds checks: the kernels check for themselves

use burn::backend::DType;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::tensor::CubeTensor;

use super::attention::{Qkv, add_blocks, rows_at, share, write_row};
use super::attention_tile::{Form, SHARED, TILE};
use super::product::{UNITS, accumulate, agreed, col_of, row_of, slices, zeros};
use super::tensors::{elem, empty, groups};
use super::tiles::{TileTable, place_of_all, surplus_tiles};

/// Gradients of [`attend`](super::attention::attend) for queries, keys and values, side by side.
///
/// # Shapes
/// `out`, `dy` `[T, D]`, `lse` `[T, heads]` -> `[T, (heads + 2·kv_heads)·width]`.
pub(crate) fn attend_backward(
    qkv: &Qkv,
    out: CubeTensor,
    lse: CubeTensor,
    dy: CubeTensor,
    tiles: &TileTable,
) -> CubeTensor {
    let tokens = dy.meta.shape()[0];
    let grads = empty(&dy, [tokens, qkv.columns()], dy.dtype); // [T, (H + 2·KV)·w]
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
    if tokens > 0 {
        let stats = row_stats(qkv, out, lse, dy.clone(), tokens); // [T, H, 2]
        launch(qkv, &dy, &stats, tiles, grads, Wanted::Queries);
        launch(qkv, &dy, &stats, tiles, grads, Wanted::KeysAndValues);
    }
}

/// For every token and head the softmax's logarithmic denominator, then `Σ dy · out`: `[T, heads, 2]`.
fn row_stats(qkv: &Qkv, out: CubeTensor, lse: CubeTensor, dy: CubeTensor, tokens: usize) -> CubeTensor {
    let stats = empty(&out, [tokens, qkv.heads, 2], DType::F32); // [T, H, 2]
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

/// Which gradients a kernel computes. Both walk one side of the scores for each tile of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// dQ: keys pass by a tile of queries.
    Queries,
    /// dK and dV: queries pass by a tile of keys.
    KeysAndValues,
}

fn launch(qkv: &Qkv, dy: &CubeTensor, stats: &CubeTensor, tiles: &TileTable, grads: &CubeTensor, wanted: Wanted) {
    let [(q, at_q), (k, at_k), (v, at_v)] = qkv.parts.clone();
    let types = [elem(&q), elem(dy)];
    let all = tiles.count + surplus_tiles(tiles, dy.meta.shape()[0]);
    let kernel = match wanted {
        Wanted::Queries => dq_kernel::launch_unchecked,
        Wanted::KeysAndValues => dkv_kernel::launch_unchecked,
    };
    let heads = if wanted == Wanted::Queries { qkv.heads } else { qkv.kv_heads() };
    // SAFETY: the kernels read and write inside the shapes checked by the caller.
    unsafe {
        kernel(
            &grads.client,
            groups(all * heads * qkv.form.parts()),
            CubeDim::new_1d(UNITS),
            q.into_tensor_arg(),
            k.into_tensor_arg(),
            v.into_tensor_arg(),
            dy.clone().into_tensor_arg(),
            stats.clone().into_tensor_arg(),
            tiles.tiles.clone().into_buffer_arg(),
            grads.clone().into_tensor_arg(),
            tiles.count,
            all,
            tiles.segments.rows(),
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
    all: usize,
    tokens: usize,
    at_q: usize,
    at_k: usize,
    at_v: usize,
    scale: f32,
    #[comptime] form: Form,
    #[define(E, G)] _types: [ElemType; 2],
) {
    walk::<E, G, E, G>(q, at_q, k, at_k, dy, 0, v, at_v, stats, tiles, grads, count, all, tokens, scale, true, form);
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
    all: usize,
    tokens: usize,
    at_q: usize,
    at_k: usize,
    at_v: usize,
    scale: f32,
    #[comptime] form: Form,
    #[define(E, G)] _types: [ElemType; 2],
) {
    walk::<E, E, G, G>(k, at_k, q, at_q, v, at_v, dy, 0, stats, tiles, grads, count, all, tokens, scale, false, form);
}

/// Both kernels. A workgroup holds a tile of `own` rows (queries, or keys) against the `other` rows of their sequence (keys, or
/// queries), tile by tile: scores `own · otherᵀ` and the weights' gradients `own_mixed · other_mixedᵀ`, where `mixed` is what the
/// weights mix on either side (a query's dy, a key's value). `queries`: the own rows are queries. Keys are walked by the queries of
/// all heads that share them, one head after the other.
#[cube]
fn walk<E: Float, O: Float, P: Float, G: Float>(
    own: &Tensor<E>,
    at_own: usize,
    other: &Tensor<E>,
    at_other: usize,
    own_mixed: &Tensor<O>,
    at_own_mixed: usize,
    other_mixed: &Tensor<P>,
    at_other_mixed: usize,
    stats: &Tensor<f32>,
    tiles: &[u32],
    grads: &mut Tensor<G>,
    count: usize,
    all: usize,
    tokens: usize,
    scale: f32,
    #[comptime] queries: bool,
    #[comptime] form: Form,
) {
    let (number, part) = share(all, form);
    let turns = comptime!(if queries { 1 } else { form.group });
    if number >= stats.shape(1) / turns {
        terminate!();
    }
    let head = number * form.width;
    // Rows of nobody see nothing, and zeros come out.
    let here = place_of_all(tiles, CUBE_POS % all, count, tokens, grads.shape(0), TILE.rows);
    let owned = CUBE_POS % all < count;
    let mut slices = slices(TILE);
    let mut left = Shared::<[f32]>::new_slice(SHARED);
    let mut d_own = zeros(comptime!(form.blocks() * TILE.each())); // [rows, w]: of queries, or of keys
    let mut d_value = zeros(comptime!(if queries { 1 } else { form.blocks() * TILE.each() })); // [rows, w]
    let rows = rows_at::<E>(own, here.first, at_own + head, here.rows);
    let mixed_rows = rows_at::<O>(own_mixed, here.first, at_own_mixed + head, here.rows);
    // Causal: a query sees keys up to its own place, a key is seen by queries from its own place on.
    let start = if comptime!(form.causal && !queries) { here.first } else { here.start };
    let end = if comptime!(form.causal && queries) { here.first + here.rows } else { here.end };
    let steps = (end - start).div_ceil(TILE.cols);
    let all_steps = agreed(select(owned, steps * turns, 0));
    for step in 0..all_steps {
        let mut first = start + step * TILE.cols;
        // The head of the other rows.
        let mut beside = number / comptime!(form.group);
        if comptime!(!queries) {
            beside = number * turns;
            if comptime!(turns > 1) {
                first = start + step % steps * TILE.cols;
                beside += step / steps;
            }
        }
        let other_head = beside * form.width;
        let mut scores = zeros(comptime!(TILE.each())); // [rows, others]
        let mut wgrads = zeros(comptime!(TILE.each())); // [rows, others]
        let others = rows_at::<E>(other, first, at_other + other_head, end - first);
        let mixed_others = rows_at::<P>(other_mixed, first, at_other_mixed + other_head, end - first);
        accumulate::<E, E>(&mut scores, &mut slices, own, rows, other, others, form.width, (true, true), TILE);
        accumulate::<O, P>(
            &mut wgrads,
            &mut slices,
            own_mixed,
            mixed_rows,
            other_mixed,
            mixed_others,
            form.width,
            (true, true),
            TILE,
        );
        #[unroll]
        for i in 0..TILE.unit_rows {
            #[unroll]
            for j in 0..TILE.unit_cols {
                let (row, other) = (row_of(i, TILE), first + col_of(j, TILE));
                let there = row < here.rows && other < end;
                let at = comptime!(i * TILE.unit_cols + j);
                if comptime!(queries) {
                    let query = here.first + row;
                    differentiate(&mut scores, &mut wgrads, stats, number, query, other, there, scale, at, form);
                } else {
                    let key = here.first + row;
                    differentiate(&mut scores, &mut wgrads, stats, beside, other, key, there, scale, at, form);
                }
            }
        }
        if comptime!(!queries) {
            write_left(&mut left, &scores);
            add_blocks::<P>(
                &mut d_value,
                &left,
                &mut slices,
                other_mixed,
                at_other_mixed + other_head,
                part,
                first,
                end,
                form,
            );
        }
        write_left(&mut left, &wgrads);
        add_blocks::<E>(&mut d_own, &left, &mut slices, other, at_other + other_head, part, first, end, form);
    }
    let features = stats.shape(1) * form.width;
    let shared = features / comptime!(form.group);
    #[unroll]
    for i in 0..TILE.unit_rows {
        let row = row_of(i, TILE);
        if row < here.rows {
            let base = (here.first + row) * grads.stride(0);
            if comptime!(queries) {
                write_row::<G>(grads, &d_own, base, head, part, 1.0, i, form);
            } else {
                write_row::<G>(grads, &d_own, base, features + head, part, 1.0, i, form);
                write_row::<G>(grads, &d_value, base, features + shared + head, part, 1.0, i, form);
            }
        }
    }
}
