//! The strategies: each is data plus one formula. One file each, the paper on top.

mod fedit;
mod ffa_lora;
mod lora_a2;
mod rolora;

use bonfire_engine::{Active, Plan, TrainSettings, Upload};

use crate::{FederationError, Norm, Server, Settings, StrategySettings, average};

pub use fedit::FedIt;
pub use ffa_lora::FfaLora;
pub use lora_a2::LoraA2;
pub use rolora::RoLora;

/// A federated method: what clients are told, and what becomes of their uploads. One of the project's two public
/// traits.
pub trait Strategy: Send {
    /// The name users write.
    fn name(&self) -> &'static str;

    /// The orders for round `server.round + 1`.
    fn plan(&self, server: &Server) -> Plan;

    /// Brings the server from the round's start to its end: the example-weighted mean of each uploaded tensor, unless
    /// the strategy knows better.
    ///
    /// # Errors
    /// The uploads cannot be combined.
    fn aggregate(&self, server: &mut Server, uploads: &[Upload]) -> Result<(), FederationError> {
        average(&mut server.adapter, uploads, Norm::All);
        Ok(())
    }
}

/// What every strategy needs to know to write a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Common {
    /// Learning rate of A.
    pub lr_a: f64,
    /// Learning rate of B.
    pub lr_b: f64,
    /// Whether the head trains.
    pub train_head: bool,
}

impl Common {
    /// `b_over_a` is the strategy's own ratio of learning rates, for when the user gave none for B.
    fn new(train: &TrainSettings, train_head: bool, b_over_a: f64) -> Self {
        Common { lr_a: train.lr_a, lr_b: train.lr_b.unwrap_or(b_over_a * train.lr_a), train_head }
    }

    /// A plan without selection for the server's next round.
    fn plan(&self, server: &Server, active: Active) -> Plan {
        let Common { lr_a, lr_b, train_head } = *self;
        Plan { round: server.round + 1, active, selection: None, train_head, lr_a, lr_b }
    }
}

/// The alternation of RoLoRA and LoRA-A²: odd rounds train B, even rounds A. B first, since it starts at zero and
/// would leave A without a gradient; by the server's round, so that all clients of a round agree.
fn alternate(round: usize) -> Active {
    if round % 2 == 1 { Active::B } else { Active::A }
}

/// The strategy that `settings` name; `budgets` are the clients' slots per target.
pub(crate) fn build(settings: &Settings, budgets: Vec<usize>) -> Box<dyn Strategy> {
    let common = |ratio| Common::new(&settings.train, settings.trains_head(), ratio);
    match &settings.strategy {
        StrategySettings::LoraA2 { probe, norm } => Box::new(LoraA2 {
            common: common(5.0),
            probe: probe.clone(),
            norm: *norm,
            budgets,
            rank: settings.adapter.rank,
        }),
        StrategySettings::FedIt {} => Box::new(FedIt { common: common(1.0) }),
        StrategySettings::FfaLora {} => Box::new(FfaLora { common: common(1.0) }),
        StrategySettings::RoLora {} => Box::new(RoLora { common: common(1.0) }),
    }
}
