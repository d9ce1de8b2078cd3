//! Attention over packed sequences, full and causal, with fewer key heads than query heads.

use std::ops::Range;

use burn::tensor::Device;

use super::threads::each;
use super::{Exact, Format, Off, backward, compare, dot, gradient, read, rows};
use crate::{AttentionLayout, Segments, packed_attention};

/// Tokens that belong to nobody.
const SURPLUS: usize = 2;

#[derive(Clone)]
struct Attention {
    lengths: Vec<usize>,
    heads: usize,
    kv_heads: usize,
    width: usize,
    causal: bool,
    seed: u64,
}

pub(super) fn small(seed: u64) -> Vec<Exact> {
    let one = |heads, kv_heads, width, causal| {
        let lengths = vec![1, 33, 64, 70, 2, 31, 32, 7];
        Attention { lengths, heads, kv_heads, width, causal, seed }.case()
    };
    vec![
        one(2, 2, 10, false),
        one(1, 1, 64, false),
        one(2, 2, 50, true),
        one(1, 1, 96, true),
        one(6, 2, 16, true),
        one(2, 1, 128, false),
    ]
}

pub(super) fn real(tokens: usize, seed: u64) -> Vec<Exact> {
    // Short texts, as of a classification data set: 4 to 28 tokens.
    let mut lengths: Vec<usize> = (0..)
        .map(|i| 4 + i * 7 % 25)
        .scan(0, |sum, l| {
            *sum += l;
            (*sum <= tokens).then_some(l)
        })
        .collect();
    lengths.push(tokens.min(512));
    let encoder = Attention { lengths, heads: 12, kv_heads: 12, width: 64, causal: false, seed };
    let long = [512, 1, 300, 77, 200, 33].map(|l| l.min(tokens)).to_vec();
    let decoder = Attention { lengths: long, heads: 32, kv_heads: 8, width: 64, causal: true, seed };
    vec![encoder.case(), decoder.case()]
}

/// What one sequence and key head's queries give.
struct Share {
    out: Vec<f64>,
    grads: [Vec<f64>; 3],
}

/// The numbers of one problem.
struct Problem {
    of: Attention,
    sequences: Segments,
    /// `[T, columns]`.
    qkv: Vec<f32>,
    /// `[T, heads · width]`.
    dy: Vec<f32>,
}

impl Attention {
    fn case(self) -> Exact {
        let Attention { heads, kv_heads, width, .. } = self;
        let (sequences, tokens) = (self.lengths.len(), self.lengths.iter().sum::<usize>());
        let [shortest, longest] =
            [self.lengths.iter().min(), self.lengths.iter().max()].map(|n| n.copied().unwrap_or(0));
        let shape = format!(
            "{sequences} texts of {shortest} to {longest}, {tokens} tokens, {heads}/{kv_heads} heads of {width}"
        );
        let operation = if self.causal { "attention, causal" } else { "attention" };
        let run = move |device: &Device, format| {
            let problem = self.problem(format);
            let (out, gradient) = problem.run(device, format)?;
            Ok(problem.compare(&out, &gradient))
        };
        Exact { operation, shape, rounded: true, run: Box::new(run) }
    }

    fn columns(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.width
    }

    fn problem(&self, format: Format) -> Problem {
        let sequences = Segments::from_lengths(self.lengths.iter().copied());
        let rows = sequences.rows() + SURPLUS;
        let mut qkv = format.numbers(rows * self.columns(), 1000 * self.seed + 1);
        // Scores that differ: queries and keys of twice the size.
        let turned = (self.heads + self.kv_heads) * self.width;
        qkv.chunks_mut(self.columns()).for_each(|row| row[..turned].iter_mut().for_each(|v| *v *= 2.0));
        let dy = format.numbers(rows * self.heads * self.width, 1000 * self.seed + 2);
        Problem { of: self.clone(), sequences, qkv, dy }
    }
}

impl Problem {
    fn run(&self, device: &Device, format: Format) -> Result<(Vec<f32>, Vec<f32>), String> {
        let Attention { heads, kv_heads, width, causal, .. } = self.of;
        let (rows, device) = (self.sequences.rows() + SURPLUS, &device.clone().autodiff());
        let layout = AttentionLayout { sequences: self.sequences.clone(), heads, kv_heads, causal, window: None };
        let qkv = format.put(&self.qkv, [rows, self.of.columns()], device).require_grad();
        let out = packed_attention(qkv.clone(), &layout);
        let grads = backward(&out, format.put(&self.dy, [rows, heads * width], device));
        Ok((read(out)?, gradient("q, k, v", &qkv, &grads)?))
    }

