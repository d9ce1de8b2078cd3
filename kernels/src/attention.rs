//! Attention over packed sequences: tokens of a sequence see that sequence and nothing else.
//!
//! On the CPU backend this is an operation of its own that walks the sequences where they lie (`attention_cpu.rs`).
//! Elsewhere it is composed: sequences of like length are gathered into padded groups, attended, and put back.

use burn::tensor::{Int, Tensor, TensorData, activation::softmax};

use crate::Segments;

/// Where the sequences of a batch lie, and the index tensors of the composed form. Built once a batch.
#[derive(Clone, Debug)]
pub struct AttentionPlan {
    sequences: Segments,
    groups: Vec<Group>,
    /// For every token its row in the concatenated groups `[T]`.
    back: Option<Tensor<1, Int>>,
}

/// Sequences of like length, padded to one.
#[derive(Clone, Debug)]
struct Group {
    count: usize,
    length: usize,
    /// Row of the token at each place `[count · length]`; padding repeats the sequence's first token.
    rows: Tensor<1, Int>,
    /// 0 at tokens, a large negative number at padding: `[count, 1, 1, length]`.
    bias: Tensor<4>,
}

/// Padded lengths grow by about a quarter, so at most a quarter of a group is padding.
fn padded(length: usize) -> usize {
    let step = (length.next_power_of_two() / 8).max(4);
    length.div_ceil(step) * step
}

impl AttentionPlan {
    /// The plan for `sequences` on `device`; the index tensors are left out where they are not read.
    pub fn new(sequences: Segments, device: &burn::tensor::Device) -> Self {
        match runs_on_cpu(device) {
            true => AttentionPlan { sequences, groups: Vec::new(), back: None },
            false => Self::composed(sequences, device),
        }
    }

    /// The plan with the index tensors of the composed form, whatever the device.
    pub fn composed(sequences: Segments, device: &burn::tensor::Device) -> Self {
        let mut lengths: Vec<usize> = sequences.ranges().map(|r| padded(r.len())).collect();
        lengths.sort_unstable();
        lengths.dedup();
        let mut back = vec![0i32; sequences.rows()];
        let mut start = 0;
        let groups = lengths
            .into_iter()
            .filter(|&length| length > 0)
            .map(|length| {
                let members: Vec<_> =
                    sequences.ranges().filter(|r| !r.is_empty() && padded(r.len()) == length).collect();
                let (mut rows, mut bias) = (Vec::new(), Vec::new());
                for (i, range) in members.iter().enumerate() {
                    for (j, token) in range.clone().enumerate() {
                        back[token] = (start + i * length + j) as i32;
                    }
                    rows.extend((0..length).map(|j| range.clone().nth(j).unwrap_or(range.start) as i32));
                    bias.extend((0..length).map(|j| if j < range.len() { 0f32 } else { -1e9 }));
                }
                let count = members.len();
                start += count * length;
                Group {
                    count,
                    length,
                    rows: Tensor::from_data(TensorData::new(rows, [count * length]), device),
                    bias: Tensor::from_data(TensorData::new(bias, [count, 1, 1, length]), device),
                }
            })
            .collect();
        let rows = back.len();
        AttentionPlan { sequences, groups, back: Some(Tensor::from_data(TensorData::new(back, [rows]), device)) }
    }

    /// The sequences this plan is for.
    pub fn sequences(&self) -> &Segments {
        &self.sequences
    }
}

/// Whether tensors on `device` are computed by the CPU backend.
#[cfg(feature = "flex")]
pub fn runs_on_cpu(device: &burn::tensor::Device) -> bool {
    matches!(device.clone().inner().as_dispatch(), burn::backend::DispatchDevice::Flex(_))
}

/// Whether tensors on `device` are computed by the CPU backend.
#[cfg(not(feature = "flex"))]
pub fn runs_on_cpu(_: &burn::tensor::Device) -> bool {
    false
}

/// Scaled dot-product attention inside every sequence: `q`, `k`, `v` `[T, D]` with `D = heads · width` -> `[T, D]`.
pub fn packed_attention(q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, heads: usize, plan: &AttentionPlan) -> Tensor<2> {
    #[cfg(feature = "flex")]
    if plan.back.is_none() {
        return crate::attention_cpu::attention(q, k, v, heads, &plan.sequences);
    }
    packed_attention_composed(q, k, v, heads, plan)
}

/// The reference of [`packed_attention`] in plain tensor operations, for a plan made by [`AttentionPlan::composed`].
pub fn packed_attention_composed(
    q: Tensor<2>,
    k: Tensor<2>,
    v: Tensor<2>,
    heads: usize,
    plan: &AttentionPlan,
) -> Tensor<2> {
    let [_, features] = q.dims();
    let width = features / heads;
    let outputs = plan
        .groups
        .iter()
        .map(|g| {
            let split = |t: &Tensor<2>| {
                let t = t.clone().select(0, g.rows.clone());
                t.reshape([g.count, g.length, heads, width]).swap_dims(1, 2)
            };
            let scores = split(&q).matmul(split(&k).swap_dims(2, 3)) / (width as f64).sqrt();
            let weights = softmax(scores + g.bias.clone(), 3);
            weights.matmul(split(&v)).swap_dims(1, 2).reshape([g.count * g.length, features])
        })
        .collect();
    let back = plan.back.clone().expect("a plan made for the composed form");
    Tensor::cat(outputs, 0).select(0, back)
}
