//! From a checked configuration to data, shards, tokens and a model: what `train`, `evaluate` and `partition` share.
//! Tokens are made in `job/texts.rs`.

mod labels;
mod texts;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;

use anyhow::{Context, Result, bail};
use bonfire_data::random::{Use, stream};
use bonfire_data::{DataError, Dataset, Partition, Reading, Shards, Wording, corpus};
use bonfire_federation::FederationError;
use bonfire_models::{Model, ModelInfo, ModelSource, Precision, TargetKind, Task, Transformer, Wanted, peft};
use burn::tensor::Device;

use crate::config::{CheckedConfig, DataSection, RunConfig, Source, TaskKind};
use crate::device::Opened;
use crate::hub;
use crate::log::note;
use crate::user_error::UserError;
use crate::watch::Watch;
pub use labels::ordered;
pub use texts::{causal_tokenizer, refuse_tokens_beyond, split_tokens, tokenizer, tokens};

/// Reads the data set that the configuration names, for those who use no model. Labels go by a model's head where it is at
/// hand: no model is fetched.
///
/// # Errors
/// What the data crate finds wrong with the folder, or the Hub with the repository.
pub fn dataset(loaded: &CheckedConfig, watch: &mut dyn Watch) -> Result<Dataset> {
    let data = as_labelled(loaded, watch)?;
    let here = match &loaded.config.model.path {
        Source::Hub(name) => hub::model_in_cache(name).map(ModelSource::Folder),
        _ => Some(source(&loaded.config, watch)?),
    };
    Ok(match here {
        Some(source) => ordered(loaded, data, &source),
        None => data,
    })
}

/// The same for those who use the model too, and where that comes from; it is fetched once the data are found to be right.
///
/// # Errors
/// As [`dataset`] and [`source`].
pub fn dataset_and_source(loaded: &CheckedConfig, watch: &mut dyn Watch) -> Result<(Dataset, ModelSource)> {
    let data = as_labelled(loaded, watch)?;
    let source = source(&loaded.config, watch)?;
    Ok((ordered(loaded, data, &source), source))
}

fn as_labelled(loaded: &CheckedConfig, watch: &mut dyn Watch) -> Result<Dataset> {
    let section = &loaded.config.data;
    let causal = loaded.config.model.task == TaskKind::CausalLm;
    let data = match &section.path {
        Source::Folder(folder) => read(loaded, folder)?,
        Source::Hub(name) => {
            let keys = [&section.train, &section.validation, &section.test];
            let named: Vec<&str> = keys.into_iter().flatten().map(String::as_str).collect();
            let folder = hub::data(name, &named, watch)?;
            // The folder is called after its commit.
            Dataset { name: name.clone(), ..read(loaded, &folder)? }
        }
        _ => {
            refuse_keys_of_files(loaded)?;
            check_builtin_column(loaded)?;
            if causal { corpus::causal() } else { corpus::dataset() }
        }
    };
    kept(loaded, data)
}

/// The built-in texts have no files and columns.
fn refuse_keys_of_files(loaded: &CheckedConfig) -> Result<(), UserError> {
    let section: &DataSection = &loaded.config.data;
    let keys = [
        ("prompt", section.prompt.is_some()),
        ("response", section.response.is_some()),
        ("text", section.text.is_some()),
        ("label", section.label.is_some()),
        ("train", section.train.is_some()),
        ("validation", section.validation.is_some()),
        ("test", section.test.is_some()),
        ("split", section.split.is_some()),
    ];
    let Some((key, _)) = keys.into_iter().find(|(_, given)| *given) else { return Ok(()) };
    Err(UserError::new(format!("the built-in data has no files and columns for data.{key}"))
        .at(Some(loaded.place_of(&format!("data.{key}"))))
        .help("leave it out, or set data.path to a folder of rows"))
}

/// The set with the labels that the configuration keeps; what a user should know of it is said.
fn kept(loaded: &CheckedConfig, data: Dataset) -> Result<Dataset> {
    let data = match loaded.config.data.labels {
        None => data,
        Some(n) => data.keep_labels(n).map_err(|error| placed(loaded, error))?,
    };
    // Of the built-in texts nothing is found out or left out but what was asked for.
    if !matches!(loaded.config.data.path, Source::Builtin | Source::BuiltinLlama) {
        data.notes.iter().for_each(note);
    }
    Ok(data)
}

/// Reads what one site or the server of a federation across machines has in `folder`, of which a split may be missing, with
/// its labels as they are listed: see [`ordered`].
///
/// # Errors
/// As [`dataset`]; labels that are not listed.
pub fn part(loaded: &CheckedConfig, folder: &Path) -> Result<Dataset> {
    let whole = reading(loaded)?;
    let reading = Reading { part: true, group: None, train: None, validation: None, test: None, shares: None, ..whole };
    let data = Dataset::read(folder, &reading).map_err(|error| placed(loaded, error))?;
    kept(loaded, data)
}

