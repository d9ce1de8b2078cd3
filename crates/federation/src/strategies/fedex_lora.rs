//! FedEx-LoRA (Singhal, Ponkshe, Vepakomma, ACL 2025, arXiv 2410.09432): A and B are averaged as in FedIT, and what the
//! product of the means misses, `Σ w_k·A_k·B_k − Ā·B̄`, is merged into the backbone: aggregation is exact. The residual
//! equals `Σ w_k·(A_k − Ā)·(B_k − B̄)`, has rank up to (K − 1)·r and is sent as factors; `rank` cuts it to its leading parts (the paper's truncated variant).

use bonfire_engine::{Active, Plan, Upload};

use super::{Common, Strategy};
use crate::algebra::Svd;
use crate::client_products::{each_target, in_order, mean_of_products, merge};
use crate::{FederationError, Norm, Server};

/// The strategy `fedex-lora`.
#[derive(Clone, Debug, PartialEq)]
pub struct FedExLora {
    /// Learning rates and head.
    pub common: Common,
    /// Largest rank of a round's residual; `None`: all of it.
    pub rank: Option<usize>,
}

impl Strategy for FedExLora {
    fn name(&self) -> &'static str {
        "fedex-lora"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn plan(&self, server: &Server) -> Plan {
        self.common.plan(server, Active::Both)
    }

    fn aggregate(&self, server: &mut Server, uploads: &[Upload]) -> Result<(), FederationError> {
        let (adapter, in_order) = (&server.adapter, in_order(uploads));
        let means = each_target(adapter, |t| Ok(mean_of_products(adapter, &in_order, t)))?;
        self.common.average(server, uploads, Norm::All);
        let adapter = &server.adapter;
        let residuals = each_target(adapter, |t| {
            let mut residual = means[t].clone();
            residual.push(&adapter.a[t], &adapter.b[t], -1.0);
            let residual = residual.scaled(adapter.scale());
            // The means were rounded to f32, and what that left in the residual is not worth a slot.
            let svd = residual.svd()?;
            let rank = svd.rank_above(residual.f32_rounding());
            Ok((svd, rank))
        })?;
        if residuals.iter().all(|(_, rank)| *rank == 0) {
            return Ok(());
        }
        let kept = |(svd, rank): &(Svd, usize)| svd.split((*rank).min(self.rank.unwrap_or(usize::MAX)).max(1));
        merge(server, residuals.iter().map(kept).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::testing::{apart, beyond, dense_mean_of_products, product_of, server, uploads};
    use bonfire_models::Factor;

    fn aggregated(rank: Option<usize>, clients: usize) -> (Server, Vec<Upload>, Server) {
        let before = server(3, 1);
        let sent = uploads(&before, &[Factor::A, Factor::B], &vec![3; clients], 2);
        let mut after = before.clone();
        FedExLora { common: Common::plain(1e-3, 1e-3, true), rank }.aggregate(&mut after, &sent).expect("aggregates");
        (before, sent, after)
    }

    #[test]
    fn adapter_and_residual_together_are_the_mean_of_the_products() {
        let (before, sent, after) = aggregated(None, 3);
        let mut means = before.clone();
        Common::plain(1e-3, 1e-3, true).average(&mut means, &sent, Norm::All);
        assert_eq!(after.adapter, means.adapter, "the adapter is FedIT's");
        for (t, mean) in dense_mean_of_products(&before, &sent).iter().enumerate() {
            assert!(apart(mean, &product_of(&after.model(), t)) < 1e-5);
            assert!(apart(mean, &product_of(&means.model(), t)) > 0.1, "FedIT's is not");
            let target = &before.adapter.targets[t];
            assert_eq!(
                after.merged.a[t].cols,
                6.min(target.d_in).min(target.d_out),
                "three clients of rank 3: two of them"
            );
        }
    }

    #[test]
    fn a_cut_residual_is_the_best_of_its_rank() {
        let (before, sent, after) = aggregated(Some(2), 3);
        for (t, mean) in dense_mean_of_products(&before, &sent).iter().enumerate() {
            assert_eq!(after.merged.a[t].cols, 2);
            let means = product_of(&after.adapter, t);
            let residual: Vec<f64> = mean.iter().zip(means).map(|(x, y)| x - y).collect();
            let best = beyond(2, &residual, before.adapter.targets[t].d_out);
            assert!(best > 1e-3 && (apart(mean, &product_of(&after.model(), t)) - best).abs() < 1e-5);
        }
    }

    #[test]
    fn one_client_leaves_no_residual() {
        let (.., after) = aggregated(None, 1);
        assert!(after.merged.is_empty() && after.merged.pushed == 0);
    }
}
