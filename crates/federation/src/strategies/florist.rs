//! FLoRIST (Ramesh and Dass, arXiv 2506.09199): FLoRA's stack of the clients' factors, taken apart by SVD on factors
//! alone; of every target the leading parts that hold a share τ of the energy are the round's update, the same pair for
//! all clients whatever their ranks. As it may have more slots than a client can train, it is merged into the backbone
//! and everyone starts again, as in FLoRA. (Our reading: what clients start from was not established.)

use bonfire_engine::{Active, Plan, Upload};
use bonfire_models::AdapterInit;

use super::low_rank::{average_head, empty, for_each_target, held, merge, restart};
use super::{Common, Strategy};
use crate::{FederationError, Server};

/// The strategy `florist`.
#[derive(Clone, Debug, PartialEq)]
pub struct Florist {
    /// Learning rates, head and ranks.
    pub common: Common,
    /// How A starts, every round.
    pub init: AdapterInit,
    /// Share of the energy that is kept, τ.
    pub tau: f64,
}

impl Strategy for Florist {
    fn name(&self) -> &'static str {
        "florist"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn plan(&self, server: &Server) -> Plan {
        Plan { seeded: true, ..self.common.plan(server, Active::Both) }
    }

    fn aggregate(&self, server: &mut Server, uploads: &[Upload]) -> Result<(), FederationError> {
        let scale = server.adapter.scale();
        let updates = for_each_target(server, |t| {
            let mut stack = empty(server, t);
            held(server, uploads, t).iter().for_each(|h| stack.push(&h.a, &h.b, scale * h.weight));
            let svd = stack.svd()?;
            // S on the side of B's columns in the paper's orientation, of A's here: the product is what counts.
            Ok(svd.left_weighted(svd.rank_for_energy(self.tau).max(1)))
        })?;
        merge(server, updates)?;
        average_head(&mut server.adapter, uploads);
        restart(server, self.common.seed, self.init);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::fixture;

    fn aggregated(tau: f64, ranks: [usize; 3]) -> (Server, Vec<Upload>, Server) {
        let (before, uploads) = (fixture::server(), fixture::uploads(Active::Both, ranks));
        let mut after = before.clone();
        let strategy = Florist { common: Common::plain(1e-3, 1e-3, true), init: AdapterInit::Kaiming, tau };
        strategy.aggregate(&mut after, &uploads).unwrap();
        (before, uploads, after)
    }

    #[test]
    fn the_fewest_parts_that_hold_the_energy_are_merged() {
        for tau in [0.5, 0.8, 0.95, 1.0] {
            let ranks = [2, 4, 1];
            let (before, uploads, after) = aggregated(tau, ranks);
            for t in 0..2 {
                let mean = fixture::mean_of_products(&before, &uploads, ranks, t);
                let merged = after.merged.a[t].cols;
                let left_out = |rank: usize| (mean.beyond(rank) / mean.norm()).powi(2);
                assert!(1.0 - left_out(merged) >= tau - 1e-9, "{merged} parts hold too little");
                assert!(merged == 1 || 1.0 - left_out(merged - 1) < tau, "{merged} parts are too many");
                let apart = mean.apart(&fixture::model(&after, t));
                assert!((apart - mean.beyond(merged)).abs() < 1e-5);
            }
            fixture::check_head(&before, &after, &uploads);
        }
    }

    #[test]
    fn clients_start_again() {
        let (before, _, after) = aggregated(0.9, [4, 4, 4]);
        assert!(after.adapter.b.iter().all(|b| b.data.iter().all(|&x| x == 0.0)));
        assert_ne!(before.adapter.a, after.adapter.a);
        assert!(after.adapter.a.iter().all(|a| a.data.iter().all(|&x| x != 0.0)));
    }
}
