//! HetLoRA (Cho et al., EMNLP 2024, arXiv 2401.06432): clients of unequal ranks get the first r_k slots of the global
//! adapter. Their objective pushes on the last `r_k − ⌊γ·r_k⌋` slots; where these shrink in training the client drops
//! them and has the smaller rank from then on. The server weighs clients by the norm of their update,
//! `p_k = ‖A_k·B_k‖_F / Σ_j ‖A_j·B_j‖_F`, and averages A and B separately, padded with zeros to the global rank.
//! Each target has its own weights, as the paper writes them for one. A slot that no client of the round has stays.

use bonfire_engine::{Active, Plan, Tail, Terms, Upload};
use bonfire_models::Matrix;

use super::low_rank::{Held, average_head, for_each_target, held};
use super::{Common, Strategy};
use crate::algebra::{AlgebraError, frobenius};
use crate::{FederationError, Server};

/// Name of the state that holds the clients' ranks, `[clients, 1]`; absent: as they started.
const RANKS: &str = "ranks";

/// The strategy `hetlora`.
#[derive(Clone, Debug, PartialEq)]
pub struct HetLora {
    /// Learning rates and head.
    pub common: Common,
    /// The push on the last slots: λ, γ and the smallest rank.
    pub tail: Tail,
    /// Ranks that the clients start with.
    pub ranks: Vec<usize>,
}

impl HetLora {
    fn ranks(&self, server: &Server) -> Vec<usize> {
        match server.state.get(RANKS) {
            None => self.ranks.clone(),
            Some(ranks) => ranks.data.iter().map(|&r| r as usize).collect(),
        }
    }
}

impl Strategy for HetLora {
    fn name(&self) -> &'static str {
        "hetlora"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn plan(&self, server: &Server) -> Plan {
        let plan = self.common.plan(server, Active::Both);
        let terms = Terms { tail: Some(self.tail), ..plan.terms.clone() };
        Plan { ranks: Some(self.ranks(server)), terms, ..plan }
    }

    fn aggregate(&self, server: &mut Server, uploads: &[Upload]) -> Result<(), FederationError> {
        let mut ranks = self.ranks(server);
        uploads.iter().for_each(|u| ranks[u.client] = u.slots.of(0).len());
        let means = for_each_target(server, |t| {
            let clients = held(server, uploads, t);
            let weights = weights(&clients)?;
            Ok(padded_mean(&server.adapter.a[t], &server.adapter.b[t], &clients, &weights))
        })?;
        for (t, factors) in means.into_iter().enumerate() {
            (server.adapter.a[t], server.adapter.b[t]) = factors;
        }
        average_head(&mut server.adapter, uploads);
        let ranks: Vec<f32> = ranks.into_iter().map(|r| r as f32).collect();
        server.state.insert(RANKS.into(), Matrix::new(ranks.len(), 1, ranks));
        Ok(())
    }
}

/// Shares of the norms of the clients' products; of the examples where all products are zero.
fn weights(clients: &[Held]) -> Result<Vec<f64>, AlgebraError> {
    let norms: Vec<f64> = clients.iter().map(|h| frobenius(&h.a, &h.b)).collect::<Result<_, _>>()?;
    let total: f64 = norms.iter().sum();
    let share = |(norm, h): (&f64, &Held)| if total > 0.0 { norm / total } else { h.weight };
    Ok(norms.iter().zip(clients).map(share).collect())
}