/// Whether the data has training rows, as a server's may not.
///
/// # Errors
/// Templates of prompts that cannot be used.
pub fn has_training_rows(loaded: &CheckedConfig, folder: &Path) -> Result<bool> {
    Ok(Dataset::has_training_rows(folder, &reading(loaded)?))
}

/// How the configuration wants its data read.
fn reading(loaded: &CheckedConfig) -> Result<Reading> {
    let config = &loaded.config;
    let section = &config.data;
    let group = match &section.partition {
        Partition::Natural { column } | Partition::GroupedNatural { column, .. } => Some(column.clone()),
        _ => None,
    };
    Ok(Reading {
        causal: config.model.task == TaskKind::CausalLm,
        group,
        wording: wording(loaded)?,
        text: section.text.as_ref().map(|text| text.names()).unwrap_or_default(),
        label: section.label.clone(),
        unseen: section.unseen_labels,
        train: section.train.clone(),
        validation: section.validation.clone(),
        test: section.test.clone(),
        shares: section.split,
        seed: config.train.seed,
        part: false,
    })
}

/// How prompts and responses are made of a row's columns, where the configuration says so.
fn wording(loaded: &CheckedConfig) -> Result<Option<Wording>> {
    let section = &loaded.config.data;
    let given = section.prompt.as_ref().zip(section.response.as_ref());
    let wording = given.map(|(prompt, response)| Wording::parse(prompt, response)).transpose();
    wording.map_err(|error| placed(loaded, error))
}

/// The built-in texts have one column to go by.
fn check_builtin_column(loaded: &CheckedConfig) -> Result<(), UserError> {
    match &loaded.config.data.partition {
        Partition::Natural { column } | Partition::GroupedNatural { column, .. } if column != corpus::COLUMN => {
            Err(UserError::new(format!("the built-in data has no column `{column}` to partition by"))
                .at(Some(loaded.place_of("data.partition.column")))
                .help(format!("use column = \"{}\"", corpus::COLUMN)))
        }
        _ => Ok(()),
    }
}

/// Reads a folder or file as what the model learns from.
fn read(loaded: &CheckedConfig, folder: &Path) -> Result<Dataset> {
    Dataset::read(folder, &reading(loaded)?).map_err(|error| placed(loaded, error))
}

/// Deals the rows out to the clients.
///
/// # Errors
/// A partition that cannot be made of this data set.
pub fn shards(loaded: &CheckedConfig, data: &Dataset) -> Result<Shards> {
    let config = &loaded.config;
    let section = &config.data;
    section
        .partition
        .split(data, config.clients.count, section.min_shard, config.train.seed)
        .map_err(|error| placed(loaded, error))
}

/// Refuses a split in which a client could not train.
///
/// # Errors
/// A client without training rows.
pub fn refuse_empty(shards: &Shards) -> Result<()> {
    match shards.train.iter().position(Vec::is_empty) {
        Some(client) => bail!("client {client} has no training examples; raise data.min_shard or lower clients.count"),
        None => Ok(()),
    }
}

/// Where the configuration's model comes from; from the Hub it is fetched first.
///
/// # Errors
/// A repository that cannot be had.
pub fn source(config: &RunConfig, watch: &mut dyn Watch) -> Result<ModelSource> {
    Ok(match &config.model.path {
        Source::Folder(path) if path.extension().is_some_and(|end| end == "gguf") => {
            ModelSource::Gguf { file: path.clone(), tokenizer: config.model.tokenizer.clone() }
        }
        Source::Folder(folder) => ModelSource::Folder(folder.clone()),
        Source::Hub(name) => ModelSource::Folder(hub::model(name, watch)?),
        Source::BuiltinLlama => ModelSource::BuiltinLlama,
        Source::Builtin | Source::Unset => ModelSource::Builtin,
    })
}

/// The shape of the configuration's model, from its `config.json` alone.
///
/// # Errors
/// A file that cannot be read, or describes a model we do not know.
pub fn info(config: &RunConfig, watch: &mut dyn Watch) -> Result<ModelInfo> {
    let source = match &config.model.path {
        Source::Hub(name) => ModelSource::Folder(hub::model_shape(name, watch)?),
        _ => source(config, watch)?,
    };
    source.info().context("cannot read the model's shape")
}

/// What the configuration's model learns from data with so many labels.
pub fn task(config: &RunConfig, labels: usize) -> Task {
    match config.model.task {
        TaskKind::Classification => Task::Classify(labels),
        TaskKind::CausalLm => Task::Causal,
    }
}

/// Loads the backbone in `source` for `task`, computing as the configuration says.
///
/// # Errors
/// What the models crate finds wrong with the folder.
pub fn model(loaded: &CheckedConfig, source: &ModelSource, task: Task, device: &Device) -> Result<Transformer> {
    model_in(loaded.config.engine.precision, loaded, source, task, device)
}

