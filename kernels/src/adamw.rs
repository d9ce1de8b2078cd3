//! AdamW for many clients in flat buffers `[C, width]` that hold all their tensors: every client has its own step count, learning
//! rate and moments. Burn's optimizers keep one step count for a tensor, so they cannot do it.
//!
//! The state is the *movement* since the round's start, so that an upload needs no subtraction and a slot that never
//! moved is exactly zero. Weight decay acts on start + movement, as in PyTorch's AdamW.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{Tensor, TensorData};

use crate::flat::{FlatLayout, Tensors};

/// Constants of the optimizer; learning rates are the clients'.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// Decay rates of the first and second moment.
    pub betas: [f64; 2],
    /// Floor of the denominator.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

/// What clients' trained tensors carry from step to step, each `[C, width]` by a [`FlatLayout`].
#[derive(Clone, Debug)]
pub struct Moving {
    /// End minus start so far.
    pub movement: Tensor<2>,
    /// Mean of gradients.
    pub first: Tensor<2>,
    /// Mean of squared gradients.
    pub second: Tensor<2>,
    /// What the model reads: start + movement, of folded tensors the movement. Where all are folded it is `movement` itself.
    pub weights: Tensor<2>,
}

impl Moving {
    /// Nothing has moved yet from `start` `[C|1, width]`.
    pub fn new(clients: usize, start: &Tensor<2>, layout: &FlatLayout) -> Moving {
        let zeros = || Tensor::zeros([clients, layout.width()], &start.device());
        Moving { movement: zeros(), first: zeros(), second: zeros(), weights: zeros() }.from_start(start, layout)
    }

    /// The same with the weights that belong to `start` `[C|1, width]` and the movement: for whoever has changed either.
    pub fn from_start(self, start: &Tensor<2>, layout: &FlatLayout) -> Moving {
        let Moving { movement, first, second, .. } = self;
        let weights = if layout.all_folded() {
            movement.clone()
        } else if layout.places().iter().any(|place| place.folded) {
            let mut reads = vec![1f32; layout.width()];
            layout.places().iter().filter(|place| place.folded).for_each(|place| reads[place.columns()].fill(0.0));
            let reads = Tensor::<2>::from_data(TensorData::new(reads, [1, layout.width()]), &start.device());
            movement.clone() + start.clone() * reads
        } else {
            movement.clone() + start.clone()
        };
        Moving { movement, first, second, weights }
    }
}

/// The step as one pass over memory, and what else goes over all that clients own.
#[backend_extension(Flex: cfg(feature = "flex"), Cube: cfg(feature = "cube"))]
pub trait OptimizerOps: Backend {
    /// New movement, first and second moment, and weights; see [`adamw_step`].
    fn adamw(
        movement: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        start: FloatTensor<Self>,
        #[extension_type] grads: Tensors<Self>,
        rates: FloatTensor<Self>,
        how: (AdamW, FlatLayout),
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// Sums of squares of all of a client's gradients, in as many parts as a backend likes: a gradient `[C, rows, cols]` for each of
    /// the layout's tensors -> `[C, parts]`; see [`crate::clip`].
    fn square_sums(#[extension_type] grads: Tensors<Self>, layout: FlatLayout) -> FloatTensor<Self>;

    /// `rates` `[K, C, 4]` with what `sums` `[C, parts]` make of their fourth numbers; see [`crate::clip`].
    fn clip(rates: FloatTensor<Self>, sums: FloatTensor<Self>, limit: f64) -> FloatTensor<Self>;

    /// A tensor of every client where it lies; see [`FlatLayout::tensor`].
    fn part(flat: FloatTensor<Self>, at: usize, dims: [usize; 2]) -> FloatTensor<Self>;

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

/// One step of all clients, on all that `layout` holds.
///
/// # Shapes
/// `start` `[C|1, width]`; `grads` one of each place `[C, rows, cols]`; `rates` `[K, C, 3]`, of which a place has one `[C, 3]`: a
/// client's learning rate (0 for a place that holds no client), and `1 / (1 − βᵗ)` of the first and second moment at its own
/// step `t`. With a fourth number, `[K, C, 4]`, gradients are multiplied by it first: see [`crate::clip`]. All in f32.
pub fn adamw_step(
    constants: AdamW,
    layout: &FlatLayout,
    state: Moving,
    start: Tensor<2>,
    grads: Vec<Tensor<3>>,
    rates: Tensor<3>,
) -> Moving {
    assert_eq!(grads.len(), layout.places().len(), "a gradient for every tensor");
    let Moving { movement, first, second, weights } = state;
    // They are written anew, and may be the movement itself, which is to be changed where it lies.
    drop(weights);
    let (movement, first, second, weights) = <Dispatch as OptimizerOps>::adamw(
        movement.into_dispatch(),
        first.into_dispatch(),
        second.into_dispatch(),
        start.into_dispatch(),
        Tensors(grads.into_iter().map(Tensor::into_dispatch).collect()),
        rates.into_dispatch(),
        (constants, layout.clone()),
    );
    let [movement, first, second, weights] = [movement, first, second, weights].map(Tensor::from_dispatch);
    Moving { movement, first, second, weights }
}

/// The reference of [`adamw_step`] in plain tensor operations, tensor by tensor.
pub fn adamw_step_composed(
    constants: AdamW,
    layout: &FlatLayout,
    state: Moving,
    start: Tensor<2>,
    grads: Vec<Tensor<3>>,
    rates: Tensor<3>,
) -> Moving {
    let AdamW { betas: [beta1, beta2], eps, weight_decay } = constants;
    let (mut movements, mut firsts, mut seconds) = (Vec::new(), Vec::new(), Vec::new());
    for ((i, place), grad) in layout.places().iter().enumerate().zip(grads) {
        let part = |flat: &Tensor<2>| layout.tensor(flat, i); // [C, rows, cols], as all below
        let column = |n| rates.clone().narrow(0, place.rates, 1).narrow(2, n, 1).swap_dims(0, 1); // [C, 1, 1]
        let grad = if rates.dims()[2] > 3 { grad * column(3) } else { grad };
        let first = part(&state.first) * beta1 + grad.clone() * (1.0 - beta1);
        let second = part(&state.second) * beta2 + grad.square() * (1.0 - beta2);
        let root = (second.clone() * column(2)).sqrt() + eps;
        let decay = (part(&state.movement) + part(&start)) * weight_decay;
        let update = first.clone() * column(1) / root + decay;
        movements.push(part(&state.movement) - update * column(0));
        firsts.push(first);
        seconds.push(second);
    }
    let [movement, first, second] = [movements, firsts, seconds].map(|parts| layout.flat(&parts));
    let weights = movement.clone();
    Moving { movement, first, second, weights }.from_start(&start, layout)
}
