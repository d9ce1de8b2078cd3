//! Packed attention on the CPU: sequences side by side on all threads, each read where it lies in the packed matrix, its queries
//! in tiles of a few dozen. The backward pass computes a tile's softmax weights again from queries, keys and each row's
//! log-sum-exp, so no scores are kept.
//!
//! Letters in shapes: `T` tokens, `H` query heads, `G` key heads, `w` features a head.

use std::ops::Range;

use burn::backend::TensorMetadata;
use burn::tensor::Shape;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::gelu::exp_of_negative;
use super::micro::{Accumulate, run, vectorised};
use super::{dense, filled, split, tensor, values};
use crate::options::AttentionLayout;

/// Queries whose scores are held at once.
const TILE: usize = 64;
/// Scores of a row are padded to whole vectors.
const LANES: usize = 16;

/// One sequence, and what is the same for all.
struct Sequence<'a> {
    /// Its rows of queries, keys and values.
    qkv: &'a [f32],
    length: usize,
    stride: usize,
    width: usize,
    heads: usize,
    kv_heads: usize,
    causal: bool,
}

/// Memory for one head's tile, used again from head to head.
#[derive(Default)]
struct Room {
    /// Keys (then values) of a head, feature by feature `[width, padded]`.
    keys: Vec<f32>,
    values: Vec<f32>,
    weights: Vec<f32>,
    slopes: Vec<f32>,
}

