//! FedEx-LoRA (Singhal, Ponkshe, Vepakomma, ACL 2025, arXiv 2410.09432): A and B are averaged as in FedIT, and what the
//! product of the means misses, `Σ w_k·A_k·B_k − Ā·B̄`, is merged into the backbone: aggregation is exact. The residual
//! has rank up to K·r and is sent as factors; `rank` cuts it to its leading parts (the paper's truncated variant).

use bonfire_engine::{Active, Plan, Upload};

use super::low_rank::{for_each_target, mean_of_products, merge};
use super::{Common, Strategy};
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
        let ends = for_each_target(server, |t| Ok(mean_of_products(server, uploads, t)))?;
        self.common.average(server, uploads, Norm::All);
        let adapter = &server.adapter;
        let residuals = for_each_target(server, |t| {
            let mut residual = ends[t].clone();
            residual.push(&adapter.a[t], &adapter.b[t], -1.0);
            residual.svd()
        })?;
        if residuals.iter().all(|svd| svd.rank() == 0) {
            return Ok(());
        }
        let scale = adapter.scale() as f32;
        let factors = |svd: &crate::algebra::Svd| {
            let (mut a, b) = svd.split(svd.rank().min(self.rank.unwrap_or(usize::MAX)).max(1));
            a.data.iter_mut().for_each(|v| *v *= scale);
            (a, b)
        };
        let updates = residuals.iter().map(factors).collect();
        merge(server, updates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::fixture;

    fn aggregated(rank: Option<usize>, uploads: &[Upload]) -> (Server, Server) {
        let before = fixture::server();
        let mut after = before.clone();
        FedExLora { common: Common::plain(1e-3, 1e-3, true), rank }.aggregate(&mut after, uploads).unwrap();
        (before, after)
    }

    #[test]
    fn adapter_and_residual_together_are_the_mean_of_the_products() {
        let uploads = fixture::uploads(Active::Both, [4, 4, 4]);
        let (before, after) = aggregated(None, &uploads);
        let mut means = before.clone();
        Common::plain(1e-3, 1e-3, true).average(&mut means, &uploads, Norm::All);
        assert_eq!(after.adapter, means.adapter, "the adapter is FedIT's");
        for t in 0..2 {
            let mean = fixture::mean_of_products(&before, &uploads, [4; 3], t);
            assert!(mean.apart(&fixture::model(&after, t)) < 1e-5);
            assert!(mean.apart(&fixture::model(&means, t)) > 0.1, "FedIT's is not");
        }
        fixture::check_head(&before, &after, &uploads);
    }

    #[test]
    fn a_cut_residual_is_the_best_of_its_rank() {
        let uploads = fixture::uploads(Active::Both, [4, 4, 4]);
        let (before, after) = aggregated(Some(2), &uploads);
        for t in 0..2 {
            assert_eq!(after.merged.a[t].cols, 2);
            let mean = fixture::mean_of_products(&before, &uploads, [4; 3], t);
            let mut residual = mean.clone();
            residual.add(&after.adapter.a[t], &after.adapter.b[t], 0..4, -1.0);
            assert!((mean.apart(&fixture::model(&after, t)) - residual.beyond(2)).abs() < 1e-5);
        }
    }

    #[test]
    fn one_client_leaves_no_residual() {
        let uploads = &fixture::uploads(Active::Both, [4, 4, 4])[..1];
        assert!(aggregated(None, uploads).1.merged.is_empty());
    }
}
