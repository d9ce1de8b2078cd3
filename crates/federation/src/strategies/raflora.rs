//! raFLoRA (Wu, Hu, Min, Wang, arXiv 2602.13486): FlexLoRA under unequal ranks loses what lies beyond the smallest rank,
//! round by round, since the clients that cannot have it still count in the weights. So the rank is cut at the ranks of
//! the federation's clients, and each part `(l, h]` is averaged over the clients with `r_k ≥ h` alone:
//! `ΔW = Σ_h Σ_k (n_k/N_h)·A_k[:, l:h]·B_k[l:h, :]`. Then SVD and √S on both sides, as in FlexLoRA. A part that no
//! client of the round has stays as it is.

use bonfire_engine::{Active, Plan, Upload};
use bonfire_models::Adapter;

use super::{Common, Strategy};
use crate::algebra::Stack;
use crate::client_products::{each_target, in_order, nothing, set_from_svd, trained, weights};
use crate::{FederationError, Server};

/// The strategy `raflora`.
#[derive(Clone, Debug, PartialEq)]
pub struct RaFlora {
    /// Learning rates, head and ranks.
    pub common: Common,
}

impl RaFlora {
    /// Where the rank is cut: at the ranks of all clients of the federation, not of this round's alone, and at its end.
    fn cuts(&self, rank: usize) -> Vec<usize> {
        let mut cuts = self.common.ranks.clone().unwrap_or_default();
        cuts.push(rank);
        cuts.sort_unstable();
        cuts.dedup();
        cuts
    }
}

impl Strategy for RaFlora {
    fn name(&self) -> &'static str {
        "raflora"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn plan(&self, server: &Server) -> Plan {
        self.common.plan(server, Active::Both)
    }

    fn aggregate(&self, server: &mut Server, uploads: &[Upload]) -> Result<(), FederationError> {
        let (adapter, uploads) = (&server.adapter, in_order(uploads));
        let cuts = self.cuts(adapter.rank);
        let sums = each_target(adapter, |t| sum_of_parts(adapter, &uploads, t, &cuts).svd())?;
        sums.iter().enumerate().for_each(|(t, svd)| set_from_svd(&mut server.adapter, t, svd));
        self.common.average_heads(server, &uploads);
        Ok(())
    }
}

/// `ΔW` of a target, part by part.
fn sum_of_parts(adapter: &Adapter, uploads: &[&Upload], t: usize, cuts: &[usize]) -> Stack {
    let mut sum = nothing(adapter, t);
    let mut low = 0;
    for &high in cuts {
        let owners: Vec<&Upload> = uploads.iter().copied().filter(|u| u.slots.of(t).len() >= high).collect();
        for (upload, weight) in owners.iter().zip(weights(&owners)) {
            let (a, b) = trained(adapter, upload, t);
            sum.push_slots(&a, &b, low..high, weight);
        }
        if owners.is_empty() {
            sum.push_slots(&adapter.a[t], &adapter.b[t], low..high, 1.0);
        }
        low = high;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::flexlora::FlexLora;
    use crate::strategies::testing::{apart, beyond, dense, product_of, server, uploads};
    use bonfire_models::Factor;

    /// The server before and after, and the uploads of clients of these ranks; examples are 1, 4, 7.
    fn aggregated(ranks: [usize; 3], federation: Vec<usize>) -> (Server, Vec<Upload>, Server) {
        let before = server(4, 1);
        let sent = uploads(&before, &[Factor::A, Factor::B], &ranks, 2);
        let mut after = before.clone();
        let common = Common { ranks: Some(federation), ..Common::plain(1e-3, 1e-3, true) };
        RaFlora { common }.aggregate(&mut after, &sent).expect("aggregates");
        (before, sent, after)
    }

    /// `Σ weight·A[:, slots]·B[slots, :]` with LoRA's scale, of clients' ends, or of the start for client `None`.
    fn expected(
        before: &Server,
        sent: &[Upload],
        t: usize,
        parts: &[(Option<usize>, std::ops::Range<usize>, f64)],
    ) -> Vec<f64> {
        let adapter = &before.adapter;
        let mut sum = vec![0.0; adapter.targets[t].d_in * adapter.targets[t].d_out];
        for (client, slots, weight) in parts {
            let start = (adapter.a[t].clone(), adapter.b[t].clone());
            let (a, b) = client.map_or(start, |k| trained(adapter, &sent[k], t));
            let slots: Vec<usize> = slots.clone().collect();
            let part = dense(&a.transposed().rows(&slots).transposed(), &b.rows(&slots));
            sum.iter_mut().zip(part).for_each(|(s, v)| *s += weight * adapter.scale() * v);
        }
        sum
    }

    #[track_caller]
    fn check(after: &Server, t: usize, sum: &[f64]) {
        let far = apart(sum, &product_of(&after.adapter, t));
        assert!((far - beyond(4, sum, after.adapter.targets[t].d_out)).abs() < 1e-5);
    }

    #[test]
    fn each_part_is_averaged_over_those_that_have_it() {
        let (before, sent, after) = aggregated([4, 1, 3], vec![4, 1, 3]);
        for t in 0..2 {
            let all = [(0, 1.0), (1, 4.0), (2, 7.0)].map(|(k, n)| (Some(k), 0..1, n / 12.0));
            let two = [(0, 1.0), (2, 7.0)].map(|(k, n)| (Some(k), 1..3, n / 8.0));
            let parts = [all.as_slice(), &two, &[(Some(0), 3..4, 1.0)]].concat();
            check(&after, t, &expected(&before, &sent, t, &parts));
        }
    }

    #[test]
    fn a_part_that_nobody_of_the_round_has_stays() {
        // Some client of the federation has rank 4, but none of this round.
        let (before, sent, after) = aggregated([2, 1, 2], vec![2, 1, 2, 4]);
        for t in 0..2 {
            let all = [(0, 1.0), (1, 4.0), (2, 7.0)].map(|(k, n)| (Some(k), 0..1, n / 12.0));
            let two = [(0, 1.0), (2, 7.0)].map(|(k, n)| (Some(k), 1..2, n / 8.0));
            let parts = [all.as_slice(), &two, &[(None, 2..4, 1.0)]].concat();
            check(&after, t, &expected(&before, &sent, t, &parts));
        }
    }

    #[test]
    fn with_equal_ranks_it_is_flexlora() {
        let (before, sent, after) = aggregated([4, 4, 4], vec![4, 4, 4]);
        let mut flex = before.clone();
        FlexLora { common: Common::plain(1e-3, 1e-3, true) }.aggregate(&mut flex, &sent).expect("aggregates");
        for t in 0..2 {
            assert!(apart(&product_of(&flex.adapter, t), &product_of(&after.adapter, t)) < 1e-5);
        }
    }
}
