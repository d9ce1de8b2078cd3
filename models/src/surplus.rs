//! Tensors of a checkpoint that the model does not read. More layers than `config.json` tells of mean that it is another model's,
//! which is an error; heads of other tasks are left aside with a note, buffers without.

use crate::tensor_files::shown_name;
use crate::weights::Weights;
use crate::{ModelError, ModelInfo, Task};

/// Names that are listed; more are counted.
const LISTED: usize = 4;

/// What is to be said of tensors that are left aside.
///
/// # Errors
/// A tensor that belongs to a layer, which the model then lacks or computes otherwise.
pub(crate) fn note(weights: &Weights, info: &ModelInfo, task: Task) -> Result<Option<String>, ModelError> {
    let left: Vec<&str> = weights.surplus().filter(|name| !is_buffer(name)).collect();
    if let Some(name) = left.iter().find(|name| is_of_a_layer(name, info)) {
        let (file, name, architecture) = (weights.file_of(name).into(), shown_name(name), info.architecture.name());
        return Err(ModelError::SurplusTensor { file, name, architecture, layers: info.layers });
    }
    let Some(first) = left.first() else { return Ok(None) };
    let mut names: Vec<String> = left.iter().take(LISTED).map(|name| shown_name(name)).collect();
    if left.len() > LISTED {
        names.push(format!("{} more", left.len() - LISTED));
    }
    let what = match task {
        Task::Classify(_) | Task::MultiLabel(_) => "classifier",
        Task::Tag(_) => "token classifier",
        Task::Regress => "regression model",
        Task::Causal => "language model",
    };
    let (file, n, kind) = (weights.file_of(first), left.len(), info.architecture.name());
    let tensors = if n == 1 { "a tensor" } else { "tensors" };
    Ok(Some(format!("{file}: left aside {tensors} that a {kind} {what} does not read: {}", names.join(", "))))
}

/// What is computed from the configuration, and only some versions of Transformers wrote down.
fn is_buffer(name: &str) -> bool {
    ["position_ids", "token_type_ids", "rotary_emb.inv_freq", "masked_bias"].iter().any(|end| name.ends_with(end))
}

fn is_of_a_layer(name: &str, info: &ModelInfo) -> bool {
    let description = info.architecture.describe();
    let bare = name.strip_prefix(description.prefix).and_then(|n| n.strip_prefix('.')).unwrap_or(name);
    let number = bare.strip_prefix(description.layers).and_then(|n| n.strip_prefix('.'));
    number.is_some_and(|number| number.starts_with(|c: char| c.is_ascii_digit()))
}
