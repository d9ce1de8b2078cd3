//! The two lines that a federation is to lie between: each client alone, and all rows in one place. Both train A and B as FedIT does,
//! over the same rounds, with the same rates and an optimizer that starts anew every round; nothing crosses.

use bonfire_engine::{Active, Plan, Private, Upload};
use bonfire_models::Factor;

use super::{Common, Strategy};
use crate::aggregate::average;
use crate::{FederationError, Norm, Server};

/// The strategy `local`: everything a client learns stays with it. A client trains in the rounds in which it would take part.
#[derive(Clone, Debug, PartialEq)]
pub struct Local {
    /// Learning rates and head.
    pub common: Common,
}

impl Strategy for Local {
    fn name(&self) -> &'static str {
        "local"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn plan(&self, server: &Server) -> Plan {
        let private = Private { factors: vec![Factor::A, Factor::B], head: true, ..Private::default() };
        Plan { private, ..self.common.plan(server, Active::Both) }
    }

    fn aggregate(&self, _: &mut Server, _: &[Upload]) -> Result<(), FederationError> {
        Ok(())
    }
}

/// The strategy `pooled`: one client with all rows, whose steps are those of the round's clients together; see [`crate::pool`].
#[derive(Clone, Debug, PartialEq)]
pub struct Pooled {
    /// Learning rates and head.
    pub common: Common,
}

impl Strategy for Pooled {
    fn name(&self) -> &'static str {
        "pooled"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn plan(&self, server: &Server) -> Plan {
        self.common.plan(server, Active::Both)
    }

    fn aggregate(&self, server: &mut Server, uploads: &[Upload]) -> Result<(), FederationError> {
        average(&mut server.adapter, uploads, Norm::All);
        Ok(())
    }
}
