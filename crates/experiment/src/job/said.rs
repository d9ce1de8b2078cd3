//! How a job's troubles are said: with the place of the key at fault.

use bonfire_data::DataError;
use bonfire_federation::FederationError;

use crate::config::{CheckedConfig, TaskKind};
use crate::user_error::UserError;

/// A setting that turned out not to work, with its place.
pub fn misset(loaded: &CheckedConfig, key: &str, problem: &str) -> UserError {
    UserError::new(format!("`{key}` {problem}")).at(Some(loaded.place_of(key)))
}

/// Gives a federation's complaint about a setting the place of its key.
pub fn federation_error(loaded: &CheckedConfig, error: FederationError) -> anyhow::Error {
    match error {
        FederationError::Setting { key, problem } => misset(loaded, &key, &problem).into(),
        other => other.into(),
    }
}

/// Gives a complaint about a setting the place of its key; other errors name their place themselves.
pub fn placed(loaded: &CheckedConfig, error: DataError) -> anyhow::Error {
    if let DataError::Groups { column, groups, clients } = &error {
        return UserError::new(format!(
            "clients.count = {clients}, but column `{column}` has {groups} different values"
        ))
        .at(Some(loaded.place_of("clients.count")))
        .help(format!("a natural partition has a client for each value: use clients.count = {groups}"))
        .into();
    }
    if let DataError::ColumnUnknown { role: "text", present, .. } = &error
        && loaded.config.model.task != TaskKind::CausalLm
        && of_language_models(present)
    {
        return UserError::new(error.to_string())
            .at(Some(loaded.place_of("model.task")))
            .help("prompts and responses are what a language model learns: set model.task = \"causal-lm\", with a decoder as model.path")
            .into();
    }
    let at = match &error {
        DataError::Unlabelled { .. } => Some("data.partition".to_string()),
        DataError::Wording { key, .. } => Some(format!("data.{key}")),
        _ => None,
    };
    if let Some(key) = at {
        return UserError::new(error.to_string()).at(Some(loaded.place_of(&key))).into();
    }
    if error.is_of_settings() {
        let key = match &error {
            DataError::ShardTooSmall { .. } | DataError::DirichletUnlikely { .. } | DataError::PartitionFile { .. } => {
                "data.partition"
            }
            _ => "data.path",
        };
        return UserError::new(error.to_string()).at(Some(loaded.place_of(key))).into();
    }
    let DataError::Setting { key, value, problem, expected } = &error else { return error.into() };
    let key = match *key {
        "clients" => "clients.count".to_string(),
        "max_length" | "min_shard" | "labels" | "split" => format!("data.{key}"),
        _ => format!("data.partition.{key}"),
    };
    UserError::new(format!("{key} = {value} cannot work: {problem}"))
        .at(Some(loaded.place_of(&key)))
        .help(format!("expected {expected}"))
        .into()
}

/// Whether rows with these columns, as an error lists them, are prompts with responses or conversations.
fn of_language_models(columns: &str) -> bool {
    let has = |name: &str| columns.split(", ").any(|column| column.eq_ignore_ascii_case(name));
    let pairs =
        [("prompt", "response"), ("prompt", "completion"), ("instruction", "output"), ("instruction", "response")];
    has("messages") || has("conversations") || pairs.iter().any(|(prompt, response)| has(prompt) && has(response))
}
