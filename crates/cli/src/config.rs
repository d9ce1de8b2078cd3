//! The configuration of a run: one TOML file, checked once, unknown keys refused.
//! The sections' keys are owned by the crates that act on them; what is wrong with one is said with its file, line and key.

mod check;
mod difference;
mod document;
mod explain;
pub mod moved;
mod overrides;
mod sample;
mod schema;
mod sections;

use std::io::Read;
use std::path::Path;

use bonfire_engine::{Problem, TrainSettings};
use bonfire_federation::{
    AdapterSettings, AttackSettings, Budget, BudgetUse, ClientSettings, EvaluateSettings, PrivacySettings,
    ServerSettings, Settings, StrategySettings,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::hub::RepoName;
use crate::user_error::UserError;
pub use difference::{Difference, differences, shared};
use document::Document;
use overrides::Override;
pub use sample::sample;
pub use schema::schema;
pub use sections::{
    DataSection, EngineSection, ModelSection, SaveSection, Source, TaskKind, TextColumns, TrackSection,
};

/// What `train` runs when no file is named.
const QUICKSTART: &str = include_str!("../../../configs/quickstart.toml");

/// A checked configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Name of the run; left out: the file's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The frozen backbone.
    pub model: ModelSection,
    /// The texts and how they are dealt out.
    pub data: DataSection,
    /// Who takes part.
    pub clients: ClientSettings,
    /// The adapter all clients share.
    pub adapter: AdapterSettings,
    /// Local training.
    pub train: TrainSettings,
    /// How uploads become the next global adapter.
    pub strategy: StrategySettings,
    /// How movements are combined, where the strategy averages them.
    #[serde(default)]
    pub server: ServerSettings,
    /// What is done so that an upload tells little about its client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy: Option<PrivacySettings>,
    /// Clients that mean harm, for experiments; left out: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attack: Option<AttackSettings>,
    /// How the work is put on the device.
    #[serde(default)]
    pub engine: EngineSection,
    /// When and how the global model is evaluated.
    #[serde(default)]
    pub evaluate: EvaluateSettings,
    /// How often the run is saved.
    #[serde(default)]
    pub save: SaveSection,
    /// Files for other tools that follow a run.
    #[serde(default)]
    pub track: TrackSection,
}

/// A configuration and what the user should know about how it was read.
pub struct Loaded {
    /// The configuration, defaults filled in.
    pub config: RunConfig,
    /// One line each.
    pub notices: Vec<String>,
    document: Document,
}

impl Loaded {
    /// Where a reader finds the value of `key`: file and line, or the `--set` text.
    pub fn place_of(&self, key: &str) -> String {
        self.document.place_of(&path_of(key))
    }
}

/// Reads the configuration in `file`, or the embedded quickstart, with `--set` overrides.
///
/// # Errors
/// A file that cannot be read, is not TOML, or holds an unknown key, a wrong type or a value that cannot work.
pub fn load(file: Option<&Path>, sets: &[String]) -> Result<Loaded, UserError> {
    let (name, stem, text) = match file {
        None => ("the built-in quickstart".to_string(), "quickstart".to_string(), QUICKSTART.to_string()),
        Some(path) => (path.display().to_string(), stem(path), read_text(path)?),
    };
    let mut loaded = parse(&name, &text, sets)?;
    loaded.config.name.get_or_insert(stem);
    Ok(loaded)
}

/// Reads the configuration that a run left in its folder, with `--set` overrides; keys that stood elsewhere when it was written are
/// understood.
///
/// # Errors
/// As for [`load`].
pub fn load_of_run(file: &Path, sets: &[String]) -> Result<Loaded, UserError> {
    let mut document = Document::parse(&file.display().to_string(), &read_text(file)?)?;
    moved::bring_up_to_date(&mut document.table);
    let mut loaded = check(document, sets)?;
    loaded.config.name.get_or_insert(stem(file));
    Ok(loaded)
}

/// Checks the configuration in `text`; `name` is what messages call it.
///
/// # Errors
/// As for [`load`], without those of the file itself.
pub fn parse(name: &str, text: &str, sets: &[String]) -> Result<Loaded, UserError> {
    check(Document::parse(name, text)?, sets)
}

/// Checks a configuration that was never text; `name` is what messages call it.
///
/// # Errors
/// As for [`parse`].
pub fn of_table(name: &str, table: toml::Table, sets: &[String]) -> Result<Loaded, UserError> {
    check(Document::of(name, table), sets)
}

