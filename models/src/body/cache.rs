//! The body a few tokens of several texts after others, for generation, with a cache of the keys and values of the tokens
//! before.
//!
//! Letters in shapes: `B` texts, `n` new tokens a text, `all` tokens a text so far, `H` query heads, `G` key heads, `w` features
//! a head, `I` features inside the feed-forward block, `V` vocabulary.

use bonfire_kernels::{Arithmetic, product};
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::Body;
use super::layers::{gated, normed};
use crate::ModelInfo;
use crate::description::NormPlace::{AfterAttention, AfterFeedForward, BeforeAttention, BeforeFeedForward};

/// Texts being generated: keys and values of their tokens so far.
///
/// Every text has as many columns as the others; where it got fewer tokens than another there is nothing in front of them.
pub(crate) struct Cache {
    /// Of every layer: `[B·G, all, w]` each.
    layers: Vec<Option<[Tensor<3>; 2]>>,
    /// Of every text `[B][all]`: the position of each column's token; none where there is nothing.
    places: Vec<Vec<Option<usize>>>,
}

impl Cache {
    /// Goes on with some texts only, in this order.
    pub fn keep(&mut self, texts: &[usize]) {
        let count = self.places.len();
        self.places = texts.iter().map(|&text| self.places[text].clone()).collect();
        for kept in self.layers.iter_mut().flatten() {
            for tensor in kept.iter_mut() {
                let [rows, all, width] = tensor.dims();
                let texts: Vec<i32> = texts.iter().map(|&text| text as i32).collect();
                let of = Tensor::<1, Int>::from_ints(texts.as_slice(), &tensor.device());
                let chosen = tensor.clone().reshape([count, rows / count, all, width]).select(0, of);
                *tensor = chosen.reshape([texts.len() * (rows / count), all, width]);
            }
        }
    }

    /// Takes in the next tokens of every text as places; gives how many columns they take.
    fn append(&mut self, tokens: &[&[u32]]) -> usize {
        let columns = tokens.iter().map(|tokens| tokens.len()).max().unwrap_or_default();
        for (places, tokens) in self.places.iter_mut().zip(tokens) {
            let before = places.iter().flatten().count();
            places.extend(std::iter::repeat_n(None, columns - tokens.len()));
            places.extend((before..before + tokens.len()).map(Some));
        }
        columns
    }
}

impl Body {
    /// `texts` texts of which nothing is there yet.
    pub fn cache(&self, texts: usize) -> Cache {
        Cache { layers: vec![None; self.layers.len()], places: vec![Vec::new(); texts] }
    }

    /// Feeds the next tokens of each text, at least one; gives the scores of what follows the last of them `[B, V]`. No
    /// adapters: what is to be generated with is folded into the weights.
    pub fn feed(&self, info: &ModelInfo, tokens: &[&[u32]], cache: &mut Cache, arithmetic: Arithmetic) -> Tensor<2> {
        let (device, eps, texts) = (self.words.device(), info.eps, tokens.len());
        let ints = |values: Vec<i32>| Tensor::<1, Int>::from_ints(values.as_slice(), &device);
        let n = cache.append(tokens);
        let places = cache.places.iter().flat_map(|places| &places[places.len() - n..]);
        let positions: Vec<i32> = places.map(|place| place.unwrap_or(0) as i32).collect();
        let end = positions.iter().max().map_or(0, |&last| last as usize + 1);
        let angles = self.angles(&ints(positions), end);
        // Nothing stands in front: any token will do there, since none sees it.
        let ids =
            tokens.iter().flat_map(|tokens| std::iter::repeat_n(0, n - tokens.len()).chain(tokens.iter().copied()));
        let mut x = self.words_of(&ints(ids.map(|id| id as i32).collect()), info); // [B·n, D]
        let mut masks = Masks { places: &cache.places, n, device: &device, made: Vec::new() };
        for (i, (layer, kept)) in self.layers.iter().zip(&mut cache.layers).enumerate() {
            let groups = &layer.groups;
            let attention = info.layer_attention(i);
            let qkv = groups[0].linear.forward(normed(layer.norm(BeforeAttention), x.clone(), eps, false), arithmetic);
            let qkv = layer.turned(qkv, info, attention.rope.map(|rope| &angles[rope]), false); // [B·n, (H+2G)·w]
            let attended = attend(info, qkv, texts, kept, masks.of(attention.window));
            let attended = groups[1].linear.forward(attended, arithmetic); // [B·n, D]
            x = x + normed(layer.norm(AfterAttention), attended, eps, false);
            let inside = normed(layer.norm(BeforeFeedForward), x.clone(), eps, false);
            let wide = gated(groups[2].linear.forward(inside, arithmetic), info.activation); // [B·n, I]
            x = x + normed(layer.norm(AfterFeedForward), groups[3].linear.forward(wide, arithmetic), eps, false);
        }
        let last = x.select(0, ints((1..=texts).map(|text| (text * n - 1) as i32).collect())); // [B, D]
        let last = self.finish(last, eps, false);
        product(last, self.vocabulary().clone().transpose(), arithmetic) // [B, V]
    }
}

