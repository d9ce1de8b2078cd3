//! Tokenized examples as the engine reads them.

use std::sync::Arc;

use bonfire_data::Tags;
use bonfire_models::{Goal, Task};

use crate::{Confusion, RowEvaluation};

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
    /// Where clients plant a backdoor, the texts with its trigger.
    pub triggered: Option<Triggered>,
}

/// The texts once more, each with the words that a backdoor answers to.
#[derive(Clone, Debug, PartialEq)]
pub struct Triggered {
    /// The class that they are to be taken for.
    pub target: usize,
    /// The training texts, row by row as without the words.
    pub train: Split,
    /// The test texts, likewise.
    pub test: Split,
}

impl Triggered {
    /// Rows of the test split that are of another class than the target, which alone tell of the backdoor.
    pub fn telling(&self) -> impl Iterator<Item = usize> {
        (0..self.test.len()).filter(|&row| self.test.goals[row].class().is_some_and(|class| class != self.target))
    }

    /// Share of the test texts of other classes that were taken for the target, of those that were evaluated, 0 to 1; `None`: of none.
    pub fn answered(&self, evaluated: &[Option<RowEvaluation>]) -> Option<f64> {
        let rows: Vec<usize> = (0..evaluated.len()).collect();
        Confusion::of(evaluated, &rows)?.taken_for(self.target)
    }
}
