//! Models and data from the Hugging Face Hub, by the `hf-hub` crate and in its normal cache.
//!
//! What is whole in the cache is taken from there and no network is asked for. Otherwise the repository's commit is asked for
//! once and every file fetched at that commit, the weights last, and only then does the revision point to it: what a broken
//! download leaves is never taken for whole. Weights are read as safetensors only, so pickles are never fetched.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, anyhow};
use bonfire_models::{ModelSource, shard_names};
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use indicatif::{ProgressBar, ProgressStyle};

use crate::console::{draws_bars, is_quiet, note};
use crate::mistake::Mistake;

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Files of a model that it may lack.
const OPTIONAL: [&str; 4] =
    ["tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "chat_template.jinja"];

/// Files of a data set: names first, so that the rows come last.
const NAMES: [&str; 2] = ["labels.json", "labels.txt"];
const ENDINGS: [&str; 3] = ["jsonl", "csv", "txt"];

/// `org/name` and a revision: a branch, a tag or a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepoName {
    id: String,
    revision: String,
}

impl RepoName {
    /// What a name must be.
    pub const FORM: &str = "must be \"hf:org/name\" or \"hf:org/name@revision\", of letters, digits, `-`, `_` and `.`";

    /// Reads `org/name` or `org/name@revision`; `None` for anything else, above all for what could lead out of the cache.
    pub fn parse(text: &str) -> Option<RepoName> {
        let (id, revision) = text.split_once('@').unwrap_or((text, "main"));
        let parts = |text: &str| text.split('/').all(is_plain);
        let fits = id.split('/').count() == 2 && parts(id) && parts(revision);
        fits.then(|| RepoName { id: id.to_owned(), revision: revision.to_owned() })
    }

    /// `org/name`.
    pub fn id(&self) -> &str {
        &self.id
    }
}

/// Whether the text can be one part of a path and nothing else; `--` stands for the slash in the cache.
fn is_plain(part: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let leads_out = part.starts_with(['.', '-']) || part.contains("..") || part.contains("--");
    !part.is_empty() && !leads_out && part.chars().all(fits)
}

/// The folder of a model in the cache, fetched where it is not whole there.
///
/// # Errors
/// A repository that is not there or has no safetensors weights, no network.
pub fn model(name: &str) -> Result<PathBuf> {
    let place = Place::of(name, RepoType::Model)?;
    let whole = |folder: &PathBuf| {
        let has = |file: &str| folder.join(file).is_file();
        has(CONFIG) && has(TOKENIZER) && ModelSource::Folder(folder.clone()).weight_files().is_ok()
    };
    match place.cached().filter(whole) {
        Some(folder) => Ok(folder),
        None => place.open()?.fetch_model(),
    }
}

/// A folder in the cache with the `config.json` of a model, which alone is fetched.
///
/// # Errors
/// As [`model`].
pub fn model_shape(name: &str) -> Result<PathBuf> {
    let place = Place::of(name, RepoType::Model)?;
    match place.cached().filter(|folder| folder.join(CONFIG).is_file()) {
        Some(folder) => Ok(folder),
        None => {
            let remote = place.open()?;
            remote.need(&[CONFIG])?;
            remote.fetch(&[CONFIG])
        }
    }
}

/// The folder of a data set in the cache, fetched where it is not whole there.
///
/// # Errors
/// A repository that is not there or has no files that are read, no network.
pub fn data(name: &str) -> Result<PathBuf> {
    let place = Place::of(name, RepoType::Dataset)?;
    let whole = |folder: &PathBuf| {
        ["train", "test"].iter().all(|split| ENDINGS.iter().any(|of| folder.join(format!("{split}.{of}")).is_file()))
    };
    match place.cached().filter(whole) {
        Some(folder) => Ok(folder),
        None => place.open()?.fetch_data(),
    }
}

/// Where a repository lies in the cache.
struct Place {
    name: RepoName,
    kind: RepoType,
    cache: Cache,
}

