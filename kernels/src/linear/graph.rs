//! The adapted linear in autodiff's graph: which gradients are computed, and what the forward pass keeps for them.
//!
//! Burn's own operations cannot say "rows of client k meet matrix k": slicing per client inside autodiff would allocate a
//! gradient of full size for every slice. So this is an operation of its own, whose backward touches each row once.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, ExtensionType, backend_extension};

use crate::backends::{Kernels, LinearSaved, Pair, UpdateSaved, Wanted};
use crate::dropout::DropMask;
use crate::graph::{Residual, past};
use crate::options::LinearLayout;

/// The adapted linear as Burn sees it, with and without a graph.
#[backend_extension(Flex: cfg(feature = "flex"), Cube: cfg(feature = "cube"), Autodiff)]
pub trait LinearOps: Backend {
    /// See [`adapted_linear`](crate::adapted_linear): `x` `[T, K]`, `w` `[K, N]`, `bias` `[N]` or none -> `[T, N]`, and `x`
    /// once more, for a residual connection past the linear.
    fn adapted_linear(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        #[extension_type] bias: Bias<Self>,
        #[extension_type] factors: Factors<Self>,
        layout: LinearLayout,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// See [`dropped_update`](crate::dropped_update): `y` `[T, N]`, `x` `[T, K]`, `a` `[C|1, R, K]`, `b` `[C|1, R, n]` -> `[T, N]`.
    fn dropped_update(
        y: FloatTensor<Self>,
        x: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        layout: LinearLayout,
        mask: DropMask,
    ) -> FloatTensor<Self>;
}

/// The bias of a linear, where it has one.
#[derive(Clone, Debug, ExtensionType)]
pub enum Bias<B: Backend> {
    /// It has none.
    Without,
    /// `[N]`.
    With(FloatTensor<B>),
}

impl<B: Backend> Bias<B> {
    /// From where there may be one.
    pub(crate) fn new(bias: Option<FloatTensor<B>>) -> Self {
        bias.map_or(Bias::Without, Bias::With)
    }

    fn tensor(self) -> Option<FloatTensor<B>> {
        match self {
            Bias::Without => None,
            Bias::With(bias) => Some(bias),
        }
    }
}

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

impl<B: Kernels> LinearOps for B {
    fn adapted_linear(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        bias: Bias<Self>,
        factors: Factors<Self>,
        layout: LinearLayout,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (y, _) = Self::linear_forward(&x, &w, bias.tensor(), &Pair::<Self>::list(factors.pairs()), &layout);
        (y, x)
    }