fn check(mut document: Document, sets: &[String]) -> Result<Loaded, UserError> {
    let for_builtin = document.get(&path_of("data.path")).and_then(toml::Value::as_str) == Some("builtin");
    for set in sets {
        let change = Override::parse(set)?;
        if change.is_none() && schema::can_be_unset(&change.path) {
            document.unset(change)
        } else {
            document.apply(change)?
        }
    }
    let mut notices = Vec::new();
    if for_builtin {
        notices.extend(drop_keys_of_builtin(&mut document));
    }
    let mut config: RunConfig = check::read(&mut document, &mut notices)?;
    notices.extend(drop_budget(&mut config, &document));
    match config.problem() {
        None => {
            notices.extend(config.settings().warnings());
            Ok(Loaded { config, notices, document })
        }
        Some(Problem { key, what }) => {
            let place = document.place_of(&path_of(key));
            Err(UserError::new(format!("`{key}` {what}")).at(Some(place)).help_for(key))
        }
    }
}

impl RunConfig {
    /// What the federation reads of it.
    pub fn settings(&self) -> Settings {
        Settings {
            clients: self.clients.clone(),
            adapter: self.adapter.clone(),
            train: self.train.clone(),
            strategy: self.strategy.clone(),
            server: self.server,
            privacy: self.privacy,
            attack: self.attack,
            evaluate: self.evaluate.clone(),
            engine: self.engine.settings(),
        }
    }

    /// The run's name.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or("run")
    }

    /// The partition's kind and values in words, as `dirichlet, alpha 0.1`.
    pub fn partition_words(&self) -> String {
        let table = toml::Table::try_from(&self.data.partition).unwrap_or_default();
        let values = table.iter().filter(|(key, _)| *key != "kind").map(|(key, value)| format!(", {key} {value}"));
        let kind = table.get("kind").and_then(toml::Value::as_str).unwrap_or_default();
        format!("{kind}{}", values.collect::<String>())
    }

    /// The configuration as TOML, all defaults written out.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("settings are plain tables, numbers and text")
    }

    /// The first value that cannot work.
    fn problem(&self) -> Option<Problem> {
        self.own_problem().or_else(|| self.settings().problem())
    }

    /// The first problem in the parts that belong to the binary.
    fn own_problem(&self) -> Option<Problem> {
        let file_name = |name: &str| {
            let fits = |c: char| c.is_alphanumeric() || "-_.".contains(c);
            !name.is_empty() && !name.starts_with('.') && name.chars().all(fits)
        };
        let checks = [
            (
                "name",
                self.name.as_deref().is_none_or(file_name),
                "must be letters, digits, `-`, `_` and `.`: it names the run's folder",
            ),
            ("model.path", self.model.path != Source::Unset, "is not set"),
            ("data.path", self.data.path != Source::Unset, "is not set"),
            ("model.path", self.model.path.is_well_named(), RepoName::FORM),
            ("data.path", self.data.path.is_well_named_data(), RepoName::DATA_FORM),
            (
                "data.max_length",
                self.data.max_length >= 3,
                "must be at least 3: a text's first and last special token and one of its own",
            ),
            ("save.every", self.save.every >= 1, "must be at least 1"),
            (
                "save.keep",
                self.save.keep >= 2,
                "must be at least 2: one checkpoint that is good while the next is written",
            ),
            ("data.labels", self.data.labels.is_none_or(|n| n >= 2), "must be at least 2"),
            (
                "data.text",
                self.data.text.is_none() || self.data.prompt.is_none(),
                "names the texts, and data.prompt and data.response make them: set one of both",
            ),
            (
                "data.text",
                self.model.task == TaskKind::Classification || !matches!(&self.data.text, Some(TextColumns::Pair(_))),
                "names a pair, which is for classifiers; a language model learns one column, or data.prompt and data.response",
            ),
            (
                "data.split",
                self.data.split.is_none_or(|s| {
                    [s.test, s.validation].iter().all(|share| (0.0..1.0).contains(share))
                        && s.test + s.validation > 0.0
                        && s.test + s.validation < 1.0
                }),
                "must hold shares from 0 that leave rows to train on, such as { test = 0.2, validation = 0.1 }",
            ),
            (
                "data.prompt",
                self.data.prompt.is_some() || self.data.response.is_none(),
                "is not set, but data.response is: set both or neither",
            ),
            (
                "data.response",
                self.data.response.is_some() || self.data.prompt.is_none(),
                "is not set, but data.prompt is: set both or neither",
            ),
            (
                "data.prompt",
                self.data.prompt.is_none() || self.model.task == TaskKind::CausalLm,
                "is for causal language models: set model.task = \"causal-lm\", or leave it and data.response out",
            ),
        ];
        checks.into_iter().find(|(_, fine, _)| !fine).map(|(key, _, what)| Problem::new(key, what))
    }
}

