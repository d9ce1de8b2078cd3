//! Models and data from the Hugging Face Hub, in the cache that all its clients share.
//!
//! What is whole in the cache is taken from there and no network is asked for. Otherwise the repository's commit is asked for
//! once and every file fetched at that commit, the weights last, and only then does the revision point to it: what a broken
//! download leaves is never taken for whole. Weights are read as safetensors only, so pickles are never fetched.
//!
//! An endpoint is not trusted: what it says becomes part of a path only where it is a plain name, of a file no more is read
//! than was announced, and it is not waited for without end.

mod address;
mod cache;
mod download;
mod listing;
mod settings;
mod web;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use bonfire_data::{Dataset, Reading};
use bonfire_models::{ModelSource, shard_names};

use crate::repo_name::{Kind, RepoName};
use crate::user_error::UserError;
use crate::watch::Watch;
use cache::Repository;
use listing::Listing;
use web::{Trouble, Web};

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Files of a model that it may lack.
const OPTIONAL: [&str; 4] =
    ["tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "chat_template.jinja"];

/// Files of a data set: names first, so that the rows come last.
const NAMES: [&str; 2] = ["labels.json", "labels.txt"];

/// The folder of a model in the cache, fetched where it is not whole there.
///
/// # Errors
/// A repository that is not there or has no safetensors weights, no network.
pub fn model(name: &str, watch: &mut dyn Watch) -> Result<PathBuf> {
    let place = Place::of(name, Kind::Model)?;
    let whole = |folder: &PathBuf| {
        let has = |file: &str| folder.join(file).is_file();
        has(CONFIG) && has(TOKENIZER) && ModelSource::Folder(folder.clone()).weight_files().is_ok()
    };
    match place.cached().filter(whole) {
        Some(folder) => Ok(folder),
        None => place.open(watch)?.fetch_model(watch),
    }
}

/// The folder of a model in the cache, where it is there; nothing is fetched.
pub fn model_in_cache(name: &str) -> Option<PathBuf> {
    Place::of(name, Kind::Model).ok()?.cached().filter(|folder| folder.join(CONFIG).is_file())
}

/// A folder in the cache with the `config.json` of a model, which alone is fetched.
///
/// # Errors
/// As [`model`].
pub fn model_shape(name: &str, watch: &mut dyn Watch) -> Result<PathBuf> {
    let place = Place::of(name, Kind::Model)?;
    match place.cached().filter(|folder| folder.join(CONFIG).is_file()) {
        Some(folder) => Ok(folder),
        None => {
            let remote = place.open(watch)?;
            remote.need(&[CONFIG])?;
            remote.fetch(&[CONFIG], watch)
        }
    }
}

/// The folder of a data set in the cache, fetched where it is not whole there. `named` are the files or folders that the
/// configuration names for splits.
///
/// # Errors
/// A repository that is not there or has no files that are read, no network.
pub fn data(name: &str, named: &[&str], watch: &mut dyn Watch) -> Result<PathBuf> {
    let parsed = RepoName::parse_data(name);
    let (repo, folder) = parsed.ok_or_else(|| UserError::new(format!("\"hf:{name}\" {}", RepoName::DATA_FORM)))?;
    let place = Place::of_name(repo, Kind::Dataset);
    let whole = |snapshot: &PathBuf| {
        let at = snapshot.join(&folder);
        if named.is_empty() {
            Dataset::has_training_rows(&at, &Reading::default())
        } else {
            named.iter().all(|file| at.join(file).exists())
        }
    };
    let snapshot = match place.cached().filter(whole) {
        Some(snapshot) => snapshot,
        None => place.open(watch)?.fetch_data(&folder, named, watch)?,
    };
    Ok(snapshot.join(folder))
}

/// A repository by name, and where it lies in the cache.
struct Place {
    name: RepoName,
    kind: Kind,
    at: Repository,
}

impl Place {
    fn of(name: &str, kind: Kind) -> Result<Place> {
        let parsed = RepoName::parse(name);
        let name = parsed.ok_or_else(|| UserError::new(format!("\"hf:{name}\" {}", RepoName::FORM)))?;
        Ok(Place::of_name(name, kind))
    }

    fn of_name(name: RepoName, kind: Kind) -> Place {
        let at = Repository::of(&name, kind);
        Place { name, kind, at }
    }

    /// The files of the revision as far as they are in the cache.
    fn cached(&self) -> Option<PathBuf> {
        self.at.cached(&self.name.revision)
    }

    /// How messages call the repository.
    fn words(&self) -> String {
        let kind = if self.kind == Kind::Dataset { "data set" } else { "model" };
        match self.name.revision.as_str() {
            "main" => format!("the {kind} hf:{}", self.name.id()),
            revision => format!("the {kind} hf:{}@{revision}", self.name.id()),
        }
    }

    /// Asks the Hub which files there are, and at which commit.
    fn open(self, watch: &mut dyn Watch) -> Result<Remote> {
        if settings::is_offline() {
            return Err(anyhow!(
                "{} is not whole in the cache {}, and HF_HUB_OFFLINE forbids the network; unset it, or fetch the \
                 repository where there is a network",
                self.words(),
                self.at.cache.display()
            ));
        }
        watch.note(&format!("fetching {} from the Hub", self.words()));
        let web = Web::open()?;
        let path = format!(
            "/api/{}s/{}/revision/{}",
            self.kind.word(),
            self.name.id(),
            self.name.revision.replace('/', "%2F")
        );
        let Listing { commit, files } = listing::read(&web, &path).map_err(|trouble| self.explain(trouble, None))?;
        Ok(Remote { place: self, web, commit, files })
    }

    /// What a failure means for a user.
    fn explain(&self, trouble: Trouble, file: Option<&str>) -> anyhow::Error {
        let what = match file {
            Some(file) => format!("{file} of {}", self.words()),
            None => self.words(),
        };
        match trouble {
            // The Hub answers 401 for what is not there, so as not to tell what is private.
            Trouble::Status(401 | 403 | 404) => UserError::new(format!("the Hub does not give {what}"))
                .help(
                    "check the name and the revision; for a private or gated repository accept its terms on its page and \
                     set HF_TOKEN",
                )
                .into(),
            Trouble::Status(code) => anyhow!("the Hub answers {code} for {what}; try again later"),
            Trouble::Refused(why) => anyhow!("what {} gives for {what} is not taken: {why}", settings::endpoint()),
            Trouble::Disk(error) => error.context(format!("cannot keep {what}")),
            Trouble::Broken(_) => anyhow::Error::new(trouble).context(format!(
                "cannot fetch {what}, which is not whole in the cache {}; connect to a network and try again, or name a \
                 folder that holds its files",
                self.at.cache.display()
            )),
        }
    }
}

/// A repository at one commit.
struct Remote {
    place: Place,
    web: Web,
    commit: String,
    files: Vec<String>,
}

impl Remote {
    fn has(&self, name: &str) -> bool {
        self.files.iter().any(|file| file == name)
    }

    /// Refuses a repository that lacks one of these files.
    fn need(&self, names: &[&str]) -> Result<()> {
        match names.iter().find(|name| !self.has(name)) {
            None => Ok(()),
            Some(name) => Err(self.lacks(name, "a model in Hugging Face layout has one")),
        }
    }

    fn lacks(&self, what: &str, help: &str) -> anyhow::Error {
        UserError::new(format!("{} has no {what}", self.place.words())).help(help).into()
    }

    fn fetch_model(&self, watch: &mut dyn Watch) -> Result<PathBuf> {
        self.need(&[CONFIG, TOKENIZER])?;
        let single = self.has(WEIGHTS);
        if !single && !self.has(INDEX) {
            let pickled = self.files.iter().any(|file| file.ends_with(".bin") || file.ends_with(".pth"));
            let help = if pickled {
                "it has pickles, which are not read: they can run any code; convert the weights to safetensors"
            } else {
                "weights are read as safetensors only"
            };
            return Err(self.lacks(&format!("{WEIGHTS} and no {INDEX}"), help));
        }
        let mut names: Vec<&str> = OPTIONAL.into_iter().filter(|name| self.has(name)).collect();
        names.extend([CONFIG, TOKENIZER]);
        if single {
            names.push(WEIGHTS);
            return self.fetch(&names, watch);
        }
        let shards = self.shards(watch)?;
        names.push(INDEX);
        names.extend(shards.iter().map(String::as_str));
        self.fetch(&names, watch)
    }

    /// The shards that the index lists, each a plain name of a safetensors file that is there.
    fn shards(&self, watch: &mut dyn Watch) -> Result<Vec<String>> {
        let text = fs::read(self.file(INDEX, watch)?).with_context(|| format!("cannot read {INDEX}"))?;
        let names = shard_names(&text, &format!("{INDEX} of {}", self.place.words()))?;
        if let Some(name) = names.iter().find(|name| !name.ends_with(".safetensors")) {
            return Err(anyhow!("{INDEX} of {} lists {name:?}, which is no shard", self.place.words()));
        }
        match names.iter().find(|name| !self.has(name)) {
            Some(name) => Err(self.lacks(name, &format!("{INDEX} lists it: the repository is not whole"))),
            None => Ok(names),
        }
    }

    fn fetch_data(&self, folder: &str, named: &[&str], watch: &mut dyn Watch) -> Result<PathBuf> {
        let rows = match split_files(&self.files, folder, named) {
            Ok(rows) => rows,
            Err(Unfit::Several(folders)) => {
                let what = format!("{} holds several configurations: {}", self.place.words(), folders.join(", "));
                let help = format!("name one, such as hf:{}/{}", self.place.name.id(), folders[0]);
                return Err(UserError::new(what).help(help).into());
            }
            Err(Unfit::Nothing) => {
                let there: Vec<&str> = self.files.iter().map(String::as_str).take(12).collect();
                let help = format!(
                    "files of other names and kinds are not read (data.train and data.test can name them); it has: {}",
                    there.join(", ")
                );
                return Err(self.lacks("train.jsonl, .json, .csv, .tsv, .parquet or .txt", &help));
            }
        };
        let mut names: Vec<&str> = NAMES.into_iter().filter(|name| self.has(name)).collect();
        names.extend(rows.iter().map(String::as_str));
        self.fetch(&names, watch)
    }

    /// Fetches what is not in the cache, in this order, and lets the revision point to it.
    fn fetch(&self, names: &[&str], watch: &mut dyn Watch) -> Result<PathBuf> {
        for name in names {
            self.file(name, watch)?;
        }
        self.place.at.point(&self.place.name.revision, &self.commit).context("cannot write into the Hub's cache")?;
        Ok(self.place.at.snapshot(&self.commit))
    }

    /// One file of the commit, fetched if it is not in the cache.
    fn file(&self, name: &str, watch: &mut dyn Watch) -> Result<PathBuf> {
        let cached = self.place.at.snapshot(&self.commit).join(name);
        if cached.is_file() {
            return Ok(cached);
        }
        let prefix = if self.place.kind == Kind::Dataset { "/datasets" } else { "" };
        let path = format!("{prefix}/{}/resolve/{}/{}", self.place.name.id(), self.commit, escaped(name));
        download::fetch(&self.web, &self.place.at, &self.commit, name, &path, watch)
            .map_err(|trouble| self.place.explain(trouble, Some(name)))
    }
}

/// Why no files of a repository are the splits of a set.
enum Unfit {
    /// These folders each hold a set.
    Several(Vec<String>),
    Nothing,
}

/// The files of a repository below `folder` that hold splits: those that are named, and those that lie beside each other and are
/// called like splits, in the folder itself or in the one below it that has any.
fn split_files(all: &[String], folder: &str, named: &[&str]) -> Result<Vec<String>, Unfit> {
    let start = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    let below: Vec<(&str, &String)> = all.iter().filter_map(|file| Some((file.strip_prefix(&start)?, file))).collect();
    let is_named = |file: &str| named.iter().any(|name| file == *name || file.starts_with(&format!("{name}/")));
    let mut found: Vec<String> =
        below.iter().filter(|(file, _)| is_named(file)).map(|(_, whole)| (*whole).clone()).collect();
    let mut folders: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
    for (file, whole) in &below {
        let (parent, name) = file.rsplit_once('/').unwrap_or(("", file));
        // A folder may be the split: `train/0000.parquet`.
        let holder = match bonfire_data::split_of_file(name, parent.rsplit('/').next().unwrap_or_default()) {
            Some(bonfire_data::SplitFile::ByName) => parent,
            Some(bonfire_data::SplitFile::ByFolder) => parent.rsplit_once('/').map_or("", |(above, _)| above),
            None => continue,
        };
        folders.entry(holder).or_default().push(whole);
    }
    let own = folders.remove("");
    match (own, folders.len()) {
        (Some(own), _) => found.extend(own.into_iter().cloned()),
        (None, 1) => found.extend(folders.into_values().flatten().cloned()),
        (None, 0) => {}
        (None, _) if found.is_empty() => return Err(Unfit::Several(folders.into_keys().map(str::to_owned).collect())),
        (None, _) => {}
    }
    found.sort();
    found.dedup();
    if found.is_empty() { Err(Unfit::Nothing) } else { Ok(found) }
}

/// A file's name as a part of an address.
fn escaped(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte);
    name.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_splits_are_chosen() {
        let files = |all: &[&str], folder: &str, named: &[&str]| {
            let all: Vec<String> = all.iter().map(|file| (*file).to_owned()).collect();
            split_files(&all, folder, named).map_err(|unfit| match unfit {
                Unfit::Several(folders) => folders.join(" "),
                Unfit::Nothing => String::new(),
            })
        };
        let told = |files: &[&str]| Ok(files.iter().map(|file| (*file).to_owned()).collect::<Vec<_>>());
        let glue =
            ["README.md", "mnli/train-00000-of-00001.parquet", "mnli/test_matched.parquet", "sst2/train.parquet"];
        assert_eq!(files(&glue, "", &[]), Err("mnli sst2".to_owned()));
        assert_eq!(
            files(&glue, "mnli", &[]),
            told(&["mnli/test_matched.parquet", "mnli/train-00000-of-00001.parquet"])
        );
        let imdb = [
            "plain_text/train-0.parquet",
            "plain_text/train-00000-of-00001.parquet",
            "plain_text/unsupervised.parquet",
        ];
        assert_eq!(files(&imdb, "", &[]), told(&["plain_text/train-00000-of-00001.parquet"]));
        assert_eq!(files(&["default/train/0000.parquet", "x.bin"], "", &[]), told(&["default/train/0000.parquet"]));
        assert_eq!(files(&["dolly.jsonl", "README.md"], "", &[]), Err(String::new()));
        assert_eq!(files(&["dolly.jsonl", "README.md"], "", &["dolly.jsonl"]), told(&["dolly.jsonl"]));
        assert_eq!(files(&["train.jsonl", "old/train.csv"], "", &[]), told(&["train.jsonl"]));
    }
}
