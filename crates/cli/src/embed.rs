//! What another front end than the command line needs (`crates/python`): from a configuration to a run, and to the two halves
//! of a federation across machines, its server and its sites. Nothing here prints, but for notes on stderr.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use anyhow::{Result, ensure};
use bonfire_data::{Dataset, Shards};
use bonfire_engine::{Split, TokenizedData, evaluate};
use bonfire_federation::{ClientMetrics, Coordinator, RoundMetrics, Site, Summary};
use bonfire_models::peft::{self, Layout, PeftMeta};
use bonfire_models::{Adapter, Model, ModelInfo, Transformer};
use sha2::{Digest, Sha256};

use crate::args::Common;
use crate::checkup::admit::admit;
use crate::commands::{compare, train};
use crate::config::{self, Source};
use crate::device;
use crate::job;
use crate::log::{self, LogFormat};
use crate::mistake::{self, Mistake};
use crate::tally::{Identity, Tally};

pub use crate::config::Loaded;
pub use crate::interrupt::Interrupt;

/// Where a configuration comes from.
pub enum Given {
    /// The built-in quickstart.
    Quickstart,
    /// A TOML file.
    File(PathBuf),
    /// A table that was never text.
    Table(toml::Table),
}

/// Makes ready to say notes on stderr; may be called again.
pub fn begin() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| log::init(LogFormat::Text, true));
}

/// Reads and checks a configuration, `sets` (`section.key=value`) and the device applied.
///
/// # Errors
/// As the command line's.
pub fn load(given: Given, sets: &[String], device: Option<&str>) -> Result<Loaded> {
    let mut loaded = match given {
        Given::Quickstart => config::load(None, sets)?,
        Given::File(path) => config::load(Some(&path), sets)?,
        Given::Table(table) => config::of_table("the configuration", table, sets)?,
    };
    loaded.notices.iter().for_each(crate::console::note);
    if let Some(device) = device {
        let devices = device.parse().map_err(|what: String| Mistake::new(format!("device = {what}")))?;
        loaded.config.engine.device = devices;
    }
    Ok(loaded)
}

/// What went wrong, in the lines that the command line prints.
pub fn words(error: &anyhow::Error) -> String {
    mistake::block(error)
}

/// Whether it is a mistake in the configuration or the arguments.
pub fn is_mistake(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<Mistake>())
}

/// The run's name.
pub fn name(loaded: &Loaded) -> &str {
    loaded.config.name()
}

/// `bonfire train`. Gives the run's folder and its summary.
///
/// # Errors
/// As the command.
pub fn run(
    loaded: &Loaded,
    out: Option<&Path>,
    interrupt: Arc<Interrupt>,
    hear: Box<dyn FnMut(&RoundMetrics)>,
) -> Result<(PathBuf, Summary)> {
    train::silently(loaded, out, interrupt, hear)
}

/// What `bonfire compare` is asked for; empty lists stand for the configuration's own values.
#[derive(Default)]
pub struct Comparison {
    /// The configuration's file; `None`: the built-in quickstart.
    pub config: Option<PathBuf>,
    /// `--set` texts.
    pub sets: Vec<String>,
    /// As `--device`.
    pub device: Option<String>,
    /// As `--strategies`.
    pub strategies: Option<String>,
    /// Seeds.
    pub seeds: Vec<u64>,
    /// Ranks.
    pub ranks: Vec<usize>,
    /// Concentrations of Dirichlet partitions.
    pub alphas: Vec<f64>,
    /// The folder.
    pub out: PathBuf,
}

/// `bonfire compare` into a folder, whose `compare.json` holds the result.
///
/// # Errors
/// As the command.
pub fn comparison(asked: Comparison, interrupt: Arc<Interrupt>) -> Result<()> {
    let Comparison { config, sets, device, strategies, seeds, ranks, alphas, out } = asked;
    let strategies = strategies.map(|text| text.parse().map_err(|e| Mistake::new(format!("strategies: {e}"))));
    let device = device.map(|text| text.parse().map_err(|e: String| Mistake::new(format!("device = {e}"))));
    let common = Common { device: device.transpose()?, sets, quiet: true, log_format: LogFormat::Text };
    let strategies = strategies.transpose()?;
    let args = compare::CompareArgs { config, strategies, seeds, ranks, alphas, out: Some(out), only_missing: false };
    compare::silently(&args, &common, interrupt)
}

/// Which clients' data a site holds.
pub enum Holding {
    /// All clients of the configuration's own partition.
    All,
    /// Some of them.
    Some(Vec<usize>),
    /// Of each client a folder with its own rows.
    Folders(BTreeMap<usize, PathBuf>),
}

