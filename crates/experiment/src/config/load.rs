//! From a file, a text or a table to a configuration that can work.

use std::io::Read;
use std::path::{Path, PathBuf};

use bonfire_data::Partition;
use bonfire_engine::Problem;
use bonfire_federation::{AdapterStart, Budget, BudgetUse};

use super::document::Document;
use super::key::{path_of, remove};
use super::overrides::Override;
use super::run_config::{NOT_SET, QUICKSTART, RunConfig};
use super::sections::Source;
use super::{check, measured, moved, schema};
use crate::run_folder::{self, CONFIG, METRICS};
use crate::user_error::UserError;

/// A configuration that can work, and what the user should know about how it was read.
pub struct CheckedConfig {
    /// The configuration, defaults filled in.
    pub config: RunConfig,
    /// One line each.
    pub notices: Vec<String>,
    document: Document,
    began_in: Option<PathBuf>,
}

impl CheckedConfig {
    /// The same on these devices, given as `engine.device` is.
    ///
    /// # Errors
    /// No device is called so.
    pub fn on(mut self, devices: &str) -> Result<CheckedConfig, UserError> {
        let devices = devices.parse().map_err(|what: String| UserError::new(format!("device = {what}")))?;
        self.config.engine.device = devices;
        Ok(self)
    }

    /// For a run's own configuration: the directory in which the run began.
    pub fn began_in(&self) -> Option<&Path> {
        self.began_in.as_deref()
    }

    /// Whether the value of `key` was given with `--set`.
    pub fn is_overridden(&self, key: &str) -> bool {
        self.document.is_overridden(&path_of(key))
    }

    /// Where a reader finds the value of `key`: file and line, or the `--set` text.
    pub fn place_of(&self, key: &str) -> String {
        self.document.place_of(&path_of(key))
    }
}

/// Reads the configuration in `file`, or the embedded quickstart, with `--set` overrides.
///
/// # Errors
/// A file that cannot be read, is not TOML, or holds an unknown key, a wrong type or a value that cannot work.
pub fn load(file: Option<&Path>, sets: &[String]) -> Result<CheckedConfig, UserError> {
    let (name, stem, text) = match file {
        None => ("the built-in quickstart".to_string(), "quickstart".to_string(), QUICKSTART.to_string()),
        Some(path) => {
            refuse_rows(path)?;
            (path.display().to_string(), stem(path), read_text(path)?)
        }
    };
    let mut loaded = parse(&name, &text, sets)?;
    loaded.config.name.get_or_insert(stem);
    Ok(loaded)
}

/// Refuses a file of rows in the place of a configuration.
fn refuse_rows(path: &Path) -> Result<(), UserError> {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_lowercase();
    if !["csv", "tsv", "jsonl", "parquet", "txt"].contains(&ending.as_str()) {
        return Ok(());
    }
    let shown = path.display();
    let wrong = UserError::new(format!("{shown} holds rows, and a configuration is a TOML file"));
    Err(wrong.help(format!(
        "--set data.path={shown} --set data.split.test=0.2 trains the quickstart's way on it; `bonfire new DIR` makes a configuration for own rows"
    )))
}

/// Reads the configuration that a run left in its folder, with `--set` overrides; keys that stood elsewhere when it was written are
/// understood.
///
/// # Errors
/// As for [`load`].
pub fn load_of_run(file: &Path, sets: &[String]) -> Result<CheckedConfig, UserError> {
    let text = read_text(file)?;
    let mut document = Document::parse(&file.display().to_string(), &text)?;
    moved::bring_up_to_date(&mut document.table);
    let mut loaded = check(document, sets)?;
    loaded.began_in = run_folder::began_in(&text);
    loaded.config.name.get_or_insert(stem(file));
    Ok(loaded)
}

/// Checks the configuration in `text`; `name` is what messages call it.
///
/// # Errors
/// As for [`load`], without those of the file itself.
pub fn parse(name: &str, text: &str, sets: &[String]) -> Result<CheckedConfig, UserError> {
    check(Document::parse(name, text)?, sets)
}

/// Checks a configuration that was never text; `name` is what messages call it.
///
/// # Errors
/// As for [`parse`].
pub fn of_table(name: &str, table: toml::Table, sets: &[String]) -> Result<CheckedConfig, UserError> {
    check(Document::of(name, table), sets)
}

fn check(document: Document, sets: &[String]) -> Result<CheckedConfig, UserError> {
    checked(document, sets).map_err(|error| match several(&error) {
        Some(help) => error.help(help),
        None => error,
    })
}

