//! Texts, tokens and federated partitions.
//!
//! Here lives everything that happens to the data before a tensor exists: reading a labelled text set
//! ([`Dataset`]), turning texts into token ids ([`Tokenizer`], and [`CausalTokenizer`] for causal language models), cutting the rows into one shard per client
//! ([`Partition`]) and the counter-based randomness that every crate above uses ([`random`]). A small
//! generated set ([`corpus`]) makes the first run work without a download. This crate knows no tensors, no
//! models and no rounds.
//!
//! ```
//! use bonfire_data::{Partition, corpus, label_table};
//!
//! let data = corpus::dataset();
//! let shards = Partition::Dirichlet { alpha: 0.5 }.split(&data, 10, 8, 1)?;
//! assert_eq!(shards.train.len(), 10);
//! let table = label_table(&data, &shards.train); // clients x labels
//! assert_eq!(table[0].iter().sum::<usize>(), shards.train[0].len());
//! # Ok::<(), bonfire_data::DataError>(())
//! ```
#![deny(missing_docs)]

mod catch_panic;
mod causal;
mod cell;
mod chat;
mod conversation;
pub mod corpus;
mod error;
mod partition;
pub mod random;
mod source;
mod tags;
mod tokens;

pub use catch_panic::is_contained;
pub use causal::{CausalTokenizer, CausalTokens, TokenizerFiles};
pub use cell::Cell;
pub use chat::{ChatTemplate, Rendered};
pub use conversation::{Conversation, Message};
pub use error::DataError;
pub use partition::{Growth, Partition, Rest, Shards, label_table};
pub use source::{
    At, Content, Dataset, Example, Reading, Score, SplitFile, SplitShares, UnseenLabels, Wording, question, questions,
    split_of_file,
};
pub use tags::{Span, Tags};
pub use tokens::{Classified, Tokenizer, Worded};
