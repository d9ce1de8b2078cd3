//! How operations enter autodiff's graph: those with one input, and those whose input goes on past them in a residual connection.
//! What an operation keeps for its backward pass is said where it is declared.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend};

/// The input's gradient from what the forward pass kept and the result's gradient.
type InputGradient<B, S> = fn(S, FloatTensor<B>) -> FloatTensor<B>;

/// The result `y` of an operation on `input`, with its place in the graph. `kept` lives until the backward pass, and is let go at
/// once where no gradient reaches `input`.
pub(crate) fn of_one_input<B: Backend, C: CheckpointStrategy, S: Clone + Send + Debug + 'static>(
    input: NodeGuard,
    y: FloatTensor<B>,
    kept: S,
    input_gradient: InputGradient<B, S>,
) -> FloatTensor<Autodiff<B, C>> {
    let step = Step::<S>(PhantomData);
    match Backward::<B, 1>::prepare::<C>(step, [input]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish((kept, input_gradient), y),
        OpsKind::UnTracked(prep) => prep.finish(y),
    }
}

#[derive(Debug)]
struct Step<S>(PhantomData<S>);

impl<B: Backend, S: Clone + Send + Debug + 'static> Backward<B, 1> for Step<S> {
    type State = (S, InputGradient<B, S>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let ([input], (kept, input_gradient)) = (ops.parents, ops.state);
        if let Some(input) = input {
            grads.register::<B>(input.id, input_gradient(kept, dy));
        }
    }
}

/// The gradient that reaches an operation's input past the operation, from a residual connection. The operation adds it to the
/// input's gradient while that is written; autodiff would add the two in a pass of its own.
#[derive(Clone, Debug)]
pub(crate) struct Residual<T>(Arc<Mutex<Option<T>>>);

impl<T: Clone + Send + Debug + 'static> Residual<T> {
    pub(crate) fn new() -> Self {
        Residual(Arc::new(Mutex::new(None)))
    }

    /// What has arrived, if anything has. Whatever uses the input past the operation comes later in the forward pass than the
    /// operation, so in the backward pass all of it has arrived before the operation's turn.
    pub(crate) fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, gradient: T) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(gradient);
    }
}

/// `input` once more, for a residual connection past the operation that made `result` of it: its gradient goes to `residual`
/// instead of the input.
pub(crate) fn past<B: Backend, C: CheckpointStrategy>(
    result: &FloatTensor<Autodiff<B, C>>,
    input: FloatTensor<B>,
    residual: Residual<FloatTensor<B>>,
) -> FloatTensor<Autodiff<B, C>> {
    // The result is its parent, so that this step comes before the operation's.
    match Backward::<B, 1>::prepare::<C>(PastStep, [result.node()]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(residual, input),
        OpsKind::UnTracked(prep) => prep.finish(input),
    }
}

#[derive(Debug)]
struct PastStep;

impl<B: Backend> Backward<B, 1> for PastStep {
    type State = Residual<FloatTensor<B>>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        ops.state.put(grads.consume::<B>(&ops.node));
    }
}