/// A site, and what it must have in common with its server.
pub struct OpenSite {
    /// The site.
    pub site: Site,
    /// See [`fingerprint`].
    pub fingerprint: String,
    base_model: String,
}

/// Opens the devices, reads model and data, and makes a site.
///
/// # Errors
/// A device, model or data that cannot be used; clients that the federation does not have, or without training rows.
pub fn site(loaded: &Loaded, holding: &Holding) -> Result<OpenSite> {
    let config = &loaded.config;
    let count = config.clients.count;
    let (data, shards, own) = match holding {
        Holding::Folders(folders) => folders_of(loaded, folders)?,
        Holding::All | Holding::Some(_) => {
            let data = job::dataset(loaded)?;
            let shards = job::shards(loaded, &data)?;
            let own = match holding {
                Holding::Some(own) => own.clone(),
                _ => (0..shards.train.len()).collect(),
            };
            (data, shards, own)
        }
    };
    let own = sorted(own, shards.train.len())?;
    let shards = only(shards, &own);
    for &client in &own {
        ensure!(!shards.train[client].is_empty(), "client {client} has no training examples");
    }
    ensure!(
        count == 0 || count == shards.train.len(),
        "the federation has {count} clients, the partition {}",
        shards.train.len()
    );
    let opened = config.engine.device.open()?;
    opened.iter().filter_map(|o| o.notice.as_ref()).for_each(crate::console::note);
    admit(&opened, true)?;
    let task = job::task(config, data.labels.len());
    let models: Vec<Transformer> = opened.iter().map(|o| job::model(loaded, task, &o.device)).collect::<Result<_>>()?;
    let tokens = job::tokens(loaded, &data, models[0].info())?;
    let fingerprint = fingerprint(loaded, &data)?;
    let models = models.into_iter().map(|m| Box::new(m) as Box<dyn Model>).collect();
    let site =
        Site::new(config.settings(), models, tokens, shards, own).map_err(|e| job::federation_error(loaded, e))?;
    Ok(OpenSite { site, fingerprint, base_model: config.model.path.base_model() })
}

impl OpenSite {
    /// Writes the clients' own adapters in PEFT layout, a folder a client, where they keep a part of the model for
    /// themselves. Gives the clients.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn save_clients(&self, folder: &Path) -> Result<Vec<usize>> {
        let write = |(client, adapter): (usize, Adapter)| {
            write_adapter(&folder.join(format!("{client:04}")), &adapter, &self.base_model)?;
            Ok(client)
        };
        self.site.persons().map(write).collect()
    }
}

/// The clients in order, each once and of the federation.
fn sorted(mut own: Vec<usize>, count: usize) -> Result<Vec<usize>> {
    own.sort_unstable();
    let twice = own.windows(2).find(|w| w[0] == w[1]);
    if let Some(client) = own.iter().find(|client| **client >= count) {
        let what = format!("there is no client {client}: the federation has {count}, counted from 0");
        return Err(Mistake::new(what).into());
    }
    match (own.is_empty(), twice) {
        (true, _) => Err(Mistake::new("a site has at least one client").into()),
        (false, Some(w)) => Err(Mistake::new(format!("client {} is named twice", w[0])).into()),
        (false, None) => Ok(own),
    }
}

/// The shards of some clients; the others' are empty.
fn only(mut shards: Shards, own: &[usize]) -> Shards {
    for client in (0..shards.train.len()).filter(|client| own.binary_search(client).is_err()) {
        shards.train[client].clear();
        shards.test[client].clear();
    }
    shards
}

/// The rows of several folders as one data set, and who holds which.
fn folders_of(loaded: &Loaded, folders: &BTreeMap<usize, PathBuf>) -> Result<(Dataset, Shards, Vec<usize>)> {
    let count = loaded.config.clients.count;
    let own = sorted(folders.keys().copied().collect(), count)?;
    let mut shards = Shards { train: vec![Vec::new(); count], test: vec![Vec::new(); count] };
    let mut all: Option<Dataset> = None;
    for (&client, folder) in folders {
        let part = job::part(loaded, folder)?;
        let all = all.get_or_insert_with(|| Dataset { train: Vec::new(), test: Vec::new(), ..part.clone() });
        ensure!(part.labels == all.labels, "{}: its labels are not those of the other folders", folder.display());
        shards.train[client] = (all.train.len()..all.train.len() + part.train.len()).collect();
        shards.test[client] = (all.test.len()..all.test.len() + part.test.len()).collect();
        all.train.extend(part.train);
        all.test.extend(part.test);
    }
    Ok((all.expect("at least one folder"), shards, own))
}

