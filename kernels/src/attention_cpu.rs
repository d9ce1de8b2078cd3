//! Packed attention on the CPU: every sequence where it lies, no padding, sequences in parallel. The backward
//! recomputes the weights of one head at a time from q and k, so no scores are kept.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::Tensor;
use burn_flex::Flex;
use rayon::prelude::*;

use crate::Segments;
use crate::gelu::exp_of_negative;
use crate::ops::cpu_tensor;

/// Attention inside every sequence; see [`crate::packed_attention`] for the shapes.
pub(crate) fn attention(q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, heads: usize, sequences: &Segments) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as AttentionOps>::attend(
        q.into_dispatch(),
        k.into_dispatch(),
        v.into_dispatch(),
        heads,
        sequences.clone(),
    ))
}

/// The operation, for the CPU backend with and without a graph.
#[backend_extension(Flex, Autodiff)]
pub trait AttentionOps: Backend {
    /// `q`, `k`, `v` `[T, D] -> [T, D]`.
    fn attend(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        heads: usize,
        sequences: Segments,
    ) -> FloatTensor<Self>;
}

/// The gradient, asked of the backend underneath.
trait AttentionGradient: Backend {
    fn attend_backward(
        qkv: [FloatTensor<Self>; 3],
        dy: FloatTensor<Self>,
        heads: usize,
        sequences: &Segments,
    ) -> [FloatTensor<Self>; 3];
}

impl AttentionOps for Flex {
    fn attend(
        q: FloatTensor<Flex>,
        k: FloatTensor<Flex>,
        v: FloatTensor<Flex>,
        heads: usize,
        sequences: Segments,
    ) -> FloatTensor<Flex> {
        let shape = q.shape();
        let features = shape[1];
        let [q, k, v] = [q, k, v].map(|t| t.to_contiguous());
        let (qs, ks, vs): (&[f32], &[f32], &[f32]) = (q.storage(), k.storage(), v.storage());
        let mut out = vec![0f32; qs.len()];
        split(&mut out, &sequences, features).into_par_iter().zip(sequences.ranges().collect::<Vec<_>>()).for_each(
            |(out, range)| {
                let at = range.start * features..range.end * features;
                let view =
                    View { q: &qs[at.clone()], k: &ks[at.clone()], v: &vs[at], features, width: features / heads };
                let mut weights = vec![0f32; range.len() * range.len()];
                (0..heads).for_each(|h| view.forward(h, &mut weights, out));
            },
        );
        cpu_tensor(out, shape)
    }
}

impl AttentionGradient for Flex {
    fn attend_backward(
        qkv: [FloatTensor<Flex>; 3],
        dy: FloatTensor<Flex>,
        heads: usize,
        sequences: &Segments,
    ) -> [FloatTensor<Flex>; 3] {
        let shape = dy.shape();
        let features = shape[1];
        let [q, k, v] = qkv.map(|t| t.to_contiguous());
        let dy = dy.to_contiguous();
        let (qs, ks, vs, dys): (&[f32], &[f32], &[f32], &[f32]) = (q.storage(), k.storage(), v.storage(), dy.storage());
        let [mut dq, mut dk, mut dv] = [(); 3].map(|()| vec![0f32; qs.len()]);
        let outputs = split(&mut dq, sequences, features)
            .into_iter()
            .zip(split(&mut dk, sequences, features))
            .zip(split(&mut dv, sequences, features))
            .zip(sequences.ranges())
            .collect::<Vec<_>>();
        outputs.into_par_iter().for_each(|(((dq, dk), dv), range)| {
            let at = range.start * features..range.end * features;
            let dy = &dys[at.clone()];
            let view = View { q: &qs[at.clone()], k: &ks[at.clone()], v: &vs[at], features, width: features / heads };
            let mut weights = vec![0f32; range.len() * range.len()];
            (0..heads).for_each(|h| view.backward(h, &mut weights, dy, [dq, dk, dv]));
        });
        [dq, dk, dv].map(|d| cpu_tensor(d, shape.clone()))
    }
}

/// The rows of every sequence as slices of their own.
fn split<'a>(mut data: &'a mut [f32], sequences: &Segments, features: usize) -> Vec<&'a mut [f32]> {
    sequences
        .ranges()
        .map(|r| {
            let (head, tail) = std::mem::take(&mut data).split_at_mut(r.len() * features);
            data = tail;
            head
        })
        .collect()
}

