//! FedRot-LoRA (Zhang et al., ICML 2026, arXiv 2602.23638): FedIT, with each client's slots turned by the rotation that brings one of its
//! factors nearest to the round's start, which leaves its product as it is and makes the mean of the factors mean something.
//! Even rounds look at A, odd ones at B; the first, in which B began at zero, at neither. Clients turn before they send, so the
//! server needs the sum alone.

use bonfire_engine::{Active, Alignment, Plan};
use bonfire_models::Factor;

use super::{Common, Strategy};
use crate::Server;

/// The strategy `fedrot-lora`.
#[derive(Clone, Debug, PartialEq)]
pub struct FedRotLora {
    /// Learning rates and head.
    pub common: Common,
    /// λ: how far slots are turned.
    pub lambda: f64,
}

impl Strategy for FedRotLora {
    fn name(&self) -> &'static str {
        "fedrot-lora"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn plan(&self, server: &Server) -> Plan {
        let plan = self.common.plan(server, Active::Both);
        let to = if plan.round.is_multiple_of(2) { Factor::A } else { Factor::B };
        let align = (plan.round > 1).then_some(Alignment { to, strength: self.lambda });
        Plan { align, ..plan }
    }
}
