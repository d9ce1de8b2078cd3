//! FedSVD (Lee et al., NeurIPS 2025, arXiv 2505.12805): clients train B alone, so averaging it is exact. Then the server
//! takes the product apart, `U·S·V = svd(A·B)`, and the next round has A = U, orthonormal, and B = S·V: the model is the
//! same, and A follows what was learnt.

use bonfire_engine::{Active, Plan, Upload};

use super::low_rank::{empty, for_each_target};
use super::{Common, Strategy};
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
        let fresh = for_each_target(server, |t| {
            let mut product = empty(server, t);
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
    use crate::strategies::fixture::{self, RANK};

    fn aggregated(mut server: Server, uploads: &[Upload]) -> Server {
        FedSvd { common: Common::plain(1e-3, 1e-3, true) }.aggregate(&mut server, uploads).unwrap();
        server
    }

    #[track_caller]
    fn check_orthonormal(server: &Server) {
        for a in &server.adapter.a {
            let gram = a.transposed().matmul(a);
            let one = |at: usize| f32::from(u8::from(at / RANK == at % RANK));
            assert!(gram.data.iter().enumerate().all(|(at, v)| (v - one(at)).abs() < 1e-5), "{gram:?}");
        }
    }

    #[test]
    fn the_model_is_the_mean_and_a_is_orthonormal() {
        let (before, uploads) = (fixture::server(), fixture::uploads(Active::B, [4, 4, 4]));
        let after = aggregated(before.clone(), &uploads);
        for t in 0..2 {
            let mean = fixture::mean_of_products(&before, &uploads, [4; 3], t);
            assert!(mean.apart(&fixture::model(&after, t)) < 1e-5);
            // Rows of B are S·V: orthogonal, of the product's singular values.
            let b = &after.adapter.b[t];
            let gram = b.matmul(&b.transposed());
            for (at, v) in gram.data.iter().enumerate() {
                let (i, j) = (at / RANK, at % RANK);
                let expected = if i == j { mean.singular_values()[i].powi(2) } else { 0.0 };
                assert!((f64::from(*v) - expected).abs() < 1e-4, "{v} and {expected}");
            }
        }
        check_orthonormal(&after);
        fixture::check_head(&before, &after, &uploads);
    }

    #[test]
    fn an_update_that_is_still_zero_leaves_every_slot_able_to_learn() {
        let mut server = fixture::server();
        server.adapter.b.iter_mut().for_each(|b| b.data.fill(0.0));
        let mut uploads = fixture::uploads(Active::B, [4, 4, 4]);
        uploads.iter_mut().for_each(|u| u.factors[0].1.iter_mut().for_each(|m| m.data.fill(0.0)));
        check_orthonormal(&aggregated(server, &uploads));
    }
}
