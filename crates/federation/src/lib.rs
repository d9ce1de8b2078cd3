//! What runs on the server: the round loop, the strategies, the ledger of what crossed the wire.
#![deny(missing_docs)]

pub mod accountant;
mod aggregate;
pub mod algebra;
mod attack;
mod checkpoint;
mod client_products;
mod clients;
mod clock;
mod coordinator;
mod data_checksum;
mod download;
mod error;
mod evaluation;
mod fair;
mod forecast;
mod grouping;
mod groups;
mod initial_adapter;
mod ledger;
mod metrics;
mod overlap;
mod personalise;
mod pool;
mod protection;
mod robust;
mod rounds;
mod run;
mod secure_sum;
mod server;
mod server_optimizer;
mod settings;
mod site;
mod smoothing;
mod state;
mod strategies;
mod timeline;

pub use aggregate::{CentralNoise, Rule, average};
pub use checkpoint::{Checkpoint, CheckpointError};
pub use coordinator::Coordinator;
pub use download::{Download, DownloadError};
pub use error::FederationError;
pub use fair::Fair;
pub use forecast::{Forecast, Texts, forecast, forecast_of};
pub use ledger::{Ledger, Traffic};
pub use metrics::{BestRound, ClientMetrics, ClientSpread, MemoryUse, Personalised, RoundMetrics, Summary, Times};
pub use protection::PrivacyForecast;
pub use run::{ByClass, Event, RoundConfusion, Run};
pub use secure_sum::SecureSum;
pub use server::Server;
pub use settings::{
    AdapterSettings, AdapterStart, Aggregation, Asynchronous, AttackSettings, Availability, BestBy, Budget, BudgetName,
    BudgetUse, ClientSettings, DeviceKind, EvaluateOn, EvaluateSettings, First, HeadMode, LabelRef, Norm, Personalise,
    PrivacySettings, Prune, Publish, ServerOptimizer, ServerSettings, Settings, Spent, Stragglers, StrategySettings,
    StrategyTraits, TriggerPlace, Weights, Window,
};
pub use site::Site;
pub use state::State;
pub use strategies::{Common, FedIt, FfaLora, LoraA2, RoLora, Strategy};

pub use bonfire_engine::{
    Choice, InFlight, Per, Probe, Progress, Rate, Schedule, Score, Split, TokenizedData, TrainSettings,
};
pub use bonfire_models::AdapterInit;
