//! What a layer computes: attention and a feed-forward block, with norms after the residual sums (post-norm, as in BERT) or before
//! the blocks (pre-norm, as in LLaMA).
//!
//! Letters in shapes: `T` tokens, `D` features, `H` query heads, `G` key heads, `w` features a head, `I` features inside the
//! feed-forward block.

use bonfire_kernels::{Bend, glu, packed_attention, packed_attention_dropped, packed_attention_with};
use burn::tensor::Tensor;

use crate::description::DropRate;
use crate::description::NormPlace::{
    AfterAttention, AfterFeedForward, BeforeAttention, BeforeFeedForward, Keys, Queries,
};
use crate::dropout::Place;
use crate::layer::{Layer, LayerContext, Norm};
use crate::rotary::Angles;
use crate::{Activation, ModelInfo};

impl Layer {
    /// `norm(x + attention(x))`, then `norm(x + feed-forward(x))`: `[T, D] -> [T, D]`.
    pub(super) fn post_norm(&self, x: Tensor<2>, context: &LayerContext) -> Tensor<2> {
        let (eps, trained) = (context.info.eps, context.trained);
        let norm = |place| self.norm(place).expect("post-norm layers have both norms");
        let (qkv, x) = self.groups[0].apply_and_input(x, context, context.tokens); // [T, (H+2G)·w], [T, D]
        let attended = self.attend(qkv, context); // [T, H·w]
        // In the last layer only the rows that are read go on: T is N from here.
        let (x, attended, rows) = context.reading(x, attended);
        let dropped = context.info.architecture.describe().dropped;
        let attended = self.groups[1].apply(attended, context, rows); // [T, D]
        let attended = context.dropped(attended, Place::AfterAttention, dropped.attention, rows);
        let x = norm(AfterAttention).after(x, attended, eps, trained); // [T, D]
        let (wide, x) = self.groups[2].apply_gelu_and_input(x, context, rows); // [T, I], [T, D]
        let narrow = self.groups[3].apply_to_gelu(wide, context, rows); // [T, D]
        let narrow = context.dropped(narrow, Place::AfterFeedForward, dropped.feed_forward, rows);
        norm(AfterFeedForward).after(x, narrow, eps, trained) // [T, D]
    }

    /// `x + attention(norm(x))`, then `x + feed-forward(norm(x))`: `[T, D] -> [T, D]`; what is added is normed too where the layer
    /// has such norms.
    pub(super) fn pre_norm(&self, x: Tensor<2>, context: &LayerContext) -> Tensor<2> {
        let (eps, trained) = (context.info.eps, context.trained);
        let normed = |place, x| normed(self.norm(place), x, eps, trained);
        let normed_and_input = |place, x: Tensor<2>| match self.norm(place) {
            Some(norm) => norm.of_and_input(x, eps, trained),
            None => (x.clone(), x),
        };
        let (inside, x) = normed_and_input(BeforeAttention, x); // [T, D] each
        let attended = self.attend(self.groups[0].apply(inside, context, context.tokens), context); // [T, H·w]
        // In the last layer only the rows that are read go on: T is N from here.
        let (x, attended, rows) = context.reading(x, attended);
        let dropped = context.info.architecture.describe().dropped;
        let attended = normed(AfterAttention, self.groups[1].apply(attended, context, rows));
        let x = x + context.dropped(attended, Place::AfterAttention, dropped.attention, rows); // [T, D]
        let (inside, x) = normed_and_input(BeforeFeedForward, x); // [T, D] each
        let wide = gated(self.groups[2].apply(inside, context, rows), context.info.activation); // [T, 2·I] -> [T, I]
        let inside = dropped.feed_forward_inside.then_some(DropRate::Hidden);
        let wide = context.dropped(wide, Place::InFeedForward, inside, rows);
        let narrow = normed(AfterFeedForward, self.groups[3].apply(wide, context, rows));
        x + context.dropped(narrow, Place::AfterFeedForward, dropped.feed_forward, rows) // [T, D]
    }

    /// Attention from queries, keys and values, its heads side by side, before the linear that mixes them:
    /// `[T, (H+2G)·w] -> [T, H·w]`.
    fn attend(&self, qkv: Tensor<2>, context: &LayerContext) -> Tensor<2> {
        let qkv = self.turned(qkv, context.info, context.angles, context.trained);
        let share = context.dropout.model.attention;
        if let Some(keys) = context.tokens.keys.filter(|_| share > 0.0) {
            let (added, place) = (context.added_scores.unwrap_or_default(), context.place(Place::Attention));
            return packed_attention_dropped(qkv, context.attention, added, keys, place, share);
        }
        match context.added_scores {
            Some(scores) => packed_attention_with(qkv, context.attention, scores),
            None => packed_attention(qkv, context.attention),
        }
    }

    /// Queries and keys normed, scaled and given their rotary positions as the model does it: `[T, (H+2G)·w] -> [T, (H+2G)·w]`. `trained`: gradients
    /// reach the norms.
    pub(super) fn turned(&self, qkv: Tensor<2>, info: &ModelInfo, angles: Option<&Angles>, trained: bool) -> Tensor<2> {
        let [tokens, columns] = qkv.dims();
        let (w, heads, keys) = (info.head_width, info.heads, info.kv_heads);
        let norms = [self.norm(Queries), self.norm(Keys)];
        // Attention divides scores by √w; a model that divides by the root of another number has its queries scaled for it.
        let scale = (w as f64 / info.query_width).sqrt();
        let qkv = if norms.iter().all(Option::is_none) && scale == 1.0 {
            qkv
        } else {
            let part = |start: usize, count: usize, norm: Option<&Norm>| {
                let part = qkv.clone().slice_dim(1, start * w..(start + count) * w);
                match norm {
                    // [T·heads, w]: each head is a row.
                    Some(norm) => {
                        let rows = part.reshape([tokens * count, w]);
                        norm.of(rows, info.eps, trained).reshape([tokens, count * w])
                    }
                    None => part,
                }
            };
            let queries = part(0, heads, norms[0]); // [T, H·w]
            let queries = if scale == 1.0 { queries } else { queries * scale };
            let values = qkv.clone().slice_dim(1, (heads + keys) * w..columns); // [T, G·w]
            Tensor::cat(vec![queries, part(heads, keys, norms[1]), values], 1) // [T, (H+2G)·w]
        };
        match angles {
            Some(angles) => angles.turn(qkv, heads + keys),
            None => qkv,
        }
    }
}

pub(super) fn normed(norm: Option<&Norm>, x: Tensor<2>, eps: f64, trained: bool) -> Tensor<2> {
    match norm {
        Some(norm) => norm.of(x, eps, trained),
        None => x,
    }
}

/// `bend(gate) · up` of `[T, 2·I]`, gates first.
pub(super) fn gated(wide: Tensor<2>, activation: Activation) -> Tensor<2> {
    let bend = match activation {
        Activation::Silu => Bend::Silu,
        Activation::Gelu => Bend::Gelu,
        Activation::GeluTanh => Bend::GeluTanh,
    };
    glu(wide, bend)
}
