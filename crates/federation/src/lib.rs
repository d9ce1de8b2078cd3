//! What runs on the server: the round loop, the strategies, the ledger of what crossed the wire.
#![deny(missing_docs)]

pub mod accountant;
mod aggregate;
pub mod algebra;
mod error;
mod ledger;
mod records;
mod rounds;
mod run;
mod server;
mod settings;
mod strategies;

pub use aggregate::average;
pub use error::FederationError;
pub use ledger::{Ledger, Traffic};
pub use records::{ClientMetrics, RoundMetrics, Summary};
pub use run::{Control, Event, Run};
pub use server::Server;
pub use settings::{
    AdapterSettings, Budget, BudgetName, ClientSettings, EvaluateSettings, HeadMode, Norm, Settings, StrategySettings,
};
pub use strategies::{Common, FedIt, FfaLora, LoraA2, RoLora, Strategy};

pub use bonfire_engine::{InFlight, Probe, Progress, Schedule, Split, TokenizedData, TrainSettings};
pub use bonfire_models::AdapterInit;
