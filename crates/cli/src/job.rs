//! From a checked configuration to data, shards, tokens and a model: what `train`, `evaluate` and `partition` share.

mod labels;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;

use anyhow::{Context, Result, bail};
use bonfire_data::random::{Use, stream};
use bonfire_data::{
    CausalTokenizer, CausalTokens, DataError, Dataset, Example, Partition, Shards, Tokenizer, TokenizerFiles, Wording,
    corpus,
};
use bonfire_engine::{Split, TokenizedData};
use bonfire_federation::FederationError;
use bonfire_models::{Goal, Model, ModelInfo, ModelSource, Precision, TargetKind, Task, Transformer, Wanted, peft};
use burn::tensor::Device;

use crate::config::{Loaded, RunConfig, Source, TaskKind};
use crate::console::note;
use crate::device::Opened;
use crate::hub;
use crate::mistake::Mistake;

/// Reads the data set that the configuration names, for those who use no model. Labels go by a model's head where it is at
/// hand: nothing is fetched.
///
/// # Errors
/// What the data crate finds wrong with the folder, or the Hub with the repository.
pub fn dataset(loaded: &Loaded) -> Result<Dataset> {
    labels::ordered(loaded, as_labelled(loaded)?)
}

/// The same for those who use the model too, which is fetched once the data are found to be right.
///
/// # Errors
/// As [`dataset`] and [`source`].
pub fn dataset_for_model(loaded: &Loaded) -> Result<Dataset> {
    let data = as_labelled(loaded)?;
    source(&loaded.config)?;
    labels::ordered(loaded, data)
}

fn as_labelled(loaded: &Loaded) -> Result<Dataset> {
    let section = &loaded.config.data;
    let causal = loaded.config.model.task == TaskKind::CausalLm;
    let data = match &section.path {
        Source::Folder(folder) => read(loaded, folder)?,
        Source::Hub(name) => {
            let folder = hub::data(name)?;
            // The folder is called after its commit.
            Dataset { name: name.clone(), ..read(loaded, &folder)? }
        }
        _ if section.prompt.is_some() => {
            return Err(Mistake::new("the built-in data has no columns for data.prompt and data.response")
                .at(Some(loaded.place_of("data.prompt")))
                .help("leave both out, or set data.path to a folder of rows")
                .into());
        }
        _ => {
            check_builtin_column(loaded)?;
            if causal { corpus::causal() } else { corpus::dataset() }
        }
    };
    match section.labels {
        None => Ok(data),
        Some(n) => data.keep_labels(n).map_err(|error| placed(loaded, error)),
    }
}

/// Reads what one site or the server of a federation across machines has in `folder`, of which a split may be missing.
///
/// # Errors
/// As [`dataset`]; labels that are not listed.
pub fn part(loaded: &Loaded, folder: &Path) -> Result<Dataset> {
    let causal = loaded.config.model.task == TaskKind::CausalLm;
    let data = Dataset::read_part(folder, causal, wording(loaded)?.as_ref())?;
    let data = match loaded.config.data.labels {
        None => data,
        Some(n) => data.keep_labels(n).map_err(|error| placed(loaded, error))?,
    };
    source(&loaded.config)?;
    labels::ordered(loaded, data)
}

/// How prompts and responses are made of a row's columns, where the configuration says so.
fn wording(loaded: &Loaded) -> Result<Option<Wording>> {
    let section = &loaded.config.data;
    let given = section.prompt.as_ref().zip(section.response.as_ref());
    let wording = given.map(|(prompt, response)| Wording::parse(prompt, response)).transpose();
    wording.map_err(|error| placed(loaded, error))
}

/// The built-in texts have one column to go by.
fn check_builtin_column(loaded: &Loaded) -> Result<(), Mistake> {
    match &loaded.config.data.partition {
        Partition::Natural { column } if column != corpus::COLUMN => {
            Err(Mistake::new(format!("the built-in data has no column `{column}` to partition by"))
                .at(Some(loaded.place_of("data.partition.column")))
                .help(format!("use column = \"{}\"", corpus::COLUMN)))
        }
        _ => Ok(()),
    }
}