    fn compare(&self, out: &[f32], gradient: &[f32]) -> Vec<Off> {
        let Attention { heads, kv_heads, width, .. } = self.of;
        let (columns, features) = (self.of.columns(), heads * width);
        let all = self.sequences.rows() + SURPLUS;
        let mut expected = (vec![0.0; all * features], vec![0.0; all * columns]);
        let shares = each(self.sequences.len() * kv_heads, |i| self.share(i / kv_heads, i % kv_heads));
        for (i, share) in shares.iter().enumerate() {
            self.put(self.sequences.range(i / kv_heads), i % kv_heads, share, &mut expected);
        }
        // Queries, keys and values apart: their gradients are of different sizes.
        let ends = [0, features, features + kv_heads * width, columns];
        let cut = |values: &[f64], part: usize| -> Vec<f64> {
            values.chunks(columns).flat_map(|row| row[ends[part]..ends[part + 1]].to_vec()).collect()
        };
        let mut offs = vec![compare("result", out, features, &rows(&expected.0, features))];
        for (part, name) in ["queries", "keys", "values"].into_iter().enumerate() {
            let w = ends[part + 1] - ends[part];
            let found: Vec<f32> = gradient
                .chunks(columns)
                .flat_map(|row| row.get(ends[part]..ends[part + 1]).unwrap_or(&[]).to_vec())
                .collect();
            offs.push(compare(format!("gradient of {name}"), &found, w, &rows(&cut(&expected.1, part), w)));
        }
        offs
    }

    /// A head's row of part 0 (queries, `head` of all), 1 (keys) or 2 (values, `head` of the key heads).
    fn row(&self, part: usize, token: usize, head: usize) -> &[f32] {
        let Attention { heads, kv_heads, width, .. } = self.of;
        let start = [0, heads, heads + kv_heads][part] + head;
        let at = token * self.of.columns() + start * width;
        &self.qkv[at..at + width]
    }

    /// All queries that meet key head `kv` in sequence `s`.
    fn share(&self, s: usize, kv: usize) -> Share {
        let Attention { heads, kv_heads, width, causal, .. } = self.of;
        let (range, group) = (self.sequences.range(s), heads / kv_heads);
        let size = range.len() * width;
        let grads = [vec![0.0; size * group], vec![0.0; size], vec![0.0; size]];
        let mut share = Share { out: vec![0.0; size * group], grads };
        for (i, query) in range.clone().enumerate() {
            let end = if causal { query + 1 } else { range.end };
            for h in 0..group {
                self.query(query, [kv, kv * group + h], range.start..end, (i * group + h) * width, &mut share);
            }
        }
        share
    }

    /// Adds what one query of one head contributes; its own row starts at `own`.
    fn query(&self, query: usize, [kv, head]: [usize; 2], keys: Range<usize>, own: usize, share: &mut Share) {
        let width = self.of.width;
        let (q, scale) = (self.row(0, query, head), 1.0 / (width as f64).sqrt());
        let scores: Vec<f64> = keys.clone().map(|key| scale * dot(q, self.row(1, key, kv))).collect();
        let highest = scores.iter().copied().fold(f64::MIN, f64::max);
        let total: f64 = scores.iter().map(|s| (s - highest).exp()).sum();
        let weights: Vec<f64> = scores.iter().map(|s| (s - highest).exp() / total).collect();
        let at = (query * self.of.heads + head) * width;
        let dy = &self.dy[at..at + width];
        let slopes: Vec<f64> = keys.clone().map(|key| dot(dy, self.row(2, key, kv))).collect();
        let mean: f64 = weights.iter().zip(&slopes).map(|(w, d)| w * d).sum();
        for (i, key) in keys.enumerate() {
            let (k, v) = (self.row(1, key, kv), self.row(2, key, kv));
            let slope = scale * weights[i] * (slopes[i] - mean);
            super::add(&mut share.out[own..own + width], weights[i], v);
            super::add(&mut share.grads[0][own..own + width], slope, k);
            super::add(&mut share.grads[1][i * width..(i + 1) * width], slope, q);
            super::add(&mut share.grads[2][i * width..(i + 1) * width], weights[i], dy);
        }
    }

    /// Puts a share where it belongs in result and gradient.
    fn put(&self, range: Range<usize>, kv: usize, share: &Share, (out, grads): &mut (Vec<f64>, Vec<f64>)) {
        let Attention { heads, kv_heads, width, .. } = self.of;
        let (group, columns) = (heads / kv_heads, self.of.columns());
        for (i, token) in range.enumerate() {
            let (own, first) = (i * group * width..(i + 1) * group * width, kv * group * width);
            let at = token * heads * width + first;
            out[at..at + group * width].copy_from_slice(&share.out[own.clone()]);
            let row = &mut grads[token * columns..(token + 1) * columns];
            row[first..first + group * width].copy_from_slice(&share.grads[0][own]);
            for part in [1, 2] {
                let start = (heads + (part - 1) * kv_heads + kv) * width;
                row[start..start + width].copy_from_slice(&share.grads[part][i * width..(i + 1) * width]);
            }
        }
    }
}
