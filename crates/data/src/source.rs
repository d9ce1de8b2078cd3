//! Text sets: what one is, and how it is read from a folder.
//!
//! `source/rows.rs` reads the rows of one file, `source/causal.rs` those for causal language models, `source/labels.rs`
//! finds out what the labels are called, `source/wording.rs` makes prompts and responses of other columns.

mod causal;
mod labels;
mod rows;
mod wording;

use std::path::Path;

use crate::DataError;
use labels::Labels;
use rows::{Rows, Wanted};
pub use wording::Wording;

/// What an example says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A text. One to be classified may be empty (a tokenizer still adds its special tokens).
    Text(String),
    /// What is given, and what a causal language model is to say to it: neither a start token nor an end is written in.
    Pair {
        /// What is given.
        prompt: String,
        /// What follows.
        response: String,
    },
    /// A conversation with at least one turn of the assistant's.
    Chat(Vec<Message>),
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant`, or what else the model's chat template knows.
    pub role: String,
    /// What is said.
    pub content: String,
}

/// One example.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// What it says.
    pub content: Content,
    /// Index into [`Dataset::labels`]; 0 in a set without labels.
    pub label: usize,
    /// Value of the column that a natural partition splits by, where one was asked for.
    pub group: Option<String>,
}

impl Example {
    /// A text that is to be classified.
    pub fn labelled(text: impl Into<String>, label: usize, group: Option<String>) -> Example {
        Example { content: Content::Text(text.into()), label, group }
    }

    /// The text; of a pair its prompt, of a conversation its first turn.
    pub fn text(&self) -> &str {
        match &self.content {
            Content::Text(text) => text,
            Content::Pair { prompt, .. } => prompt,
            Content::Chat(turns) => turns.first().map_or("", |turn| &turn.content),
        }
    }
}

/// A training and a test split with their label names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// The name of the set: its folder's last part.
    pub name: String,
    /// Label names; an example's label is an index into them. Sets for causal language models may have none.
    pub labels: Vec<String>,
    /// The rows that are split over the clients.
    pub train: Vec<Example>,
    /// The rows that measure.
    pub test: Vec<Example>,
}

impl Dataset {
    /// Reads `train` and `test` (each `.jsonl` or `.csv` with a header row) from a folder.
    ///
    /// Rows have a `text` (string) and a `label` (index from 0, or name). Label names come from `labels.json`
    /// (a list of strings) or `labels.txt` (one a line); without such a file they are the sorted names of both
    /// splits, or `"0"` to the highest index. `group_column` names the field that a natural partition splits
    /// by: any scalar, needed in every training row, optional in test rows.
    ///
    /// # Errors
    /// Names file and line for: missing folder or file, two files for one split, text that is not UTF-8 or not
    /// JSON/CSV, missing fields, labels outside the list, test labels that no training row has, no rows.
    pub fn read(folder: &Path, group_column: Option<&str>) -> Result<Dataset, DataError> {
        if !folder.is_dir() {
            return Err(DataError::FolderMissing { path: folder.to_path_buf() });
        }
        let train = Rows::read(folder, "train", &Wanted { group: group_column, group_needed: true })?;
        let test = Rows::read(folder, "test", &Wanted { group: group_column, group_needed: false })?;
        if train.rows.is_empty() {
            return Err(DataError::NoRows { path: train.path });
        }
        let labels = Labels::find(folder, &train, &test)?;
        let train = labels.resolve(train)?;
        let test = labels.resolve_trained(test, &train)?;
        Ok(Dataset { name: name_of(folder), labels: labels.names, train, test })
    }

    /// Reads `train` and `test` (each `.jsonl`, `.csv` with a header row, or `.txt`) for a causal language model.
    ///
    /// The fields of the first training row say what all rows are: `messages` (a list of `role` and `content`; JSONL
    /// only), `prompt` and `response`, `instruction` and `output` with or without `input` (put into the prompts of
    /// Stanford Alpaca), or `text` alone. With `wording` prompt and response are made of any columns instead. A `.txt`
    /// file holds texts with blank lines between them. Rows may have a `label` (all or none), by which partitions
    /// can go; names as for [`Dataset::read`]. So for `group_column`.
    ///
    /// # Errors
    /// Names file and line, as [`Dataset::read`]; and rows of an unknown or another kind, responses and texts that are
    /// empty, conversations without a turn of the assistant's, columns that `wording` names and a row lacks.
    pub fn read_causal(
        folder: &Path,
        group_column: Option<&str>,
        wording: Option<&Wording>,
    ) -> Result<Dataset, DataError> {
        if !folder.is_dir() {
            return Err(DataError::FolderMissing { path: folder.to_path_buf() });
        }
        let (train, test) = causal::read(folder, group_column, wording)?;
        let labelled = train.rows.first().is_some_and(|row| row.label.is_some());
        let labels = if labelled { Labels::find(folder, &train, &test)? } else { Labels::none() };
        let (train, test) = (labels.resolve(train)?, labels.resolve(test)?);
        Ok(Dataset { name: name_of(folder), labels: labels.names, train, test })
    }

    /// Reads what one site or the server of a federation across machines has: a folder as for [`Dataset::read`], or with
    /// `causal` as for [`Dataset::read_causal`], in which either split may be missing. Nobody sees all rows, so labels must be
    /// listed in a file.
    ///
    /// # Errors
    /// As there, and [`DataError::LabelsUnlisted`].
    pub fn read_part(folder: &Path, causal: bool, wording: Option<&Wording>) -> Result<Dataset, DataError> {
        if !folder.is_dir() {
            return Err(DataError::FolderMissing { path: folder.to_path_buf() });
        }
        let (train, test) = match causal {
            true => causal::read_part(folder, wording)?,
            false => {
                let any = Wanted { group: None, group_needed: false };
                let split = |name| or_nothing(folder, name, Rows::read(folder, name, &any));
                (split("train")?, split("test")?)
            }
        };
        let labelled = train.rows.iter().chain(&test.rows).any(|row| row.label.is_some());
        let labels = match !causal || labelled {
            true => {
                Labels::listed(folder)?.ok_or_else(|| DataError::LabelsUnlisted { folder: folder.to_path_buf() })?
            }
            false => Labels::none(),
        };
        let (train, test) = (labels.resolve(train)?, labels.resolve(test)?);
        Ok(Dataset { name: name_of(folder), labels: labels.names, train, test })
    }

    /// Whether the rows have labels.
    pub fn is_labelled(&self) -> bool {
        !self.labels.is_empty()
    }

    /// How many classes of rows a partition sees: the labels, or all rows as one.
    pub(crate) fn classes(&self) -> usize {
        self.labels.len().max(1)
    }

    /// Keeps the first `n` labels and their rows only.
    ///
    /// # Errors
    /// [`DataError::Setting`] if `n` is 0 or more than there are labels, or if no training row is left.
    pub fn keep_labels(mut self, n: usize) -> Result<Dataset, DataError> {
        let refuse = |problem: String, expected: String| DataError::Setting {
            key: "labels",
            value: n.to_string(),
            problem,
            expected,
        };
        let available = self.labels.len();
        if available == 0 {
            let problem = format!("the rows of data set {} have no labels", self.name);
            return Err(refuse(problem, "no such setting, or a `label` in every row".to_owned()));
        }
        if n == 0 || n > available {
            let problem = format!("data set {} has {available} labels", self.name);
            return Err(refuse(problem, format!("a number from 1 to {available}")));
        }
        let had_rows = !self.train.is_empty();
        self.labels.truncate(n);
        self.train.retain(|example| example.label < n);
        self.test.retain(|example| example.label < n);
        if had_rows && self.train.is_empty() {
            let problem = format!("no training row of {} has one of these labels", self.name);
            return Err(refuse(problem, "a larger number".to_owned()));
        }
        Ok(self)
    }
}

/// No rows where the split's file is missing.
fn or_nothing(folder: &Path, split: &'static str, read: Result<Rows, DataError>) -> Result<Rows, DataError> {
    match read {
        Err(DataError::FileMissing { .. }) => Ok(Rows { path: folder.join(split), rows: Vec::new(), csv: false }),
        other => other,
    }
}

/// What a set is called: its folder's last part.
fn name_of(folder: &Path) -> String {
    let name = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
    name.file_name().map_or("data".into(), |name| name.to_string_lossy()).into_owned()
}
