//! FedLADA (Sun et al., TPAMI, arXiv 2308.00522): in the place of AdamW's step, AMSGrad's moments without bias correction,
//! amended by the federation's last mean gradient g: `x ← x − η·(α·m/√v̂ + (1−α)·g)`.

use bonfire_kernels::{AdamW, Moving};
use burn::tensor::Tensor;

/// What a trained tensor carries, each `[C, rows, cols]`.
pub(crate) struct FedLada {
    /// The highest second moment so far, v̂; it starts from the server's mean of them.
    pub highest: Tensor<3>,
    /// The federation's direction, g.
    pub direction: Tensor<3>,
}

impl FedLada {
    pub fn new(zeros: &dyn Fn() -> Tensor<3>) -> FedLada {
        FedLada { highest: zeros(), direction: zeros() }
    }

    pub fn tensors(&mut self) -> [&mut Tensor<3>; 2] {
        [&mut self.highest, &mut self.direction]
    }

    /// One step of all clients. `own` is α, `lr` η; `start` `[C|1, rows, cols]`; of `clients` `[C, 3]` the first column is each
    /// client's factor on the rate.
    pub fn step(
        &mut self,
        AdamW { lr, betas: [beta1, beta2], eps, weight_decay }: AdamW,
        own: f64,
        state: Moving,
        start: &Tensor<3>,
        gradient: Tensor<3>,
        clients: &Tensor<2>,
    ) -> Moving {
        let first = state.first * beta1 + gradient.clone() * (1.0 - beta1); // m
        let second = state.second * beta2 + gradient.square() * (1.0 - beta2); // v
        self.highest = self.highest.clone().max_pair(second.clone());
        // An empty lane has no moment at all; the floor keeps it from dividing by zero.
        let root = self.highest.clone().sqrt().clamp_min(eps);
        let decay = (state.movement.clone() + start.clone()) * weight_decay;
        let update = first.clone() / root * own + self.direction.clone() * (1.0 - own) + decay;
        let rate = clients.clone().narrow(1, 0, 1).unsqueeze_dim::<3>(2) * lr; // [C, 1, 1]
        Moving { movement: state.movement - update * rate, first, second }
    }
}
