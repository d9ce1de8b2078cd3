//! From a checked configuration to data, shards, tokens and a model: what `train`, `evaluate` and `partition` share.

mod backdoor;
mod data;
mod labels;
mod model;
mod paths;
mod said;
mod texts;

pub(crate) use backdoor::triggered;
pub use data::{dataset, dataset_and_source, measured, measured_and_source, question, questions, shards};
pub(crate) use data::{has_training_rows, part, part_and_source, refuse_empty};
pub(crate) use labels::ordered;
pub use model::{check_precision, info, model, source, task};
pub(crate) use model::{model_again, model_as_read, note_on_adapter, refuse_precision};
pub use paths::found;
pub(crate) use said::federation_error;
pub use texts::{causal_tokenizer, refuse_tokens_beyond, split_tokens, tokenizer, tokens};
