//! Rank heterogeneity with replication (Byun and Lee, NAACL 2025, arXiv 2406.17477): what low-rank clients lack is filled
//! with the aggregate of those that have it, which is to say that every slot is averaged over its owners alone, A and B
//! separately. Clients get the first r_k slots. The paper gives ranks by validation accuracy after the first round; here
//! they are `clients.budget`.

use bonfire_engine::{Active, Plan, Upload};

use super::{Common, Strategy};
use crate::{FederationError, Norm, Server};

/// The strategy `replication`.
#[derive(Clone, Debug, PartialEq)]
pub struct Replication {
    /// Learning rates, head and ranks.
    pub common: Common,
}

impl Strategy for Replication {
    fn name(&self) -> &'static str {
        "replication"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn plan(&self, server: &Server) -> Plan {
        self.common.plan(server, Active::Both)
    }

    fn aggregate(&self, server: &mut Server, uploads: &[Upload]) -> Result<(), FederationError> {
        // All owners of a slot start from the same, so the mean of their ends is the start plus their mean movement.
        self.common.average(server, uploads, Norm::Choosers);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::fixture::{self, RANK, weight};

    #[test]
    fn every_slot_is_the_mean_of_its_owners() {
        let ranks = [3, 1, 2];
        let (before, uploads) = (fixture::server(), fixture::uploads(Active::Both, ranks));
        let mut after = before.clone();
        Replication { common: Common::plain(1e-3, 1e-3, true) }.aggregate(&mut after, &uploads).unwrap();
        for t in 0..2 {
            let (d_in, d_out) = fixture::WIDTHS[t];
            let ends: Vec<_> = (0..3).map(|k| fixture::end(&before, &uploads, k, t)).collect();
            for slot in 0..RANK {
                let owners: Vec<usize> = (0..3).filter(|&k| ranks[k] > slot).collect();
                let total: f64 = owners.iter().map(|&k| weight(k)).sum();
                let mean = |of: &dyn Fn(usize) -> f32| -> f64 {
                    owners.iter().map(|&k| weight(k) / total * f64::from(of(k))).sum()
                };
                for i in 0..d_in {
                    let at = i * RANK + slot;
                    let expected = if owners.is_empty() {
                        before.adapter.a[t].data[at].into()
                    } else {
                        mean(&|k| ends[k].0.data[at])
                    };
                    assert!((f64::from(after.adapter.a[t].data[at]) - expected).abs() < 1e-6);
                }
                for i in 0..d_out {
                    let at = slot * d_out + i;
                    let expected = if owners.is_empty() {
                        before.adapter.b[t].data[at].into()
                    } else {
                        mean(&|k| ends[k].1.data[at])
                    };
                    assert!((f64::from(after.adapter.b[t].data[at]) - expected).abs() < 1e-6);
                }
            }
        }
        fixture::check_head(&before, &after, &uploads);
    }
}
