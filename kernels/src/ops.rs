//! Custom operations and their place in the graph, dispatched to whatever backend holds the tensors. What each backend
//! computes stands behind [`Kernels`]; what autodiff keeps and hands on stands here.
//!
//! Burn's own operations cannot say "row block i meets matrix i": slicing per client inside autodiff would allocate a
//! full-size gradient for every slice. So these are operations of their own, with backwards that touch each row once.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, ExtensionType, backend_extension};

use crate::attention::AttentionLayout;
use crate::backends::{Kernels, LinearLayout, LinearSaved, Pair, Wanted};
use crate::pointwise::Bend;

/// The factors of up to three adapters on one linear, `a` and `b` in turn: query, key and value share an input.
#[derive(Clone, Debug, ExtensionType)]
pub enum Factors<B: Backend> {
    /// No adapter.
    Zero,
    /// One.
    One(FloatTensor<B>, FloatTensor<B>),
    /// Two.
    Two(FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>),
    /// Three.
    Three(FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>),
}

impl<B: Backend> Factors<B> {
    /// From a list of at most three pairs.
    pub(crate) fn new(pairs: Vec<[FloatTensor<B>; 2]>) -> Self {
        let mut pairs = pairs.into_iter();
        match (pairs.next(), pairs.next(), pairs.next(), pairs.next()) {
            (None, ..) => Factors::Zero,
            (Some([a, b]), None, ..) => Factors::One(a, b),
            (Some([a, b]), Some([c, d]), None, _) => Factors::Two(a, b, c, d),
            (Some([a, b]), Some([c, d]), Some([e, f]), None) => Factors::Three(a, b, c, d, e, f),
            _ => panic!("a linear carries at most three adapters"),
        }
    }

    /// As a list.
    pub(crate) fn pairs(self) -> Vec<[FloatTensor<B>; 2]> {
        match self {
            Factors::Zero => vec![],
            Factors::One(a, b) => vec![[a, b]],
            Factors::Two(a, b, c, d) => vec![[a, b], [c, d]],
            Factors::Three(a, b, c, d, e, f) => vec![[a, b], [c, d], [e, f]],
        }
    }
}

/// The operations, with and without a graph.
#[backend_extension(Flex: cfg(feature = "flex"), Cube: cfg(feature = "cube"), Autodiff)]
pub trait PackedOps: Backend {
    /// A frozen linear `[K, N]` with its bias `[N]` and adapters: `[T, K] -> [T, N]`.
    fn adapted_linear(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        #[extension_type] factors: Factors<Self>,
        layout: LinearLayout,
    ) -> FloatTensor<Self>;

