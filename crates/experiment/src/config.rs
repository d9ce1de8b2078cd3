//! The configuration of a run: one TOML file, checked once, unknown keys refused.
//! The sections' keys are owned by the crates that act on them; what is wrong with one is said with its file, line and key.

mod check;
mod difference;
mod document;
mod explain;
mod key;
mod load;
mod meant;
mod measured;
mod moved;
mod overrides;
mod run_config;
mod sample;
mod schema;
mod sections;
mod starters;

pub use difference::{Difference, differences, shared, values_of};
pub use explain::nearest;
pub use load::{CheckedConfig, load, load_of_run, of_table, parse};
pub use meant::key as key_elsewhere;
pub use moved::bring_up_to_date;
#[cfg(test)]
pub(crate) use run_config::QUICKSTART;
pub use run_config::RunConfig;
pub use schema::{keys, path_to, schema, words};
pub use sections::{
    DataSection, EngineSection, LabelColumns, ModelSection, SaveSection, Source, TaskKind, TextColumns, TrackSection,
};
pub use starters::Starter;

#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
mod untrusted;
