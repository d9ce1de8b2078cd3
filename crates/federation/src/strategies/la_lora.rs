//! LA-LoRA (Liu et al., ICLR 2026, arXiv 2602.19926): within a client's local steps A and B move in turns, one at a step with the other
//! frozen, so that neither gradient is taken of a factor that moves under it; both are averaged. Under differential privacy a
//! low-pass filter takes noise off again: Laplacian smoothing, as in the published code, here of the mean movement.

use bonfire_engine::{Active, Plan, Terms};
use bonfire_models::Factor;

use super::{Common, Strategy};
use crate::{First, Server};

/// The strategy `la-lora`.
#[derive(Clone, Debug, PartialEq)]
pub struct LaLora {
    /// Learning rates (η_B = 2·η_A unless the user says otherwise, as in the published code), head, and a rule that smooths.
    common: Common,
    /// The factor that moves in the first step.
    first: Factor,
}

impl LaLora {
    /// `smoothing` is σ; 0: none.
    pub fn new(mut common: Common, first: First, smoothing: f64) -> Self {
        common.rule.smoothing = smoothing;
        LaLora { common, first: if first == First::A { Factor::A } else { Factor::B } }
    }
}

impl Strategy for LaLora {
    fn name(&self) -> &'static str {
        "la-lora"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn plan(&self, server: &Server) -> Plan {
        let plan = self.common.plan(server, Active::Both);
        Plan { terms: Terms { turns_from: Some(self.first), ..plan.terms.clone() }, ..plan }
    }
}