impl UserError {
    /// Adds what a user who has no model or data at hand needs to know.
    fn help_for(self, key: &str) -> UserError {
        match key {
            "model.path" | "data.path" => self.help(
                "pass --set model.path=DIR --set data.path=DIR\n\
                 model: a Hugging Face folder with config.json, model.safetensors and tokenizer.json\n\
                 data: a folder with train.jsonl and test.jsonl (or .csv, .parquet …), each row with `text` and `label`, or\n\
                 for a causal language model with `prompt` and `response`, `instruction` and `output`, `messages` or `text`\n\
                 either can be a repository of the Hugging Face Hub: hf:org/name",
            ),
            _ => self,
        }
    }
}

/// The file's name without its ending, as far as it can name a folder.
fn stem(path: &Path) -> String {
    let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let fit = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    match stem.trim_start_matches('.').chars().map(fit).collect::<String>() {
        empty if empty.is_empty() => "run".to_string(),
        stem => stem,
    }
}

/// Bytes that a configuration may have; the largest of ours has a few thousand.
const MOST: u64 = 16 << 20;

fn read_text(path: &Path) -> Result<String, UserError> {
    let cannot = |what: &dyn std::fmt::Display| {
        UserError::new(format!("cannot read the configuration {}: {what}", path.display()))
    };
    let mut text = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(MOST + 1).read_to_end(&mut text));
    read.map_err(|error| cannot(&error))?;
    if text.len() as u64 > MOST {
        return Err(cannot(&format!("it has more than {MOST} bytes, which no configuration needs")));
    }
    String::from_utf8(text).map_err(|_| cannot(&"it is not UTF-8 text"))
}

/// What a configuration says of the built-in texts holds for them alone: with other data from `--set` it is left out.
fn drop_keys_of_builtin(document: &mut Document) -> Option<String> {
    let path = path_of("data.path");
    let other = document.get(&path).and_then(toml::Value::as_str).is_some_and(|path| !path.starts_with("builtin"));
    if !other || !document.is_overridden(&path) {
        return None;
    }
    let keys = ["data.labels", "data.min_shard"].map(path_of);
    let own: Vec<String> = keys
        .iter()
        .filter(|key| document.get(key).is_some() && !document.is_overridden(key))
        .map(|key| format!("{} ({})", key.join("."), document.place_of(key)))
        .collect();
    for key in keys {
        if !document.is_overridden(&key) {
            document::remove(&mut document.table, &key);
        }
    }
    (!own.is_empty()).then(|| format!("left out, since they are for the built-in texts: {}", own.join(" and ")))
}

/// A file's budgets were written for the file's strategy: with another one from `--set` they are left out like that
/// strategy's own keys.
fn drop_budget(config: &mut RunConfig, document: &Document) -> Option<String> {
    let [budget, strategy] = ["clients.budget", "strategy.name"].map(path_of);
    let reads = config.strategy.traits().budget != BudgetUse::None;
    let given = config.clients.budget != Budget::Full;
    if reads || !given || !document.is_overridden(&strategy) || document.is_overridden(&budget) {
        return None;
    }
    config.clients.budget = Budget::Full;
    let place = document.place_of(&budget);
    Some(format!(
        "clients.budget ({place}) is left out: the clients of {} all hold adapter.rank",
        config.strategy.name()
    ))
}

/// `train.rounds` as its parts.
fn path_of(key: &str) -> Vec<String> {
    key.split('.').map(str::to_string).collect()
}

/// The section in which the quickstart has a key of this name.
fn home_of(key: &str) -> Option<String> {
    let config: RunConfig = toml::from_str(QUICKSTART).ok()?;
    let table: toml::Table = toml::from_str(&config.to_toml()).ok()?;
    let holds = |value: &toml::Value| value.as_table().is_some_and(|section| section.contains_key(key));
    table.iter().find(|(_, value)| holds(value)).map(|(section, _)| section.clone())
}

#[cfg(test)]
pub mod tests;
#[cfg(test)]
mod untrusted;
