//! Full fine-tuning with FedAvg (McMahan et al., arXiv 1602.05629): clients train every weight of the encoder, the server
//! averages them, `θ ← Σ w_k θ_k`. The baseline that adapters are measured against: in the LoRA-A² paper 124 million
//! scalars a client and round. Pooler and, unless `adapter.head` says otherwise, head stay as they are.
//!
//! One client is on a device at a time, and the uploads of a round lie in memory together: four bytes a weight and
//! client.

use bonfire_engine::{Active, Plan};

use super::{Common, Strategy};
use crate::Server;

/// The strategy `full`.
#[derive(Clone, Debug, PartialEq)]
pub struct Full {
    /// Learning rates and head.
    pub common: Common,
}

impl Strategy for Full {
    fn name(&self) -> &'static str {
        "full"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn plan(&self, server: &Server) -> Plan {
        self.common.plan(server, Active::Full)
    }
}
