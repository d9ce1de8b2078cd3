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

#[cfg(all(test, feature = "flex"))]
mod tests {
    use std::sync::Arc;

    use super::super::testing::{Case, global, matrix, settings};
    use crate::job::Phase;
    use crate::{Active, LocalOptimizer, Plan, Role, RoleTensors};

    const ALPHA: f64 = 0.3;

    #[test]
    fn steps_are_amended_by_the_federations_direction() {
        let mut plan = Plan { train_head: true, ..Plan::new(2, Active::Both, 0.02, 0.05) };
        let start = global(false);
        let tensors = |from: usize, size: f32| -> RoleTensors {
            let one = |(i, role): (usize, Role)| {
                let [rows, cols] = role.shape(&start);
                let mut tensor = matrix(rows, cols, from + 37 * i);
                tensor.data.iter_mut().for_each(|v| *v = if size > 0.0 { size * v.abs() } else { *v });
                (role, tensor)
            };
            Role::all(&plan, &start).into_iter().enumerate().map(one).collect()
        };
        let (second, direction) = (tensors(500, 0.2), tensors(900, 0.0));
        plan.optimizer = LocalOptimizer::Amended {
            own: ALPHA,
            second: Arc::new(second.clone()),
            direction: Arc::new(direction.clone()),
        };
        let settings = settings();
        let mut case = Case::new(&plan, &settings, Phase::Training);
        let mut numbers = case.numbers();
        for tensor in &mut numbers {
            for (slot, row) in tensor.slots.iter().zip(&mut tensor.rows) {
                for (i, x) in row.iter_mut().enumerate() {
                    let of_slot =
                        |all: &RoleTensors| f64::from(all[&tensor.role].data[slot * all[&tensor.role].cols + i]);
                    (x.second, x.own) = (of_slot(&second), [of_slot(&second), of_slot(&direction), 0.0]);
                }
            }
        }
        let [beta1, beta2] = settings.betas;
        case.follow(&mut numbers, |case, x, role, own, g| {
            x.first = beta1 * x.first + (1.0 - beta1) * g;
            x.second = beta2 * x.second + (1.0 - beta2) * g * g;
            let [highest, direction, _] = &mut x.own;
            *highest = highest.max(x.second);
            let update = ALPHA * x.first / highest.sqrt().max(settings.eps) + (1.0 - ALPHA) * *direction;
            x.movement -= case.rate(role, own) * (update + settings.weight_decay * (x.start + x.movement));
        });
        case.check_report("fedlada, highest moment", &numbers, 0);
        case.check("fedlada", &numbers);
    }
}
