//! FedIT (Zhang et al., arXiv 2305.05644), "FL+LoRA" in the LoRA-A² paper: clients train A and B, the server averages
//! each on its own. The product of means is not the mean of products; that discordance is the method's known flaw.

use bonfire_engine::{Active, Plan};

use super::{Common, Strategy};
use crate::Server;

/// The strategy `fedit`.
#[derive(Clone, Debug, PartialEq)]
pub struct FedIt {
    /// Learning rates and head.
    pub common: Common,
}

impl Strategy for FedIt {
    fn name(&self) -> &'static str {
        "fedit"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn plan(&self, server: &Server) -> Plan {
        self.common.plan(server, Active::Both)
    }
}