impl Sequence<'_> {
    fn padded(&self) -> usize {
        self.length.next_multiple_of(LANES)
    }

    fn scale(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }

    /// Columns where head `i` of the queries, keys or values begins.
    fn query(&self, i: usize) -> usize {
        i * self.width
    }
    fn key(&self, i: usize) -> usize {
        (self.heads + i) * self.width
    }
    fn value(&self, i: usize) -> usize {
        (self.heads + self.kv_heads + i) * self.width
    }

    fn tiles(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let length = self.length;
        (0..length).step_by(TILE).map(move |start| start..(start + TILE).min(length))
    }

    /// How many keys the queries of a tile see at most.
    fn seen(&self, tile: &Range<usize>) -> usize {
        if self.causal { tile.end } else { self.length }
    }

    /// The columns from `column` on, turned: `[width, padded]`, zeros in the padding.
    fn turned(&self, column: usize, out: &mut Vec<f32>) {
        let padded = self.padded();
        out.clear();
        out.resize(self.width * padded, 0.0);
        for (j, row) in self.qkv.chunks_exact(self.stride).enumerate() {
            for (i, &v) in row[column..column + self.width].iter().enumerate() {
                out[i * padded + j] = v;
            }
        }
    }

    /// `out[i][j] = scale · rows_i · turned_j` for the tile: `[tile, padded]`.
    fn scores(&self, rows: &[f32], stride: usize, turned: &[f32], tile: &Range<usize>, scale: f32, out: &mut Vec<f32>) {
        let padded = self.padded();
        out.resize(tile.len() * padded, 0.0);
        run(Accumulate {
            out,
            out_stride: padded,
            coef: &rows[tile.start * stride..],
            coef_strides: [stride, 1],
            m: turned,
            m_stride: padded,
            rows: tile.len(),
            depth: self.width,
            width: self.seen(tile).next_multiple_of(LANES),
            scale,
            fresh: true,
        });
    }

    /// How many keys the query at `i` in the sequence sees.
    fn reach(&self, i: usize) -> usize {
        if self.causal { i + 1 } else { self.length }
    }

    /// `out` `[length, features]`, `lse` `[length, heads]`.
    fn forward(&self, room: &mut Room, out: &mut [f32], lse: &mut [f32]) {
        let features = self.heads * self.width;
        let padded = self.padded();
        for head in 0..self.heads {
            let kv = head / (self.heads / self.kv_heads);
            self.turned(self.key(kv), &mut room.keys);
            for tile in self.tiles() {
                let q = &self.qkv[self.query(head)..];
                self.scores(q, self.stride, &room.keys, &tile, self.scale(), &mut room.weights); // [tile, keys]
                vectorised(|| {
                    for (i, row) in tile.clone().zip(room.weights.chunks_exact_mut(padded)) {
                        lse[i * self.heads + head] = softmax(row, self.reach(i)); // [H] a token
                    }
                });
                let rows = &mut out[tile.start * features + head * self.width..];
                let value = &self.qkv[self.value(kv)..];
                self.mix(rows, features, &room.weights, [padded, 1], value, [tile.len(), self.seen(&tile)], true); // [tile, keys] · [keys, w]
            }
        }
    }

    /// `out[i] (+)= Σ_j coef[i][j] · m[j]`, rows of one head in `out`; `m` strides as `out` of the same kind does.
    #[allow(clippy::too_many_arguments)]
    fn mix(
        &self,
        out: &mut [f32],
        out_stride: usize,
        coef: &[f32],
        coef_strides: [usize; 2],
        m: &[f32],
        [rows, depth]: [usize; 2],
        fresh: bool,
    ) {
        let m_stride = self.stride;
        let width = self.width;
        run(Accumulate { out, out_stride, coef, coef_strides, m, m_stride, rows, depth, width, scale: 1.0, fresh });
    }

    /// With P the weights and dP = dy·vᵀ: `dv = Pᵀ·dy`, `dS = s·P ∘ (dP − rowsum(P ∘ dP))`, `dq = dS·k`, `dk = dSᵀ·q`.
    /// `d` `[length, stride]`, zero at keys and values.
    fn backward(&self, room: &mut Room, lse: &[f32], dy: &[f32], d: &mut [f32]) {
        let features = self.heads * self.width;
        let padded = self.padded();
        let stride = self.stride;
        for head in 0..self.heads {
            let kv = head / (self.heads / self.kv_heads);
            self.turned(self.key(kv), &mut room.keys);
            self.turned(self.value(kv), &mut room.values);
            for tile in self.tiles() {
                let q = &self.qkv[self.query(head)..];
                self.scores(q, stride, &room.keys, &tile, self.scale(), &mut room.weights); // [tile, keys]
                let dy = &dy[head * self.width..];
                self.scores(dy, features, &room.values, &tile, 1.0, &mut room.slopes); // dP [tile, keys]
                vectorised(|| {
                    let rows = room.weights.chunks_exact_mut(padded).zip(room.slopes.chunks_exact_mut(padded));
                    for (i, (weights, slopes)) in tile.clone().zip(rows) {
                        slope(weights, slopes, self.reach(i), lse[i * self.heads + head], self.scale());
                    }
                });
                let (count, seen) = (tile.len(), self.seen(&tile));
                let dq = &mut d[tile.start * stride + self.query(head)..];
                self.mix(dq, stride, &room.slopes, [padded, 1], &self.qkv[self.key(kv)..], [count, seen], true); // dS·k [tile, w]
                let q = &self.qkv[tile.start * stride + self.query(head)..];
                self.mix(&mut d[self.key(kv)..], stride, &room.slopes, [1, padded], q, [seen, count], false); // dSᵀ·q [keys, w]
                // Pᵀ·dy [keys, w]
                run(Accumulate {
                    out: &mut d[self.value(kv)..],
                    out_stride: stride,
                    coef: &room.weights,
                    coef_strides: [1, padded],
                    m: &dy[tile.start * features..],
                    m_stride: features,
                    rows: seen,
                    depth: count,
                    width: self.width,
                    scale: 1.0,
                    fresh: false,
                });
            }
        }
    }
}

#[inline(always)]
fn largest(row: &[f32]) -> f32 {
    let mut tops = [f32::NEG_INFINITY; LANES];
    for chunk in row.chunks(LANES) {
        for (top, &v) in tops.iter_mut().zip(chunk) {
            *top = if v > *top { v } else { *top };
        }
    }
    tops.iter().fold(f32::NEG_INFINITY, |m, &v| m.max(v))
}

#[inline(always)]
fn sum(row: &[f32]) -> f32 {
    let mut sums = [0f32; LANES];
    for chunk in row.chunks(LANES) {
        for (s, &v) in sums.iter_mut().zip(chunk) {
            *s += v;
        }
    }
    sums.iter().sum()
}

