//! FedPepTAO (Che et al., EMNLP 2023, arXiv 2310.15080), made for prompts, on adapters instead, in a form of our own.
//!
//! In the first round all layers are shared and every client scores each by the states of one batch; from then on only
//! the layers of highest score (weighted by examples) are, and the adapters of the others stay with each client. How many
//! layers is a setting: the paper's number, from the spectrum of the Hessian, is not reproduced. The server steps with
//! momentum and a control variate for each client, all kept by the server, so they cost no traffic. With
//! `D_k = −ΔX_k` of a client's `τ_k` local steps at rate η:
//!
//! ```text
//! m_k ← β·m_k + D_k + τ_k·η·(c − c_k)         X ← X − lr·Σ w_k·m_k
//! c_k ← c_k − c + D_k/(τ_k·η)                  c ← c + (1/K)·Σ (change of c_k)
//! ```
//!
//! The published code feeds the change of the mean movement into momentum, the same for all clients; here it is each
//! client's own movement, without which nothing of the client would be in its momentum.

use bonfire_engine::{Active, Aux, Plan, Private, Role, Upload};
use bonfire_models::{Factor, Matrix};

use super::{Common, Strategy};
use crate::client_products::{in_order, weights};
use crate::{FederationError, Server, State};

/// Name of the state that says which layers are shared, `[1, layers]` of ones and zeros; absent: not surveyed yet.
const LAYERS: &str = "layers";

/// Kind of the state that holds the server's control variates; the clients' are kept under their numbers.
const SERVER_VARIATE: &str = "variate/server";

/// The strategy `fedpeptao`.
#[derive(Clone, Debug, PartialEq)]
pub struct FedPepTao {
    /// Learning rates and head.
    pub common: Common,
    /// Layers to share; `None`: half of them.
    pub layers: Option<usize>,
    /// Server learning rate.
    pub lr: f64,
    /// Server momentum β.
    pub momentum: f64,
}

impl Strategy for FedPepTao {
    fn name(&self) -> &'static str {
        "fedpeptao"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn plan(&self, server: &Server) -> Plan {
        let plan = self.common.plan(server, Active::Both);
        let Some(shared) = server.state.table(LAYERS) else { return Plan { layer_scores: true, ..plan } };
        let targets = server.adapter.targets.iter().enumerate();
        let private = targets.filter(|(_, target)| shared.data[target.layer] == 0.0).map(|(t, _)| t).collect();
        Plan { private: Private { targets: private, ..Private::default() }, ..plan }
    }

    fn aggregate(&self, server: &mut Server, uploads: &[Upload]) -> Result<(), FederationError> {
        let uploads = in_order(uploads);
        let weights = weights(&uploads);
        for (f, factor) in [Factor::A, Factor::B].into_iter().enumerate() {
            let rate = if factor == Factor::A { self.common.lr_a } else { self.common.lr_b };
            for t in 0..server.adapter.targets.len() {
                let moved: Vec<Moved> = uploads
                    .iter()
                    .zip(&weights)
                    .map(|(u, &weight)| Moved {
                        client: u.client,
                        weight,
                        scale: rate * self.common.steps_at_full_rate(u.steps),
                        by: &u.factors[f].1[t],
                    })
                    .collect();
                // A private target sends no rows.
                if moved.iter().any(|m| m.by.rows == 0) {
                    continue;
                }
                let mut whole = server.adapter.slot_rows(factor, t);
                self.step(&mut server.state, Role::Factor(t, factor), &moved, &mut whole);
                let whole = if factor == Factor::A { whole.transposed() } else { whole };
                server.adapter.factor_mut(factor)[t] = whole;
            }
        }
        self.common.average_heads(server, &uploads);
        if let Some(shared) = self.choose(&uploads, &weights) {
            server.state.set_table(LAYERS, shared);
        }
        Ok(())
    }
}

/// How a client moved one tensor.
struct Moved<'m> {
    client: usize,
    weight: f64,
    /// τ·η: the sum of the steps' rates.
    scale: f64,
    by: &'m Matrix,
}

