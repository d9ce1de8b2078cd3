//! Attention over packed sequences: tokens of a sequence see that sequence and nothing else. Nothing is padded and no
//! matrix of scores outlives a tile of queries, forward or backward.

use burn::backend::Dispatch;
use burn::tensor::{Device, Int, Tensor, TensorData, activation::softmax};

use crate::ops::PackedOps;
use crate::{Segments, runs_on_cpu};

/// Features of the widest head that the GPU kernels take and are tested with.
pub(crate) const WIDEST_HEAD: usize = 256;

/// Features that a head of a model on `device` may have at most.
pub fn widest_head(device: &Device) -> usize {
    if runs_on_cpu(device) { usize::MAX } else { WIDEST_HEAD }
}

/// Where the sequences of a batch lie and how attention runs over them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AttentionLayout {
    /// Token ranges of the sequences; tokens after the last belong to nobody and get zeros.
    pub sequences: Segments,
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of keys and values; each serves `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Whether a token sees only itself and what stands before it.
    pub causal: bool,
}

impl AttentionLayout {
    /// Full attention with as many key heads as query heads.
    pub fn full(sequences: Segments, heads: usize) -> Self {
        AttentionLayout { sequences, heads, kv_heads: heads, causal: false }
    }

    /// Features of one head, where queries, keys and values have `columns` in all.
    pub(crate) fn width(&self, columns: usize) -> usize {
        assert!(self.heads.is_multiple_of(self.kv_heads), "each key head serves as many query heads");
        columns / (self.heads + 2 * self.kv_heads)
    }
}

/// Scaled dot-product attention inside every sequence.
///
/// # Shapes
/// `qkv` `[T, (heads + 2·kv_heads)·width]`: a token's queries, then its keys, then its values -> `[T, heads·width]`.
///
/// # Panics
/// For heads wider than [`widest_head`] says.
pub fn packed_attention(qkv: Tensor<2>, layout: &AttentionLayout) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as PackedOps>::attend(qkv.into_dispatch(), layout.clone()))
}

/// The reference of [`packed_attention`] in plain tensor operations, sequence by sequence.
pub fn packed_attention_composed(qkv: Tensor<2>, layout: &AttentionLayout) -> Tensor<2> {
    let [tokens, columns] = qkv.dims();
    let (heads, kv_heads, width) = (layout.heads, layout.kv_heads, layout.width(columns));
    let device = qkv.device();
    let mut parts = Vec::new();
    for range in layout.sequences.ranges().filter(|r| !r.is_empty()) {
        let length = range.len();
        let rows = qkv.clone().narrow(0, range.start, length);
        let of = |start: usize, count: usize| {
            let part = rows.clone().narrow(1, start * width, count * width).reshape([length, count, width]);
            // Gathered, not repeated: on wgpu, Burn 0.22.1 sums a strided tensor over an axis of length 1 wrongly, as
            // the gradient of a repetition does.
            let serves: Vec<i32> = (0..heads).map(|head| (head / (heads / count)) as i32).collect();
            part.swap_dims(0, 1).select(0, Tensor::<1, Int>::from_data(TensorData::new(serves, [heads]), &device))
        };
        let [q, k, v] = [of(0, heads), of(heads, kv_heads), of(heads + kv_heads, kv_heads)];
        let mut scores = q.matmul(k.swap_dims(1, 2)) / (width as f64).sqrt();
        if layout.causal {
            let later = Tensor::<2>::ones([length, length], &device).triu(1) * -1e9;
            scores = scores + later.unsqueeze_dim(0);
        }
        parts.push(softmax(scores, 2).matmul(v).swap_dims(0, 1).reshape([length, heads * width]));
    }
    if layout.sequences.rows() < tokens {
        parts.push(Tensor::zeros([tokens - layout.sequences.rows(), heads * width], &device));
    }
    Tensor::cat(parts, 0)
}