/// SHA-256, in hex, of what server and sites must agree on: settings that change numbers, labels, tokenizer, and a sample of
/// the backbone's weights.
///
/// # Errors
/// A file of the model cannot be read any more.
fn fingerprint(loaded: &Loaded, data: &Dataset) -> Result<String> {
    let mut hash = Sha256::new();
    let mut put = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    let table = toml::Table::try_from(&loaded.config)?;
    for (key, value) in config::shared(&table) {
        put(key.as_bytes());
        put(value.to_string().as_bytes());
    }
    data.labels.iter().for_each(|label| put(label.as_bytes()));
    let source = job::source(&loaded.config)?;
    put(&source.file("config.json")?.0);
    put(&source.file("tokenizer.json")?.0);
    source.sample(&mut put)?;
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The server of a federation across machines, with what it needs to judge and write the global model.
pub struct OpenServer {
    /// Strategy, state and ledger.
    pub coordinator: Coordinator,
    /// See [`OpenSite::fingerprint`].
    pub fingerprint: String,
    /// The resolved configuration as TOML.
    pub config: String,
    model: Transformer,
    test: Split,
    identity: Identity,
    tally: Tally,
    base_model: String,
}

/// Reads model, labels and test rows, and makes a server. Training rows may be missing.
///
/// # Errors
/// A model or data that cannot be used, a setting that cannot be.
pub fn server(loaded: &Loaded) -> Result<OpenServer> {
    let config = &loaded.config;
    let opened = device::open(config.engine.device.first())?;
    admit(std::slice::from_ref(&opened), true)?;
    let data = match &config.data.path {
        Source::Folder(folder) if !has_training_rows(folder) => job::part(loaded, folder)?,
        _ => job::dataset(loaded)?,
    };
    let clients = match config.clients.count {
        // A natural partition knows the number itself.
        0 => job::shards(loaded, &data)?.train.len(),
        count => count,
    };
    let model = job::model(loaded, job::task(config, data.labels.len()), &opened.device)?;
    let fingerprint = fingerprint(loaded, &data)?;
    let TokenizedData { test, .. } = job::tokens(loaded, &Dataset { train: Vec::new(), ..data }, model.info())?;
    let coordinator =
        Coordinator::new(config.settings(), &model, clients).map_err(|e| job::federation_error(loaded, e))?;
    let info: &ModelInfo = model.info();
    let trainable = coordinator.trainable_params();
    let identity = Identity::of(config, &opened.name, info, coordinator.server(), trainable);
    Ok(OpenServer {
        fingerprint,
        config: config.to_toml(),
        test,
        identity,
        tally: Tally::default(),
        base_model: config.model.path.base_model(),
        coordinator,
        model,
    })
}

fn has_training_rows(folder: &Path) -> bool {
    ["jsonl", "csv", "txt"].iter().any(|ending| folder.join(format!("train.{ending}")).is_file())
}

impl OpenServer {
    /// The global model on the configuration's test rows; `None` where there are none, or where clients' own models are what
    /// counts.
    ///
    /// # Errors
    /// The device fails.
    pub fn evaluate(&self) -> Result<Option<bonfire_engine::Evaluation>> {
        if self.test.is_empty() || !self.coordinator.has_global_model() {
            return Ok(None);
        }
        let rows: Vec<usize> = (0..self.test.len()).collect();
        Ok(Some(evaluate(&self.model, &self.coordinator.server().model(), &self.test, &rows)?))
    }

    /// Writes the global adapter in PEFT layout.
    ///
    /// # Errors
    /// A file cannot be written; full fine-tuning, which trains no adapter.
    pub fn save(&self, folder: &Path) -> Result<()> {
        self.refuse_weights()?;
        write_adapter(folder, &self.coordinator.server().model(), &self.base_model)
    }

    /// The tensors that [`Self::save`] writes, by PEFT's names: shape and numbers.
    ///
    /// # Errors
    /// Full fine-tuning, which trains no adapter.
    pub fn tensors(&self) -> Result<Vec<(String, Vec<usize>, Vec<f32>)>> {
        self.refuse_weights()?;
        Ok(peft::tensors(&self.coordinator.server().model()))
    }

    fn refuse_weights(&self) -> Result<()> {
        let trains_all = !self.coordinator.server().adapter.weights.is_empty();
        ensure!(!trains_all, "full trains every weight and leaves no adapter; its numbers are in the download");
        Ok(())
    }

    /// Notes a round's row for the summary.
    pub fn note(&mut self, row: &RoundMetrics, clients: &[ClientMetrics]) {
        self.tally.add(row, clients.len());
    }

    /// The run in one object, as `summary.json` has it.
    pub fn summary(&self) -> Summary {
        self.tally.summary(&self.identity)
    }
}

fn write_adapter(folder: &Path, adapter: &Adapter, base_model: &str) -> Result<()> {
    Ok(peft::write(folder, adapter, &PeftMeta { base_model: base_model.to_owned() }, Layout::Uniform)?)
}