    /// Layer normalisation of `x + r` over the last axis of `[T, D]`; `gamma`, `beta` `[D]` are frozen.
    fn add_norm(
        x: FloatTensor<Self>,
        r: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self>;

    /// GELU elementwise.
    fn gelu_rows(x: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Root mean square norm of each row of `[T, D]`; `gamma` `[D]` is frozen.
    fn rms_norm_rows(x: FloatTensor<Self>, gamma: FloatTensor<Self>, offset: f64, eps: f64) -> FloatTensor<Self>;

    /// A gated linear unit: `[T, 2·I] -> [T, I]`.
    fn glu_rows(wide: FloatTensor<Self>, bend: Bend) -> FloatTensor<Self>;

    /// Rotary positions of the first `heads` heads of `[T, N]`; `cos`, `sin` `[T, w/2]`.
    fn rotate_rows(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self>;

    /// Attention inside every sequence: `[T, (heads + 2·kv_heads)·width] -> [T, heads·width]`.
    fn attend(qkv: FloatTensor<Self>, layout: AttentionLayout) -> FloatTensor<Self>;
}

/// Without a graph every operation is its kernel's result, nothing kept.
macro_rules! without_graph {
    ($backend:ty) => {
        impl PackedOps for $backend {
            fn adapted_linear(
                x: FloatTensor<Self>,
                w: FloatTensor<Self>,
                bias: FloatTensor<Self>,
                factors: Factors<Self>,
                layout: LinearLayout,
            ) -> FloatTensor<Self> {
                Self::linear_forward(&x, &w, bias, &Pair::<Self>::list(factors.pairs()), &layout).0
            }
            fn add_norm(
                x: FloatTensor<Self>,
                r: FloatTensor<Self>,
                gamma: FloatTensor<Self>,
                beta: FloatTensor<Self>,
                eps: f64,
            ) -> FloatTensor<Self> {
                Self::add_norm_rows(x, r, gamma, beta, eps).0
            }
            fn gelu_rows(x: FloatTensor<Self>) -> FloatTensor<Self> {
                Self::gelu_elements(&x)
            }
            fn rms_norm_rows(
                x: FloatTensor<Self>,
                gamma: FloatTensor<Self>,
                offset: f64,
                eps: f64,
            ) -> FloatTensor<Self> {
                Self::rms_rows(&x, gamma, offset, eps)
            }
            fn glu_rows(wide: FloatTensor<Self>, bend: Bend) -> FloatTensor<Self> {
                Self::glu_forward(&wide, bend)
            }
            fn rotate_rows(
                x: FloatTensor<Self>,
                cos: FloatTensor<Self>,
                sin: FloatTensor<Self>,
                heads: usize,
            ) -> FloatTensor<Self> {
                Self::turn(x, cos, sin, heads, false)
            }
            fn attend(qkv: FloatTensor<Self>, layout: AttentionLayout) -> FloatTensor<Self> {
                Self::attention_forward(&qkv, &layout).0
            }
        }
    };
}

#[cfg(feature = "flex")]
without_graph!(burn_flex::Flex);
#[cfg(feature = "cube")]
without_graph!(burn_cubecl::CubeBackend);

/// What a linear's backward reads: kept only as far as some gradient asks for it.
#[derive(Clone, Debug)]
struct LinearState<B: Backend> {
    saved: LinearSaved<B>,
    layout: LinearLayout,
}

impl<B: Kernels, C: CheckpointStrategy> PackedOps for Autodiff<B, C> {
    fn adapted_linear(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        factors: Factors<Self>,
        layout: LinearLayout,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;
        impl<B: Kernels> Backward<B, 7> for Step {
            type State = LinearState<B>;
            fn backward(self, ops: Ops<Self::State, 7>, grads: &mut Gradients, _: &mut Checkpointer) {
                let dy = grads.consume::<B>(&ops.node);
                let ids: [Option<NodeId>; 7] = ops.parents.map(|parent| parent.map(|node| node.id));
                let LinearState { saved, layout } = ops.state;
                let wanted = Wanted { x: ids[0].is_some(), pairs: pairs_of(&ids, |id| id.is_some()) };
                let found = B::linear_backward(saved, dy, &wanted, &layout);
                let pairs = found.pairs.into_iter().flatten();
                for (id, gradient) in ids.into_iter().zip(std::iter::once(found.x).chain(pairs)) {
                    if let (Some(id), Some(gradient)) = (id, gradient) {
                        grads.register::<B>(id, gradient);
                    }
                }
            }
        }
        assert!(!w.is_tracked() && !bias.is_tracked(), "the backbone is frozen");
        let factors = factors.pairs();
        // Absent adapters are stood in for by the bias, which is never tracked.
        let mut nodes = [(); 7].map(|()| bias.node());
        nodes[0] = x.node();
        for (i, factor) in factors.iter().flatten().enumerate() {
            nodes[i + 1] = factor.node();
        }
        let tracked: Vec<[bool; 2]> = factors.iter().map(|[a, b]| [a.is_tracked(), b.is_tracked()]).collect();
        let pairs = factors.into_iter().map(|pair| pair.map(|t| t.into_primitive())).collect();
        let pairs = Pair::<B>::list(pairs);
        let (x, w) = (x.into_primitive(), w.into_primitive());
        let (y, h) = B::linear_forward(&x, &w, bias.into_primitive(), &pairs, &layout);
        match Step.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                // x is read for the gradient of an A, x·A for that of a B; what nobody asks for is let go here.
                let x = tracked.iter().any(|[a, _]| *a).then_some(x);
                let h = if tracked.iter().any(|[_, b]| *b) { h } else { Vec::new() };
                prep.finish(LinearState { saved: LinearSaved { x, w, h, pairs }, layout }, y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn add_norm(
        x: FloatTensor<Self>,
        r: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;
        impl<B: Kernels> Backward<B, 2> for Step {
            type State = (FloatTensor<B>, FloatTensor<B>, f64);
            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let dy = grads.consume::<B>(&ops.node);
                let (sum, gamma, eps) = ops.state;
                let gradient = B::add_norm_backward(sum, gamma, dy, eps);
                for node in ops.parents.into_iter().flatten() {
                    grads.register::<B>(node.id, gradient.clone());
                }
            }
        }
        assert!(!gamma.is_tracked() && !beta.is_tracked(), "gain and bias of the norm are frozen");
        let nodes = [x.node(), r.node()];
        let [x, r, gamma, beta] = [x, r, gamma, beta].map(|t| t.into_primitive());
        let (y, sum) = B::add_norm_rows(x, r, gamma.clone(), beta, eps);
        match Step.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((sum, gamma, eps), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn gelu_rows(x: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;
        impl<B: Kernels> Backward<B, 1> for Step {
            type State = FloatTensor<B>;
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let [node] = ops.parents;
                let dy = grads.consume::<B>(&ops.node);
                if let Some(node) = node {
                    grads.register::<B>(node.id, B::gelu_elements_backward(&ops.state, dy));
                }
            }
        }
        let node = x.node();
        let x = x.into_primitive();
        let y = B::gelu_elements(&x);
        match Step.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(x, y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn rms_norm_rows(x: FloatTensor<Self>, gamma: FloatTensor<Self>, offset: f64, eps: f64) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;
        impl<B: Kernels> Backward<B, 1> for Step {
            type State = (FloatTensor<B>, FloatTensor<B>, f64, f64);
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let [node] = ops.parents;
                let dy = grads.consume::<B>(&ops.node);
                let (x, gamma, offset, eps) = ops.state;
                if let Some(node) = node {
                    grads.register::<B>(node.id, B::rms_backward(&x, gamma, dy, offset, eps));
                }
            }
        }
        assert!(!gamma.is_tracked(), "the gain of the norm is frozen");
        let node = x.node();
        let (x, gamma) = (x.into_primitive(), gamma.into_primitive());
        let y = B::rms_rows(&x, gamma.clone(), offset, eps);
        match Step.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x, gamma, offset, eps), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn glu_rows(wide: FloatTensor<Self>, bend: Bend) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;
        impl<B: Kernels> Backward<B, 1> for Step {
            type State = (FloatTensor<B>, Bend);
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let [node] = ops.parents;
                let dy = grads.consume::<B>(&ops.node);
                let (wide, bend) = ops.state;
                if let Some(node) = node {
                    grads.register::<B>(node.id, B::glu_backward(&wide, dy, bend));
                }
            }
        }
        let node = wide.node();
        let wide = wide.into_primitive();
        let y = B::glu_forward(&wide, bend);
        match Step.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((wide, bend), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn rotate_rows(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;
        impl<B: Kernels> Backward<B, 1> for Step {
            type State = (FloatTensor<B>, FloatTensor<B>, usize);
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let [node] = ops.parents;
                let dy = grads.consume::<B>(&ops.node);
                let (cos, sin, heads) = ops.state;
                if let Some(node) = node {
                    grads.register::<B>(node.id, B::turn(dy, cos, sin, heads, true));
                }
            }
        }
        assert!(!cos.is_tracked() && !sin.is_tracked(), "angles are no parameters");
        let node = x.node();
        let [x, cos, sin] = [x, cos, sin].map(|t| t.into_primitive());
        let y = B::turn(x, cos.clone(), sin.clone(), heads, false);
        match Step.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((cos, sin, heads), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn attend(qkv: FloatTensor<Self>, layout: AttentionLayout) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;
        impl<B: Kernels> Backward<B, 1> for Step {
            type State = (FloatTensor<B>, Vec<FloatTensor<B>>, AttentionLayout);
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let [node] = ops.parents;
                let dy = grads.consume::<B>(&ops.node);
                let (qkv, kept, layout) = ops.state;
                if let Some(node) = node {
                    grads.register::<B>(node.id, B::attention_backward(&qkv, kept, dy, &layout));
                }
            }
        }
        let node = qkv.node();
        let qkv = qkv.into_primitive();
        let (y, kept) = B::attention_forward(&qkv, &layout);
        match Step.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((qkv, kept, layout), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}

/// What holds for each adapter's two factors, from what holds for a linear's seven parents.
fn pairs_of<T>(ids: &[T; 7], of: impl Fn(&T) -> bool) -> Vec<[bool; 2]> {
    ids[1..].chunks(2).map(|pair| [of(&pair[0]), of(&pair[1])]).collect()
}