/// Attention of `n` new tokens of `B` texts `[B·n, (H+2G)·w]` over all so far that they see, whose keys and values are kept
/// -> `[B·n, H·w]`. `mask` `[B, n, all]` is added to the scores of every head.
fn attend(
    info: &ModelInfo,
    qkv: Tensor<2>,
    texts: usize,
    kept: &mut Option<[Tensor<3>; 2]>,
    mask: Option<Tensor<3>>,
) -> Tensor<2> {
    let (n, width, groups) = (qkv.dims()[0] / texts, info.head_width, info.kv_heads);
    let part = |start: usize, heads: usize| {
        let part = qkv.clone().narrow(1, start * width, heads * width);
        part.reshape([texts, n, heads, width]).swap_dims(1, 2) // [B, heads, n, w]
    };
    let fresh = |start| part(start, groups).reshape([texts * groups, n, width]);
    let [keys, values] = [fresh(info.heads), fresh(info.heads + groups)];
    let [keys, values] = match kept.take() {
        Some([k, v]) => [Tensor::cat(vec![k, keys], 1), Tensor::cat(vec![v, values], 1)], // [B·G, all, w] each
        None => [keys, values],
    };
    let (all, served) = (keys.dims()[1], info.heads / groups);
    // The query heads that share a key head go through one product, one below the other: [B·G, served·n, w].
    let queries = part(0, info.heads).reshape([texts * groups, served * n, width]);
    let mut scores = product(queries, keys.clone().swap_dims(1, 2), Arithmetic::F32) / (width as f64).sqrt(); // [B·G, served·n, all]
    if let Some(mask) = mask {
        let heads = mask.cast(qkv.dtype()).reshape([texts, 1, n, all]).repeat_dim(1, info.heads);
        scores = scores + heads.reshape([texts * groups, served * n, all]);
    }
    let attended = product(softmax(scores, 2), values.clone(), Arithmetic::F32); // [B·G, served·n, w]
    *kept = Some([keys, values]);
    attended.reshape([texts, info.heads, n, width]).swap_dims(1, 2).reshape([texts * n, info.heads * width]) // [B·n, H·w]
}

/// What keeps the last `n` tokens of every text from seeing what they do not see, once for the layers of each window.
struct Masks<'c> {
    places: &'c [Vec<Option<usize>>],
    n: usize,
    device: &'c Device,
    made: Vec<(Option<usize>, Option<Tensor<3>>)>,
}

impl Masks<'_> {
    fn of(&mut self, window: Option<usize>) -> Option<Tensor<3>> {
        if let Some((_, mask)) = self.made.iter().find(|(of, _)| *of == window) {
            return mask.clone();
        }
        let shape = [self.places.len(), self.n, self.places.first().map_or(0, Vec::len)];
        let mask = unseen(self.places, self.n, window);
        let mask = mask.map(|mask| Tensor::from_data(TensorData::new(mask, shape), self.device));
        self.made.push((window, mask.clone()));
        mask
    }
}

/// What is added to the scores of the last `n` tokens of texts so that they do not see what comes later, is a window away or
/// is not there, `[B, n, all]`; none where each sees all.
fn unseen(places: &[Vec<Option<usize>>], n: usize, window: Option<usize>) -> Option<Vec<f32>> {
    /// Far below any score, and inside the range of half precision.
    const UNSEEN: f32 = -3e4;
    let window = window.unwrap_or(usize::MAX);
    let sees = |token: Option<usize>, other: Option<usize>| matches!((token, other), (Some(token), Some(other)) if other <= token && token - other < window);
    let mut seen = Vec::with_capacity(places.iter().map(|places| n * places.len()).sum());
    for places in places {
        for token in &places[places.len() - n..] {
            seen.extend(places.iter().map(|other| sees(*token, *other)));
        }
    }
    let all_seen = seen.iter().all(|&seen| seen);
    (!all_seen).then(|| seen.into_iter().map(|seen| if seen { 0.0 } else { UNSEEN }).collect())
}

#[cfg(test)]
mod tests {
    use super::unseen;

    #[test]
    fn a_token_sees_what_came_before_inside_its_window() {
        let seen = |places: &[Vec<Option<usize>>], n, window| {
            unseen(places, n, window).map(|mask| mask.iter().map(|&v| v == 0.0).collect::<Vec<_>>())
        };
        let text = |all| vec![(0..all).map(Some).collect::<Vec<_>>()];
        assert_eq!(seen(&text(5), 1, None), None);
        assert_eq!(seen(&text(3), 1, Some(3)), None);
        assert_eq!(seen(&text(4), 1, Some(3)), Some(vec![false, true, true, true]));
        assert_eq!(seen(&text(3), 2, Some(2)), Some(vec![true, true, false, false, true, true]));
        // Of two texts the second is a token shorter.
        let two = [vec![Some(0), Some(1)], vec![None, Some(0)]];
        assert_eq!(seen(&two, 1, None), Some(vec![true, true, false, true]));
    }
}
