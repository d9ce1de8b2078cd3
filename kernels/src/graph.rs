//! How an operation with one input enters autodiff's graph. What it keeps for its backward pass is said where the operation is
//! declared.

use std::fmt::Debug;
use std::marker::PhantomData;

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
