//! FlexLoRA (Bai et al., NeurIPS 2024, arXiv 2402.11505): the server takes the mean of the clients' products
//! `ΔW = Σ w_k·A_k·B_k`, which is exact for any ranks, and its SVD; the leading R parts are the next global adapter, √S on
//! both sides, and a client of rank r_k gets the first r_k of them. The paper forms ΔW densely; here it stays factors.
//! Where a round's clients have fewer than R slots in all, the slots that are left over keep their A at B = 0 (in the
//! paper both are zero, and such a slot never learns again).

use bonfire_engine::{Active, Plan, Upload};

use super::low_rank::{average_head, for_each_target, mean_of_products, place};
use super::{Common, Strategy};
use crate::{FederationError, Server};

/// The strategy `flexlora`.
#[derive(Clone, Debug, PartialEq)]
pub struct FlexLora {
    /// Learning rates, head and ranks.
    pub common: Common,
}

impl Strategy for FlexLora {
    fn name(&self) -> &'static str {
        "flexlora"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn plan(&self, server: &Server) -> Plan {
        self.common.plan(server, Active::Both)
    }

    fn aggregate(&self, server: &mut Server, uploads: &[Upload]) -> Result<(), FederationError> {
        let sums = for_each_target(server, |t| mean_of_products(server, uploads, t).svd())?;
        sums.iter().enumerate().for_each(|(t, svd)| place(&mut server.adapter, t, svd));
        average_head(&mut server.adapter, uploads);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::fixture::{self, RANK};

    fn strategy() -> FlexLora {
        FlexLora { common: Common::plain(1e-3, 1e-3, true) }
    }

    #[test]
    fn the_new_adapter_is_the_best_of_its_rank() {
        for ranks in [[4, 4, 4], [1, 4, 2], [4, 1, 1]] {
            let (before, uploads) = (fixture::server(), fixture::uploads(Active::Both, ranks));
            let mut after = before.clone();
            strategy().aggregate(&mut after, &uploads).unwrap();
            for t in 0..2 {
                let mean = fixture::mean_of_products(&before, &uploads, ranks, t);
                let (apart, best) = (mean.apart(&fixture::model(&after, t)), mean.beyond(RANK));
                assert!((apart - best).abs() < 1e-5, "{apart} and {best}");
            }
            fixture::check_head(&before, &after, &uploads);
        }
    }

    #[test]
    fn what_a_client_of_lower_rank_gets_is_the_best_of_that_rank() {
        let (before, uploads) = (fixture::server(), fixture::uploads(Active::Both, [4, 4, 4]));
        let mut after = before.clone();
        strategy().aggregate(&mut after, &uploads).unwrap();
        let mean = fixture::mean_of_products(&before, &uploads, [4, 4, 4], 0);
        for rank in 1..RANK {
            let mut first = fixture::Dense::zeros(0);
            first.add(&after.adapter.a[0], &after.adapter.b[0], 0..rank, 1.0);
            assert!((mean.apart(&first) - mean.beyond(rank)).abs() < 1e-5);
        }
    }

    #[test]
    fn slots_left_over_add_nothing_and_can_still_learn() {
        let (before, uploads) = (fixture::server(), fixture::uploads(Active::Both, [1, 1, 1]));
        let mut after = before.clone();
        strategy().aggregate(&mut after, &uploads).unwrap();
        // Three clients with a slot each: the fourth is left over.
        let adapter = &after.adapter;
        assert!(adapter.b[0].data[3 * 7..].iter().all(|&x| x == 0.0));
        assert!(adapter.b[0].data[..3 * 7].iter().all(|&x| x != 0.0));
        (0..9).for_each(|i| assert_eq!(adapter.a[0].data[i * RANK + 3], before.adapter.a[0].data[i * RANK + 3]));
    }
}
