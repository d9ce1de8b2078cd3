//! FedSVD (Lee et al., NeurIPS 2025, arXiv 2505.12805): clients train B alone, so averaging it is exact. Then the server
//! takes the product apart, `U·S·V = svd(A·B)`, and the next round has A = U, orthonormal, and B = S·V: the model is the
//! same, and A follows what was learnt.

use bonfire_engine::{Active, Plan, Upload};

use super::{Common, Strategy};
use crate::client_products::{each_target, nothing};
use crate::{FederationError, Norm, Server};

/// The strategy `fedsvd`.
#[derive(Clone, Debug, PartialEq)]
pub struct FedSvd {
    /// Learning rates and head.
    pub common: Common,
}

impl Strategy for FedSvd {
    fn name(&self) -> &'static str {
        "fedsvd"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn plan(&self, server: &Server) -> Plan {
        self.common.plan(server, Active::B)
    }

    fn aggregate(&self, server: &mut Server, uploads: &[Upload]) -> Result<(), FederationError> {
        self.common.average(server, uploads, Norm::All);
        let adapter = &server.adapter;
        let fresh = each_target(adapter, |t| {
            let mut product = nothing(adapter, t);
            product.push(&adapter.a[t], &adapter.b[t], 1.0);
            Ok(product.svd()?.right_weighted(adapter.rank))
        })?;
        for (t, factors) in fresh.into_iter().enumerate() {
            (server.adapter.a[t], server.adapter.b[t]) = factors;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::testing::{apart, check_orthonormal, dense, product_of, server, singular_values, uploads};
    use bonfire_models::Factor;

    fn aggregated(mut server: Server, sent: &[Upload]) -> Server {
        FedSvd { common: Common::plain(1e-3, 1e-3, true) }.aggregate(&mut server, sent).expect("aggregates");
        server
    }

    #[test]
    fn the_model_is_the_mean_and_a_is_orthonormal() {
        let before = server(3, 1);
        let sent = uploads(&before, &[Factor::B], &[3, 3, 3], 2);
        let after = aggregated(before.clone(), &sent);
        for t in 0..2 {
            // With A frozen, the mean of the products is the product with the mean: examples are 1, 4, 7.
            let mut mean = vec![0.0; before.adapter.a[t].rows * before.adapter.b[t].cols];
            for (upload, weight) in sent.iter().zip([1.0 / 12.0, 4.0 / 12.0, 7.0 / 12.0]) {
                let mut b = before.adapter.b[t].clone();
                b.data.iter_mut().zip(&upload.factors[0].1[t].data).for_each(|(x, d)| *x += d);
                let product = dense(&before.adapter.a[t], &b);
                mean.iter_mut().zip(product).for_each(|(s, v)| *s += weight * before.adapter.scale() * v);
            }
            assert!(apart(&mean, &product_of(&after.adapter, t)) < 1e-5);
            check_orthonormal(&after.adapter.a[t]);
            // Rows of B are S·V: orthogonal, and as long as the product's singular values.
            let b = &after.adapter.b[t];
            let s = singular_values(&mean, b.cols);
            for (at, v) in b.matmul(&b.transposed()).data.iter().enumerate() {
                let want = if at / 3 == at % 3 { (s[at / 3] / before.adapter.scale()).powi(2) } else { 0.0 };
                assert!((f64::from(*v) - want).abs() < 1e-5, "{v} and {want}");
            }
        }
    }

    #[test]
    fn an_update_that_is_still_zero_leaves_every_slot_able_to_learn() {
        let mut it = server(3, 1);
        it.adapter.b.iter_mut().for_each(|b| b.data.fill(0.0));
        let mut sent = uploads(&it, &[Factor::B], &[3, 3], 2);
        sent.iter_mut().for_each(|u| u.factors[0].1.iter_mut().for_each(|m| m.data.fill(0.0)));
        aggregated(it, &sent).adapter.a.iter().for_each(check_orthonormal);
    }
}
