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
    use crate::client_products::trained;
    use crate::strategies::testing::{server, uploads};
    use bonfire_models::Factor;

    #[test]
    fn every_slot_is_the_mean_of_its_owners() {
        let (before, ranks) = (server(4, 1), [3, 1, 2]);
        let sent = uploads(&before, &[Factor::A, Factor::B], &ranks, 2);
        let mut after = before.clone();
        Replication { common: Common::plain(1e-3, 1e-3, true) }.aggregate(&mut after, &sent).expect("aggregates");
        for t in 0..2 {
            let ends: Vec<_> = sent.iter().map(|u| trained(&before.adapter, u, t)).collect();
            let owners = |slot: usize| (0..3).filter(move |&k| ranks[k] > slot);
            let check = |got: f32, start: f32, slot: usize, end: &dyn Fn(usize) -> f32| {
                let examples: f64 = owners(slot).map(|k| sent[k].examples as f64).sum();
                let sum: f64 = owners(slot).map(|k| sent[k].examples as f64 * f64::from(end(k))).sum();
                let want = if slot == 3 { start.into() } else { sum / examples };
                assert!((f64::from(got) - want).abs() < 1e-6, "slot {slot}: {got} and {want}");
            };
            let (a, b) = (&after.adapter.a[t], &after.adapter.b[t]);
            for (at, &got) in a.data.iter().enumerate() {
                check(got, before.adapter.a[t].data[at], at % 4, &|k| ends[k].0.data[at]);
            }
            for (at, &got) in b.data.iter().enumerate() {
                check(got, before.adapter.b[t].data[at], at / b.cols, &|k| ends[k].1.data[at]);
            }
        }
    }
}
