//! AdamW for many clients in one tensor `[C, rows, cols]`: every client has its own step count, learning rate and moments. Burn's
//! optimizers keep one step count for a tensor, so they cannot do it.
//!
//! The state is the *movement* since the round's start, so that an upload needs no subtraction and a slot that never
//! moved is exactly zero. Weight decay acts on start + movement, as in PyTorch's AdamW.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

/// Constants of the optimizer for one tensor.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// Learning rate, before each client's own factor.
    pub lr: f64,
    /// Decay rates of the first and second moment.
    pub betas: [f64; 2],
    /// Floor of the denominator.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

/// What one trained tensor carries from step to step, each `[C, rows, cols]`.
#[derive(Clone, Debug)]
pub struct Moving {
    /// End minus start so far.
    pub movement: Tensor<3>,
    /// Mean of gradients.
    pub first: Tensor<3>,
    /// Mean of squared gradients.
    pub second: Tensor<3>,
}

/// The step as one pass over memory.
#[backend_extension(Flex: cfg(feature = "flex"), Cube: cfg(feature = "cube"))]
pub trait OptimizerOps: Backend {
    /// New movement, first and second moment; see [`adamw_step`].
    fn adamw(
        movement: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        start: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        clients: FloatTensor<Self>,
        constants: AdamW,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// Product of the norms of both factors' rows; see [`crate::slot_scores`].
    fn slot_norms(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Some clients' part of a tensor in a table of what they leave; see [`crate::gather_lanes`].
    fn gather(
        table: FloatTensor<Self>,
        stack: FloatTensor<Self>,
        lanes: FloatTensor<Self>,
        at: usize,
    ) -> FloatTensor<Self>;
}

/// One step of all clients.
///
/// # Shapes
/// State and `grad` `[C, rows, cols]`; `start` `[C|1, rows, cols]`; `clients` `[C, 3]`: a client's factor on the learning
/// rate (0 for a place that holds no client), and `1 / (1 − βᵗ)` of the first and second moment at its own step `t`.
pub fn adamw_step(constants: AdamW, state: Moving, start: Tensor<3>, grad: Tensor<3>, clients: Tensor<2>) -> Moving {
    let (movement, first, second) = <Dispatch as OptimizerOps>::adamw(
        state.movement.into_dispatch(),
        state.first.into_dispatch(),
        state.second.into_dispatch(),
        start.into_dispatch(),
        grad.into_dispatch(),
        clients.into_dispatch(),
        constants,
    );
    let [movement, first, second] = [movement, first, second].map(Tensor::from_dispatch);
    Moving { movement, first, second }
}

/// The reference of [`adamw_step`] in plain tensor operations.
pub fn adamw_step_composed(
    constants: AdamW,
    state: Moving,
    start: Tensor<3>,
    grad: Tensor<3>,
    clients: Tensor<2>,
) -> Moving {
    let [beta1, beta2] = constants.betas;
    let column = |i| clients.clone().narrow(1, i, 1).unsqueeze_dim::<3>(2); // [C, 1, 1]
    let first = state.first * beta1 + grad.clone() * (1.0 - beta1); // [C, rows, cols], as all below
    let second = state.second * beta2 + grad.square() * (1.0 - beta2);
    let root = (second.clone() * column(2)).sqrt() + constants.eps;
    let decay = (state.movement.clone() + start) * constants.weight_decay;
    let update = first.clone() * column(1) / root + decay;
    Moving { movement: state.movement - update * column(0) * constants.lr, first, second }
}
