//! What can be wrong with a model folder or an adapter, in words that a user can act on.

use std::path::PathBuf;

/// A model or adapter that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file that is needed could not be read.
    #[error("cannot read {path}: {source}; a model folder holds config.json, model.safetensors and tokenizer.json")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// `config.json` does not describe a model we know.
    #[error("{file}: {problem}")]
    Config {
        /// The file.
        file: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// The weights file is damaged.
    #[error("{file}: not a whole safetensors file ({problem}); fetch or copy it again")]
    Safetensors {
        /// The file.
        file: String,
        /// What the reader said.
        problem: String,
    },
    /// A tensor is not there.
    #[error("{file}: tensor `{name}` is missing; expected shape {expected:?}{hint}")]
    MissingTensor {
        /// The file.
        file: String,
        /// Its name in the checkpoint.
        name: String,
        /// The shape it should have.
        expected: Vec<usize>,
        /// What may be the reason.
        hint: &'static str,
    },
    /// A tensor has another shape than `config.json` says.
    #[error("{file}: tensor `{name}` has shape {found:?}, expected {expected:?}{hint}")]
    TensorShape {
        /// The file.
        file: String,
        /// Its name in the checkpoint.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape it should have.
        expected: Vec<usize>,
        /// What may be the reason.
        hint: &'static str,
    },
    /// A tensor holds numbers of a kind we do not read.
    #[error("{file}: tensor `{name}` holds {dtype}; f64, f32, f16 and bf16 can be read")]
    TensorType {
        /// The file.
        file: String,
        /// Its name in the checkpoint.
        name: String,
        /// Its element type.
        dtype: String,
    },
    /// A tensor of the backbone holds NaN or infinity.
    #[error(
        "{file}: tensor `{name}` holds {number}; the weights are damaged or of a training that failed, fetch them again"
    )]
    NotFinite {
        /// The file.
        file: String,
        /// Its name in the checkpoint.
        name: String,
        /// What was found, in words.
        number: &'static str,
    },
    /// A tensor of a layer that the model does not take.
    #[error(
        "{file}: tensor `{name}` belongs to no layer of a {architecture} model with {layers} layers; is config.json of another model?"
    )]
    SurplusTensor {
        /// The file.
        file: String,
        /// Its name in the checkpoint.
        name: String,
        /// The architecture that was expected.
        architecture: &'static str,
        /// Layers that config.json gives.
        layers: usize,
    },
    /// An encoder was to be a language model.
    #[error("a {architecture} encoder cannot foretell tokens; use task = \"classification\", or a LLaMA-style model")]
    NotCausal {
        /// The architecture.
        architecture: &'static str,
    },
    /// A model of which Transformers has no classifier of tokens.
    #[error(
        "Transformers has no classifier of tokens of a {architecture} model, so an adapter of one could be loaded nowhere; use \
         another model"
    )]
    NoTagger {
        /// The architecture.
        architecture: &'static str,
    },
    /// Heads wider than the device's kernels take.
    #[error(
        "the model's attention heads have {width} features, and GPUs take at most {most}; run it with --device cpu"
    )]
    WideHeads {
        /// Features of a head.
        width: usize,
        /// Features that a head may have on this device.
        most: usize,
    },
    /// An adapter folder that does not fit the model.
    #[error("adapter {path}: {problem}")]
    Adapter {
        /// The folder.
        path: PathBuf,
        /// What is wrong and what would be right.
        problem: String,
    },
}
