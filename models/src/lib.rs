//! LoRA-wrapped transformer models on packed tokens: reading weights, the forward pass for many clients at once, and
//! adapters in and out. Training, optimizers and strategies live above; segmented products and attention below.
//!
//! One legend of letters, used in every shape of the project:
//! `C` clients in flight · `S` sequences · `T` tokens · `D` features · `R` rank · `K` classes · `V` vocabulary.
#![deny(missing_docs)]

mod adapter;
mod batch;
mod body;
pub mod builtin;
pub mod check;
pub mod checkpoint;
mod clock;
mod config;
mod continuation;
mod delta_log;
mod description;
mod dropout;
mod error;
pub mod files;
pub mod gguf;
mod head;
mod layer;
mod loader;
pub mod merged;
mod model;
mod noise;
mod objective;
pub mod peft;
mod precision;
mod random_weights;
mod rotary;
mod source;
mod surplus;
mod target;
mod tensor_files;
mod transfer;
mod transformer;
mod vocabulary;
mod weights;

pub use adapter::{Adapter, AdapterInit, HeadTensor, Matrix, standard_normal};
pub use batch::{DeviceBatch, Goal, PackedBatch, Rounding, Tag};
pub use checkpoint::{ModelFolder, NamedWeight, Stored};
pub use clock::{Clock, Part};
pub use config::{
    Activation, Architecture, Biases, DecoderInfo, LayerAttention, ModelInfo, Pooling, Rope, RopeScaling, Task,
};
pub use continuation::Continuation;
pub use delta_log::DeltaLog;
pub use dropout::{Dropout, Masks, ModelDropout, SHARE, is_share};
pub use error::ModelError;
pub use head::blank as blank_head;
pub use model::{ClientAdapter, Model, at_once};
pub use noise::{NoiseSigns, normals};
pub use objective::Objective;
pub use precision::Precision;
pub use source::{ModelSource, shard_names};
pub use target::{Factor, Target, TargetKind, Targets};
pub use transformer::{Transformer, Wanted};
pub use vocabulary::vocabulary_block;