/// Reads a folder as what the model learns from.
fn read(loaded: &Loaded, folder: &Path) -> Result<Dataset> {
    let section = &loaded.config.data;
    let column = match &section.partition {
        Partition::Natural { column } => Some(column.as_str()),
        _ => None,
    };
    if loaded.config.model.task == TaskKind::Classification {
        return Ok(Dataset::read(folder, column)?);
    }
    Ok(Dataset::read_causal(folder, column, wording(loaded)?.as_ref())?)
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

/// Where the configuration's model comes from; from the Hub it is fetched first.
///
/// # Errors
/// A repository that cannot be had.
pub fn source(config: &RunConfig) -> Result<ModelSource> {
    Ok(match &config.model.path {
        Source::Folder(path) if path.extension().is_some_and(|end| end == "gguf") => {
            ModelSource::Gguf { file: path.clone(), tokenizer: config.model.tokenizer.clone() }
        }
        Source::Folder(folder) => ModelSource::Folder(folder.clone()),
        Source::Hub(name) => ModelSource::Folder(hub::model(name)?),
        Source::BuiltinLlama => ModelSource::BuiltinLlama,
        Source::Builtin | Source::Unset => ModelSource::Builtin,
    })
}

/// The shape of the configuration's model, from its `config.json` alone.
///
/// # Errors
/// A file that cannot be read, or describes a model we do not know.
pub fn info(config: &RunConfig) -> Result<ModelInfo> {
    let source = match &config.model.path {
        Source::Hub(name) => ModelSource::Folder(hub::model_shape(name)?),
        _ => source(config)?,
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

/// Loads the backbone for `task`, computing as the configuration says.
///
/// # Errors
/// What the models crate finds wrong with the folder.
pub fn model(loaded: &Loaded, task: Task, device: &Device) -> Result<Transformer> {
    model_in(loaded.config.train.precision, loaded, task, device)
}

/// What [`model`] gives, in f32: to be shared by runs that compute in different precisions.
///
/// # Errors
/// As [`model`].
pub fn model_as_read(loaded: &Loaded, task: Task, device: &Device) -> Result<Transformer> {
    model_in(Precision::F32, loaded, task, device)
}

fn model_in(held: Precision, loaded: &Loaded, task: Task, device: &Device) -> Result<Transformer> {
    let config = &loaded.config;
    let mut rng = stream(config.train.seed, Use::HeadInit, 0, 0, 0);
    let (device, precision) = (device.clone().autodiff(), config.train.precision);
    check_precision(precision, &device).map_err(|mistake| mistake.at(Some(loaded.place_of("train.precision"))))?;
    let source = source(config)?;
    let kinds = kinds(loaded, &source.info().context("cannot read the model's shape")?)?;
    let wanted = Wanted { new_head: config.model.new_head, precision: held };
    let model =
        Transformer::load_as(&source, task, &kinds, wanted, &mut rng, &device).context("cannot load the model")?;
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

/// Refuses a precision that one of the devices does not compute in.
///
/// # Errors
/// As said.
pub fn refuse_precision(loaded: &Loaded, opened: &[Opened]) -> Result<(), Mistake> {
    let (precision, place) = (loaded.config.train.precision, || Some(loaded.place_of("train.precision")));
    opened.iter().try_for_each(|o| check_precision(precision, &o.device).map_err(|mistake| mistake.at(place())))
}

/// Refuses a precision that `device` does not compute in.
///
/// # Errors
/// As said.
pub fn check_precision(precision: Precision, device: &Device) -> Result<(), Mistake> {
    if precision.runs_on(device) {
        return Ok(());
    }
    let has = match precision {
        Precision::Tf32 => "a device with TF32 arithmetic (NVIDIA GPUs since Ampere, by --device cuda)",
        _ => "a device with bfloat16 arithmetic (recent NVIDIA GPUs, by --device cuda)",
    };
    let what = format!("train.precision = \"{}\", which this device does not compute in", precision.name());
    Err(Mistake::new(what).help(format!("use \"f32\", or {has}")))
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
    let source = source(&loaded.config)?;
    let tokenizer = tokenizer(&source)?;
    let tokens = match loaded.config.model.task {
        TaskKind::Classification => labelled_tokens(loaded, data, &tokenizer)?,
        TaskKind::CausalLm => causal_tokens(loaded, data, &causal_tokenizer(&source, tokenizer.clone(), model)?)?,
    };
    refuse_tokens_beyond(&[&tokens.train, &tokens.test], &tokenizer, &source, model)?;
    Ok(tokens)
}

/// The tokenizer of a model, as the files beside it want it.
///
/// # Errors
/// A file that is missing or cannot be read.
pub fn tokenizer(source: &ModelSource) -> Result<Tokenizer> {
    let (bytes, name) = source.file("tokenizer.json")?;
    let tokenizer = Tokenizer::from_bytes(&bytes, &name)?;
    Ok(match source.optional("tokenizer_config.json")? {
        Some((bytes, name)) => tokenizer.obeying(&bytes, &name)?,
        None => tokenizer,
    })
}

/// Refuses token ids for which the model has no embedding. A tokenizer may know more tokens than the model, a padding token
/// that was added and never trained, as long as no text gives them.
///
/// # Errors
/// As said, with the token and both files.
pub fn refuse_tokens_beyond(
    splits: &[&Split],
    tokenizer: &Tokenizer,
    source: &ModelSource,
    model: &ModelInfo,
) -> Result<()> {
    let ids = splits.iter().flat_map(|split| split.ids.iter().flatten());
    let Some(id) = ids.copied().find(|id| *id as usize >= model.vocab) else { return Ok(()) };
    let files = ["tokenizer.json", "config.json"].map(|name| source.shown(name));
    let token = tokenizer.token(id).map_or(String::new(), |token| format!(" (\"{token}\")"));
    bail!(
        "{}: the data's texts give token {id}{token}, but the model has embeddings for {} tokens ({}: vocab_size): is it \
         another model's tokenizer?",
        files[0],
        model.vocab,
        files[1]
    )
}

fn labelled_tokens(loaded: &Loaded, data: &Dataset, tokenizer: &Tokenizer) -> Result<TokenizedData> {
    let split = |examples: &[Example]| -> Result<Split> {
        let texts: Vec<&str> = examples.iter().map(Example::text).collect();
        let ids = tokenizer.encode(&texts, loaded.config.data.max_length).map_err(|error| placed(loaded, error))?;
        Ok(Split { ids, goals: examples.iter().map(|example| Goal::Class(example.label)).collect() })
    };
    Ok(TokenizedData { train: split(&data.train)?, test: split(&data.test)?, task: Task::Classify(data.labels.len()) })
}

/// The tokenizer with what the files beside it say of special tokens and conversations.
///
/// # Errors
/// A file that cannot be read, no token that ends a text.
pub fn causal_tokenizer(source: &ModelSource, tokenizer: Tokenizer, model: &ModelInfo) -> Result<CausalTokenizer> {
    let files = TokenizerFiles {
        tokenizer_config: source.optional("tokenizer_config.json")?,
        chat_template: source.optional("chat_template.jinja")?,
        generation_config: source.optional("generation_config.json")?,
        model_eos: model.decoder.as_ref().and_then(|decoder| decoder.eos.first().copied()),
    };
    Ok(CausalTokenizer::new(tokenizer, &files)?)
}

fn causal_tokens(loaded: &Loaded, data: &Dataset, tokenizer: &CausalTokenizer) -> Result<TokenizedData> {
    let longest = loaded.config.data.max_length;
    let [train, test] = [(&data.train, "train"), (&data.test, "test")]
        .map(|(examples, split)| tokenizer.encode(examples, split, longest).map_err(|error| placed(loaded, error)));
    let (train, test) = (train?, test?);
    let cut = train.cut + test.cut;
    if cut > 0 {
        let all = train.ids.len() + test.ids.len();
        note(format!("{cut} of {all} texts are longer than data.max_length = {longest} tokens and are cut"));
    }
    let split =
        |tokens: CausalTokens| Split { ids: tokens.ids, goals: tokens.from.into_iter().map(Goal::Next).collect() };
    Ok(TokenizedData { train: split(train), test: split(test), task: Task::Causal })
}

/// Gives a complaint about a setting the place of its key; other errors name their place themselves.
fn placed(loaded: &Loaded, error: DataError) -> anyhow::Error {
    if let DataError::Groups { column, groups, clients } = &error {
        return Mistake::new(format!("clients.count = {clients}, but column `{column}` has {groups} different values"))
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
        return Mistake::new(error.to_string()).at(Some(loaded.place_of(&key))).into();
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
