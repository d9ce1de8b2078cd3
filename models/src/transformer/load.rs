//! A transformer read from a checkpoint: backbone, pooler and head, with the targets that carry adapters.

use bonfire_kernels::widest_head;
use burn::tensor::Device;
use rand::Rng;

use super::Transformer;
use crate::body::{Body, Loaded};
use crate::loader::Loader;
use crate::weights::Weights;
use crate::{Dropout, ModelError, ModelInfo, ModelSource, Precision, TargetKind, Task, head, surplus, vocabulary};

/// How a model is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// Draw a head even where the checkpoint has one.
    pub new_head: bool,
    /// What it holds its weights and computes in; the device must be able to ([`Precision::runs_on`]).
    pub precision: Precision,
}

impl Transformer {
    /// Reads a model; a head that the checkpoint lacks is drawn from `rng`. Give an autodiff device to train.
    ///
    /// # Errors
    /// A file that cannot be read, a configuration we do not know or that cannot do the task or run on the device, a tensor
    /// that is missing or misshapen, a layer too many.
    pub fn load(
        source: &ModelSource,
        task: Task,
        kinds: &[TargetKind],
        rng: &mut impl Rng,
        device: &Device,
    ) -> Result<Self, ModelError> {
        Self::load_as(source, task, kinds, Wanted::default(), rng, device)
    }

    /// The same as it is [`Wanted`].
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_as(
        source: &ModelSource,
        task: Task,
        kinds: &[TargetKind],
        wanted: Wanted,
        rng: &mut impl Rng,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let info = source.info()?;
        Self::from_checkpoint(info, Weights::open_source(source)?, task, kinds, wanted, rng, device)
    }

    /// Builds the model of shape `info` from a checkpoint.
    pub(crate) fn from_checkpoint(
        info: ModelInfo,
        mut weights: Weights,
        task: Task,
        kinds: &[TargetKind],
        wanted: Wanted,
        rng: &mut impl Rng,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let (width, most) = (info.head_width, widest_head(device));
        if width > most {
            return Err(ModelError::WideHeads { width, most });
        }
        if task == Task::Causal && info.decoder.is_none() {
            return Err(ModelError::NotCausal { architecture: info.architecture.name() });
        }
        if matches!(task, Task::Tag(_)) && info.architecture.describe().tag_head.is_none() {
            return Err(ModelError::NoTagger { architecture: info.architecture.name() });
        }
        let Wanted { new_head, precision } = wanted;
        let from = &mut Loader { weights: &mut weights, info: &info, device, dtype: precision.dtype() };
        let Loaded { body, mut notes } = Body::load(from, task)?;
        let (mut head, lacking) = head::load(&mut weights, &info, task, new_head)?;
        head::draw(&mut head, &lacking, &info, rng);
        if let (true, Some(form)) = (info.draws_pooler, info.architecture.describe().pooler_of(task)) {
            notes.push(format!("the checkpoint has no pooler ({}); one is drawn and belongs to the head", form.linear));
        }
        notes.extend(surplus::note(&weights, &info, task)?);
        Ok(Transformer {
            targets: info.targets(kinds),
            info,
            device: device.clone(),
            task,
            head,
            lacking,
            backbone: body,
            precision,
            vocabulary_block: if task == Task::Causal { vocabulary::block_on(device) } else { 0 },
            trained: false,
            dropout: Dropout::default(),
            banks: Vec::new(),
            notes,
        })
    }

    /// What should be said of the checkpoint: what was left aside, drawn, or read otherwise than it says.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}
