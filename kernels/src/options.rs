//! What operations are told besides their tensors: whose rows are whose, which columns an adapter adds to, what is computed
//! in. Plain data, the same for every backend.

use std::ops::Range;

use crate::{Segments, SlotCounts};

/// What products of f32 numbers are computed in. Products of 16-bit numbers are exact in either, and summed in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arithmetic {
    /// Multiplied and added in f32.
    #[default]
    F32,
    /// Operands rounded to TF32 (10 bits of mantissa) where the device's kernel does so, added in f32.
    Tf32,
}

/// The activation of a gated linear unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bend {
    /// `x · σ(x)`, σ the logistic function: SwiGLU (arXiv 2002.05202).
    Silu,
    /// `x · Φ(x)`: GeGLU with the exact GELU.
    Gelu,
    /// `½·x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`: GeGLU as Gemma has it.
    GeluTanh,
}

/// Where the adapters of one linear act.
#[derive(Clone, Debug)]
pub struct LinearLayout {
    /// Token ranges of the clients; tokens after the last belong to nobody and meet the frozen weight alone.
    pub(crate) clients: Segments,
    /// LoRA's scale.
    pub(crate) scale: f32,
    /// For each adapter the columns of the result it adds to.
    pub(crate) columns: Vec<Range<usize>>,
    /// For each adapter the slots that each client has of those in the tensor, the first ones; `None`: all.
    pub(crate) used: Vec<Option<SlotCounts>>,
    /// What the product with the frozen weight is computed in; what adapters add is f32, or f32 sums: see
    /// [`adapted_linear`](crate::adapted_linear).
    pub(crate) arithmetic: Arithmetic,
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
    /// A token sees only those less than so many tokens away; `None`: all.
    pub window: Option<usize>,
}

impl AttentionLayout {
    /// Full attention with as many key heads as query heads.
    pub fn full(sequences: Segments, heads: usize) -> Self {
        AttentionLayout { sequences, heads, kv_heads: heads, causal: false, window: None }
    }

    /// Whether some sequence is longer than the window, so that tokens of it do not see each other.
    pub(crate) fn window_bites(&self) -> bool {
        self.window.is_some_and(|window| self.sequences.ranges().any(|range| range.len() > window))
    }

    /// Features of one head, where queries, keys and values have `columns` in all.
    pub(crate) fn width(&self, columns: usize) -> usize {
        assert!(self.heads.is_multiple_of(self.kv_heads), "each key head serves as many query heads");
        columns / (self.heads + 2 * self.kv_heads)
    }
}