/// One sequence: its rows of q, k and v, `[L, features]` each.
struct View<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    features: usize,
    width: usize,
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    // Eight running sums let the compiler use vector registers without reordering a single long sum.
    let mut sums = [0f32; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a8.remainder().iter().zip(b8.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a8.zip(b8) {
        for i in 0..8 {
            sums[i] += x[i] * y[i];
        }
    }
    sums.iter().sum::<f32>() + rest
}

fn add_scaled(out: &mut [f32], x: &[f32], scale: f32) {
    out.iter_mut().zip(x).for_each(|(o, x)| *o += scale * x);
}

impl View<'_> {
    fn length(&self) -> usize {
        self.q.len() / self.features
    }

    /// The part of row `i` of a `[L, features]` slice that belongs to `head`.
    fn at(&self, i: usize, head: usize) -> std::ops::Range<usize> {
        let start = i * self.features + head * self.width;
        start..start + self.width
    }

    /// Softmax of the scaled scores of `head`, `[L, L]`.
    fn weights(&self, head: usize, out: &mut [f32]) {
        let n = self.length();
        let scale = 1.0 / (self.width as f32).sqrt();
        for (i, row) in out.chunks_mut(n).enumerate() {
            let q = &self.q[self.at(i, head)];
            for (j, w) in row.iter_mut().enumerate() {
                *w = dot(q, &self.k[self.at(j, head)]) * scale;
            }
            let top = row.iter().fold(f32::NEG_INFINITY, |m, &w| m.max(w));
            let mut sum = 0.0;
            for w in row.iter_mut() {
                *w = exp_of_negative(*w - top);
                sum += *w;
            }
            row.iter_mut().for_each(|w| *w /= sum);
        }
    }

    fn forward(&self, head: usize, weights: &mut [f32], out: &mut [f32]) {
        self.weights(head, weights);
        for (i, row) in weights.chunks(self.length()).enumerate() {
            let at = self.at(i, head);
            row.iter().enumerate().for_each(|(j, &w)| add_scaled(&mut out[at.clone()], &self.v[self.at(j, head)], w));
        }
    }

    /// With P the weights and dP = dy·vᵀ: `dv = Pᵀ·dy`, `dS = P ∘ (dP − rowsum(P ∘ dP))`, `dq = s·dS·k`, `dk = s·dSᵀ·q`.
    fn backward(&self, head: usize, weights: &mut [f32], dy: &[f32], [dq, dk, dv]: [&mut [f32]; 3]) {
        self.weights(head, weights);
        let scale = 1.0 / (self.width as f32).sqrt();
        let mut dp = vec![0f32; self.length()];
        for (i, row) in weights.chunks(self.length()).enumerate() {
            let at = self.at(i, head);
            let dyi = &dy[at.clone()];
            for (j, (&w, dp)) in row.iter().zip(&mut dp).enumerate() {
                let other = self.at(j, head);
                *dp = dot(dyi, &self.v[other.clone()]);
                add_scaled(&mut dv[other], dyi, w);
            }
            let mean: f32 = dot(row, &dp);
            for (j, (&w, &dp)) in row.iter().zip(&dp).enumerate() {
                let other = self.at(j, head);
                let ds = w * (dp - mean) * scale;
                add_scaled(&mut dq[at.clone()], &self.k[other.clone()], ds);
                add_scaled(&mut dk[other], &self.q[at.clone()], ds);
            }
        }
    }
}

impl<B: AttentionOps + AttentionGradient, C: CheckpointStrategy> AttentionOps for Autodiff<B, C> {
    fn attend(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        heads: usize,
        sequences: Segments,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;
        impl<B: AttentionGradient> Backward<B, 3> for Step {
            type State = ([FloatTensor<B>; 3], usize, Segments);
            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
                let dy = grads.consume::<B>(&ops.node);
                let (qkv, heads, sequences) = ops.state;
                let gradients = B::attend_backward(qkv, dy, heads, &sequences);
                for (node, gradient) in ops.parents.into_iter().zip(gradients) {
                    if let Some(node) = node {
                        grads.register::<B>(node.id, gradient);
                    }
                }
            }
        }
        let nodes = [q.node(), k.node(), v.node()];
        let [q, k, v] = [q, k, v].map(|t| t.into_primitive());
        let y = B::attend(q.clone(), k.clone(), v.clone(), heads, sequences.clone());
        match Step.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(([q, k, v], heads, sequences), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}
