//! The body one token after another, for generation, with a cache of the keys and values of the tokens before.
//!
//! Letters in shapes: `n` new tokens, `all` tokens so far, `H` query heads, `G` key heads, `w` features a head, `I` features
//! inside the feed-forward block, `V` vocabulary.

use bonfire_kernels::{Arithmetic, product};
use burn::tensor::activation::softmax;
use burn::tensor::{Int, Tensor, TensorData};

use super::Body;
use super::layers::{gated, normed};
use crate::ModelInfo;
use crate::description::NormPlace::{AfterAttention, AfterFeedForward, BeforeAttention, BeforeFeedForward};

/// One sequence being generated: keys and values of the tokens so far.
pub(crate) struct Cache {
    /// Of every layer: `[G, t, w]` each.
    layers: Vec<Option<[Tensor<3>; 2]>>,
    length: usize,
}

impl Body {
    /// Nothing generated yet.
    pub fn cache(&self) -> Cache {
        Cache { layers: vec![None; self.layers.len()], length: 0 }
    }

    /// Feeds the next tokens of the sequence; gives the scores of what follows the last of them `[1, V]`. No adapters:
    /// what is to be generated with is folded into the weights.
    pub fn feed(&self, info: &ModelInfo, tokens: &[u32], cache: &mut Cache, arithmetic: Arithmetic) -> Tensor<2> {
        let (device, n, eps) = (self.words.device(), tokens.len(), info.eps);
        let ints = |values: Vec<i32>| Tensor::<1, Int>::from_ints(values.as_slice(), &device);
        let positions = ints((cache.length..cache.length + n).map(|p| p as i32).collect());
        let angles = self.angles(&positions, cache.length + n);
        let mut x = self.words_of(&ints(tokens.iter().map(|&t| t as i32).collect()), info);
        for (i, (layer, kept)) in self.layers.iter().zip(&mut cache.layers).enumerate() {
            let groups = &layer.groups;
            let attention = info.layer_attention(i);
            let qkv = groups[0].linear.forward(normed(layer.norm(BeforeAttention), x.clone(), eps, false), arithmetic);
            let qkv = layer.turned(qkv, info, attention.rope.map(|rope| &angles[rope]), false); // [n, (H+2G)·w]
            let attended = groups[1].linear.forward(attend(info, qkv, kept, attention.window), arithmetic); // [n, D]
            x = x + normed(layer.norm(AfterAttention), attended, eps, false);
            let inside = normed(layer.norm(BeforeFeedForward), x.clone(), eps, false);
            let wide = gated(groups[2].linear.forward(inside, arithmetic), info.activation); // [n, I]
            x = x + normed(layer.norm(AfterFeedForward), groups[3].linear.forward(wide, arithmetic), eps, false);
        }
        cache.length += n;
        let last = self.finish(x.narrow(0, n - 1, 1), eps, false); // [1, D]
        product(last, self.vocabulary().clone().transpose(), arithmetic) // [1, V]
    }
}

/// Attention of `n` new tokens `[n, (H+2G)·w]` over all so far that their window reaches, whose keys and values are kept
/// -> `[n, H·w]`.
fn attend(info: &ModelInfo, qkv: Tensor<2>, kept: &mut Option<[Tensor<3>; 2]>, window: Option<usize>) -> Tensor<2> {
    let (n, width, groups) = (qkv.dims()[0], info.head_width, info.kv_heads);
    let part = |start: usize, heads: usize| {
        qkv.clone().narrow(1, start * width, heads * width).reshape([n, heads, width]).swap_dims(0, 1)
    };
    let [keys, values] = [part(info.heads, groups), part(info.heads + groups, groups)]; // [G, n, w] each
    let [keys, values] = match kept.take() {
        Some([k, v]) => [Tensor::cat(vec![k, keys], 1), Tensor::cat(vec![v, values], 1)], // [G, all, w] each
        None => [keys, values],
    };
    let (all, served) = (keys.dims()[1], info.heads / groups);
    // The query heads that share a key head go through one product, one below the other: [G, served·n, w].
    let queries = part(0, info.heads).reshape([groups, served * n, width]);
    let mut scores = product(queries, keys.clone().swap_dims(1, 2), Arithmetic::F32) / (width as f64).sqrt(); // [G, served·n, all]
    if let Some(unseen) = unseen(n, all, window) {
        let unseen = Tensor::<2>::from_data(TensorData::new(unseen, [n, all]), &qkv.device());
        scores = scores + unseen.cast(qkv.dtype()).repeat_dim(0, served).unsqueeze_dim(0);
    }
    let attended = product(softmax(scores, 2), values.clone(), Arithmetic::F32); // [G, served·n, w]
    *kept = Some([keys, values]);
    attended.reshape([info.heads, n, width]).swap_dims(0, 1).reshape([n, info.heads * width]) // [n, H·w]
}

/// What keeps the last `n` of `all` tokens from seeing what comes later or is a window away, `[n, all]`; none where each
/// sees all.
fn unseen(n: usize, all: usize, window: Option<usize>) -> Option<Vec<f32>> {
    /// Far below any score, and inside the range of half precision.
    const UNSEEN: f32 = -3e4;
    let window = window.unwrap_or(usize::MAX);
    if n == 1 && all <= window {
        return None;
    }
    let sees = |token: usize, other: usize| other <= token && token - other < window;
    let row = |i: usize| (0..all).map(move |j| if sees(all - n + i, j) { 0.0 } else { UNSEEN });
    Some((0..n).flat_map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::unseen;

    #[test]
    fn a_token_sees_what_came_before_inside_its_window() {
        let rows = |n, all, window| unseen(n, all, window).map(|r| r.iter().map(|&v| v == 0.0).collect::<Vec<_>>());
        assert_eq!(rows(1, 5, None), None);
        assert_eq!(rows(1, 3, Some(3)), None);
        assert_eq!(rows(1, 4, Some(3)), Some(vec![false, true, true, true]));
        assert_eq!(rows(2, 3, Some(2)), Some(vec![true, true, false, false, true, true]));
    }
}
