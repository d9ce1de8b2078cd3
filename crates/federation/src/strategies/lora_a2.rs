//! LoRA-A²: alternating freeze and adaptive rank selection (Koo, Jang, Ok; ACL 2025, arXiv 2410.22815).
//!
//! Odd rounds train B, even rounds A. Each client probes, keeps the `budget · targets` slots that contributed most to
//! its probe, starts again and trains those alone. The server adds the example-weighted sum of the movements, an
//! absent slot counting as zero. With one factor frozen and equal on all clients the mean of the products is the
//! product with the mean: aggregation is exact. When a client's budget is the whole rank, nothing is left to select
//! and its probe is skipped only if that holds for every client.

use bonfire_engine::{Active, Per, Plan, Probe, Score, Selection, Upload};

use super::{Common, Strategy, alternate};
use crate::{FederationError, Norm, Server};

/// The strategy `lora-a2`.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraA2 {
    /// Learning rates (η_B = 5·η_A unless the user says otherwise) and head.
    pub common: Common,
    /// How slots are probed.
    pub probe: Probe,
    /// What the probe is asked for.
    pub score: Score,
    /// What a score is divided by.
    pub per: Per,
    /// What the sparse average divides by.
    pub norm: Norm,
    /// Slots per target on average, for every client (r_i).
    pub budgets: Vec<usize>,
    /// Global rank (r_G).
    pub rank: usize,
}

impl Strategy for LoraA2 {
    fn name(&self) -> &'static str {
        "lora-a2"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn trains(&self, _: &Server) -> Active {
        Active::Both
    }

    fn plan(&self, server: &Server) -> Plan {
        let plan = self.common.plan(server, alternate(server.round + 1));
        let selects = self.budgets.iter().any(|&budget| budget < self.rank);
        let (probe, budgets) = (self.probe.clone(), self.budgets.clone());
        let selection = selects.then_some(Selection { probe, score: self.score, per: self.per, budgets });
        Plan { selection, ..plan }
    }

    fn aggregate(&self, server: &mut Server, uploads: &[Upload]) -> Result<(), FederationError> {
        self.common.average(server, uploads, self.norm);
        Ok(())
    }
}
