//! raFLoRA (Wu, Hu, Min, Wang, arXiv 2602.13486): FlexLoRA under unequal ranks loses what lies beyond the smallest rank,
//! round by round, since the clients that cannot have it still count in the weights. So the rank is cut at the ranks of
//! the federation's clients, and each part `(l, h]` is averaged over the clients with `r_k ≥ h` alone:
//! `ΔW = Σ_h Σ_k (n_k/N_h)·A_k[:, l:h]·B_k[l:h, :]`. Then SVD and √S on both sides, as in FlexLoRA. A part that no
//! client of the round has stays as it is.

use bonfire_engine::{Active, Plan, Upload};

use super::low_rank::{Held, average_head, empty, for_each_target, held, place};
use super::{Common, Strategy};
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
        let cuts = self.cuts(server.adapter.rank);
        let sums = for_each_target(server, |t| {
            let (clients, mut sum) = (held(server, uploads, t), empty(server, t));
            for (i, &high) in cuts.iter().enumerate() {
                let part = i.checked_sub(1).map_or(0, |before| cuts[before])..high;
                let owners: Vec<&Held> = clients.iter().filter(|h| h.slots.len() >= high).collect();
                let total: f64 = owners.iter().map(|h| h.weight).sum();
                for h in &owners {
                    sum.push_slots(&h.a, &h.b, part.clone(), h.weight / total);
                }
                if owners.is_empty() {
                    sum.push_slots(&server.adapter.a[t], &server.adapter.b[t], part, 1.0);
                }
            }
            sum.svd()
        })?;
        sums.iter().enumerate().for_each(|(t, svd)| place(&mut server.adapter, t, svd));
        average_head(&mut server.adapter, uploads);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::fixture::{self, Dense, RANK, weight};

    fn aggregated(ranks: [usize; 3], federation: Vec<usize>) -> (Server, Vec<Upload>, Server) {
        let (before, uploads) = (fixture::server(), fixture::uploads(Active::Both, ranks));
        let mut after = before.clone();
        let common = Common { ranks: Some(federation), ..Common::plain(1e-3, 1e-3, true) };
        RaFlora { common }.aggregate(&mut after, &uploads).unwrap();
        (before, uploads, after)
    }

    #[test]
    fn each_part_is_averaged_over_those_that_have_it() {
        let (before, uploads, after) = aggregated([4, 1, 3], vec![4, 1, 3]);
        for t in 0..2 {
            let mut sum = Dense::zeros(t);
            let mut add = |client: usize, slots, weight| {
                let (a, b) = fixture::end(&before, &uploads, client, t);
                sum.add(&a, &b, slots, weight);
            };
            (0..3).for_each(|k| add(k, 0..1, weight(k)));
            let two = weight(0) + weight(2);
            [0, 2].into_iter().for_each(|k| add(k, 1..3, weight(k) / two));
            add(0, 3..4, 1.0);
            let apart = sum.apart(&fixture::model(&after, t));
            assert!((apart - sum.beyond(RANK)).abs() < 1e-5);
        }
        fixture::check_head(&before, &after, &uploads);
    }

    #[test]
    fn a_part_that_nobody_of_the_round_has_stays() {
        // Some client of the federation has rank 4, but none of this round.
        let (before, uploads, after) = aggregated([2, 1, 2], vec![2, 1, 2, 4]);
        let mut sum = Dense::zeros(0);
        for k in 0..3 {
            let (a, b) = fixture::end(&before, &uploads, k, 0);
            sum.add(&a, &b, 0..1, weight(k));
            if k != 1 {
                sum.add(&a, &b, 1..2, weight(k) / (weight(0) + weight(2)));
            }
        }
        sum.add(&before.adapter.a[0], &before.adapter.b[0], 2..4, 1.0);
        assert!((sum.apart(&fixture::model(&after, 0)) - sum.beyond(RANK)).abs() < 1e-5);
    }

    #[test]
    fn with_equal_ranks_it_is_flexlora() {
        let (before, uploads, after) = aggregated([4, 4, 4], vec![4, 4, 4]);
        let mut flex = before.clone();
        let common = Common::plain(1e-3, 1e-3, true);
        crate::FlexLora { common }.aggregate(&mut flex, &uploads).unwrap();
        for t in 0..2 {
            assert!(fixture::model(&flex, t).apart(&fixture::model(&after, t)) < 1e-5);
        }
    }
}
