//! FedSA-LoRA (Guo et al., ICLR 2025, arXiv 2410.01463): clients train A and B and share A alone; B and the head stay
//! with each client. There is no global model: what counts is how well each client's own model does on its own test
//! examples.

use bonfire_engine::{Active, Plan, Private};
use bonfire_models::Factor;

use super::{Common, Strategy};
use crate::Server;

/// The strategy `fedsa-lora`.
#[derive(Clone, Debug, PartialEq)]
pub struct FedSaLora {
    /// Learning rates and head.
    pub common: Common,
}

impl Strategy for FedSaLora {
    fn name(&self) -> &'static str {
        "fedsa-lora"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn plan(&self, server: &Server) -> Plan {
        let private = Private { factors: vec![Factor::B], head: true, ..Private::default() };
        Plan { private, ..self.common.plan(server, Active::Both) }
    }
}