/// What to do with a `--set` that names several values, where that is what is wrong.
fn several(error: &UserError) -> Option<String> {
    let (key, value) = error.place.as_ref()?.strip_prefix("--set ")?.split_once('=')?;
    let listed = value.contains(',') && !value.trim_start().starts_with(['[', '{', '"', '\'']);
    listed.then(|| match key.trim() {
        "strategy.name" => format!("one run has one strategy; side by side: bonfire compare --strategies {value}"),
        _ => format!("one run takes one value; each of them in turn: bonfire sweep --set {key}={value}"),
    })
}

fn checked(mut document: Document, sets: &[String]) -> Result<CheckedConfig, UserError> {
    let for_builtin = document.get(&path_of("data.path")).and_then(toml::Value::as_str) == Some("builtin");
    for set in sets {
        let change = Override::parse(set)?;
        if change.is_none() && schema::can_be_unset(&change.path) {
            document.unset(change)
        } else {
            document.apply(change)?
        }
    }
    let mut notices = document.given_twice();
    if for_builtin {
        notices.extend(drop_keys_of_builtin(&mut document));
    }
    measured::fill_in(&mut document)?;
    let mut config: RunConfig = check::read(&mut document, &mut notices)?;
    find_at_home(&mut config);
    notices.extend(drop_budget(&mut config, &document));
    match config.problem() {
        None => {
            notices.extend(config.settings().warnings());
            Ok(CheckedConfig { config, notices, document, began_in: None })
        }
        Some(Problem { key, what }) => {
            let place = document.place_of(&path_of(key));
            let error = UserError::new(format!("`{key}` {what}")).at(Some(place));
            Err(if what == NOT_SET { error.help_for(key) } else { error })
        }
    }
}

/// Writes out the user's folder in paths that begin with `~/`: no shell has read what stands in a file or after `=`.
fn find_at_home(config: &mut RunConfig) {
    let Some(home) = std::env::home_dir().filter(|home| !home.as_os_str().is_empty()) else { return };
    let mend = |path: &mut PathBuf| {
        if let Ok(below) = path.strip_prefix("~") {
            *path = home.join(below);
        }
    };
    for source in [&mut config.model.path, &mut config.data.path] {
        if let Source::Folder(path) = source {
            mend(path);
        }
    }
    config.model.tokenizer.iter_mut().for_each(mend);
    if let AdapterStart::Folder(path) = &mut config.adapter.init {
        mend(path);
    }
    if let Partition::File { path } = &mut config.data.partition {
        mend(path);
    }
}

impl RunConfig {
    /// Reads and checks the configuration in `text`, TOML as `bonfire config --init` writes it.
    ///
    /// # Errors
    /// No TOML, an unknown key, a wrong type or a value that cannot work, with its line.
    pub fn from_toml(text: &str) -> Result<CheckedConfig, UserError> {
        parse("the configuration", text, &[])
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
    if path.is_dir() {
        let run = path.join(CONFIG).is_file() && path.join(METRICS).is_file();
        let error = UserError::new(format!("{} is a folder; a configuration is a file", path.display()));
        return Err(match run {
            true => error.help(format!("to go on with the run in it: --resume {}", path.display())),
            false => error.help(
                "name a file, such as one that `bonfire config --init FILE` writes; own data are named with data.path",
            ),
        });
    }
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
            remove(&mut document.table, &key);
        }
    }
    (!own.is_empty()).then(|| {
        let alpha = path_of("data.partition.alpha");
        let stays = document.get(&alpha).filter(|_| !document.is_overridden(&alpha)).map(|alpha| {
            format!(
                "; data.partition.alpha = {alpha} ({}) stays, by which clients hold very different labels and amounts: data.partition.alpha=1 \
                 and data.min_shard=8 are milder",
                document.place_of(&path_of("data.partition"))
            )
        });
        format!(
            "left out, since they are for the built-in texts: {}{}",
            own.join(" and "),
            stays.unwrap_or_default()
        )
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_may_lie_in_the_users_folder() {
        let sets = ["model.path", "model.tokenizer", "data.path", "adapter.init"].map(|key| format!("{key}=~/{key}"));
        let sets = [&sets[..], &["data.partition={kind=\"file\",path=\"~/rows.json\"}".to_owned()]].concat();
        let config = parse("a.toml", QUICKSTART, &sets).expect("a configuration").config;
        let home = std::env::home_dir().expect("a user");
        assert_eq!(config.model.path, Source::Folder(home.join("model.path")));
        assert_eq!(config.model.tokenizer, Some(home.join("model.tokenizer")));
        assert_eq!(config.data.path, Source::Folder(home.join("data.path")));
        assert_eq!(config.adapter.init.folder(), Some(home.join("adapter.init").as_path()));
        assert_eq!(config.data.partition, Partition::File { path: home.join("rows.json") });
    }
}
