//! The texts that a configuration names, and how they are dealt out.

use std::path::Path;

use anyhow::Result;
use bonfire_data::{
    Content, Dataset, Partition, Reading, Shards, Wording, corpus, question as question_of, questions as questions_in,
};
use bonfire_models::ModelSource;

use super::labels::ordered;
use super::model::source;
use super::paths;
use super::said::placed;
use crate::config::{CheckedConfig, DataSection, LabelColumns, Source, TaskKind};
use crate::hub;
use crate::log::note_once;
use crate::user_error::UserError;
use crate::watch::Watch;

/// Reads the data set that the configuration names, for those who use no model. Labels go by a model's head where it is at
/// hand: no model is fetched.
///
/// # Errors
/// What the data crate finds wrong with the folder, or the Hub with the repository.
pub fn dataset(loaded: &CheckedConfig, watch: &mut dyn Watch) -> Result<Dataset> {
    let data = as_labelled(loaded, watch)?;
    let here = match &loaded.config.model.path {
        Source::Hub(name) => hub::model_in_cache(name).map(ModelSource::Folder),
        _ => Some(source(loaded, watch)?),
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
    let source = source(loaded, watch)?;
    Ok((ordered(loaded, data, &source), source))
}

/// As [`dataset`], for those who measure and do not train: where there are no training rows, as on the server of a federation across
/// machines, the labels are those that a file lists.
///
/// # Errors
/// As [`dataset`] and [`part`].
pub fn measured(loaded: &CheckedConfig, watch: &mut dyn Watch) -> Result<Dataset> {
    match folder_without_training(loaded)? {
        Some(folder) => Ok(part_and_source(loaded, folder, watch)?.0),
        None => dataset(loaded, watch),
    }
}

/// The same for those who use the model too.
///
/// # Errors
/// As [`measured`] and [`source`].
pub fn measured_and_source(loaded: &CheckedConfig, watch: &mut dyn Watch) -> Result<(Dataset, ModelSource)> {
    match folder_without_training(loaded)? {
        Some(folder) => part_and_source(loaded, folder, watch),
        None => dataset_and_source(loaded, watch),
    }
}

/// What lies in `folder`, which may lack splits, and where the model comes from, whose head orders the labels.
///
/// # Errors
/// As [`part`] and [`source`].
pub fn part_and_source(loaded: &CheckedConfig, folder: &Path, watch: &mut dyn Watch) -> Result<(Dataset, ModelSource)> {
    let data = part(loaded, folder)?;
    let source = source(loaded, watch)?;
    Ok((ordered(loaded, data, &source), source))
}

/// The folder of rows, where it has a list of labels and no training rows.
fn folder_without_training(loaded: &CheckedConfig) -> Result<Option<&Path>> {
    let Source::Folder(folder) = &loaded.config.data.path else { return Ok(None) };
    let listed = ["labels.json", "labels.txt"].iter().any(|name| folder.join(name).is_file());
    let without = listed && folder.is_dir() && !has_training_rows(loaded, folder)?;
    Ok(without.then_some(folder.as_path()))
}

fn as_labelled(loaded: &CheckedConfig, watch: &mut dyn Watch) -> Result<Dataset> {
    let section = &loaded.config.data;
    let causal = loaded.config.model.task == TaskKind::CausalLm;
    let data = match &section.path {
        Source::Folder(path) => read(loaded, &paths::found(loaded, "data.path", path)?)?,
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
            let lacking = match loaded.config.model.task {
                TaskKind::Classification | TaskKind::CausalLm => None,
                TaskKind::MultiLabel => Some(("one class each", "whose labels are lists")),
                TaskKind::TokenClassification => Some(("classes and no tagged words", "of words and tags")),
                TaskKind::Regression => Some(("classes and no numbers to foretell", "whose label is a number")),
            };
            if let Some((have, wanted)) = lacking {
                return Err(UserError::new(format!("the built-in texts have {have}"))
                    .at(Some(loaded.place_of("model.task")))
                    .help(format!("set data.path to a folder of rows {wanted}"))
                    .into());
            }
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
        // A forecast of several variants reads them for each.
        data.notes.iter().for_each(note_once);
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
    let (label, label_columns) = match section.label.clone() {
        Some(LabelColumns::Each(names)) => (None, names),
        Some(LabelColumns::One(name)) => (Some(name), Vec::new()),
        None => (None, Vec::new()),
    };
    Ok(Reading {
        several: config.model.task == TaskKind::MultiLabel,
        words: config.model.task == TaskKind::TokenClassification,
        label_columns,
        causal: config.model.task == TaskKind::CausalLm,
        numbers: config.model.task == TaskKind::Regression,
        group,
        wording: wording(loaded)?,
        text: section.text.as_ref().map(|text| text.names()).unwrap_or_default(),
        label,
        unseen: section.unseen_labels,
        train: section.train.clone(),
        validation: section.validation.clone(),
        test: section.test.clone(),
        shares: section.split,
        seed: config.train.seed,
        part: false,
    })
}

/// The rows of a file as the run's model is asked them, without labels and responses.
///
/// # Errors
/// A file that is not there, or holds no such rows.
pub fn questions(loaded: &CheckedConfig, file: &Path) -> Result<Vec<Content>> {
    if !file.is_file() {
        let what = if file.is_dir() { "is a folder; rows are a file" } else { "there is no such file" };
        return Err(UserError::new(format!("{}: {what}", file.display()))
            .help("name a file of rows, such as rows.jsonl")
            .into());
    }
    questions_in(file, &reading(loaded)?).map_err(|error| placed(loaded, error))
}

/// What the run's model is asked in a row of these fields.
///
/// # Errors
/// A field that the run's `data.prompt` reads and that is not among them.
pub fn question(loaded: &CheckedConfig, fields: &[(&str, &str)]) -> Result<Content> {
    question_of(fields, &reading(loaded)?).map_err(|error| placed(loaded, error))
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
        Some(client) => Err(UserError::new(format!("client {client} has no training examples"))
            .help("raise data.min_shard or lower clients.count")
            .into()),
        None => Ok(()),
    }
}
