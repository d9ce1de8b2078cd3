//! Tokenized examples as the engine reads them.

/// One split: token ids with special tokens, and the class of every text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// Token ids of every text, never empty.
    pub ids: Vec<Vec<u32>>,
    /// Class of every text.
    pub labels: Vec<usize>,
}

impl Split {
    /// Number of examples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no example.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Example `row` as the packer takes it.
    pub(crate) fn example(&self, row: usize) -> (&[u32], usize) {
        (&self.ids[row], self.labels[row])
    }
}

/// Both splits and the number of classes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizedData {
    /// What clients train on.
    pub train: Split,
    /// What the global model is judged by.
    pub test: Split,
    /// Number of classes (K).
    pub classes: usize,
}
