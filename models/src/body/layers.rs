//! What a layer computes: attention and a feed-forward block, with norms after their sums or before them. Shapes: `H` query
//! heads, `G` key heads, `w` features a head.

use bonfire_kernels::{gelu, packed_attention, packed_attention_with};
use burn::tensor::Tensor;
use burn::tensor::activation::silu;

use crate::description::NormPlace::{
    AfterAttention, AfterFeedForward, BeforeAttention, BeforeFeedForward, Keys, Queries,
};
use crate::layer::{Layer, Norm, Pass};
use crate::rotary::Angles;
use crate::{Activation, ModelInfo};

impl Layer {
    /// `norm(x + attention(x))`, then `norm(x + feed-forward(x))`.
    pub(super) fn post_norm(&self, x: Tensor<2>, pass: &Pass) -> Tensor<2> {
        let norm = |place| self.norm(place).expect("post-norm layers have both norms");
        let attended = self.attend(x.clone(), pass);
        let (x, attended, rows) = pass.reading(x, attended);
        let x = norm(AfterAttention).after(x, self.groups[1].apply(attended, pass, rows), pass.info.eps, pass.trained);
        let wide = gelu(self.groups[2].apply(x.clone(), pass, rows));
        norm(AfterFeedForward).after(x, self.groups[3].apply(wide, pass, rows), pass.info.eps, pass.trained)
    }

    /// `x + attention(norm(x))`, then `x + feed-forward(norm(x))`; what is added is normed too where the layer has such norms.
    pub(super) fn pre_norm(&self, x: Tensor<2>, pass: &Pass) -> Tensor<2> {
        let eps = pass.info.eps;
        let attended = self.attend(normed(self.norm(BeforeAttention), x.clone(), eps), pass);
        let (x, attended, rows) = pass.reading(x, attended);
        let x = x + normed(self.norm(AfterAttention), self.groups[1].apply(attended, pass, rows), eps);
        let inside = normed(self.norm(BeforeFeedForward), x.clone(), eps);
        let wide = gated(self.groups[2].apply(inside, pass, rows), pass.info.activation);
        x + normed(self.norm(AfterFeedForward), self.groups[3].apply(wide, pass, rows), eps)
    }

    fn attend(&self, x: Tensor<2>, pass: &Pass) -> Tensor<2> {
        let qkv = self.turned(self.groups[0].apply(x, pass, pass.tokens), pass.info, pass.angles);
        match pass.added_scores {
            Some(scores) => packed_attention_with(qkv, pass.attention, scores),
            None => packed_attention(qkv, pass.attention),
        }
    }

    /// Queries and keys normed, scaled and turned as the model does it: `[T, (H+2G)·w] -> [T, (H+2G)·w]`.
    pub(super) fn turned(&self, qkv: Tensor<2>, info: &ModelInfo, angles: Option<&Angles>) -> Tensor<2> {
        let [tokens, columns] = qkv.dims();
        let (w, heads, keys) = (info.head_width, info.heads, info.kv_heads);
        let norms = [self.norm(Queries), self.norm(Keys)];
        // What attention divides scores by is the features of a head.
        let scale = (w as f64 / info.query_width).sqrt();
        if norms.iter().all(Option::is_none) && scale == 1.0 && angles.is_none() {
            return qkv;
        }
        let part = |start: usize, count: usize| qkv.clone().slice_dim(1, start * w..(start + count) * w);
        let by_head = |norm: Option<&Norm>, x: Tensor<2>, count: usize| match norm {
            Some(norm) => norm.of(x.reshape([tokens * count, w]), info.eps).reshape([tokens, count, w]),
            None => x.reshape([tokens, count, w]),
        };
        let plain = norms.iter().all(Option::is_none) && scale == 1.0;
        let both = match plain {
            true => by_head(None, part(0, heads + keys), heads + keys),
            false => {
                let queries = by_head(norms[0], part(0, heads), heads) * scale;
                Tensor::cat(vec![queries, by_head(norms[1], part(heads, keys), keys)], 1)
            }
        };
        let both = match angles {
            Some(angles) => angles.turn(both),
            None => both,
        };
        let turned = (heads + keys) * w;
        Tensor::cat(vec![both.reshape([tokens, turned]), qkv.slice_dim(1, turned..columns)], 1)
    }
}

pub(super) fn normed(norm: Option<&Norm>, x: Tensor<2>, eps: f64) -> Tensor<2> {
    match norm {
        Some(norm) => norm.of(x, eps),
        None => x,
    }
}

/// `bend(gate) · up` of `[T, 2·I]`, gates first.
pub(super) fn gated(wide: Tensor<2>, activation: Activation) -> Tensor<2> {
    let width = wide.dims()[1] / 2;
    let (gate, up) = (wide.clone().narrow(1, 0, width), wide.narrow(1, width, width));
    let gate = match activation {
        Activation::Silu => silu(gate),
        Activation::Gelu => gelu(gate),
        Activation::GeluTanh => gelu_tanh(gate),
    };
    gate * up
}

/// `½·x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`.
fn gelu_tanh(x: Tensor<2>) -> Tensor<2> {
    let inner = (x.clone() + x.clone().powi_scalar(3) * 0.044715) * (2.0 / std::f64::consts::PI).sqrt();
    x * 0.5 * (inner.tanh() + 1.0)
}
