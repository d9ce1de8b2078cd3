//! FFA-LoRA (Sun et al., ICLR 2024, arXiv 2403.12313): A stays at its random start, the same for all; clients train B.
//! Aggregation is exact and traffic half of FedIT's.

use bonfire_engine::{Active, Plan};

use super::{Common, Strategy};
use crate::Server;

/// The strategy `ffa-lora`.
#[derive(Clone, Debug, PartialEq)]
pub struct FfaLora {
    /// Learning rates and head.
    pub common: Common,
}

impl Strategy for FfaLora {
    fn name(&self) -> &'static str {
        "ffa-lora"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn plan(&self, server: &Server) -> Plan {
        self.common.plan(server, Active::B)
    }
}
