//! AdamW, Adam and SGD for many clients in flat buffers `[C, width]` that hold all their tensors: every client has its own step
//! count, learning rate and moments. Burn's optimizers keep one step count for a tensor, so they cannot do it.
//!
//! The state is the *movement* since the round's start, so that an upload needs no subtraction and a slot that never
//! moved is exactly zero. Weight decay acts on start + movement, as in PyTorch's optimizers.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{Tensor, TensorData};

use crate::flat::{FlatLayout, Tensors};

/// By which rule clients step; learning rates are the clients'.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StepRule {
    /// AdamW (arXiv 1711.05101): weight decay beside the gradient.
    AdamW(AdamW),
    /// Adam (arXiv 1412.6980) as PyTorch has it: weight decay is a part of the gradient.
    Adam(AdamW),
    /// Stochastic gradient descent as PyTorch has it, without dampening.
    Sgd(Sgd),
}

/// Constants of AdamW and Adam.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay rates of the first and second moment.
    pub betas: [f64; 2],
    /// Floor of the denominator.
    pub eps: f64,
    /// Weight decay.
    pub weight_decay: f64,
}

/// Constants of SGD: `g ← g + weight_decay·θ`, `m ← momentum·m + g`, `θ ← θ − η·m`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// Share of the sum of gradients that is kept from step to step; 0: there is no sum.
    pub momentum: f64,
    /// Nesterov's form, `θ ← θ − η·(g + momentum·m)`.
    pub nesterov: bool,
    /// Weight decay, a part of the gradient.
    pub weight_decay: f64,
}

impl From<AdamW> for StepRule {
    fn from(constants: AdamW) -> Self {
        StepRule::AdamW(constants)
    }
}

impl From<Sgd> for StepRule {
    fn from(constants: Sgd) -> Self {
        StepRule::Sgd(constants)
    }
}

impl StepRule {
    /// Whether a first and a second moment are carried from step to step.
    pub fn moments(&self) -> [bool; 2] {
        match self {
            StepRule::AdamW(_) | StepRule::Adam(_) => [true; 2],
            StepRule::Sgd(Sgd { momentum, .. }) => [*momentum > 0.0, false],
        }
    }
}

/// What clients' trained tensors carry from step to step, each `[C, width]` by a [`FlatLayout`]; of a moment that the rule has none of
/// one column, of zeros.
#[derive(Clone, Debug)]
pub struct Moving {
    /// End minus start so far.
    pub movement: Tensor<2>,
    /// Mean of gradients; of SGD the sum that momentum keeps.
    pub first: Tensor<2>,
    /// Mean of squared gradients.
    pub second: Tensor<2>,
    /// What the model reads: start + movement, of folded tensors the movement. Where all are folded it is `movement` itself.
    pub weights: Tensor<2>,
}

impl Moving {
    /// Nothing has moved yet from `start` `[C|1, width]`.
    pub fn new(clients: usize, start: &Tensor<2>, layout: &FlatLayout, rule: &StepRule) -> Moving {
        let zeros = |wide| Tensor::zeros([clients, if wide { layout.width() } else { 1 }], &start.device());
        let [first, second] = rule.moments().map(zeros);
        Moving { movement: zeros(true), first, second, weights: zeros(true) }.from_start(start, layout)
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
    /// New movement, first and second moment, and weights; see [`optimizer_step`].
    fn step(
        movement: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        start: FloatTensor<Self>,
        #[extension_type] grads: Tensors<Self>,
        rates: FloatTensor<Self>,
        how: (StepRule, FlatLayout),
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// Sums of squares of all of a client's gradients, in as many parts as a backend likes: a gradient `[C, rows, cols]` for each of
    /// the layout's tensors -> `[C, parts]`; see [`crate::clip`].
    fn square_sums(#[extension_type] grads: Tensors<Self>, layout: FlatLayout) -> FloatTensor<Self>;

    /// `rates` `[K, C, 4]` with what `sums` `[C, parts]` make of their fourth numbers; see [`crate::clip`].
    fn clip(rates: FloatTensor<Self>, sums: FloatTensor<Self>, limit: f64) -> FloatTensor<Self>;

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
/// step `t`, which SGD does not read. With a fourth number, `[K, C, 4]`, gradients are multiplied by it first: see [`crate::clip`]. All in
/// f32. Moments of a place without a client stay zero.
pub fn optimizer_step(
    rule: StepRule,
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
    let (movement, first, second, weights) = <Dispatch as OptimizerOps>::step(
        movement.into_dispatch(),
        first.into_dispatch(),
        second.into_dispatch(),
        start.into_dispatch(),
        Tensors(grads.into_iter().map(Tensor::into_dispatch).collect()),
        rates.into_dispatch(),
        (rule, layout.clone()),
    );
    let [movement, first, second, weights] = [movement, first, second, weights].map(Tensor::from_dispatch);
    Moving { movement, first, second, weights }
}

/// The reference of [`optimizer_step`] in plain tensor operations, tensor by tensor.
pub fn optimizer_step_composed(
    rule: StepRule,
    layout: &FlatLayout,
    state: Moving,
    start: Tensor<2>,
    grads: Vec<Tensor<3>>,
    rates: Tensor<3>,
) -> Moving {
    let (mut movements, mut firsts, mut seconds) = (Vec::new(), Vec::new(), Vec::new());
    let [keeps_first, keeps_second] = rule.moments();
    for ((i, place), grad) in layout.places().iter().enumerate().zip(grads) {
        let part = |flat: &Tensor<2>| layout.tensor(flat, i); // [C, rows, cols], as all below
        let column = |n| rates.clone().narrow(0, place.rates, 1).narrow(2, n, 1).swap_dims(0, 1); // [C, 1, 1]
        let grad = if rates.dims()[2] > 3 { grad * column(3) } else { grad };
        let there = || column(0).not_equal_elem(0.0).float();
        let weight = || part(&state.movement) + part(&start);
        let adam = |AdamW { betas: [beta1, beta2], eps, .. }: AdamW, grad: Tensor<3>| {
            let first = part(&state.first) * beta1 + grad.clone() * (1.0 - beta1);
            let second = part(&state.second) * beta2 + grad.square() * (1.0 - beta2);
            let root = (second.clone() * column(2)).sqrt() + eps;
            (first.clone() * column(1) / root, first, second)
        };
        let update = match rule {
            StepRule::AdamW(constants) => {
                let (update, first, second) = adam(constants, grad);
                firsts.push(first);
                seconds.push(second);
                update + weight() * constants.weight_decay
            }
            StepRule::Adam(constants) => {
                let (update, first, second) = adam(constants, grad + weight() * constants.weight_decay * there());
                firsts.push(first);
                seconds.push(second);
                update
            }
            StepRule::Sgd(Sgd { momentum, nesterov, weight_decay }) => {
                let grad = grad + weight() * weight_decay * there();
                if keeps_first {
                    let sum = part(&state.first) * momentum + grad.clone();
                    firsts.push(sum.clone());
                    if nesterov { grad + sum * momentum } else { sum }
                } else {
                    grad
                }
            }
        };
        movements.push(part(&state.movement) - update * column(0));
    }
    let movement = layout.flat(&movements);
    let first = if keeps_first { layout.flat(&firsts) } else { state.first };
    let second = if keeps_second { layout.flat(&seconds) } else { state.second };
    let weights = movement.clone();
    Moving { movement, first, second, weights }.from_start(&start, layout)
}
