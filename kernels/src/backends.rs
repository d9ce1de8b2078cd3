//! What a backend computes for the operations that autodiff knows (`linear.rs`, `norm.rs`, `pointwise.rs`, `attention.rs`):
//! the forward pass with what the backward pass reads, and the backward pass. `cpu/` and `cube/` implement it.
//!
//! Letters in shapes: `T` tokens, `K` and `N` features in and out, `D` features, `C` clients, `R` slots of an adapter, `n`
//! columns that one adapter adds to, `H` query heads.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};

use crate::masks::DropMask;
use crate::options::{AttentionLayout, Bend, LinearLayout};

/// The factors of one adapter, slot by slot.
#[derive(Clone, Debug)]
pub struct Pair<B: Backend> {
    /// `[C|1, R, K]`.
    pub(crate) a: FloatTensor<B>,
    /// `[C|1, R, n]`.
    pub(crate) b: FloatTensor<B>,
}

impl<B: Backend> Pair<B> {
    pub(crate) fn list(pairs: Vec<[FloatTensor<B>; 2]>) -> Vec<Self> {
        pairs.into_iter().map(|[a, b]| Pair { a, b }).collect()
    }

    /// Slots in the tensors.
    pub(crate) fn rank(&self) -> usize {
        self.a.shape()[1]
    }
}

/// What a linear's backward reads.
#[derive(Clone, Debug)]
pub struct LinearSaved<B: Backend> {
    /// The input, where some A trains.
    pub(crate) x: Option<FloatTensor<B>>,
    /// The frozen weight.
    pub(crate) w: FloatTensor<B>,
    /// `x·Aᵀ` of all adapters as the backend left it, where some B trains.
    pub(crate) h: Vec<FloatTensor<B>>,
    /// The factors.
    pub(crate) pairs: Vec<Pair<B>>,
}

/// What the backward pass of a low-rank update reads.
#[derive(Clone, Debug)]
pub struct UpdateSaved<B: Backend> {
    /// What A was applied to, where A trains.
    pub(crate) x: Option<FloatTensor<B>>,
    /// `x·Aᵀ`, where B trains.
    pub(crate) h: Option<FloatTensor<B>>,
    /// The factors.
    pub(crate) pair: Pair<B>,
}

/// Which gradients are asked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The input's.
    pub(crate) x: bool,
    /// Each adapter's A and B.
    pub(crate) pairs: Vec<[bool; 2]>,
}

/// What is done with the gradient of a linear's input where it is written.
#[derive(Clone, Debug)]
pub enum Finish<T> {
    /// Nothing.
    AsIs,
    /// This is added, `[T, K]`: what reaches the input past the linear.
    Plus(T),
    /// The input is GELU of this, `[T, K]`, and the gradient asked for is this one's: times GELU's slope there.
    ThroughGelu(T),
}

impl<T> Finish<T> {
    /// The same with another tensor.
    pub(crate) fn map<U>(self, make: impl FnOnce(T) -> U) -> Finish<U> {
        match self {
            Finish::AsIs => Finish::AsIs,
            Finish::Plus(t) => Finish::Plus(make(t)),
            Finish::ThroughGelu(t) => Finish::ThroughGelu(make(t)),
        }
    }
}

/// A linear's gradients, as far as they were asked for.
#[derive(Debug)]
pub struct LinearGradients<B: Backend> {
    pub(crate) x: Option<FloatTensor<B>>,
    pub(crate) pairs: Vec<[Option<FloatTensor<B>>; 2]>,
}

/// The kernels of a backend.
pub trait Kernels: Backend {
    /// `x·w + bias + Σ s·(x·A_kᵀ)·B_k` and `x·Aᵀ` of all adapters; see [`crate::adapted_linear`].
    fn linear_forward(
        x: &FloatTensor<Self>,
        w: &FloatTensor<Self>,
        bias: Option<FloatTensor<Self>>,
        pairs: &[Pair<Self>],
        layout: &LinearLayout,
    ) -> (FloatTensor<Self>, Vec<FloatTensor<Self>>);

