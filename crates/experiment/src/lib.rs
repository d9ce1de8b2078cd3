//! From a configuration to a federated run and its folder, without a terminal.
//!
//! ```no_run
//! use bonfire_experiment::RunConfig;
//!
//! let text = std::fs::read_to_string("configs/quickstart.toml")?;
//! let mut experiment = RunConfig::from_toml(&text)?.load()?;
//! let summary = experiment.train(&mut ())?;
//! println!("accuracy {:?}, {} bytes uploaded", summary.final_accuracy, summary.upload_bytes);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Whoever wants to follow a run, or to end it, hands in a [`Watch`] in place of `()`. [`compare`] runs strategies side by side;
//! [`server`] and [`site`] are the two halves of a run, for federations across machines. A device trains where it is compiled in:
//! by the feature `flex` the CPU, by `wgpu`, `vulkan` and `cuda` GPUs. Several runs may go on in one process, each on a thread of
//! its own; what a run says of itself is in its `run.log`, and on its thread `tracing` events.
//!
//! The program `bonfire` is made of the modules below: what a configuration names ([`config`], [`job`], [`device`]), what a run
//! leaves ([`run_folder`], [`trained`], [`checkpoints`]), and what both are said in ([`mod@format`], [`log`]).
#![deny(missing_docs)]

pub mod checkpoints;
pub mod checkup;
pub mod classes_file;
mod clock;
pub mod compare;
pub mod config;
pub mod device;
pub mod embed;
mod experiment;
mod fingerprint;
pub mod format;
#[cfg(test)]
#[path = "../../../tests/support/hostile.rs"]
mod hostile;
mod hub;
mod interrupt;
pub mod job;
pub mod log;
pub mod memory;
pub mod panics;
pub mod partition_file;
pub mod predict;
pub mod prepare;
pub mod recorder;
mod repo_name;
pub mod run_folder;
mod server;
mod site;
pub mod summary;
mod track;
pub mod trained;
mod trouble;
pub mod user_error;
mod watch;

pub use config::{CheckedConfig, RunConfig};
pub use experiment::Experiment;
pub use interrupt::{Interrupt, Press};
pub use log::RunLog;
pub use server::{OpenServer, server};
pub use site::{Holding, OpenSite, site};
pub use user_error::UserError;
pub use watch::{Facts, Watch};