impl FedPepTao {
    /// Steps `whole`, one row a slot, and the variates and momenta of the tensor.
    fn step(&self, state: &mut State, role: Role, moved: &[Moved], whole: &mut Matrix) {
        let shape = [whole.rows, whole.cols];
        let mut shared = std::mem::take(state.tensor_mut(SERVER_VARIATE, role, shape));
        let mut next = vec![(0.0, 0.0); whole.data.len()];
        for m in moved {
            let (momentum_of, variate_of) = (format!("momentum/{}", m.client), format!("variate/{}", m.client));
            let mut momentum = std::mem::take(state.tensor_mut(&momentum_of, role, shape));
            let variate = state.tensor_mut(&variate_of, role, shape);
            for (i, (step, change)) in next.iter_mut().enumerate() {
                let (down, c, c_k) = (-f64::from(m.by.data[i]), f64::from(shared.data[i]), f64::from(variate.data[i]));
                let new = self.momentum * f64::from(momentum.data[i]) + down + m.scale * (c - c_k);
                *step += m.weight * new;
                momentum.data[i] = new as f32;
                // A rate of zero moves nothing and says nothing about a gradient.
                if m.scale > 0.0 {
                    let difference = down / m.scale - c;
                    variate.data[i] = (c_k + difference) as f32;
                    *change += difference / self.common.clients as f64;
                }
            }
            *state.tensor_mut(&momentum_of, role, shape) = momentum;
        }
        for ((x, c), (step, change)) in whole.data.iter_mut().zip(&mut shared.data).zip(next) {
            *x = (f64::from(*x) - self.lr * step) as f32;
            *c = (f64::from(*c) + change) as f32;
        }
        *state.tensor_mut(SERVER_VARIATE, role, shape) = shared;
    }

    /// The layers of highest mean score, if clients report scores; of equal ones the earlier.
    fn choose(&self, uploads: &[&Upload], weights: &[f64]) -> Option<Matrix> {
        let scores = |u: &Upload| u.aux(Aux::LayerScores).map(|list| list[0].clone());
        let all: Vec<Matrix> = uploads.iter().filter_map(|u| scores(u)).collect();
        let count = all.first()?.cols;
        let mean = |layer: usize| all.iter().zip(weights).map(|(m, w)| w * f64::from(m.data[layer])).sum::<f64>();
        let mut ranking: Vec<(usize, f64)> = (0..count).map(|layer| (layer, mean(layer))).collect();
        ranking.sort_by(|x, y| y.1.total_cmp(&x.1));
        let mut shared = Matrix::zeros(1, count);
        let chosen = self.layers.unwrap_or(count.div_ceil(2)).min(count);
        ranking.iter().take(chosen).for_each(|(layer, _)| shared.data[*layer] = 1.0);
        Some(shared)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bonfire_models::Matrix;

    fn strategy() -> FedPepTao {
        let common = Common { clients: 3, ..Common::plain(1e-3, 2e-3, false) };
        FedPepTao { common, layers: None, lr: 0.5, momentum: 0.9 }
    }

    #[test]
    fn two_rounds_follow_the_formulas() {
        let (mut state, role) = (State::default(), Role::Factor(0, Factor::A));
        let mut whole = Matrix::new(1, 2, vec![1.0, -1.0]);
        let moves = [[[0.2f32, 0.0], [-0.4, 0.1]], [[0.3, -0.1], [0.1, 0.1]]];
        let (weights, scale) = ([0.25, 0.75], [4e-3, 8e-3]);
        let (mut x, mut c) = ([1.0f64, -1.0], [0.0f64; 2]);
        let (mut m, mut own) = ([[0.0f64; 2]; 2], [[0.0f64; 2]; 2]);
        for round in moves {
            let by: Vec<Matrix> = round.iter().map(|row| Matrix::new(1, 2, row.to_vec())).collect();
            let moved = |k: usize| Moved { client: [0, 2][k], weight: weights[k], scale: scale[k], by: &by[k] };
            strategy().step(&mut state, role, &[moved(0), moved(1)], &mut whole);
            for i in 0..2 {
                let before = c[i];
                let mut step = 0.0;
                for k in 0..2 {
                    let down = -f64::from(round[k][i]);
                    m[k][i] = 0.9 * m[k][i] + down + scale[k] * (before - own[k][i]);
                    step += weights[k] * m[k][i];
                    let next = own[k][i] - before + down / scale[k];
                    c[i] += (next - own[k][i]) / 3.0;
                    own[k][i] = next;
                }
                x[i] -= 0.5 * step;
            }
        }
        let close = |found: &Matrix, expected: [f64; 2]| {
            let fine = |(f, e): (&f32, f64)| (f64::from(*f) - e).abs() < 1e-5 * e.abs().max(1.0);
            assert!(found.data.iter().zip(expected).all(fine), "{found:?} {expected:?}");
        };
        close(&whole, x);
        let kept = |kind: &str| state.tensor(kind, role).expect("it is kept");
        close(kept("variate/server"), c);
        close(kept("variate/2"), own[1]);
        close(kept("momentum/0"), m[0]);
    }
}
