//! FedLADA's step against loops in f64.

use std::sync::Arc;

use super::{Case, Number, global, matrix, settings};
use crate::job::Phase;
use crate::{Active, LocalOptimizer, Plan, Role, RoleTensors, TrainSettings};

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
    for clip_norm in [None, Some(1.2)] {
        let settings = TrainSettings { clip_norm, ..settings() };
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
        let step = |case: &Case, x: &mut Number, role, own, g: f64| {
            x.first = beta1 * x.first + (1.0 - beta1) * g;
            x.second = beta2 * x.second + (1.0 - beta2) * g * g;
            let [highest, direction, _] = &mut x.own;
            *highest = highest.max(x.second);
            let update = ALPHA * x.first / highest.sqrt().max(settings.eps) + (1.0 - ALPHA) * *direction;
            x.movement -= case.rate(role, own) * (update + settings.weight_decay * (x.start + x.movement));
        };
        match clip_norm {
            None => case.follow(&mut numbers, step),
            Some(limit) => case.follow_clipped(&mut numbers, limit, |_, _| true, step),
        }
        case.check_report("fedlada, highest moment", &numbers, 0);
        case.check("fedlada", &numbers);
    }
}
