//! Packed attention: sequences of 1 to 70 tokens and empty ones, causal and full, with keys for every head or for several, against
//! f64 loops.

use super::*;
use crate::cube::attention::{Qkv, attend, attend_into};
use crate::cube::attention_backward::{attend_backward, attend_backward_into};

/// The reference: output, logarithmic denominators and gradients, each `[T, D]` (the denominators `[T, heads]`).
pub(super) struct Reference {
    pub(super) out: Vec<f64>,
    pub(super) lse: Vec<f64>,
    grads: [Vec<f64>; 3],
}

pub(super) struct Problem {
    pub(super) sequences: Segments,
    heads: usize,
    /// Query heads that share keys and values.
    group: usize,
    width: usize,
    causal: bool,
    /// Queries, keys, values and the gradient of the output, each `[T, heads · width]` of its own heads.
    parts: [Vec<f32>; 4],
}

impl Problem {
    fn new(seed: u64, [heads, group]: [usize; 2], width: usize, causal: bool) -> Self {
        let mut random = Random::new(seed);
        let lengths = [1, 33, 0, 64, 70, 2, 31, 32];
        let sequences = Segments::from_lengths(lengths.iter().map(|&l| if l > 40 { l - random.below(3) } else { l }));
        Self::of(random, sequences, [heads, group], width, causal)
    }

    pub(super) fn of(
        mut random: Random,
        sequences: Segments,
        [heads, group]: [usize; 2],
        width: usize,
        causal: bool,
    ) -> Self {
        let sizes = [(4.0, heads), (4.0, heads / group), (1.0, heads / group), (1.0, heads)];
        let parts = sizes.map(|(size, heads)| {
            let numbers = random.numbers(sequences.rows() * heads * width);
            numbers.into_iter().map(|n| n * size).collect()
        });
        Problem { sequences, heads, group, width, causal, parts }
    }

    /// Columns of part `i`.
    fn features(&self, i: usize) -> usize {
        self.width * if i == 1 || i == 2 { self.heads / self.group } else { self.heads }
    }

    /// Where the row of `token` and query head `head` begins in part `i`.
    fn at(&self, i: usize, token: usize, head: usize) -> usize {
        let head = if i == 1 || i == 2 { head / self.group } else { head };
        token * self.features(i) + head * self.width
    }

    fn row(&self, i: usize, token: usize, head: usize) -> &[f32] {
        &self.parts[i][self.at(i, token, head)..][..self.width]
    }

    pub(super) fn reference(&self) -> Reference {
        let grads = [0, 1, 2].map(|i| vec![0.0; self.sequences.rows() * self.features(i)]);
        let lse = vec![0.0; self.sequences.rows() * self.heads];
        let mut reference = Reference { out: grads[0].clone(), lse, grads };
        for range in self.sequences.ranges() {
            for head in 0..self.heads {
                for query in range.clone() {
                    let end = if self.causal { query + 1 } else { range.end };
                    self.one_query(query, head, range.start..end, &mut reference);
                }
            }
        }
        reference
    }

