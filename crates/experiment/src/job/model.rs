//! The model that a configuration names.

use anyhow::{Context, Result};
use bonfire_data::random::{Use, stream};
use bonfire_federation::FederationError;
use bonfire_models::{Model, ModelInfo, ModelSource, Precision, TargetKind, Task, Transformer, Wanted, peft};
use burn::tensor::Device;

use super::paths;
use super::said::misset;
use crate::config::{CheckedConfig, RunConfig, Source, TaskKind};
use crate::device::Opened;
use crate::hub;
use crate::log::note_once;
use crate::user_error::UserError;
use crate::watch::Watch;

/// Where the configuration's model comes from; from the Hub it is fetched first.
///
/// # Errors
/// A folder or file that is not there, a repository that cannot be had.
pub fn source(loaded: &CheckedConfig, watch: &mut dyn Watch) -> Result<ModelSource> {
    let config = &loaded.config;
    Ok(match &config.model.path {
        Source::Folder(path) if path.extension().is_some_and(|end| end == "gguf") => {
            let tokenizer = config.model.tokenizer.as_deref();
            let tokenizer = tokenizer.map(|path| paths::found(loaded, "model.tokenizer", path)).transpose()?;
            ModelSource::Gguf { file: paths::found(loaded, "model.path", path)?, tokenizer }
        }
        Source::Folder(path) => {
            let folder = paths::found(loaded, "model.path", path)?;
            if folder.is_file() {
                return Err(UserError::new(format!(
                    "`model.path`: {} is a file; a model is a folder in Hugging Face layout (config.json, model.safetensors, \
                     tokenizer.json) or a GGUF file",
                    path.display()
                ))
                .at(Some(loaded.place_of("model.path")))
                .help(match path.parent().filter(|parent| parent.join("config.json").is_file()) {
                    Some(parent) => format!("did you mean its folder, \"{}\"?", parent.display()),
                    None => "name the model's folder".into(),
                })
                .into());
            }
            ModelSource::Folder(folder)
        }
        Source::Hub(name) => ModelSource::Folder(hub::model(name, watch)?),
        Source::BuiltinLlama => ModelSource::BuiltinLlama,
        Source::Builtin | Source::Unset => ModelSource::Builtin,
    })
}

/// The shape of the configuration's model, from its `config.json` alone.
///
/// # Errors
/// A file that cannot be read, or describes a model we do not know.
pub fn info(loaded: &CheckedConfig, watch: &mut dyn Watch) -> Result<ModelInfo> {
    let source = match &loaded.config.model.path {
        Source::Hub(name) => ModelSource::Folder(hub::model_shape(name, watch)?),
        _ => source(loaded, watch)?,
    };
    source.info().context("cannot read the model's shape")
}

/// What the configuration's model learns from data with so many labels.
pub fn task(config: &RunConfig, labels: usize) -> Task {
    match config.model.task {
        TaskKind::Classification => Task::Classify(labels),
        TaskKind::MultiLabel => Task::MultiLabel(labels),
        TaskKind::TokenClassification => Task::Tag(labels),
        TaskKind::Regression => Task::Regress,
        TaskKind::CausalLm => Task::Causal,
    }
}

/// Loads the backbone in `source` for `task`, computing as the configuration says.
///
/// # Errors
/// What the models crate finds wrong with the folder.
pub fn model(loaded: &CheckedConfig, source: &ModelSource, task: Task, device: &Device) -> Result<Transformer> {
    dropping(model_in(loaded.config.engine.precision, loaded, source, task, device)?, loaded)
}

/// The model with what the configuration has it drop.
fn dropping(model: Transformer, loaded: &CheckedConfig) -> Result<Transformer> {
    let refused = |(key, problem): (&str, String)| misset(loaded, key, &problem);
    Ok(model.dropping(loaded.config.dropout()).map_err(refused)?)
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
    model.notes().iter().for_each(note_once);
    Ok(model)
}

/// Notes what in the configuration of the adapter that a run begins with was read past.
///
/// # Errors
/// An adapter whose configuration cannot be read.
pub fn note_on_adapter(config: &RunConfig) -> Result<()> {
    if let Some(folder) = config.adapter.init.folder().filter(|folder| folder.is_dir()) {
        peft::note(folder)?.iter().for_each(note_once);
    }
    Ok(())
}

/// What [`model`] gives for another run on the same backbone [as read](model_as_read) and labels, without reading anything: targets, precision, dropout
/// and the seed of the head are those of `config`.
///
/// # Errors
/// A linear among the targets that the model does not have.
pub fn model_again(model: &Transformer, loaded: &CheckedConfig) -> Result<Transformer> {
    let config = &loaded.config;
    let mut rng = stream(config.train.seed, Use::HeadInit, 0, 0, 0);
    dropping(model.again(&kinds(loaded, model.info())?, &mut rng).computing_in(config.engine.precision), loaded)
}

/// The linears that carry adapters.
fn kinds(loaded: &CheckedConfig, info: &ModelInfo) -> Result<Vec<TargetKind>, UserError> {
    loaded.config.adapter.kinds(info).map_err(|error| match error {
        FederationError::Setting { key, problem } => misset(loaded, &key, &problem),
        other => UserError::new(other.to_string()),
    })
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
