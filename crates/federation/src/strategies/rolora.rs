//! RoLoRA (Chen et al., NeurIPS 2025, arXiv 2502.01755): A and B take turns, odd rounds B, even rounds A, all slots.

use bonfire_engine::{Active, Plan};

use super::{Common, Strategy, alternate};
use crate::Server;

/// The strategy `rolora`.
#[derive(Clone, Debug, PartialEq)]
pub struct RoLora {
    /// Learning rates and head.
    pub common: Common,
}

impl Strategy for RoLora {
    fn name(&self) -> &'static str {
        "rolora"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn trains(&self, _: &Server) -> Active {
        Active::Both
    }

    fn plan(&self, server: &Server) -> Plan {
        self.common.plan(server, alternate(server.round + 1))
    }
}
