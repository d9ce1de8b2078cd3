//! Fed-SB (Singhal et al., arXiv 2502.15436) on LoRA-SB: between two fixed orthonormal bases stands a square R × R matrix,
//! which alone is trained and averaged, so aggregation is exact and an upload is R² numbers a target.
//!
//! The paper takes the bases from the SVD of a first full gradient. Ours come from the federation itself: in round 1
//! clients train A and B as ordinary LoRA, and the server takes `U·S·V`, cut to R, of the mean of their products: A = U,
//! B = V and S between them. From round 2 on A and B stay.

use bonfire_engine::{Active, Plan, Upload};
use bonfire_models::Matrix;

use super::{Common, Strategy};
use crate::client_products::{each_target, in_order, mean_of_products};
use crate::{FederationError, Norm, Server};

/// The strategy `fed-sb`.
#[derive(Clone, Debug, PartialEq)]
pub struct FedSb {
    /// Learning rates and head.
    pub common: Common,
}

impl Strategy for FedSb {
    fn name(&self) -> &'static str {
        "fed-sb"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn plan(&self, server: &Server) -> Plan {
        let active = if server.adapter.core.is_empty() { Active::Both } else { Active::Core };
        self.common.plan(server, active)
    }

    fn aggregate(&self, server: &mut Server, uploads: &[Upload]) -> Result<(), FederationError> {
        if !server.adapter.core.is_empty() {
            self.common.average(server, uploads, Norm::All);
            return Ok(());
        }
        let (adapter, uploads) = (&server.adapter, in_order(uploads));
        let rank = adapter.rank;
        let bases = each_target(adapter, |t| {
            let svd = mean_of_products(adapter, &uploads, t).svd()?;
            let ((left, _), (_, right)) = (svd.right_weighted(rank), svd.left_weighted(rank));
            let mut core = Matrix::zeros(rank, rank);
            svd.s.iter().take(rank).enumerate().for_each(|(i, s)| core.data[i * rank + i] = *s as f32);
            Ok((left, right, core))
        })?;
        for (t, (a, b, core)) in bases.into_iter().enumerate() {
            (server.adapter.a[t], server.adapter.b[t]) = (a, b);
            server.adapter.core.push(core);
        }
        self.common.average_heads(server, &uploads);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::testing::{
        apart, beyond, check_orthonormal, dense, dense_mean_of_products, product_of, server, uploads,
    };
    use bonfire_models::Factor;

    fn strategy() -> FedSb {
        FedSb { common: Common::plain(1e-3, 1e-3, true) }
    }

    /// The server after its first round, and what that round's products were on average.
    fn begun() -> (Server, Vec<Vec<f64>>) {
        let before = server(3, 1);
        let sent = uploads(&before, &[Factor::A, Factor::B], &[3, 3, 3], 2);
        let mut after = before.clone();
        assert_eq!(strategy().plan(&before).active, Active::Both);
        strategy().aggregate(&mut after, &sent).expect("aggregates");
        (after, dense_mean_of_products(&before, &sent))
    }

    #[test]
    fn the_first_round_gives_orthonormal_bases_and_the_best_core() {
        let (it, means) = begun();
        for (t, mean) in means.iter().enumerate() {
            let far = apart(mean, &product_of(&it.model(), t));
            assert!((far - beyond(3, mean, it.adapter.targets[t].d_out)).abs() < 1e-5);
            check_orthonormal(&it.adapter.a[t]);
            check_orthonormal(&it.adapter.b[t].transposed());
        }
    }

    #[test]
    fn later_rounds_average_the_core_alone_and_exactly() {
        let (before, _) = begun();
        assert_eq!(strategy().plan(&before).active, Active::Core);
        let sent = uploads(&before, &[Factor::Core], &[3, 3, 3], 4);
        assert_eq!(sent[0].adapter_params(), 2 * 3 * 3);
        let mut after = before.clone();
        strategy().aggregate(&mut after, &sent).expect("aggregates");
        assert_eq!((&before.adapter.a, &before.adapter.b), (&after.adapter.a, &after.adapter.b));
        for t in 0..2 {
            // The mean of the clients' models, each with its own core: examples are 1, 4, 7.
            let mut mean = vec![0.0; before.adapter.a[t].rows * before.adapter.b[t].cols];
            for (upload, weight) in sent.iter().zip([1.0 / 12.0, 4.0 / 12.0, 7.0 / 12.0]) {
                let mut core = before.adapter.core[t].clone();
                core.data.iter_mut().zip(&upload.factors[0].1[t].data).for_each(|(x, d)| *x += d);
                let product = dense(&before.adapter.a[t], &core.matmul(&before.adapter.b[t]));
                mean.iter_mut().zip(product).for_each(|(s, v)| *s += weight * before.adapter.scale() * v);
            }
            assert!(apart(&mean, &product_of(&after.model(), t)) < 1e-5);
        }
    }
}
