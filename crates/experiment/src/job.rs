//! From a checked configuration to data, shards, tokens and a model: what `train`, `evaluate` and `partition` share.

mod data;
mod labels;
mod model;
mod said;
mod texts;

pub use data::{dataset, dataset_and_source, has_training_rows, part, refuse_empty, shards};
pub use labels::ordered;
pub use model::{
    check_precision, info, model, model_again, model_as_read, note_on_adapter, refuse_precision, source, task,
};
pub use said::federation_error;
pub use texts::{causal_tokenizer, refuse_tokens_beyond, split_tokens, tokenizer, tokens};
