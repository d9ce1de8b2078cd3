//! The strategies: each is data plus one formula. One file each, the paper on top.

mod baselines;
mod build;
mod clustered;
mod common;
mod dfl;
mod fed_plora;
mod fed_sb;
mod fedask;
mod fedex_lora;
mod fedit;
mod fedlada;
mod fedpeptao;
mod fedrot_lora;
mod fedsa_lora;
mod fedsvd;
mod ffa_lora;
mod flexlora;
mod flora;
mod florist;
mod fslora;
mod full;
mod hetlora;
mod la_lora;
mod lora_a2;
mod lora_fair;
mod raflora;
mod replication;
mod rolora;
mod sa_fedlora;
mod sora;
#[cfg(test)]
pub(crate) mod testing;
mod xgblora;

use bonfire_engine::{Active, Plan, Upload};

use crate::{FederationError, Norm, Server};

pub(crate) use build::build;
pub use common::Common;
pub use fedit::FedIt;
pub use ffa_lora::FfaLora;
pub use lora_a2::LoraA2;
pub use rolora::RoLora;

/// A federated method: what clients are told, and what becomes of their uploads. One of the project's two public
/// traits.
pub trait Strategy: Send {
    /// The name users write.
    fn name(&self) -> &'static str;

    /// What it shares with the others.
    fn common(&self) -> &Common;

    /// Makes the state before the first round fit the method: nothing, unless it needs something.
    fn begin(&self, _server: &mut Server) {}

    /// The orders for round `server.round + 1`.
    fn plan(&self, server: &Server) -> Plan;

    /// What trains where a client goes on by itself after the last round: all that the strategy trains, whatever the round.
    fn trains(&self, server: &Server) -> Active {
        self.plan(server).active
    }

    /// Brings the server from the round's start to its end: the average of each uploaded tensor, unless the strategy
    /// knows better. There is at least one upload.
    ///
    /// # Errors
    /// The uploads cannot be combined.
    fn aggregate(&self, server: &mut Server, uploads: &[Upload]) -> Result<(), FederationError> {
        self.common().average(server, uploads, Norm::All);
        Ok(())
    }
}

/// The alternation of RoLoRA and LoRA-A²: odd rounds train B, even rounds A. B first, since it starts at zero and
/// would leave A without a gradient; by the server's round, so that all clients of a round agree.
fn alternate(round: usize) -> Active {
    if round % 2 == 1 { Active::B } else { Active::A }
}