    /// Adds what one query of one head contributes.
    fn one_query(&self, query: usize, head: usize, keys: Range<usize>, to: &mut Reference) {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| a as f64 * b as f64).sum::<f64>();
        let scale = 1.0 / (self.width as f64).sqrt();
        let scores = keys.clone().map(|key| scale * dot(self.row(0, query, head), self.row(1, key, head)));
        let scores: Vec<f64> = scores.collect();
        let highest = scores.iter().fold(f64::MIN, |a, &b| a.max(b));
        let total: f64 = scores.iter().map(|s| (s - highest).exp()).sum();
        let lse = highest + total.ln();
        to.lse[query * self.heads + head] = lse;
        let weights: Vec<f64> = scores.iter().map(|s| (s - lse).exp()).collect();
        let dy = self.row(3, query, head);
        let dweights: Vec<f64> = keys.clone().map(|key| dot(dy, self.row(2, key, head))).collect();
        let mean: f64 = weights.iter().zip(&dweights).map(|(w, d)| w * d).sum();
        for ((key, w), dw) in keys.zip(&weights).zip(&dweights) {
            let dscore = scale * w * (dw - mean);
            for (i, &dy) in dy.iter().enumerate() {
                let [here, there] = [self.at(0, query, head) + i, self.at(1, key, head) + i];
                to.out[here] += w * self.row(2, key, head)[i] as f64;
                to.grads[0][here] += dscore * self.row(1, key, head)[i] as f64;
                to.grads[1][there] += dscore * self.row(0, query, head)[i] as f64;
                to.grads[2][there] += w * dy as f64;
            }
        }
    }

    /// Queries, keys and values side by side.
    pub(super) fn fused(&self, put: Put, device: &CubeDevice) -> CubeTensor {
        let tokens = self.sequences.rows();
        let part = |i: usize, t: usize| columns(&self.parts[i], self.features(i), t, &(0..self.features(i)));
        let rows = (0..tokens).flat_map(|t| (0..3).flat_map(move |i| part(i, t)));
        put(&rows.copied().collect::<Vec<_>>(), &[tokens, self.columns()], device)
    }

    /// Columns of queries, keys and values together.
    fn columns(&self) -> usize {
        (0..3).map(|i| self.features(i)).sum()
    }

    fn run(&self, device: &CubeDevice) {
        let reference = self.reference();
        LAYOUTS.into_iter().for_each(|put| self.check(&reference, put, device));
    }

    /// Inputs and results in one layout: the zeros that Burn makes for results may be pitched too.
    fn check(&self, reference: &Reference, put: Put, device: &CubeDevice) {
        let what = format!("{}x{} by {} causal {}", self.heads, self.width, self.group, self.causal);
        let (tokens, features) = (self.sequences.rows(), self.features(0));
        let place = |columns: usize| put(&vec![f32::NAN; tokens * columns], &[tokens, columns], device);
        let dy = put(&self.parts[3], &[tokens, features], device);
        let qkv = Qkv::fused(self.fused(put, device), self.heads, self.heads / self.group, self.causal);
        let table = self.sequences.tables().for_sequences(&self.sequences, device);
        let [out, lse, grads] = [features, self.heads, self.columns()].map(place);
        attend_into(&qkv, &table, &out, &lse);
        close(&format!("output {what}"), &values(out.clone()), &reference.out);
        close(&format!("denominators {what}"), &values(lse.clone()), &reference.lse);
        attend_backward_into(&qkv, out.clone(), lse.clone(), dy, &table, &grads);
        [&out, &lse, &grads].into_iter().for_each(nothing_between);
        let grads = values(grads);
        for (i, name) in ["dq", "dk", "dv"].into_iter().enumerate() {
            let first: usize = (0..i).map(|i| self.features(i)).sum();
            let cols = first..first + self.features(i);
            let found = (0..tokens).flat_map(|t| columns(&grads, self.columns(), t, &cols));
            close(&format!("{name} {what}"), &found.copied().collect::<Vec<_>>(), &reference.grads[i]);
        }
    }
}

#[test]
pub(super) fn full() {
    let Some(device) = device() else { return };
    for (seed, (heads, width)) in [([2, 1], 8), ([1, 1], 64), ([6, 3], 20)].into_iter().enumerate() {
        Problem::new(seed as u64, heads, width, false).run(&device);
    }
}

#[test]
pub(super) fn causal() {
    let Some(device) = device() else { return };
    for (seed, (heads, width)) in [([2, 1], 50), ([1, 1], 96), ([4, 4], 33)].into_iter().enumerate() {
        Problem::new(seed as u64 + 10, heads, width, true).run(&device);
    }
}

/// Heads whose columns workgroups share, evenly or not, up to the widest.
#[test]
fn wide_heads() {
    let Some(device) = device() else { return };
    for (seed, width) in [160, 192, 256].into_iter().enumerate() {
        Problem::new(seed as u64 + 20, [1, 1], width, seed % 2 == 0).run(&device);
    }
}

#[test]
fn no_tokens() {
    let Some(device) = device() else { return };
    let nobody = Segments::from_lengths([0]);
    let table = nobody.tables().for_sequences(&nobody, &device);
    let qkv = Qkv::fused(to_device(&[], &[0, 12], &device), 2, 2, false);
    let (out, lse) = attend(&qkv, 0, &table);
    assert_eq!((dims(&out), dims(&lse)), (vec![0, 4], vec![0, 2]));
    assert_eq!(dims(&attend_backward(&qkv, out.clone(), lse, out, &table)), [0, 12]);
}
