//! From a checked configuration to data, shards, tokens and a model: what `train`, `evaluate` and `partition` share.

use anyhow::{Context, Result, bail};
use bonfire_data::random::{Use, stream};
use bonfire_data::{DataError, Dataset, Example, Partition, Shards, Tokenizer, corpus};
use bonfire_engine::{Split, TokenizedData};
use bonfire_federation::FederationError;
use bonfire_models::{Goal, Model, ModelInfo, ModelSource, Precision, TargetKind, Task, Transformer};
use burn::tensor::Device;

use crate::config::{Loaded, RunConfig, Source, TaskKind};
use crate::mistake::Mistake;

/// Reads the data set that the configuration names.
///
/// # Errors
/// What the data crate finds wrong with the folder.
pub fn dataset(loaded: &Loaded) -> Result<Dataset> {
    let section = &loaded.config.data;
    let column = match &section.partition {
        Partition::Natural { column } => Some(column.as_str()),
        _ => None,
    };
    let data = match section.path.folder() {
        None => corpus::dataset(),
        Some(folder) => Dataset::read(folder, column)?,
    };
    match section.labels {
        None => Ok(data),
        Some(n) => data.keep_labels(n).map_err(|error| placed(loaded, error)),
    }
}

/// Deals the rows out to the clients.
///
/// # Errors
/// A partition that cannot be made of this data set.
pub fn shards(loaded: &Loaded, data: &Dataset) -> Result<Shards> {
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

/// Where the configuration's model comes from.
pub fn source(config: &RunConfig) -> ModelSource {
    match &config.model.path {
        Source::Folder(folder) => ModelSource::Folder(folder.clone()),
        Source::BuiltinLlama => ModelSource::BuiltinLlama,
        Source::Builtin | Source::Unset => ModelSource::Builtin,
    }
}

/// The shape of the configuration's model, from its `config.json` alone.
///
/// # Errors
/// A file that cannot be read, or describes a model we do not know.
pub fn info(config: &RunConfig) -> Result<ModelInfo> {
    source(config).info().context("cannot read the model's shape")
}

/// What the configuration's model learns from data with so many labels.
pub fn task(config: &RunConfig, labels: usize) -> Task {
    match config.model.task {
        TaskKind::Classification => Task::Classify(labels),
        TaskKind::CausalLm => Task::Causal,
    }
}

/// Loads the backbone for `task`.
///
/// # Errors
/// What the models crate finds wrong with the folder.
pub fn model(loaded: &Loaded, task: Task, device: &Device) -> Result<Transformer> {
    let config = &loaded.config;
    let mut rng = stream(config.train.seed, Use::HeadInit, 0, 0, 0);
    let (device, precision) = (device.clone().autodiff(), config.train.precision);
    check_precision(precision, &device).map_err(|mistake| mistake.at(Some(loaded.place_of("train.precision"))))?;
    let (source, kinds) = (source(config), kinds(loaded, &info(config)?)?);
    let model = Transformer::load(&source, task, &kinds, &mut rng, &device).context("cannot load the model")?;
    Ok(model.computing_in(precision))
}

/// What [`model`] gives for another run on the same backbone and labels, without reading anything: targets, precision
/// and the seed of the head are those of `config`.
///
/// # Errors
/// A linear among the targets that the model does not have.
pub fn model_again(model: &Transformer, loaded: &Loaded) -> Result<Transformer> {
    let config = &loaded.config;
    let mut rng = stream(config.train.seed, Use::HeadInit, 0, 0, 0);
    Ok(model.again(&kinds(loaded, model.info())?, &mut rng).computing_in(config.train.precision))
}

/// The linears that carry adapters.
fn kinds(loaded: &Loaded, info: &ModelInfo) -> Result<Vec<TargetKind>, Mistake> {
    loaded.config.adapter.kinds(info).map_err(|error| match error {
        FederationError::Setting { key, problem } => misset(loaded, &key, &problem),
        other => Mistake::new(other.to_string()),
    })
}

/// A setting that turned out not to work, with its place.
fn misset(loaded: &Loaded, key: &str, problem: &str) -> Mistake {
    Mistake::new(format!("`{key}` {problem}")).at(Some(loaded.place_of(key)))
}

/// Gives a federation's complaint about a setting the place of its key.
pub fn federation_error(loaded: &Loaded, error: FederationError) -> anyhow::Error {
    match error {
        FederationError::Setting { key, problem } => misset(loaded, &key, &problem).into(),
        other => other.into(),
    }
}

/// Refuses a precision that `device` does not compute in.
///
/// # Errors
/// As said.
pub fn check_precision(precision: Precision, device: &Device) -> Result<(), Mistake> {
    match precision.runs_on(device) {
        true => Ok(()),
        false => Err(Mistake::new("train.precision = \"bf16\", which this device does not compute in")
            .help("use \"f32\", or a device with bfloat16 arithmetic (recent NVIDIA GPUs, by --device cuda)")),
    }
}

/// Turns both splits into token ids for `model`.
///
/// # Errors
/// No usable tokenizer beside the model, one with more tokens than the model, or a `data.max_length` above the model's.
pub fn tokens(loaded: &Loaded, data: &Dataset, model: &ModelInfo) -> Result<TokenizedData> {
    let longest = loaded.config.data.max_length;
    if longest > model.max_tokens() {
        return Err(Mistake::new(format!("data.max_length = {longest} is more than the model can read"))
            .at(Some(loaded.place_of("data.max_length")))
            .help(format!("use at most {}", model.max_tokens()))
            .into());
    }
    let (bytes, name) = source(&loaded.config).file("tokenizer.json")?;
    let tokenizer = Tokenizer::from_bytes(&bytes, &name)?;
    if tokenizer.vocab_size() > model.vocab {
        bail!(
            "the tokenizer knows {} tokens, but the model has embeddings for {}: they do not belong together",
            tokenizer.vocab_size(),
            model.vocab
        );
    }
    let split = |examples: &[Example]| -> Result<Split> {
        let texts: Vec<&str> = examples.iter().map(|example| example.text.as_str()).collect();
        let ids = tokenizer.encode(&texts, longest).map_err(|error| placed(loaded, error))?;
        Ok(Split { ids, goals: examples.iter().map(|example| Goal::Class(example.label)).collect() })
    };
    Ok(TokenizedData { train: split(&data.train)?, test: split(&data.test)?, task: Task::Classify(data.labels.len()) })
}

/// Gives a complaint about a setting the place of its key; other errors name their place themselves.
fn placed(loaded: &Loaded, error: DataError) -> anyhow::Error {
    if let DataError::Groups { column, groups, clients } = &error {
        return Mistake::new(format!("clients.count = {clients}, but column `{column}` has {groups} different values"))
            .at(Some(loaded.place_of("clients.count")))
            .help(format!("a natural partition has a client for each value: use clients.count = {groups}"))
            .into();
    }
    let DataError::Setting { key, value, problem, expected } = &error else { return error.into() };
    let key = match *key {
        "clients" => "clients.count".to_string(),
        "max_length" | "min_shard" | "labels" => format!("data.{key}"),
        _ => format!("data.partition.{key}"),
    };
    Mistake::new(format!("{key} = {value} cannot work: {problem}"))
        .at(Some(loaded.place_of(&key)))
        .help(format!("expected {expected}"))
        .into()
}
