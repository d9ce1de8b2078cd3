//! DFL (Luo et al., ICML 2022, arXiv 2206.06818), in a federated form of our own on adapters: disentangled learning with
//! two branches side by side in one adapter. The shared slots are averaged, the private ones stay with each client; odd
//! local steps train the private branch and even ones the shared branch and the head, each with the other frozen. A
//! term `−β·JS(z_shared, z_private)` pushes their answers apart; the paper's mutual-information estimate is replaced by
//! it. The global model is the shared branch alone, a client's own model both.

use bonfire_engine::{Active, Branches, Plan, Private};

use super::{Common, Strategy};
use crate::Server;

/// The strategy `dfl`.
#[derive(Clone, Debug, PartialEq)]
pub struct Dfl {
    /// Learning rates and head.
    pub common: Common,
    /// Slots of every target that are private, the last ones.
    pub private: usize,
    /// Weight β of the term that pushes the branches apart.
    pub divergence_weight: f64,
}

impl Strategy for Dfl {
    fn name(&self) -> &'static str {
        "dfl"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn plan(&self, server: &Server) -> Plan {
        let shared = server.adapter.rank - self.private;
        let mut plan = self.common.plan(server, Active::Both);
        plan.private = Private { slots_from: Some(shared), ..Private::default() };
        plan.terms.branches = Some(Branches { shared, divergence_weight: self.divergence_weight });
        plan
    }
}
