//! FLoRIST (Ramesh and Dass, arXiv 2506.09199): FLoRA's stack of the clients' factors, taken apart by SVD on factors
//! alone; of every target the leading parts that hold a share τ of the energy are the round's update, the same pair for
//! all clients whatever their ranks. As it may have more slots than a client can train, it is merged into the backbone
//! and everyone starts again, as in FLoRA. (Our reading: what clients start from was not established.)

use bonfire_engine::{Active, Plan, Upload};
use bonfire_models::AdapterInit;

use super::{Common, Strategy};
use crate::client_products::{each_target, in_order, mean_of_products, merge};
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
        let (adapter, uploads) = (&server.adapter, in_order(uploads));
        let updates = each_target(adapter, |t| {
            let svd = mean_of_products(adapter, &uploads, t).scaled(adapter.scale()).svd()?;
            // S on the side of B's columns in the paper's orientation, of A's here: the product is what counts.
            Ok(svd.left_weighted(svd.rank_for_energy(self.tau).max(1)))
        })?;
        merge(server, updates)?;
        self.common.average_heads(server, &uploads);
        self.common.restart(server, self.init);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::testing::{apart, beyond, dense_mean_of_products, product_of, server, uploads};
    use bonfire_models::Factor;

    fn aggregated(tau: f64) -> (Server, Vec<Upload>, Server) {
        let before = server(3, 1);
        let sent = uploads(&before, &[Factor::A, Factor::B], &[2, 3, 1], 2);
        let mut after = before.clone();
        let strategy = Florist { common: Common::plain(1e-3, 1e-3, true), init: AdapterInit::Kaiming, tau };
        strategy.aggregate(&mut after, &sent).expect("aggregates");
        (before, sent, after)
    }

    #[test]
    fn the_fewest_parts_that_hold_the_energy_are_merged() {
        for tau in [0.5, 0.8, 0.95, 1.0] {
            let (before, sent, after) = aggregated(tau);
            for (t, mean) in dense_mean_of_products(&before, &sent).iter().enumerate() {
                let (cols, merged) = (before.adapter.targets[t].d_out, after.merged.a[t].cols);
                let held = |rank: usize| 1.0 - (beyond(rank, mean, cols) / beyond(0, mean, cols)).powi(2);
                assert!(held(merged) >= tau - 1e-9, "{merged} parts hold too little");
                assert!(merged == 1 || held(merged - 1) < tau, "{merged} parts are too many");
                let far = apart(mean, &product_of(&after.model(), t));
                assert!((far - beyond(merged, mean, cols)).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn clients_start_again() {
        let (before, _, after) = aggregated(0.9);
        assert!(after.adapter.b.iter().all(|b| b.data.iter().all(|&x| x == 0.0)));
        assert_ne!(before.adapter.a, after.adapter.a);
        assert!(after.adapter.a.iter().all(|a| a.data.iter().all(|&x| x != 0.0)));
    }
}
