//! LLaMA-style decoders (LLaMA, Mistral, Qwen2), whole: embeddings, RMS norms, rotary positions, grouped-query causal
//! attention, gated feed-forward blocks, output embeddings. Shapes: `H` query heads, `G` key heads, `w` features a head.

use bonfire_kernels::{Arithmetic, packed_attention, product};
use burn::tensor::activation::{silu, softmax};
use burn::tensor::{Device, Int, Tensor};

use crate::layer::{Layer, Norm, Pass, Visit, matrix};
use crate::loader::Loader;
use crate::{Matrix, ModelError, ModelInfo, Stored, TargetKind};

/// The linears of a layer by the input they share.
const GROUPS: [&[TargetKind]; 4] = [
    &[TargetKind::Query, TargetKind::Key, TargetKind::Value],
    &[TargetKind::AttentionOutput],
    &[TargetKind::Gate, TargetKind::Intermediate],
    &[TargetKind::Output],
];

const NORMS: [&str; 2] = ["input_layernorm", "post_attention_layernorm"];

/// All weights but a classifier's.
#[derive(Clone, Debug)]
pub(crate) struct Llama {
    words: Tensor<2>,
    pub layers: Vec<Layer>,
    norm: Norm,
    /// Output embeddings `[V, D]`, where they are not the input embeddings and the task asks for them.
    output: Option<Tensor<2>>,
    rotary: Rotary,
}

/// Cosine and sine of every position's angles, `[positions, w/2]` each; and how many heads turn.
#[derive(Clone, Debug)]
pub(crate) struct Rotary {
    cos: Tensor<2>,
    sin: Tensor<2>,
    heads: usize,
}

impl Rotary {
    fn new(info: &ModelInfo, device: &Device) -> Rotary {
        let decoder = info.decoder.as_ref().expect("a decoder");
        let frequencies = decoder.rope.frequencies(info.head_width);
        let table = |of: fn(f64) -> f64| {
            let angles = (0..info.positions).flat_map(|p| frequencies.iter().map(move |f| p as f64 * f));
            let data = angles.map(|angle| of(angle) as f32).collect();
            matrix(Matrix::new(info.positions, frequencies.len(), data), device)
        };
        Rotary { cos: table(f64::cos), sin: table(f64::sin), heads: info.heads + info.kv_heads }
    }

    /// Turns queries and keys: `[T, (H+2G)·w] -> [T, (H+2G)·w]`. The first half of a head's features pairs with the
    /// second, as Hugging Face lays them.
    pub fn turn(&self, qkv: Tensor<2>, positions: &Tensor<1, Int>) -> Tensor<2> {
        let [tokens, columns] = qkv.dims();
        let half = self.cos.dims()[1];
        let turned = self.heads * 2 * half;
        let angle =
            |table: &Tensor<2>| table.clone().select(0, positions.clone()).unsqueeze_dim::<3>(1).cast(qkv.dtype());
        let (cos, sin) = (angle(&self.cos), angle(&self.sin));
        let heads = qkv.clone().slice_dim(1, 0..turned).reshape([tokens, self.heads, 2 * half]);
        let [x, y] = [0..half, half..2 * half].map(|features| heads.clone().slice_dim(2, features));
        let first = x.clone() * cos.clone() - y.clone() * sin.clone();
        let second = y * cos + x * sin;
        let heads = Tensor::cat(vec![first, second], 2).reshape([tokens, turned]);
        Tensor::cat(vec![heads, qkv.slice_dim(1, turned..columns)], 1)
    }
}

impl Llama {
    /// Takes the tensors out of a checkpoint; `causal`: the output embeddings too.
    pub fn load(from: &mut Loader, causal: bool) -> Result<Llama, ModelError> {
        let info = from.info;
        let words = from.table("embed_tokens.weight", info.vocab)?;
        let layer = |i: usize| {
            let name = format!("layers.{i}");
            let groups = from.groups(&name, &GROUPS)?;
            let [first, second] = NORMS.map(|norm| from.rms_norm(&format!("{name}.{norm}")));
            Ok(Layer { groups, norms: [first?, second?] })
        };
        let layers = (0..info.layers).map(layer).collect::<Result<_, ModelError>>()?;
        let norm = from.rms_norm("norm")?;
        let tied = info.decoder.as_ref().is_some_and(|d| d.tied);
        let output = (causal && !tied).then(|| from.full_table("lm_head.weight", info.vocab)).transpose()?;
        Ok(Llama { words, layers, norm, output, rotary: Rotary::new(info, from.device) })
    }

    /// The same decoder with every tensor replaced by what `visit` makes of it, in a fixed order: embeddings, layer by
    /// layer, last norm, output embeddings.
    pub fn map(&self, info: &ModelInfo, visit: &mut Visit) -> Llama {
        let words = visit("model.embed_tokens.weight".into(), Stored::AsIs, self.words.clone());
        let layers = self.layers.iter().enumerate();
        let layers = layers.map(|(i, layer)| layer.map(&info.layer_name(i), NORMS, info.architecture, visit)).collect();
        let norm = self.norm.map("model.norm", visit);
        let output = self.output.as_ref().map(|t| visit("lm_head.weight".into(), Stored::AsIs, t.clone()));
        Llama { words, layers, norm, output, rotary: self.rotary.clone() }
    }

