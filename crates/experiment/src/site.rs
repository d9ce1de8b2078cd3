//! A site: clients of a federation whose server is elsewhere, with their data and a backbone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use anyhow::{Result, ensure};
use bonfire_data::{Dataset, Shards};
use bonfire_federation::Site;
use bonfire_models::peft::{self, Layout, PeftMeta};
use bonfire_models::{Adapter, Model, ModelSource, Precision, Task, Transformer};

use crate::checkup::Purpose;
use crate::checkup::admit::admit;
use crate::config::CheckedConfig;
use crate::device;
use crate::fingerprint::{fingerprint, weights_of};
use crate::job;
use crate::log::note;
use crate::user_error::UserError;
use crate::watch::Watch;

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
    /// SHA-256, in hex, of what server and sites must agree on: settings that change numbers, labels, tokenizer, and a sample of
    /// the backbone's weights.
    pub fingerprint: String,
    meta: PeftMeta,
    /// Kept for the next site of this process.
    _backbones: Vec<Arc<Transformer>>,
}

/// Opens the devices, reads model and data, and makes a site.
///
/// # Errors
/// A device, model or data that cannot be used; clients that the federation does not have, or without training rows.
pub fn site(loaded: &CheckedConfig, holding: &Holding, watch: &mut dyn Watch) -> Result<OpenSite> {
    let config = &loaded.config;
    loaded.notices.iter().for_each(note);
    let (data, source, shards, own) = match holding {
        Holding::Folders(folders) => {
            let (data, shards, own) = folders_of(loaded, folders)?;
            let source = job::source(loaded, watch)?;
            (job::ordered(loaded, data, &source), source, shards, own)
        }
        Holding::All | Holding::Some(_) => {
            let (data, source) = job::dataset_and_source(loaded, watch)?;
            let shards = job::shards(loaded, &data)?;
            let own = match holding {
                Holding::Some(own) => own.clone(),
                _ => (0..shards.train.len()).collect(),
            };
            (data, source, shards, own)
        }
    };
    let own = sorted(own, shards.train.len())?;
    let shards = only(shards, &own);
    for &client in &own {
        ensure!(!shards.train[client].is_empty(), "client {client} has no training examples");
    }
    let opened = config.engine.device.open()?;
    opened.iter().filter_map(|o| o.notice.as_ref()).for_each(note);
    job::refuse_precision(loaded, &opened)?;
    admit(&opened, |watch| Purpose::of(loaded, watch), watch)?;
    let weights = weights_of(&source)?;
    let fingerprint = fingerprint(config, &data, &source, &weights)?;
    let task = job::task(config, data.labels.len());
    let mut backbones = Vec::new();
    let mut models: Vec<Transformer> = Vec::new();
    for device in &opened {
        models.push(match config.engine.precision {
            Precision::F32 | Precision::Tf32 => {
                let backbone = backbone(loaded, &source, task, device, &weights)?;
                let model = job::model_again(&backbone, loaded)?;
                backbones.push(backbone);
                model
            }
            // What was read is not what computes, and would lie beside it.
            Precision::Bf16 | Precision::F16 => job::model(loaded, &source, task, &device.device)?,
        });
    }
    let tokens = job::tokens(loaded, &data, &source, models[0].info())?;
    let models = models.into_iter().map(|m| Box::new(m) as Box<dyn Model>).collect();
    let site =
        Site::new(config.settings(), models, tokens, shards, own).map_err(|e| job::federation_error(loaded, e))?;
    let meta = PeftMeta { base_model: config.model.path.base_model(), dropout: config.adapter.dropout, task };
    Ok(OpenSite { site, fingerprint, meta, _backbones: backbones })
}

/// The backbone as it was read, which the sites of this process share as long as one of them lives: a simulation has many.
fn backbone(
    loaded: &CheckedConfig,
    source: &ModelSource,
    task: Task,
    on: &device::Opened,
    weights: &str,
) -> Result<Arc<Transformer>> {
    static SHARED: Mutex<BTreeMap<String, Weak<Transformer>>> = Mutex::new(BTreeMap::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.retain(|_, backbone| backbone.strong_count() > 0);
    let key = format!("{} {task:?} {:?} {weights}", on.name, loaded.config.model.path);
    if let Some(backbone) = shared.get(&key).and_then(Weak::upgrade) {
        return Ok(backbone);
    }
    let backbone = Arc::new(job::model_as_read(loaded, source, task, &on.device)?);
    shared.insert(key, Arc::downgrade(&backbone));
    Ok(backbone)
}

impl OpenSite {
    /// Writes the clients' own adapters in PEFT layout, a folder a client, where they keep a part of the model for
    /// themselves. Gives the clients.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn save_clients(&self, folder: &Path) -> Result<Vec<usize>> {
        let write = |(client, adapter): (usize, Adapter)| {
            peft::write(&folder.join(format!("{client:04}")), &adapter, &self.meta, Layout::Uniform)?;
            Ok(client)
        };
        self.site.personal_models().map(write).collect()
    }
}

/// The clients in order, each once and of the federation.
fn sorted(mut own: Vec<usize>, count: usize) -> Result<Vec<usize>> {
    own.sort_unstable();
    let twice = own.windows(2).find(|w| w[0] == w[1]);
    if let Some(client) = own.iter().find(|client| **client >= count) {
        let what = format!("there is no client {client}: the federation has {count}, counted from 0");
        return Err(UserError::new(what).into());
    }
    match (own.is_empty(), twice) {
        (true, _) => Err(UserError::new("a site has at least one client").into()),
        (false, Some(w)) => Err(UserError::new(format!("client {} is named twice", w[0])).into()),
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
fn folders_of(loaded: &CheckedConfig, folders: &BTreeMap<usize, PathBuf>) -> Result<(Dataset, Shards, Vec<usize>)> {
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