/// `Σ p_k·A_k` and `Σ p_k·B_k` with zeros for the slots a client lacks; slots that all lack come from `a` and `b`.
fn padded_mean(a: &Matrix, b: &Matrix, clients: &[Held], weights: &[f64]) -> (Matrix, Matrix) {
    let (rank, d_out) = (b.rows, b.cols);
    let (mut sum_a, mut sum_b) = (vec![0.0; a.data.len()], vec![0.0; b.data.len()]);
    let mut owned = vec![false; rank];
    for (h, weight) in clients.iter().zip(weights) {
        for (own, &slot) in h.slots.iter().enumerate() {
            owned[slot] = true;
            let own_a = (0..a.rows).map(|i| (i * rank + slot, h.a.data[i * h.a.cols + own]));
            own_a.for_each(|(at, v)| sum_a[at] += weight * f64::from(v));
            let own_b = (0..d_out).map(|i| (slot * d_out + i, h.b.data[own * d_out + i]));
            own_b.for_each(|(at, v)| sum_b[at] += weight * f64::from(v));
        }
    }
    let pick = |start: &Matrix, sum: Vec<f64>, slot_of: &dyn Fn(usize) -> usize| {
        let value = |(at, s): (usize, f64)| if owned[slot_of(at)] { s as f32 } else { start.data[at] };
        Matrix::new(start.rows, start.cols, sum.into_iter().enumerate().map(value).collect())
    };
    (pick(a, sum_a, &|at| at % rank), pick(b, sum_b, &|at| at / d_out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::fixture::{self, Dense, RANK};

    fn strategy(ranks: [usize; 3]) -> HetLora {
        let tail = Tail { weight: 0.01, decay: 0.99, least: 1 };
        HetLora { common: Common::plain(1e-3, 1e-3, true), tail, ranks: ranks.to_vec() }
    }

    #[test]
    fn clients_weigh_by_the_norm_of_their_update() {
        let ranks = [3, 1, 2];
        let (before, uploads) = (fixture::server(), fixture::uploads(Active::Both, ranks));
        let mut after = before.clone();
        strategy(ranks).aggregate(&mut after, &uploads).unwrap();
        for t in 0..2 {
            let ends: Vec<_> = (0..3).map(|k| fixture::end(&before, &uploads, k, t)).collect();
            let norm = |k: usize| {
                let mut product = Dense::zeros(t);
                product.add(&ends[k].0, &ends[k].1, 0..ranks[k], 1.0);
                product.norm()
            };
            let total: f64 = (0..3).map(norm).sum();
            let d_out = fixture::WIDTHS[t].1;
            let close = |value: f32, slot: usize, start: f32, of: &dyn Fn(usize) -> f32| {
                let owners = (0..3).filter(|&k| ranks[k] > slot);
                let mean: f64 = owners.map(|k| norm(k) / total * f64::from(of(k))).sum();
                let expected = if slot == 3 { start.into() } else { mean };
                assert!((f64::from(value) - expected).abs() < 1e-6, "slot {slot}: {value} and {expected}");
            };
            for (at, &v) in after.adapter.a[t].data.iter().enumerate() {
                close(v, at % RANK, before.adapter.a[t].data[at], &|k| ends[k].0.data[at]);
            }
            for (at, &v) in after.adapter.b[t].data.iter().enumerate() {
                close(v, at / d_out, before.adapter.b[t].data[at], &|k| ends[k].1.data[at]);
            }
        }
        fixture::check_head(&before, &after, &uploads);
    }

    #[test]
    fn a_client_that_dropped_slots_keeps_the_smaller_rank() {
        let mut server = fixture::server();
        let strategy = strategy([4, 2, 3]);
        assert_eq!(strategy.plan(&server).ranks, Some(vec![4, 2, 3]));
        // Clients 0 and 1 come back; client 0 has dropped its last slot.
        let uploads: Vec<Upload> =
            fixture::uploads(Active::Both, [3, 2, 3]).into_iter().filter(|u| u.client < 2).collect();
        strategy.aggregate(&mut server, &uploads).unwrap();
        assert_eq!(strategy.plan(&server).ranks, Some(vec![3, 2, 3]));
        assert_eq!(strategy.plan(&server).terms.tail, Some(strategy.tail));
    }

    #[test]
    fn zero_updates_weigh_by_examples() {
        let mut server = fixture::server();
        server.adapter.b.iter_mut().for_each(|b| b.data.fill(0.0));
        let clients = held(&server, &fixture::uploads(Active::A, [4, 4, 4]), 0);
        assert_eq!(weights(&clients).unwrap(), [5.0 / 20.0, 1.0 / 20.0, 14.0 / 20.0]);
    }
}
