//! FedLADA (Sun et al., TPAMI, arXiv 2308.00522) on adapters. Clients step by AMSGrad's moments, amended by the
//! federation's last mean gradient: `x ← x − η(α·m/√v̂ + (1−α)·g)`. They start from the server's second moment and send
//! theirs; the direction `g = mean (xᵗ − x_k)/Σ η_t`, over the rates of the client's steps, needs nothing beyond the movement
//! and the count of steps.

use std::sync::Arc;

use bonfire_engine::{Active, Aux, LocalOptimizer, Plan, Role, RoleTensors, Upload};
use bonfire_models::{Factor, Matrix};

use super::{Common, Strategy};
use crate::{FederationError, Norm, Server};

/// Kinds of the state: averaged second moments and the direction.
const SECOND: &str = "second";
const DIRECTION: &str = "direction";

/// The strategy `fedlada`.
#[derive(Clone, Debug, PartialEq)]
pub struct FedLada {
    /// Learning rates and head.
    pub common: Common,
    /// Learning rate of the head.
    pub lr_head: f64,
    /// α: the share of a client's own step.
    pub own: f64,
}

impl Strategy for FedLada {
    fn name(&self) -> &'static str {
        "fedlada"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn plan(&self, server: &Server) -> Plan {
        let [second, direction] = [SECOND, DIRECTION].map(|kind| Arc::new(server.state.tensors(kind)));
        let optimizer = LocalOptimizer::Amended { own: self.own, second, direction };
        Plan { optimizer, ..self.common.plan(server, Active::Both) }
    }

    fn aggregate(&self, server: &mut Server, uploads: &[Upload]) -> Result<(), FederationError> {
        let (mut direction, mut moments) = (RoleTensors::new(), RoleTensors::new());
        let share = 1.0 / uploads.len() as f32;
        for upload in uploads {
            let second = upload.aux(Aux::SecondMoments);
            for (i, (role, moved)) in upload.roles().zip(upload.matrices()).enumerate() {
                let lr = match role {
                    Role::Factor(_, Factor::A) => self.common.lr_a,
                    Role::Factor(..) | Role::Weight(_) => self.common.lr_b,
                    Role::Head(_) => self.lr_head,
                };
                let rates = lr * self.common.steps_at_full_rate(upload.steps.max(1));
                let per_step = -share / rates.max(f64::MIN_POSITIVE) as f32;
                add(&mut direction, role, moved, per_step);
                if let Some(second) = second.and_then(|list| list.get(i)) {
                    add(&mut moments, role, second, share);
                }
            }
        }
        // No mean of squares is negative, whatever a client says: its root would be no number for everybody.
        moments.values_mut().flat_map(|m| &mut m.data).for_each(|v| *v = v.max(0.0));
        server.state.set_tensors(DIRECTION, direction);
        server.state.set_tensors(SECOND, moments);
        self.common.average(server, uploads, Norm::All);
        Ok(())
    }
}

/// Adds `weight · values` to the sum of what they are.
fn add(sums: &mut RoleTensors, role: Role, values: &Matrix, weight: f32) {
    let sum = sums.entry(role).or_insert_with(|| Matrix::zeros(values.rows, values.cols));
    sum.data.iter_mut().zip(&values.data).for_each(|(s, v)| *s += weight * v);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::testing::{server, uploads};

    #[test]
    fn the_direction_is_the_mean_movement_a_step_and_moments_are_averaged() {
        let it = FedLada { common: Common::plain(1e-3, 2e-3, false), lr_head: 1e-2, own: 0.5 };
        let mut state = server(2, 1);
        let mut sent = uploads(&state, &[Factor::A, Factor::B], &[2, 2, 2], 9);
        for (k, upload) in sent.iter_mut().enumerate() {
            let list = upload.factors.iter().flat_map(|(_, list)| list);
            let constant = |m: &Matrix| Matrix::new(m.rows, m.cols, vec![k as f32; m.data.len()]);
            let second = list.map(constant).collect();
            upload.aux = vec![(Aux::SecondMoments, second)];
        }
        it.aggregate(&mut state, &sent).expect("aggregates");
        let LocalOptimizer::Amended { second, direction, .. } = it.plan(&state).optimizer else { panic!("amended") };
        assert!(second[&Role::Factor(1, Factor::B)].data.iter().all(|v| (v - 1.0).abs() < 1e-6), "the mean of 0, 1, 2");
        for (i, got) in direction[&Role::Factor(1, Factor::B)].data.iter().enumerate() {
            let mean_gradient = |u: &Upload| -f64::from(u.factors[1].1[1].data[i]) / (2e-3 * 4.0);
            let want = sent.iter().map(mean_gradient).sum::<f64>() / 3.0;
            assert!((f64::from(*got) - want).abs() < 1e-3 * want.abs().max(1.0), "{got} {want}");
        }
    }

    #[test]
    fn moments_below_zero_are_nobodys() {
        let it = FedLada { common: Common::plain(1e-3, 2e-3, false), lr_head: 1e-2, own: 0.5 };
        let mut state = server(2, 1);
        let mut sent = uploads(&state, &[Factor::A, Factor::B], &[2, 2], 9);
        for (upload, value) in sent.iter_mut().zip([1.0f32, -3.0]) {
            let list = upload.factors.iter().flat_map(|(_, list)| list);
            let second = list.map(|m| Matrix::new(m.rows, m.cols, vec![value; m.data.len()])).collect();
            upload.aux = vec![(Aux::SecondMoments, second)];
        }
        it.aggregate(&mut state, &sent).expect("aggregates");
        let LocalOptimizer::Amended { second, .. } = it.plan(&state).optimizer else { panic!("amended") };
        assert!(second.values().flat_map(|m| &m.data).all(|v| *v == 0.0));
    }
}
