//! The adapted linear in autodiff's graph: which gradients are computed, and what the forward pass keeps for them.
//!
//! Burn's own operations cannot say "rows of client k meet matrix k": slicing per client inside autodiff would allocate a
//! gradient of full size for every slice. So this is an operation of its own, whose backward touches each row once.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, ExtensionType, backend_extension};

use crate::backends::{Finish, Kernels, LinearSaved, Pair, UpdateSaved, Wanted};
use crate::graph::{Residual, of_one_input, past};
use crate::masks::DropMask;
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

    /// See [`adapted_linear_gelu`](crate::adapted_linear_gelu): as [`LinearOps::adapted_linear`] -> `[T, N]`, GELU of it `[T, N]`,
    /// and `x` once more.
    fn adapted_linear_gelu(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        #[extension_type] bias: Bias<Self>,
        #[extension_type] factors: Factors<Self>,
        layout: LinearLayout,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// See [`adapted_linear_of_gelu`](crate::adapted_linear_of_gelu): `before` and GELU of it `x` `[T, K]` -> `[T, N]`.
    fn adapted_linear_of_gelu(
        before: FloatTensor<Self>,
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        #[extension_type] bias: Bias<Self>,
        #[extension_type] factors: Factors<Self>,
        layout: LinearLayout,
    ) -> FloatTensor<Self>;

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

    fn adapted_linear_gelu(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        bias: Bias<Self>,
        factors: Factors<Self>,
        layout: LinearLayout,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let pairs = Pair::<Self>::list(factors.pairs());
        let (y, bent, _) = Self::linear_gelu_forward(&x, &w, bias.tensor(), &pairs, &layout);
        (y, bent, x)
    }

    fn adapted_linear_of_gelu(
        _: FloatTensor<Self>,
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        bias: Bias<Self>,
        factors: Factors<Self>,
        layout: LinearLayout,
    ) -> FloatTensor<Self> {
        Self::adapted_linear(x, w, bias, factors, layout).0
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

/// What a linear's input is, and with that how its gradient goes on.
#[derive(Clone, Debug)]
enum Source<B: Backend> {
    /// The tensor that the graph knows; to its gradient is added what has reached it past the linear.
    Itself(Residual<FloatTensor<B>>),
    /// GELU of the tensor that the graph knows, which is this one `[T, K]`.
    Gelu(FloatTensor<B>),
}

/// The backward pass of a linear.
#[derive(Debug)]
struct LinearStep;

impl<B: Kernels> Backward<B, PARENTS> for LinearStep {
    type State = (LinearSaved<B>, LinearLayout, Source<B>);

    fn backward(self, ops: Ops<Self::State, PARENTS>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node); // [T, N]
        let ids: [Option<NodeId>; PARENTS] = ops.parents.map(|parent| parent.map(|node| node.id));
        let (saved, layout, source) = ops.state;
        let finish = match source {
            Source::Itself(residual) => residual.take().map_or(Finish::AsIs, Finish::Plus),
            Source::Gelu(before) => Finish::ThroughGelu(before),
        };
        let tracked = |factors: &[Option<NodeId>]| [factors[0].is_some(), factors[1].is_some()];
        let wanted = Wanted { x: ids[0].is_some(), pairs: ids[1..].chunks(2).map(tracked).collect() };
        // x: [T, K], A: [C|1, R, K], B: [C|1, R, n]
        let found = B::linear_backward(saved, dy, finish, &wanted, &layout);
        let pairs = found.pairs.into_iter().flatten();
        register::<B>(grads, ids.into_iter().zip(std::iter::once(found.x).chain(pairs)));
    }
}

/// A linear's input once more, for a residual connection past it; one that wants no gradient goes on as it is.
fn goes_on<B: Kernels, C: CheckpointStrategy>(
    result: &FloatTensor<Autodiff<B, C>>,
    input: FloatTensor<Autodiff<B, C>>,
    residual: Residual<FloatTensor<B>>,
) -> FloatTensor<Autodiff<B, C>> {
    if input.is_tracked() { past::<B, C>(result, input.into_primitive(), residual) } else { input }
}

/// [`Kernels::linear_forward`] as a [`Forward`].
fn plain<B: Kernels>(
    x: &FloatTensor<B>,
    w: &FloatTensor<B>,
    bias: Option<FloatTensor<B>>,
    pairs: &[Pair<B>],
    layout: &LinearLayout,
) -> (FloatTensor<B>, (), Vec<FloatTensor<B>>) {
    let (y, h) = B::linear_forward(x, w, bias, pairs, layout);
    (y, (), h)
}

/// A linear's tensors besides its input, frozen ones and factors.
struct Given<B: Kernels, C: CheckpointStrategy> {
    w: FloatTensor<Autodiff<B, C>>,
    bias: Bias<Autodiff<B, C>>,
    factors: Factors<Autodiff<B, C>>,
    layout: LinearLayout,
}

/// What [`Given::in_graph`] computes: the result `[T, N]`, what else the forward pass gives, and `x·Aᵀ`.
type Forward<B, T> = fn(
    &FloatTensor<B>,
    &FloatTensor<B>,
    Option<FloatTensor<B>>,
    &[Pair<B>],
    &LinearLayout,
) -> (FloatTensor<B>, T, Vec<FloatTensor<B>>);

impl<B: Kernels, C: CheckpointStrategy> Given<B, C> {
    /// The linear of `x` `[T, K]` with its place in the graph: gradients for the input go to `input`, by its `source`.
    fn in_graph<T>(
        self,
        input: NodeGuard,
        x: FloatTensor<B>,
        source: Source<B>,
        forward: Forward<B, T>,
    ) -> (FloatTensor<Autodiff<B, C>>, T) {
        let Given { w, bias, factors, layout } = self;
        let bias = bias.tensor();
        let is_frozen = !w.is_tracked() && bias.as_ref().is_none_or(|bias| !bias.is_tracked());
        assert!(is_frozen, "the backbone is frozen");
        let factors = factors.pairs();
        // The graph wants a node for every parent: the weight, never tracked, stands in for adapters that are not there.
        let mut nodes = [(); PARENTS].map(|()| w.node());
        nodes[0] = input;
        for (node, factor) in nodes[1..].iter_mut().zip(factors.iter().flatten()) {
            *node = factor.node();
        }
        let trains_a = factors.iter().any(|[a, _]| a.is_tracked());
        let trains_b = factors.iter().any(|[_, b]| b.is_tracked());
        let pairs = Pair::<B>::list(factors.into_iter().map(|pair| pair.map(|t| t.into_primitive())).collect());
        let w = w.into_primitive();
        let (y, more, h) = forward(&x, &w, bias.map(|b| b.into_primitive()), &pairs, &layout); // [T, N], .., [T, ΣR]
        let y = match Backward::<B, PARENTS>::prepare::<C>(LinearStep, nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                // x is read for the gradient of an A, x·Aᵀ for that of a B; what nobody asks for is let go here.
                let x = trains_a.then_some(x);
                let h = if trains_b { h } else { Vec::new() };
                prep.finish((LinearSaved { x, w, h, pairs }, layout, source), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        };
        (y, more)
    }
}

impl<B: Kernels, C: CheckpointStrategy> LinearOps for Autodiff<B, C> {
    fn adapted_linear(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        bias: Bias<Self>,
        factors: Factors<Self>,
        layout: LinearLayout,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (residual, again) = (Residual::new(), x.clone());
        let (x, input) = x.into_parts();
        let given = Given { w, bias, factors, layout };
        let (y, ()) = given.in_graph(input, x, Source::Itself(residual.clone()), plain::<B>);
        let again = goes_on::<B, C>(&y, again, residual);
        (y, again)
    }

    fn adapted_linear_gelu(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        bias: Bias<Self>,
        factors: Factors<Self>,
        layout: LinearLayout,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let (residual, again) = (Residual::new(), x.clone());
        let (x, input) = x.into_parts();
        let given = Given { w, bias, factors, layout };
        let (y, bent) = given.in_graph(input, x, Source::Itself(residual.clone()), B::linear_gelu_forward);
        let again = goes_on::<B, C>(&y, again, residual);
        // A linear that reads both takes the gradient past this step; whatever else reads GELU goes through it.
        let (before, node) = y.clone().into_parts();
        let bent = of_one_input::<B, C, _>(node, bent, before, |x, dy| B::gelu_elements_backward(&x, dy));
        (y, bent, again)
    }

    fn adapted_linear_of_gelu(
        before: FloatTensor<Self>,
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        bias: Bias<Self>,
        factors: Factors<Self>,
        layout: LinearLayout,
    ) -> FloatTensor<Self> {
        let is_tracked = before.is_tracked();
        let (before, input) = before.into_parts();
        let source = if is_tracked { Source::Gelu(before) } else { Source::Itself(Residual::new()) };
        Given { w, bias, factors, layout }.in_graph(input, x.into_primitive(), source, plain::<B>).0
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