    fn dropped_update(
        y: FloatTensor<Self>,
        x: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        layout: LinearLayout,
        mask: DropMask,
    ) -> FloatTensor<Self> {
        Self::update_forward(y, &Self::drop_elements(x, &mask), &Pair { a, b }, &layout).0
    }
}

/// Leaves with the graph what was found for parents that want it.
fn register<B: Kernels>(
    grads: &mut Gradients,
    found: impl IntoIterator<Item = (Option<NodeId>, Option<FloatTensor<B>>)>,
) {
    for (id, gradient) in found {
        if let (Some(id), Some(gradient)) = (id, gradient) {
            grads.register::<B>(id, gradient);
        }
    }
}

/// Tensors that gradients may reach: the input, and A and B of up to three adapters.
const PARENTS: usize = 7;

impl<B: Kernels, C: CheckpointStrategy> LinearOps for Autodiff<B, C> {
    fn adapted_linear(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        bias: Bias<Self>,
        factors: Factors<Self>,
        layout: LinearLayout,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        #[derive(Debug)]
        struct Step;
        impl<B: Kernels> Backward<B, PARENTS> for Step {
            type State = (LinearSaved<B>, LinearLayout, Residual<FloatTensor<B>>);

            fn backward(self, ops: Ops<Self::State, PARENTS>, grads: &mut Gradients, _: &mut Checkpointer) {
                let dy = grads.consume::<B>(&ops.node); // [T, N]
                let ids: [Option<NodeId>; PARENTS] = ops.parents.map(|parent| parent.map(|node| node.id));
                let (saved, layout, residual) = ops.state;
                let tracked = |factors: &[Option<NodeId>]| [factors[0].is_some(), factors[1].is_some()];
                let wanted = Wanted { x: ids[0].is_some(), pairs: ids[1..].chunks(2).map(tracked).collect() };
                // x: [T, K], A: [C|1, R, K], B: [C|1, R, n]
                let found = B::linear_backward(saved, dy, residual.take(), &wanted, &layout);
                let pairs = found.pairs.into_iter().flatten();
                register::<B>(grads, ids.into_iter().zip(std::iter::once(found.x).chain(pairs)));
            }
        }
        let bias = bias.tensor();
        let is_frozen = !w.is_tracked() && bias.as_ref().is_none_or(|bias| !bias.is_tracked());
        assert!(is_frozen, "the backbone is frozen");
        let factors = factors.pairs();
        // The graph wants a node for every parent: the weight, never tracked, stands in for adapters that are not there.
        let mut nodes = [(); PARENTS].map(|()| w.node());
        nodes[0] = x.node();
        for (node, factor) in nodes[1..].iter_mut().zip(factors.iter().flatten()) {
            *node = factor.node();
        }
        let trains_a = factors.iter().any(|[a, _]| a.is_tracked());
        let trains_b = factors.iter().any(|[_, b]| b.is_tracked());
        let pairs = Pair::<B>::list(factors.into_iter().map(|pair| pair.map(|t| t.into_primitive())).collect());
        let (again, w) = (x.clone(), w.into_primitive());
        let x = x.into_primitive();
        let residual = Residual::new();
        let (y, h) = B::linear_forward(&x, &w, bias.map(|b| b.into_primitive()), &pairs, &layout); // [T, N], [T, ΣR]
        let y = match Step.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                // x is read for the gradient of an A, x·Aᵀ for that of a B; what nobody asks for is let go here.
                let x = trains_a.then_some(x);
                let h = if trains_b { h } else { Vec::new() };
                prep.finish((LinearSaved { x, w, h, pairs }, layout, residual.clone()), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        };
        // An input that wants no gradient goes on as it is.
        let again = if again.is_tracked() { past::<B, C>(&y, again.into_primitive(), residual) } else { again };
        (y, again)
    }

    fn dropped_update(
        y: FloatTensor<Self>,
        x: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        layout: LinearLayout,
        mask: DropMask,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;
        impl<B: Kernels> Backward<B, 4> for Step {
            type State = (UpdateSaved<B>, LinearLayout, DropMask);

            fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, _: &mut Checkpointer) {
                let dy = grads.consume::<B>(&ops.node); // [T, N]
                let [y, x, a, b] = ops.parents.map(|parent| parent.map(|node| node.id));
                let (saved, layout, mask) = ops.state;
                let wanted = Wanted { x: x.is_some(), pairs: vec![[a.is_some(), b.is_some()]] };
                let saved = UpdateSaved { x: saved.x.map(|x| B::drop_elements(x, &mask)), ..saved };
                let found = B::update_backward(saved, dy.clone(), &wanted, &layout);
                let [of_a, of_b] = found.pairs.into_iter().next().expect("gradients of one pair");
                let of_x = found.x.map(|dx| B::drop_elements(dx, &mask)); // [T, K]
                register::<B>(grads, [(x, of_x), (a, of_a), (b, of_b), (y, Some(dy))]);
            }
        }
        let nodes = [&y, &x, &a, &b].map(|t| t.node());
        let (trains_a, trains_b) = (a.is_tracked(), b.is_tracked());
        let [y, x, a, b] = [y, x, a, b].map(|t| t.into_primitive());
        let pair = Pair::<B> { a, b };
        let (y, h) = B::update_forward(y, &B::drop_elements(x.clone(), &mask), &pair, &layout); // [T, N], [T, R]
        match Step.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let saved = UpdateSaved { x: trains_a.then_some(x), h: trains_b.then_some(h), pair };
                prep.finish((saved, layout, mask), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}
