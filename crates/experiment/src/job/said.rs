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
    if let DataError::Groups { column, values, groups, clients } = &error {
        return UserError::new(format!(
            "clients.count = {clients}, but column `{column}` makes {groups} clients of its values: {values}"
        ))
        .at(Some(loaded.place_of("clients.count")))
        .help(format!(
            "use clients.count = {groups}; to plan for another number, `cost` and `plan` take --rows N, the training rows of a client"
        ))
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
    if let DataError::FieldMissing { field, present, .. } = &error
        && let Some(key) = key_of_column(loaded, field)
    {
        return UserError::new(error.to_string())
            .at(Some(loaded.place_of(&key)))
            .help(near(field, present, &key))
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
            DataError::SplitNamed { split, .. } => &format!("data.{split}"),
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

/// The key of `[data]` that names this column.
fn key_of_column(loaded: &CheckedConfig, field: &str) -> Option<String> {
    let data = serde_json::to_value(&loaded.config.data).ok()?;
    let names = |value: &serde_json::Value| match value {
        serde_json::Value::String(name) => name == field,
        serde_json::Value::Array(names) => names.iter().any(|name| name == field),
        _ => false,
    };
    let key = ["text", "label"].into_iter().find(|key| names(&data[*key]));
    key.or_else(|| names(&data["partition"]["column"]).then_some("partition.column")).map(|key| format!("data.{key}"))
}

/// What was perhaps meant.
fn near(field: &str, present: &str, key: &str) -> String {
    let close =
        |name: &&str| strsim::normalized_damerau_levenshtein(&field.to_lowercase(), &name.to_lowercase()) >= 0.6;
    match present.split(", ").find(close) {
        Some(name) => format!("did you mean {key} = \"{name}\"?"),
        None => format!(
            "{key} names a column of the file's first row, or a field of its objects; where the first row is a text already, give the file a \
             row of names"
        ),
    }
}

/// Whether rows with these columns, as an error lists them, are prompts with responses or conversations.
fn of_language_models(columns: &str) -> bool {
    let has = |name: &str| columns.split(", ").any(|column| column.eq_ignore_ascii_case(name));
    let pairs =
        [("prompt", "response"), ("prompt", "completion"), ("instruction", "output"), ("instruction", "response")];
    has("messages") || has("conversations") || pairs.iter().any(|(prompt, response)| has(prompt) && has(response))
}