/// Scores to weights over the first `reach` of a row, zeros after; the row's log-sum-exp.
#[inline(always)]
pub(super) fn softmax(row: &mut [f32], reach: usize) -> f32 {
    row[reach..].fill(0.0);
    let row = &mut row[..reach];
    let top = largest(row);
    row.iter_mut().for_each(|w| *w = exp_of_negative(*w - top));
    let sum = sum(row);
    let share = 1.0 / sum;
    row.iter_mut().for_each(|w| *w *= share);
    top + sum.ln()
}

/// Scores and dP to weights and dS, in place.
#[inline(always)]
fn slope(weights: &mut [f32], slopes: &mut [f32], reach: usize, lse: f32, scale: f32) {
    weights[reach..].fill(0.0);
    slopes[reach..].fill(0.0);
    let (weights, slopes) = (&mut weights[..reach], &mut slopes[..reach]);
    weights.iter_mut().for_each(|w| *w = exp_of_negative(if *w > lse { 0.0 } else { *w - lse }));
    let mut sums = [0f32; LANES];
    for (w, s) in weights.chunks(LANES).zip(slopes.chunks(LANES)) {
        for ((sum, w), s) in sums.iter_mut().zip(w).zip(s) {
            *sum += w * s;
        }
    }
    let mean: f32 = sums.iter().sum();
    for (w, s) in weights.iter().zip(slopes.iter_mut()) {
        *s = w * (*s - mean) * scale;
    }
}

fn sequence<'a>(qkv: &'a [f32], stride: usize, range: &Range<usize>, layout: &AttentionLayout) -> Sequence<'a> {
    Sequence {
        qkv: &qkv[range.start * stride..range.end * stride],
        length: range.len(),
        stride,
        width: layout.width(stride),
        heads: layout.heads,
        kv_heads: layout.kv_heads,
        causal: layout.causal,
    }
}

/// See [`crate::backends::Kernels::attention_forward`]; what backward reads is each row's log-sum-exp `[T, H]`.
pub(super) fn forward(qkv: &FlexTensor, layout: &AttentionLayout) -> (FlexTensor, Vec<FlexTensor>) {
    let qkv = dense(qkv.clone());
    let [tokens, stride] = qkv.shape().dims();
    let features = layout.heads * layout.width(stride);
    let qs = values(&qkv);
    let mut lse = vec![0f32; tokens * layout.heads]; // [T, H]
    let attend = |out: &mut [f32]| {
        out[layout.sequences.rows() * features..].fill(0.0);
        let lengths = || layout.sequences.ranges().map(|r| r.len());
        let outputs = split(out, lengths(), features).into_iter().zip(split(&mut lse, lengths(), layout.heads));
        let tasks: Vec<_> = outputs.zip(layout.sequences.ranges()).collect();
        tasks.into_par_iter().for_each_init(Room::default, |room, ((out, lse), range)| {
            sequence(qs, stride, &range, layout).forward(room, out, lse);
        });
    };
    // SAFETY: the sequences follow each other from the first row to `rows`, each writes all heads of all its rows, and what
    // lies behind them is filled.
    #[allow(unsafe_code)]
    let (out, ()) = unsafe { filled(tokens * features, attend) }; // [T, H·w]
    let shape = |width| Shape::from([tokens, width]);
    (tensor(out, shape(features)), vec![tensor(lse, shape(layout.heads))])
}

/// See [`crate::backends::Kernels::attention_backward`].
pub(super) fn backward(qkv: &FlexTensor, lse: &FlexTensor, dy: FlexTensor, layout: &AttentionLayout) -> FlexTensor {
    let (qkv, dy) = (dense(qkv.clone()), dense(dy));
    let [tokens, stride] = qkv.shape().dims();
    let features = dy.shape()[1];
    let (qs, dys, lses) = (values(&qkv), values(&dy), values(lse));
    let mut d = vec![0f32; tokens * stride]; // [T, (H+2G)·w]
    let lengths = layout.sequences.ranges().map(|r| r.len());
    let tasks: Vec<_> = split(&mut d, lengths, stride).into_iter().zip(layout.sequences.ranges()).collect();
    tasks.into_par_iter().for_each_init(Room::default, |room, (d, range)| {
        let lse = &lses[range.start * layout.heads..range.end * layout.heads];
        let dy = &dys[range.start * features..range.end * features];
        sequence(qs, stride, &range, layout).backward(room, lse, dy, d);
    });
    tensor(d, Shape::from([tokens, stride]))
}
