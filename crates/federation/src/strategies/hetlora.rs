//! HetLoRA (Cho et al., EMNLP 2024, arXiv 2401.06432): clients of different ranks. Each trains the first `r_k` slots of
//! the global adapter, with a push on its last ones; where those shrink they are dropped for good (self-pruning). The
//! server pads with zeros and weighs each client by the size of its update: `p_k = ‖ΔW_k‖_F / Σ_j ‖ΔW_j‖_F`.

use bonfire_engine::{Active, Plan, Slots, TailPenalty, Upload};
use bonfire_models::{Factor, Matrix};

use super::{Common, Strategy};
use crate::algebra::frobenius;
use crate::client_products::{in_order, trained};
use crate::{FederationError, Server};

/// Name of the state that holds the clients' ranks, `[1, K]`.
const RANKS: &str = "ranks";

/// The strategy `hetlora`.
#[derive(Clone, Debug, PartialEq)]
pub struct HetLora {
    /// Learning rates, head and first ranks.
    pub common: Common,
    /// The push on the last slots; its decay and least rank also rule self-pruning.
    pub tail: TailPenalty,
}

impl HetLora {
    /// The clients' ranks as they are now.
    fn ranks(&self, server: &Server) -> Vec<usize> {
        let first = || self.common.ranks.clone().unwrap_or_else(|| vec![server.adapter.rank; self.common.clients]);
        server.state.table(RANKS).map_or_else(first, |m| m.data.iter().map(|&r| r as usize).collect())
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
        let mut plan = self.common.plan(server, Active::Both);
        plan.ranks = Some(self.ranks(server));
        plan.terms.tail = Some(self.tail);
        plan
    }

    fn aggregate(&self, server: &mut Server, uploads: &[Upload]) -> Result<(), FederationError> {
        let uploads = in_order(uploads);
        let targets = server.adapter.targets.len();
        let all: Vec<Vec<(Matrix, Matrix)>> =
            uploads.iter().map(|u| (0..targets).map(|t| trained(&server.adapter, u, t)).collect()).collect();
        let mut norms = Vec::new();
        for own in &all {
            let squares = own.iter().map(|(a, b)| Ok(frobenius(a, b)?.powi(2)));
            norms.push(squares.sum::<Result<f64, FederationError>>()?.sqrt());
        }
        let total: f64 = norms.iter().sum();
        // No client moved anything: all weigh the same.
        let weight = |k: usize| if total > 0.0 { norms[k] / total } else { 1.0 / norms.len() as f64 };
        for t in 0..targets {
            // Slots that no client of the round has stay as they are: zeros could never learn again.
            let has = |slot: usize| uploads.iter().any(|u| u.slots.of(t).contains(&slot));
            let moves: Vec<bool> = (0..server.adapter.rank).map(has).collect();
            for factor in [Factor::A, Factor::B] {
                let mut sum = vec![0f64; server.adapter.factor(factor)[t].data.len()];
                for (k, own) in all.iter().enumerate() {
                    let m = if factor == Factor::A { &own[t].0 } else { &own[t].1 };
                    sum.iter_mut().zip(&m.data).for_each(|(s, v)| *s += weight(k) * f64::from(*v));
                }
                let matrix = &mut server.adapter.factor_mut(factor)[t];
                let slot = |i: usize| if factor == Factor::A { i % matrix.cols } else { i / matrix.cols };
                let slots: Vec<usize> = (0..sum.len()).map(slot).collect();
                let values = matrix.data.iter_mut().zip(sum).zip(slots);
                values.filter(|(_, slot)| moves[*slot]).for_each(|((x, s), _)| *x = s as f32);
            }
        }
        let mut ranks = self.ranks(server);
        for upload in &uploads {
            if let Slots::Given { slots, .. } = &upload.slots {
                ranks[upload.client] = slots.iter().map(Vec::len).max().unwrap_or(0);
            }
        }
        let ranks: Vec<f32> = ranks.into_iter().map(|r| r as f32).collect();
        server.state.set_table(RANKS, Matrix::new(1, ranks.len(), ranks));
        self.common.average_heads(server, &uploads);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::testing::{server, uploads};

    fn strategy(ranks: Vec<usize>) -> HetLora {
        let common = Common { clients: ranks.len(), ranks: Some(ranks), ..Common::plain(1e-3, 1e-3, false) };
        HetLora { common, tail: TailPenalty { weight: 0.01, decay: 0.75, least: 1 } }
    }

    #[test]
    fn clients_weigh_by_the_size_of_their_update() {
        let ranks = [2, 4, 3];
        let mut it = server(4, 1);
        let before = it.clone();
        let sent = uploads(&before, &[Factor::A, Factor::B], &ranks, 7);
        strategy(ranks.to_vec()).aggregate(&mut it, &sent).expect("aggregates");
        // The same with dense matrices.
        for t in 0..it.adapter.targets.len() {
            let factors: Vec<_> = sent.iter().map(|u| trained(&before.adapter, u, t)).collect();
            for (k, (a, b)) in factors.iter().enumerate() {
                assert!(a.data.chunks(4).all(|row| row[ranks[k]..].iter().all(|v| *v == 0.0)), "padded with zeros");
                assert!(b.data[ranks[k] * b.cols..].iter().all(|v| *v == 0.0));
            }
            let size = |k: usize| -> f64 {
                let squares = |t| {
                    let (a, b) = trained(&before.adapter, &sent[k], t);
                    a.matmul(&b).data.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>()
                };
                (0..it.adapter.targets.len()).map(squares).sum::<f64>().sqrt()
            };
            let total: f64 = (0..3).map(size).sum();
            for (i, got) in it.adapter.b[t].data.iter().enumerate() {
                let want: f64 = (0..3).map(|k| size(k) / total * f64::from(factors[k].1.data[i])).sum();
                assert!((f64::from(*got) - want).abs() < 1e-5, "{got} {want}");
            }
        }
    }

    #[test]
    fn what_no_client_of_the_round_has_stays() {
        let mut it = server(4, 1);
        let before = it.clone();
        let sent = uploads(&it, &[Factor::A, Factor::B], &[2, 3], 7);
        strategy(vec![2, 3, 4]).aggregate(&mut it, &sent).expect("aggregates");
        let last = |s: &Server, f| s.adapter.slot_rows(f, 0).rows(&[3]);
        assert_eq!(last(&it, Factor::A), last(&before, Factor::A));
        assert_eq!(last(&it, Factor::B), last(&before, Factor::B));
        assert_ne!(it.adapter.b, before.adapter.b);
    }

    #[test]
    fn a_client_that_dropped_its_tail_keeps_its_new_rank() {
        let mut it = server(4, 1);
        let sent = uploads(&it, &[Factor::A, Factor::B], &[3, 4], 7);
        let strategy = strategy(vec![4, 4]);
        strategy.aggregate(&mut it, &sent).expect("aggregates");
        it.round = 1;
        assert_eq!(strategy.plan(&it).ranks, Some(vec![3, 4]));
    }
}
