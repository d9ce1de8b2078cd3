//! The body's tensors out of a checkpoint, and what of it is left aside.

use burn::tensor::Tensor;

use super::{Body, Pooler};
use crate::description::NormPlace;
use crate::layer::Layer;
use crate::loader::Loader;
use crate::rotary::Rotary;
use crate::{ModelError, Task};

/// What was read, and what should be said of it.
pub(crate) struct Loaded {
    pub body: Body,
    pub notes: Vec<String>,
}

/// What else may be the matter where output embeddings are missing.
const UNTIED: &str =
    "; where the output embeddings are the input embeddings, config.json says \"tie_word_embeddings\": true";

impl Body {
    /// Takes the tensors out of a checkpoint: for language models the output embeddings too, for classifiers the pooler.
    pub fn load(from: &mut Loader, task: Task) -> Result<Loaded, ModelError> {
        let info = from.info;
        let description = info.architecture.describe();
        let names = &description.embeddings;
        let mut notes = Vec::new();
        let words = from.table(names.words, info.vocab)?;
        let mut table = |name: Option<&str>, shape: [usize; 2]| name.map(|name| from.shaped(name, shape)).transpose();
        let positions = table(names.positions, [info.positions, info.hidden])?;
        let token_types = table(names.token_types, [info.token_types, info.hidden])?;
        let distances = table(names.distances, [info.distances, info.heads])?;
        let embedding_norm = names.norm.map(|name| from.norm(name, info.hidden)).transpose()?;
        let layers = (0..info.layers).map(|i| layer(from, i)).collect::<Result<_, ModelError>>()?;
        let last_norm = description.last_norm.map(|name| from.norm(name, info.hidden)).transpose()?;
        let output = match (&info.decoder, task) {
            (Some(decoder), Task::Causal) => output(from, decoder.tied, &words, &mut notes)?,
            _ => None,
        };
        let pooler = description.pooler_of(task).filter(|_| !info.draws_pooler).map(|form| {
            let linear = from.pooler_linear(form.linear, info.hidden)?;
            let norm = form.norm.map(|name| from.full_norm(name, info.hidden)).transpose()?;
            Ok::<_, ModelError>(Pooler { linear, bend: form.bend, norm })
        });
        let rotaries = info.ropes.iter().map(|rope| Rotary::new(rope, info.head_width, info.positions, from.device));
        let body = Body {
            order: description.order,
            words,
            positions,
            token_types,
            distances,
            embedding_norm,
            layers,
            last_norm,
            output,
            rotaries: rotaries.collect(),
            pooler: pooler.transpose()?,
        };
        Ok(Loaded { body, notes })
    }
}

fn layer(from: &mut Loader, i: usize) -> Result<Layer, ModelError> {
    let description = from.info.architecture.describe();
    let name = format!("{}.{i}", description.layers);
    let groups = from.groups(&name, &description.groups)?;
    let mut norms = [const { None }; NormPlace::COUNT];
    for (place, module) in description.norms_of(i) {
        let width = from.info.norm_width(place);
        norms[place as usize] = Some(from.norm(&format!("{name}.{module}"), width)?);
    }
    Ok(Layer { groups, norms })
}

/// The output embeddings where they are others than `words`. Checkpoints that say they are tied may hold others all the
/// same, and Transformers 5 then computes with those.
fn output(
    from: &mut Loader,
    tied: bool,
    words: &Tensor<2>,
    notes: &mut Vec<String>,
) -> Result<Option<Tensor<2>>, ModelError> {
    const NAME: &str = "lm_head.weight";
    if !tied {
        return from.full_table(NAME, from.info.vocab, UNTIED).map(Some);
    }
    if !from.weights.has(NAME) {
        return Ok(None);
    }
    let own = from.full_table(NAME, from.info.vocab, "")?;
    if own.clone().equal(words.clone()).all().into_scalar::<bool>() {
        return Ok(None);
    }
    notes.push(format!(
        "{}: tie_word_embeddings is true, but `{NAME}` holds other numbers than the input embeddings; they are used, as \
         Transformers 5 does",
        from.weights.file_of(NAME)
    ));
    Ok(Some(own))
}
