//! AdamW on a client axis: every client has its own step count, learning rate and moments, and what a client's mask
//! leaves out does not move by a single bit. Burn's optimizers share one step count over a tensor, so they cannot.
//!
//! The state is the *movement* since the round's start, so that an upload needs no subtraction and a slot that never
//! moved is exactly zero. Weight decay acts on start + movement, as in PyTorch's AdamW.

use burn::tensor::Tensor;

/// Constants of the optimizer.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// Decay rates of the first and second moment.
    pub betas: [f64; 2],
    /// Floor of the denominator.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

/// First and second moments, each `[C, rows, cols]`.
#[derive(Clone, Debug)]
pub struct Moments {
    /// Mean of gradients.
    pub first: Tensor<3>,
    /// Mean of squared gradients.
    pub second: Tensor<3>,
}

/// What differs between clients in one step, each `[C, 1, 1]`.
#[derive(Clone, Debug)]
pub struct StepFactors {
    /// Learning rate; 0 for a place in the batch that holds no client.
    pub lr: Tensor<3>,
    /// `1 / (1 − β₁ᵗ)` at the client's own step `t`.
    pub correct_first: Tensor<3>,
    /// `1 / (1 − β₂ᵗ)`.
    pub correct_second: Tensor<3>,
}

/// One step: `movement`, `grad` `[C, rows, cols]`, `start` `[1, rows, cols]`; `mask` broadcasts to `[C, rows, cols]`
/// and multiplies the whole update (LoRA-A², equation 6), weight decay included.
pub fn adamw_step(
    constants: &AdamW,
    movement: Tensor<3>,
    start: Tensor<3>,
    moments: Moments,
    grad: Tensor<3>,
    mask: Option<Tensor<3>>,
    factors: &StepFactors,
) -> (Tensor<3>, Moments) {
    let [beta1, beta2] = constants.betas;
    let grad = match &mask {
        Some(mask) => grad * mask.clone(),
        None => grad,
    };
    let first = moments.first * beta1 + grad.clone() * (1.0 - beta1);
    let second = moments.second * beta2 + grad.square() * (1.0 - beta2);
    let root = (second.clone() * factors.correct_second.clone()).sqrt() + constants.eps;
    let mut update = first.clone() * factors.correct_first.clone() / root;
    if constants.weight_decay > 0.0 {
        update = update + (movement.clone() + start) * constants.weight_decay;
    }
    if let Some(mask) = mask {
        update = update * mask;
    }
    (movement - update * factors.lr.clone(), Moments { first, second })
}