/// What [`model`] gives, in f32: to be shared by runs that compute in different precisions.
///
/// # Errors
/// As [`model`].
pub fn model_as_read(loaded: &CheckedConfig, source: &ModelSource, task: Task, device: &Device) -> Result<Transformer> {
    model_in(Precision::F32, loaded, source, task, device)
}

fn model_in(
    held: Precision,
    loaded: &CheckedConfig,
    source: &ModelSource,
    task: Task,
    device: &Device,
) -> Result<Transformer> {
    let config = &loaded.config;
    let mut rng = stream(config.train.seed, Use::HeadInit, 0, 0, 0);
    let (device, precision) = (device.clone().autodiff(), config.engine.precision);
    check_precision(precision, &device).map_err(|mistake| mistake.at(Some(loaded.place_of("engine.precision"))))?;
    let kinds = kinds(loaded, &source.info().context("cannot read the model's shape")?)?;
    let wanted = Wanted { new_head: config.model.new_head, precision: held };
    let model =
        Transformer::load_as(source, task, &kinds, wanted, &mut rng, &device).context("cannot load the model")?;
    model.notes().iter().for_each(|text| note_once(text));
    Ok(model)
}

/// Notes what is as true of the second load of a model, on another device or for another run, as of the first.
fn note_once(text: &str) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if SAID.lock().is_ok_and(|mut said| said.insert(text.to_string())) {
        note(text);
    }
}

/// Notes what in the configuration of the adapter that a run begins with was read past.
///
/// # Errors
/// An adapter whose configuration cannot be read.
pub fn note_on_adapter(config: &RunConfig) -> Result<()> {
    if let Some(folder) = config.adapter.init.folder().filter(|folder| folder.is_dir()) {
        peft::note(folder)?.iter().for_each(|text| note_once(text));
    }
    Ok(())
}

/// What [`model`] gives for another run on the same backbone [as read](model_as_read) and labels, without reading anything: targets, precision
/// and the seed of the head are those of `config`.
///
/// # Errors
/// A linear among the targets that the model does not have.
pub fn model_again(model: &Transformer, loaded: &CheckedConfig) -> Result<Transformer> {
    let config = &loaded.config;
    let mut rng = stream(config.train.seed, Use::HeadInit, 0, 0, 0);
    Ok(model.again(&kinds(loaded, model.info())?, &mut rng).computing_in(config.engine.precision))
}

/// The linears that carry adapters.
fn kinds(loaded: &CheckedConfig, info: &ModelInfo) -> Result<Vec<TargetKind>, UserError> {
    loaded.config.adapter.kinds(info).map_err(|error| match error {
        FederationError::Setting { key, problem } => misset(loaded, &key, &problem),
        other => UserError::new(other.to_string()),
    })
}

/// A setting that turned out not to work, with its place.
fn misset(loaded: &CheckedConfig, key: &str, problem: &str) -> UserError {
    UserError::new(format!("`{key}` {problem}")).at(Some(loaded.place_of(key)))
}

/// Gives a federation's complaint about a setting the place of its key.
pub fn federation_error(loaded: &CheckedConfig, error: FederationError) -> anyhow::Error {
    match error {
        FederationError::Setting { key, problem } => misset(loaded, &key, &problem).into(),
        other => other.into(),
    }
}

/// Refuses a precision that one of the devices does not compute in.
///
/// # Errors
/// As said.
pub fn refuse_precision(loaded: &CheckedConfig, opened: &[Opened]) -> Result<(), UserError> {
    let (precision, place) = (loaded.config.engine.precision, || Some(loaded.place_of("engine.precision")));
    opened.iter().try_for_each(|o| check_precision(precision, &o.device).map_err(|mistake| mistake.at(place())))
}

/// Refuses a precision that `device` does not compute in.
///
/// # Errors
/// As said.
pub fn check_precision(precision: Precision, device: &Device) -> Result<(), UserError> {
    if precision.runs_on(device) {
        return Ok(());
    }
    let has = match precision {
        Precision::Tf32 => "a device with TF32 arithmetic (NVIDIA GPUs since Ampere, by --device cuda)",
        _ => "a device with bfloat16 arithmetic (recent NVIDIA GPUs, by --device cuda)",
    };
    let what = format!("engine.precision = \"{}\", which this device does not compute in", precision.name());
    Err(UserError::new(what).help(format!("use \"f32\", or {has}")))
}

/// Gives a complaint about a setting the place of its key; other errors name their place themselves.
fn placed(loaded: &CheckedConfig, error: DataError) -> anyhow::Error {
    if let DataError::Groups { column, groups, clients } = &error {
        return UserError::new(format!(
            "clients.count = {clients}, but column `{column}` has {groups} different values"
        ))
        .at(Some(loaded.place_of("clients.count")))
        .help(format!("a natural partition has a client for each value: use clients.count = {groups}"))
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
