//! Tokenized examples as the engine reads them.

use std::sync::Arc;

use bonfire_data::Tags;
use bonfire_models::{Goal, Task};

/// One split: token ids with special tokens, and what is asked of every text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Split {
    /// Token ids of every text, never empty.
    pub ids: Vec<Vec<u32>>,
    /// What is asked of every text: its class, or its tokens from some place on.
    pub goals: Vec<Goal>,
    /// Where words are tagged, what the classes say of spans.
    pub tags: Option<Arc<Tags>>,
}

impl Split {
    /// Texts as token ids with what is asked of each.
    pub fn new(ids: Vec<Vec<u32>>, goals: Vec<Goal>) -> Split {
        Split { ids, goals, tags: None }
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.goals.len()
    }

    /// Whether there is no example.
    pub fn is_empty(&self) -> bool {
        self.goals.is_empty()
    }

    /// Example `row` as the packer takes it.
    pub(crate) fn example(&self, row: usize) -> (&[u32], Goal) {
        (&self.ids[row], self.goals[row].clone())
    }
}

/// The splits and what they are for.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenizedData {
    /// What clients train on.
    pub train: Split,
    /// What the best round is chosen by, where it is not the test split; else empty.
    pub validation: Split,
    /// What the global model is evaluated by.
    pub test: Split,
    /// What a model learns from them.
    pub task: Task,
}
