//! What the server makes of an average movement: FedAvgM (Hsu et al., arXiv 1909.06335), FedAdam and FedYogi (Reddi et
//! al., arXiv 2003.00295). The average plays the gradient's part. Slots that nobody moved keep their moments.

use bonfire_engine::Role;

use crate::{ServerOptimizer, State};

/// Kinds of state: the moments of every number.
const FIRST: &str = "server-first";
const SECOND: &str = "server-second";

/// The average movement of one tensor, a row a slot, and which rows anybody moved.
pub(crate) struct Moved {
    pub values: Vec<f64>,
    pub width: usize,
    pub touched: Vec<bool>,
}

/// Replaces the average movement of a tensor by the optimizer's step, keeping moments in `state`.
pub(crate) fn step(optimizer: ServerOptimizer, state: &mut State, role: Role, moved: &mut Moved) {
    let shape = [moved.touched.len(), moved.width];
    match optimizer {
        ServerOptimizer::FedAvg { lr } => moved.values.iter_mut().for_each(|v| *v *= lr),
        ServerOptimizer::FedAvgM { lr, momentum } => {
            let first = state.tensor_mut(FIRST, role, shape);
            each(moved, |i, v| {
                let m = momentum * f64::from(first.data[i]) + v;
                first.data[i] = m as f32;
                lr * m
            });
        }
        ServerOptimizer::FedAdam { lr, betas, tau } | ServerOptimizer::FedYogi { lr, betas, tau } => {
            let yogi = matches!(optimizer, ServerOptimizer::FedYogi { .. });
            // Two kinds of one state cannot be borrowed at once.
            let mut first = std::mem::take(state.tensor_mut(FIRST, role, shape));
            let second = state.tensor_mut(SECOND, role, shape);
            each(moved, |i, v| {
                let m = betas[0] * f64::from(first.data[i]) + (1.0 - betas[0]) * v;
                let (old, square) = (f64::from(second.data[i]), v * v);
                let new = if yogi {
                    old - (1.0 - betas[1]) * square * (old - square).signum()
                } else {
                    betas[1] * old + (1.0 - betas[1]) * square
                };
                (first.data[i], second.data[i]) = (m as f32, new as f32);
                lr * m / (new.sqrt() + tau)
            });
            *state.tensor_mut(FIRST, role, shape) = first;
        }
    }
}

/// Changes every number of the rows that moved.
fn each(moved: &mut Moved, mut change: impl FnMut(usize, f64) -> f64) {
    for i in (0..moved.values.len()).filter(|i| moved.touched[i / moved.width]) {
        moved.values[i] = change(i, moved.values[i]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved() -> Moved {
        Moved { values: vec![0.5, -2.0, 0.0, 0.0], width: 2, touched: vec![true, false] }
    }

    /// Two steps of an optimizer on one number that moves by 0.5 each time.
    fn twice(optimizer: ServerOptimizer) -> [f64; 2] {
        let mut state = State::default();
        [0, 1].map(|_| {
            let mut it = moved();
            step(optimizer, &mut state, Role::Head(0), &mut it);
            assert_eq!(&it.values[2..], [0.0, 0.0], "a slot nobody moved stays");
            it.values[0]
        })
    }

    #[test]
    fn steps_follow_the_papers() {
        let close =
            |x: [f64; 2], y: [f64; 2]| assert!(x.iter().zip(y).all(|(x, y)| (x - y).abs() < 1e-6), "{x:?} {y:?}");
        close(twice(ServerOptimizer::FedAvg { lr: 2.0 }), [1.0, 1.0]);
        close(twice(ServerOptimizer::FedAvgM { lr: 1.0, momentum: 0.9 }), [0.5, 0.95]);
        let (lr, betas, tau): (f64, [f64; 2], f64) = (0.1, [0.9, 0.99], 1e-3);
        let (m1, m2) = (0.05, 0.095);
        let (v1, v2): (f64, f64) = (0.0025, 0.99 * 0.0025 + 0.0025);
        close(
            twice(ServerOptimizer::FedAdam { lr, betas, tau }),
            [lr * m1 / (v1.sqrt() + tau), lr * m2 / (v2.sqrt() + tau)],
        );
        let v2: f64 = 0.0025 + 0.01 * 0.25;
        close(
            twice(ServerOptimizer::FedYogi { lr, betas, tau }),
            [lr * m1 / (v1.sqrt() + tau), lr * m2 / (v2.sqrt() + tau)],
        );
    }
}
