//! FLoRA (Wang et al., NeurIPS 2024, arXiv 2409.05976): the clients' factors are stacked, `A = [w_1·A_1 … w_K·A_K]` and
//! `B = [B_1; …; B_K]`, so that `A·B` is the mean of the products exactly, whatever the ranks. The stack is merged into
//! the backbone, and everyone starts again from a fresh A, drawn from the seed, and B = 0.

use bonfire_engine::{Active, Plan, Upload};
use bonfire_models::AdapterInit;

use super::low_rank::{average_head, empty, for_each_target, held, merge, restart};
use super::{Common, Strategy};
use crate::{FederationError, Server};

/// The strategy `flora`.
#[derive(Clone, Debug, PartialEq)]
pub struct Flora {
    /// Learning rates, head and ranks.
    pub common: Common,
    /// How A starts, every round.
    pub init: AdapterInit,
}

impl Strategy for Flora {
    fn name(&self) -> &'static str {
        "flora"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn plan(&self, server: &Server) -> Plan {
        Plan { seeded: true, ..self.common.plan(server, Active::Both) }
    }

    fn aggregate(&self, server: &mut Server, uploads: &[Upload]) -> Result<(), FederationError> {
        let scale = server.adapter.scale();
        let stacks = for_each_target(server, |t| {
            let mut stack = empty(server, t);
            // The weight, and LoRA's scale, on one side only.
            held(server, uploads, t).iter().for_each(|h| stack.push(&h.a, &h.b, scale * h.weight));
            Ok(stack.factors())
        })?;
        merge(server, stacks)?;
        average_head(&mut server.adapter, uploads);
        restart(server, self.common.seed, self.init);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::fixture;

    fn strategy() -> Flora {
        Flora { common: Common::plain(1e-3, 1e-3, true), init: AdapterInit::Kaiming }
    }

    #[test]
    fn the_model_is_the_mean_of_the_products_whatever_the_ranks() {
        let ranks = [2, 4, 1];
        let (before, uploads) = (fixture::server(), fixture::uploads(Active::Both, ranks));
        let mut after = before.clone();
        strategy().aggregate(&mut after, &uploads).unwrap();
        for t in 0..2 {
            let mean = fixture::mean_of_products(&before, &uploads, ranks, t);
            assert!(mean.apart(&fixture::model(&after, t)) < 1e-5);
            assert_eq!(after.merged.a[t].cols, 7);
        }
        assert_eq!(after.merged.pushed, 7 * (9 + 7 + 6 + 11));
        fixture::check_head(&before, &after, &uploads);
    }

    #[test]
    fn rounds_add_up_and_the_log_stays_within_its_target() {
        let mut server = fixture::server();
        let uploads = fixture::uploads(Active::Both, [4, 4, 4]);
        let mut sums = [0, 1].map(fixture::Dense::zeros);
        for round in 0..4 {
            for (t, sum) in sums.iter_mut().enumerate() {
                let mean = fixture::mean_of_products(&server, &uploads, [4, 4, 4], t);
                sum.data.iter_mut().zip(mean.data).for_each(|(s, m)| *s += m);
            }
            strategy().aggregate(&mut server, &uploads).unwrap();
            server.round = round + 1;
            for (t, sum) in sums.iter().enumerate() {
                assert!(sum.apart(&fixture::model(&server, t)) < 1e-5 * sum.norm());
                let (d_in, d_out) = fixture::WIDTHS[t];
                assert!(2 * server.merged.a[t].cols <= 3 * d_in.min(d_out));
            }
        }
        assert_eq!(server.merged.pushed, 4 * 12 * (9 + 7 + 6 + 11), "what was sent, not what is kept");
    }

    #[test]
    fn every_round_starts_from_its_own_fresh_adapter() {
        let uploads = fixture::uploads(Active::Both, [4, 4, 4]);
        let next = |round: usize| {
            let mut server = Server { round, ..fixture::server() };
            strategy().aggregate(&mut server, &uploads).unwrap();
            server.adapter
        };
        let (one, again, other) = (next(0), next(0), next(1));
        assert_eq!(one, again);
        assert_ne!(one.a, other.a);
        assert!(one.b.iter().all(|b| b.data.iter().all(|&x| x == 0.0)));
        assert!(one.a[0].data.iter().all(|x| x.abs() <= 1.0 / 3.0), "Kaiming for nine inputs");
    }
}