    /// [`Kernels::linear_forward`] and GELU of its result: the result, GELU of it (both `[T, N]`), and `x·Aᵀ`.
    fn linear_gelu_forward(
        x: &FloatTensor<Self>,
        w: &FloatTensor<Self>,
        bias: Option<FloatTensor<Self>>,
        pairs: &[Pair<Self>],
        layout: &LinearLayout,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, Vec<FloatTensor<Self>>);

    /// Gradients of [`Kernels::linear_forward`].
    fn linear_backward(
        saved: LinearSaved<Self>,
        dy: FloatTensor<Self>,
        finish: Finish<FloatTensor<Self>>,
        wanted: &Wanted,
        layout: &LinearLayout,
    ) -> LinearGradients<Self>;

    /// `y + s·(x·A_kᵀ)·B_k`, and `x·Aᵀ`: [`Kernels::linear_forward`] of one adapter without the product with the weight.
    fn update_forward(
        y: FloatTensor<Self>,
        x: &FloatTensor<Self>,
        pair: &Pair<Self>,
        layout: &LinearLayout,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// Gradients of [`Kernels::update_forward`] but for that of `y`, which is `dy` itself.
    fn update_backward(
        saved: UpdateSaved<Self>,
        dy: FloatTensor<Self>,
        wanted: &Wanted,
        layout: &LinearLayout,
    ) -> LinearGradients<Self>;

    /// Elements dropped, the others scaled; see [`crate::dropout`]. Its own gradient.
    fn drop_elements(x: FloatTensor<Self>, mask: &DropMask) -> FloatTensor<Self>;

    /// Layer normalisation of `x + r`, and the sum.
    fn add_norm_rows(
        x: FloatTensor<Self>,
        r: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// Gradient for the normalised sum: with x̂ the normalised row and g = γ·dy, `(g − mean(g) − x̂·mean(g·x̂)) / σ`.
    fn add_norm_backward(
        sum: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self>;

    /// GELU.
    fn gelu_elements(x: &FloatTensor<Self>) -> FloatTensor<Self>;

    /// Gradient of GELU.
    fn gelu_elements_backward(x: &FloatTensor<Self>, dy: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Rows over their root mean square, times `gamma + offset`; see [`crate::rms_norm`].
    fn rms_rows(x: &FloatTensor<Self>, gamma: FloatTensor<Self>, offset: f64, eps: f64) -> FloatTensor<Self>;

    /// Gradient for the normalised rows: with x̂ = x/rms and g = (γ + offset)·dy, `(g − x̂·mean(g·x̂)) / rms`. `residual` `[T, D]`,
    /// where there is one, is added to it.
    fn rms_backward(
        x: &FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        residual: Option<FloatTensor<Self>>,
        offset: f64,
        eps: f64,
    ) -> FloatTensor<Self>;

    /// `bend(gate) · up`; see [`crate::glu`].
    fn glu_forward(wide: &FloatTensor<Self>, bend: Bend) -> FloatTensor<Self>;

    /// Gradient of [`Kernels::glu_forward`]: `up · bend'(gate) · dy`, then `bend(gate) · dy`.
    fn glu_backward(wide: &FloatTensor<Self>, dy: FloatTensor<Self>, bend: Bend) -> FloatTensor<Self>;

    /// Heads turned by their angles, or back; see [`crate::rotate`]. Back is the gradient.
    fn turn(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        heads: usize,
        back: bool,
    ) -> FloatTensor<Self>;

    /// Attention, and what its backward reads besides the input.
    fn attention_forward(
        qkv: &FloatTensor<Self>,
        layout: &AttentionLayout,
    ) -> (FloatTensor<Self>, Vec<FloatTensor<Self>>);

    /// Gradient of [`Kernels::attention_forward`].
    fn attention_backward(
        qkv: &FloatTensor<Self>,
        kept: Vec<FloatTensor<Self>>,
        dy: FloatTensor<Self>,
        layout: &AttentionLayout,
    ) -> FloatTensor<Self>;
}
