//! Fed-SB (Singhal et al., arXiv 2502.15436) on LoRA-SB: between two fixed orthonormal bases stands a square R × R matrix,
//! which alone is trained and averaged, so aggregation is exact and an upload is R² numbers a target.
//!
//! The paper takes the bases from the SVD of a first full gradient. Ours come from the federation itself: in round 1
//! clients train A and B as ordinary LoRA, and the server takes `U·S·V`, cut to R, of the mean of their products: A = U,
//! B = V and S between them. From round 2 on A and B stay.

use bonfire_engine::{Active, Plan, Upload};
use bonfire_models::Matrix;

use super::low_rank::{average_head, for_each_target, mean_of_products};
use super::{Common, Strategy};
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
        let rank = server.adapter.rank;
        let bases = for_each_target(server, |t| {
            let svd = mean_of_products(server, uploads, t).svd()?;
            let ((left, _), (_, right)) = (svd.right_weighted(rank), svd.left_weighted(rank));
            let mut core = Matrix::zeros(rank, rank);
            svd.s.iter().take(rank).enumerate().for_each(|(i, s)| core.data[i * rank + i] = *s as f32);
            Ok((left, right, core))
        })?;
        for (t, (a, b, core)) in bases.into_iter().enumerate() {
            (server.adapter.a[t], server.adapter.b[t]) = (a, b);
            server.adapter.core.push(core);
        }
        average_head(&mut server.adapter, uploads);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::fixture::{self, Dense, RANK, weight};

    fn strategy() -> FedSb {
        FedSb { common: Common::plain(1e-3, 1e-3, true) }
    }

    /// The server after its first round, and what that round's products were on average.
    fn begun() -> (Server, Vec<Dense>) {
        let (before, uploads) = (fixture::server(), fixture::uploads(Active::Both, [4, 4, 4]));
        let mut after = before.clone();
        assert_eq!(strategy().plan(&before).active, Active::Both);
        strategy().aggregate(&mut after, &uploads).unwrap();
        fixture::check_head(&before, &after, &uploads);
        (after, (0..2).map(|t| fixture::mean_of_products(&before, &uploads, [4; 3], t)).collect())
    }

    #[test]
    fn the_first_round_gives_orthonormal_bases_and_the_best_core() {
        let (server, means) = begun();
        for (t, mean) in means.iter().enumerate() {
            assert!((mean.apart(&fixture::model(&server, t)) - mean.beyond(RANK)).abs() < 1e-5);
            let (a, b) = (&server.adapter.a[t], &server.adapter.b[t]);
            for gram in [a.transposed().matmul(a), b.matmul(&b.transposed())] {
                let one = |at: usize| f32::from(u8::from(at / RANK == at % RANK));
                assert!(gram.data.iter().enumerate().all(|(at, v)| (v - one(at)).abs() < 1e-5));
            }
        }
    }

    #[test]
    fn later_rounds_average_the_core_alone_and_exactly() {
        let (before, _) = begun();
        assert_eq!(strategy().plan(&before).active, Active::Core);
        let uploads = fixture::uploads(Active::Core, [4, 4, 4]);
        assert_eq!(uploads[0].adapter_params(), (2 * RANK * RANK) as u64);
        let mut after = before.clone();
        strategy().aggregate(&mut after, &uploads).unwrap();
        assert_eq!((&before.adapter.a, &before.adapter.b), (&after.adapter.a, &after.adapter.b));
        for t in 0..2 {
            // The mean of the clients' models, each with its own core.
            let mut mean = Dense::zeros(t);
            for upload in &uploads {
                let mut own = before.adapter.core[t].clone();
                own.data.iter_mut().zip(&upload.factors[0].1[t].data).for_each(|(x, d)| *x += d);
                let b = own.matmul(&before.adapter.b[t]);
                mean.add(&before.adapter.a[t], &b, 0..RANK, weight(upload.client));
            }
            assert!(mean.apart(&fixture::model(&after, t)) < 1e-5);
        }
        fixture::check_head(&before, &after, &uploads);
    }
}
