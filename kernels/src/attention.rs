//! Attention over packed sequences: tokens of a sequence see that sequence and nothing else. Nothing is padded and no
//! matrix of scores outlives a tile of queries, forward or backward.

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, backend_extension};
use burn::tensor::{Device, Int, Tensor, TensorData, activation::softmax};

use crate::backends::Kernels;
use crate::dropout::dropout;
use crate::graph::of_one_input;
use crate::masks::{DropMask, RowKeys};
use crate::options::{Arithmetic, AttentionLayout};
use crate::{product, runs_on_cpu};

/// Features of the widest head that the GPU kernels take and are tested with.
pub(crate) const WIDEST_HEAD: usize = 256;

/// Features that a head of a model on `device` may have at most.
pub fn widest_head(device: &Device) -> usize {
    if runs_on_cpu(device) { usize::MAX } else { WIDEST_HEAD }
}

/// Attention as Burn sees it, with and without a graph.
#[backend_extension(Flex: cfg(feature = "flex"), Cube: cfg(feature = "cube"), Autodiff)]
pub trait AttentionOps: Backend {
    /// See [`packed_attention`]: `[T, (heads + 2·kv_heads)·width] -> [T, heads·width]`.
    fn attend(qkv: FloatTensor<Self>, layout: AttentionLayout) -> FloatTensor<Self>;
}

impl<B: Kernels> AttentionOps for B {
    fn attend(qkv: FloatTensor<Self>, layout: AttentionLayout) -> FloatTensor<Self> {
        Self::attention_forward(&qkv, &layout).0
    }
}

impl<B: Kernels, C: CheckpointStrategy> AttentionOps for Autodiff<B, C> {
    fn attend(qkv: FloatTensor<Self>, layout: AttentionLayout) -> FloatTensor<Self> {
        let (qkv, input) = qkv.into_parts();
        let (y, kept) = B::attention_forward(&qkv, &layout); // [T, H·w]
        of_one_input::<B, C, _>(input, y, (qkv, kept, layout), |(qkv, kept, layout), dy| {
            B::attention_backward(&qkv, kept, dy, &layout) // [T, H·w] -> [T, (H+2G)·w]
        })
    }
}

/// Scaled dot-product attention inside every sequence.
///
/// The kernels know no windows: where one bites, attention is [composed](packed_attention_composed) of plain tensor operations,
/// which hold the scores of a sequence in memory. Texts inside their window, the usual case, do not pay for it.
///
/// # Shapes
/// `qkv` `[T, (heads + 2·kv_heads)·width]`: a token's queries, then its keys, then its values -> `[T, heads·width]`.
///
/// # Panics
/// For heads wider than [`widest_head`] says.
pub fn packed_attention(qkv: Tensor<2>, layout: &AttentionLayout) -> Tensor<2> {
    if layout.window_bites() {
        packed_attention_composed(qkv, layout)
    } else {
        Tensor::from_dispatch(<Dispatch as AttentionOps>::attend(qkv.into_dispatch(), layout.clone()))
    }
}

/// [`packed_attention`] with something added to the scaled scores of every sequence, `[heads, length, length]` each, a row a
/// query: composed of plain tensor operations.
pub fn packed_attention_with(qkv: Tensor<2>, layout: &AttentionLayout, added: &[Tensor<3>]) -> Tensor<2> {
    assert_eq!(added.len(), layout.sequences.len(), "something to add for every sequence");
    composed(qkv, layout, added, None)
}

/// [`packed_attention`], or [`packed_attention_with`] where `added` is not empty, with a share `rate` of the weights that a token
/// gives to others dropped, as Transformers does after the softmax: head `h` has the masks of place `place + h`, the row being the token that
/// looks and the column the one that is looked at, counted in its sequence. Composed of plain tensor operations, which hold a sequence's
/// scores in memory.
///
/// # Shapes
/// As [`packed_attention`]; `keys` has one for every token.
pub fn packed_attention_dropped(
    qkv: Tensor<2>,
    layout: &AttentionLayout,
    added: &[Tensor<3>],
    keys: &RowKeys,
    place: u32,
    rate: f64,
) -> Tensor<2> {
    composed(qkv, layout, added, Some(DropMask::new(keys, place, rate)))
}

/// The reference of [`packed_attention`] in plain tensor operations, sequence by sequence.
pub fn packed_attention_composed(qkv: Tensor<2>, layout: &AttentionLayout) -> Tensor<2> {
    composed(qkv, layout, &[], None)
}

/// What keeps a token from seeing others `[length, length]`, far below any score; none where all see all.
fn unseen(layout: &AttentionLayout, length: usize, device: &Device) -> Option<Tensor<2>> {
    /// Inside the range of half precision, too.
    const UNSEEN: f32 = -3e4;
    let window = layout.window.unwrap_or(usize::MAX);
    if !layout.causal && length <= window {
        return None;
    }
    let sees = |i: usize, j: usize| i.abs_diff(j) < window && (j <= i || !layout.causal);
    let row = |i: usize| (0..length).map(move |j| if sees(i, j) { 0.0 } else { UNSEEN });
    let numbers: Vec<f32> = (0..length).flat_map(row).collect();
    Some(Tensor::from_data(TensorData::new(numbers, [length, length]), device))
}

fn composed(qkv: Tensor<2>, layout: &AttentionLayout, added: &[Tensor<3>], mask: Option<DropMask>) -> Tensor<2> {
    let [tokens, columns] = qkv.dims();
    let (heads, kv_heads, width) = (layout.heads, layout.kv_heads, layout.width(columns));
    let device = qkv.device();
    let mut parts = Vec::new();
    for (s, range) in layout.sequences.ranges().enumerate().filter(|(_, range)| !range.is_empty()) {
        let length = range.len();
        let rows = qkv.clone().narrow(0, range.start, length); // [length, (H+2G)·w]
        let heads_from = |start: usize, count: usize| {
            let part = rows.clone().narrow(1, start * width, count * width).reshape([length, count, width]);
            // Gathered, not repeated: on wgpu, Burn 0.22.1 sums a strided tensor over an axis of length 1 wrongly, as
            // the gradient of a repetition does.
            let serves: Vec<i32> = (0..heads).map(|head| (head / (heads / count)) as i32).collect();
            part.swap_dims(0, 1).select(0, Tensor::<1, Int>::from_data(TensorData::new(serves, [heads]), &device)) // [H, length, w]
        };
        let [q, k, v] = [heads_from(0, heads), heads_from(heads, kv_heads), heads_from(heads + kv_heads, kv_heads)];
        let mut scores = product(q, k.swap_dims(1, 2), Arithmetic::F32) / (width as f64).sqrt(); // [H, length, length]
        if let Some(added) = added.get(s) {
            scores = scores.clone() + added.clone().cast(scores.dtype());
        }
        if let Some(unseen) = unseen(layout, length, &device) {
            scores = scores.clone() + unseen.cast(scores.dtype()).unsqueeze_dim(0);
        }
        let mut weights = softmax(scores, 2); // [H, length, length]
        if let Some(mask) = &mask {
            let here = DropMask { rows: range, ..mask.clone() };
            weights = dropout(weights.reshape([heads * length, length]), here).reshape([heads, length, length]);
        }
        let mixed = product(weights, v, Arithmetic::F32); // [H, length, w]
        parts.push(mixed.swap_dims(0, 1).reshape([length, heads * width])); // [length, H·w]
    }
    if layout.sequences.rows() < tokens {
        parts.push(Tensor::zeros([tokens - layout.sequences.rows(), heads * width], &device));
    }
    Tensor::cat(parts, 0) // [T, H·w]
}