impl Place {
    fn of(name: &str, kind: RepoType) -> Result<Place> {
        let parsed = RepoName::parse(name);
        let name = parsed.ok_or_else(|| Mistake::new(format!("\"hf:{name}\" {}", RepoName::FORM)))?;
        // hf-hub knows HF_HOME alone.
        let cache = std::env::var_os("HF_HUB_CACHE").filter(|path| !path.is_empty());
        let cache = cache.map_or_else(Cache::from_env, |path| Cache::new(path.into()));
        Ok(Place { name, kind, cache })
    }

    fn repo(&self, revision: &str) -> Repo {
        Repo::with_revision(self.name.id.clone(), self.kind, revision.to_owned())
    }

    /// The repository's folder in the cache.
    fn folder(&self) -> PathBuf {
        self.cache.path().join(self.repo("main").folder_name())
    }

    /// The files of the revision as far as they are in the cache.
    fn cached(&self) -> Option<PathBuf> {
        let folder = self.folder();
        let points_to = fs::read_to_string(folder.join("refs").join(&self.name.revision)).ok();
        // A commit needs no reference.
        let commit = points_to.as_deref().map_or(self.name.revision.as_str(), str::trim);
        let snapshot = folder.join("snapshots").join(commit);
        (is_plain(commit) && snapshot.is_dir()).then_some(snapshot)
    }

    /// How messages call the repository.
    fn words(&self) -> String {
        let kind = if matches!(self.kind, RepoType::Dataset) { "data set" } else { "model" };
        match self.name.revision.as_str() {
            "main" => format!("the {kind} hf:{}", self.name.id),
            revision => format!("the {kind} hf:{}@{revision}", self.name.id),
        }
    }

    /// Asks the Hub which files there are, and at which commit.
    fn open(self) -> Result<Remote> {
        if is_offline() {
            return Err(anyhow!(
                "{} is not whole in the cache {}, and HF_HUB_OFFLINE forbids the network; unset it, or fetch the \
                 repository where there is a network",
                self.words(),
                self.cache.path().display()
            ));
        }
        if !is_quiet() {
            note(format!("fetching {} from the Hub", self.words()));
        }
        let api = self.api()?;
        let info = api.repo(self.repo(&self.name.revision)).info().map_err(|error| self.explain(error, None))?;
        // The answer becomes paths in the cache.
        if !is_plain(&info.sha) {
            return Err(anyhow!("the Hub gives {:?} as the commit of {}", info.sha, self.words()));
        }
        let files = info.siblings.into_iter().map(|file| file.rfilename).collect();
        let at_commit = api.repo(self.repo(&info.sha));
        Ok(Remote { place: self, api: at_commit, commit: info.sha, files })
    }

    fn api(&self) -> Result<Api> {
        let token = std::env::var("HF_TOKEN").ok().filter(|token| !token.trim().is_empty());
        let token = token.map(|token| token.trim().to_owned()).or_else(|| Cache::from_env().token());
        let mut builder = ApiBuilder::from_cache(self.cache.clone()).with_progress(false).with_token(token);
        if let Some(endpoint) = std::env::var("HF_ENDPOINT").ok().filter(|endpoint| !endpoint.is_empty()) {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
        }
        builder.build().context("cannot prepare a connection to the Hub")
    }

    /// What a failure means for a user.
    fn explain(&self, error: ApiError, file: Option<&str>) -> anyhow::Error {
        let what = match file {
            Some(file) => format!("{file} of {}", self.words()),
            None => self.words(),
        };
        let status = match &error {
            ApiError::RequestError(inner) => match inner.as_ref() {
                ureq::Error::StatusCode(code) => Some(*code),
                _ => None,
            },
            _ => None,
        };
        match status {
            // The Hub answers 401 for what is not there, so as not to tell what is private.
            Some(401 | 403 | 404) => Mistake::new(format!("the Hub does not give {what}"))
                .help(
                    "check the name and the revision; for a private or gated repository accept its terms on its page and \
                     set HF_TOKEN",
                )
                .into(),
            Some(code) => anyhow!("the Hub answers {code} for {what}; try again later"),
            None => anyhow::Error::new(error).context(format!(
                "cannot fetch {what}, which is not whole in the cache {}; connect to a network and try again, or name a \
                 folder that holds its files",
                self.cache.path().display()
            )),
        }
    }
}