    /// The embeddings of all tokens `[T, D]`.
    pub fn embed(&self, tokens: &Tensor<1, Int>) -> Tensor<2> {
        self.words.clone().select(0, tokens.clone())
    }

    /// One layer: `[T, D] -> [T, D]`, or the tokens that are read.
    pub fn layer(&self, i: usize, x: Tensor<2>, pass: &Pass) -> Tensor<2> {
        let Layer { groups, norms } = &self.layers[i];
        let qkv = groups[0].apply(norms[0].rms(x.clone(), pass.eps), pass, pass.tokens);
        let attended = packed_attention(self.rotary.turn(qkv, pass.positions), pass.attention);
        let (x, attended, rows) = pass.reading(x, attended);
        let x = x + groups[1].apply(attended, pass, rows);
        let wide = groups[2].apply(norms[1].rms(x.clone(), pass.eps), pass, rows);
        x + groups[3].apply(gated(wide), pass, rows)
    }

    /// What follows the last layer.
    pub fn finish(&self, x: Tensor<2>, eps: f64) -> Tensor<2> {
        self.norm.rms(x, eps)
    }

    /// Output embeddings `[V, D]`.
    pub fn vocabulary(&self) -> &Tensor<2> {
        self.output.as_ref().unwrap_or(&self.words)
    }
}

/// `silu(gate) · up` of `[T, 2·I]`, gates first.
fn gated(wide: Tensor<2>) -> Tensor<2> {
    let width = wide.dims()[1] / 2;
    silu(wide.clone().narrow(1, 0, width)) * wide.narrow(1, width, width)
}

/// One sequence being generated: keys and values of the tokens so far.
pub(crate) struct Cache {
    /// Of every layer: `[G, t, w]` each.
    layers: Vec<Option<[Tensor<3>; 2]>>,
    length: usize,
}

impl Llama {
    /// Nothing generated yet.
    pub fn cache(&self) -> Cache {
        Cache { layers: vec![None; self.layers.len()], length: 0 }
    }

    /// Feeds the next tokens of the sequence; gives the scores of what follows the last of them `[1, V]`. No adapters:
    /// what is to be generated with is folded into the weights.
    pub fn feed(&self, info: &ModelInfo, tokens: &[u32], cache: &mut Cache, arithmetic: Arithmetic) -> Tensor<2> {
        let (device, n) = (self.words.device(), tokens.len());
        let ints = |values: Vec<i32>| Tensor::<1, Int>::from_ints(values.as_slice(), &device);
        let positions = ints((cache.length..cache.length + n).map(|p| p as i32).collect());
        let mut x = self.embed(&ints(tokens.iter().map(|&t| t as i32).collect()));
        for (layer, kept) in self.layers.iter().zip(&mut cache.layers) {
            let Layer { groups, norms } = layer;
            let qkv = groups[0].linear.forward(norms[0].rms(x.clone(), info.eps), arithmetic);
            let attended = attend(info, self.rotary.turn(qkv, &positions), kept);
            x = x + groups[1].linear.forward(attended, arithmetic);
            let wide = groups[2].linear.forward(norms[1].rms(x.clone(), info.eps), arithmetic);
            x = x + groups[3].linear.forward(gated(wide), arithmetic);
        }
        cache.length += n;
        let last = self.finish(x.narrow(0, n - 1, 1), info.eps);
        product(last, self.vocabulary().clone().transpose(), arithmetic)
    }
}

/// Attention of `n` new tokens `[n, (H+2G)·w]` over all so far, whose keys and values are kept -> `[n, H·w]`.
fn attend(info: &ModelInfo, qkv: Tensor<2>, kept: &mut Option<[Tensor<3>; 2]>) -> Tensor<2> {
    let (n, width, groups) = (qkv.dims()[0], info.head_width, info.kv_heads);
    let part = |start: usize, heads: usize| {
        qkv.clone().narrow(1, start * width, heads * width).reshape([n, heads, width]).swap_dims(0, 1)
    };
    let [keys, values] = [part(info.heads, groups), part(info.heads + groups, groups)];
    let [keys, values] = match kept.take() {
        Some([k, v]) => [Tensor::cat(vec![k, keys], 1), Tensor::cat(vec![v, values], 1)],
        None => [keys, values],
    };
    let (all, served) = (keys.dims()[1], info.heads / groups);
    // The query heads that share a key head go through one product, one below the other: [G, served·n, w].
    let queries = part(0, info.heads).reshape([groups, served * n, width]);
    let mut scores = product(queries, keys.clone().swap_dims(1, 2), Arithmetic::F32) / (width as f64).sqrt();
    if n > 1 {
        // The i-th new token sees what came before and the new ones up to itself.
        let later = Tensor::<2>::ones([n, all], &qkv.device()).triu((all - n + 1) as i64) * -1e9;
        scores = scores + later.cast(qkv.dtype()).repeat_dim(0, served).unsqueeze_dim(0);
    }
    let attended = product(softmax(scores, 2), values.clone(), Arithmetic::F32);
    *kept = Some([keys, values]);
    attended.reshape([info.heads, n, width]).swap_dims(0, 1).reshape([n, info.heads * width])
}