/// Whether HF_HUB_OFFLINE says so, in the words that the Hub's own client takes.
fn is_offline() -> bool {
    let value = std::env::var("HF_HUB_OFFLINE").unwrap_or_default().to_uppercase();
    ["1", "ON", "YES", "TRUE"].contains(&value.as_str())
}

/// A repository at one commit.
struct Remote {
    place: Place,
    api: ApiRepo,
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
        Mistake::new(format!("{} has no {what}", self.place.words())).help(help).into()
    }

    fn fetch_model(&self) -> Result<PathBuf> {
        self.need(&[CONFIG, TOKENIZER])?;
        let single = self.has(WEIGHTS);
        if !single && !self.has(INDEX) {
            let pickled = self.files.iter().any(|file| file.ends_with(".bin") || file.ends_with(".pth"));
            let help = match pickled {
                true => "it has pickles, which are not read: they can run any code; convert the weights to safetensors",
                false => "weights are read as safetensors only",
            };
            return Err(self.lacks(&format!("{WEIGHTS} and no {INDEX}"), help));
        }
        let mut names: Vec<&str> = OPTIONAL.into_iter().filter(|name| self.has(name)).collect();
        names.extend([CONFIG, TOKENIZER]);
        if single {
            names.push(WEIGHTS);
            return self.fetch(&names);
        }
        let shards = self.shards()?;
        names.push(INDEX);
        names.extend(shards.iter().map(String::as_str));
        self.fetch(&names)
    }

    /// The shards that the index lists, each a plain name of a safetensors file that is there.
    fn shards(&self) -> Result<Vec<String>> {
        let text = fs::read(self.file(INDEX)?).with_context(|| format!("cannot read {INDEX}"))?;
        let names = shard_names(&text, &format!("{INDEX} of {}", self.place.words()))?;
        if let Some(name) = names.iter().find(|name| !name.ends_with(".safetensors")) {
            return Err(anyhow!("{INDEX} of {} lists {name:?}, which is no shard", self.place.words()));
        }
        match names.iter().find(|name| !self.has(name)) {
            Some(name) => Err(self.lacks(name, &format!("{INDEX} lists it: the repository is not whole"))),
            None => Ok(names),
        }
    }

    fn fetch_data(&self) -> Result<PathBuf> {
        let rows = |split: &str| ENDINGS.map(|ending| format!("{split}.{ending}")).into_iter().filter(|n| self.has(n));
        let splits = ["train", "test"].map(|split| (split, rows(split).collect::<Vec<_>>()));
        if let Some((split, _)) = splits.iter().find(|(_, rows)| rows.is_empty()) {
            let there: Vec<&str> = self.files.iter().map(String::as_str).take(12).collect();
            let help = format!("files of other names and kinds are not read; it has: {}", there.join(", "));
            return Err(self.lacks(&format!("{split}.jsonl, {split}.csv or {split}.txt"), &help));
        }
        let mut names: Vec<&str> = NAMES.into_iter().filter(|name| self.has(name)).collect();
        names.extend(splits.iter().flat_map(|(_, rows)| rows).map(String::as_str));
        self.fetch(&names)
    }

    /// Fetches what is not in the cache, in this order, and lets the revision point to it.
    fn fetch(&self, names: &[&str]) -> Result<PathBuf> {
        for name in names {
            self.file(name)?;
        }
        let cache = self.place.cache.repo(self.place.repo(&self.place.name.revision));
        cache.create_ref(&self.commit).context("cannot write into the Hub's cache")?;
        Ok(cache.pointer_path(&self.commit))
    }

    /// One file of the commit, fetched if it is not in the cache.
    fn file(&self, name: &str) -> Result<PathBuf> {
        let cached = self.place.folder().join("snapshots").join(&self.commit).join(name);
        if cached.is_file() {
            return Ok(cached);
        }
        let size = Rc::new(Cell::new(0));
        let fetch = || self.api.download_with_progress(name, Bar::new(size.clone()));
        let path = fetch().or_else(|error| match is_bad_part(&error) {
            true => {
                self.drop_parts();
                fetch()
            }
            false => Err(error),
        });
        let path = path.map_err(|error| self.place.explain(error, Some(name)))?;
        self.refuse_cut(name, &path, size.get() as u64)?;
        Ok(path)
    }

    /// A connection that closes early can look like a finished download; then nothing of it stays.
    fn refuse_cut(&self, name: &str, path: &Path, size: u64) -> Result<()> {
        let got = fs::metadata(path).map_or(0, |file| file.len());
        if got == size {
            return Ok(());
        }
        let blob = fs::canonicalize(path);
        for file in blob.iter().map(PathBuf::as_path).chain([path]) {
            let _ = fs::remove_file(file);
        }
        Err(anyhow!("{name} of {} came with {got} of {size} bytes; try again", self.place.words()))
    }

    /// Removes beginnings of files that cannot be gone on with.
    fn drop_parts(&self) {
        for entry in fs::read_dir(self.place.folder().join("blobs")).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|ending| ending == "part") {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// Whether a download failed because the beginning that an earlier one left is as long as the file, or longer.
fn is_bad_part(error: &ApiError) -> bool {
    match error {
        ApiError::InvalidResume => true,
        ApiError::RequestError(inner) => matches!(inner.as_ref(), ureq::Error::StatusCode(416)),
        _ => false,
    }
}

/// A download's bar, and the size that the Hub told of.
struct Bar {
    bar: Option<ProgressBar>,
    size: Rc<Cell<usize>>,
}

impl Bar {
    fn new(size: Rc<Cell<usize>>) -> Bar {
        Bar { bar: draws_bars().then(|| ProgressBar::new(0)), size }
    }
}

impl hf_hub::api::Progress for Bar {
    fn init(&mut self, size: usize, filename: &str) {
        self.size.set(size);
        if let Some(bar) = &self.bar {
            let style =
                ProgressStyle::with_template("{msg}  {bar:24} {bytes}/{total_bytes}  {bytes_per_sec}, {eta} left");
            bar.set_style(style.expect("a template of this file").progress_chars("█▉▊▋▌▍▎▏ "));
            bar.set_message(filename.to_owned());
            bar.set_length(size as u64);
            bar.set_position(0);
        }
    }

    fn update(&mut self, size: usize) {
        if let Some(bar) = &self.bar {
            bar.inc(size as u64);
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_two_plain_parts() {
        let name = RepoName::parse("TinyLlama/TinyLlama-1.1B-Chat-v1.0").expect("a name");
        assert_eq!((name.id(), name.revision.as_str()), ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "main"));
        assert_eq!(RepoName::parse("a/b@refs/pr/1").expect("a name").revision, "refs/pr/1");
        for wrong in [
            "foo",
            "",
            "/",
            "a/",
            "/b",
            "a/b/c",
            "../b",
            "a/..",
            "a/b@",
            "a/b@../../x",
            "a/b@/x",
            "a b/c",
            "a\\b/c",
            "a--b/c",
        ] {
            assert_eq!(RepoName::parse(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #![proptest_config(crate::hostile::config())]

        #[test]
        fn no_name_leads_out_of_the_cache(text in "[a-z./@\\\\ \\-\u{0}]{0,16}") {
            if let Some(name) = RepoName::parse(&text) {
                let cache = Path::new("cache");
                let folder = cache.join(Repo::with_revision(name.id.clone(), RepoType::Model, "x".into()).folder_name());
                prop_assert!(folder.parent() == Some(cache), "{}", text);
                let parts = Path::new(&name.revision).components();
                prop_assert!(parts.into_iter().all(|part| matches!(part, std::path::Component::Normal(_))), "{}", text);
            }
        }
    }
}
