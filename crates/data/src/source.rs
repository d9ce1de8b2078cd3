//! Labelled text sets: what one is, and how it is read from a folder.
//!
//! `source/rows.rs` reads the rows of one file, `source/labels.rs` finds out what the labels are called.

mod labels;
mod rows;

use std::path::Path;

use crate::DataError;
use labels::Labels;
use rows::Rows;

/// One labelled text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// The text; may be empty (a tokenizer still adds its special tokens).
    pub text: String,
    /// Index into [`Dataset::labels`].
    pub label: usize,
    /// Value of the column that a natural partition splits by, where one was asked for.
    pub group: Option<String>,
}

/// A training and a test split with their label names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// The name of the set: its folder's last part.
    pub name: String,
    /// Label names; an example's label is an index into them.
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
        let train = Rows::read(folder, "train", group_column, true)?;
        let test = Rows::read(folder, "test", group_column, false)?;
        if train.rows.is_empty() {
            return Err(DataError::NoRows { path: train.path });
        }
        let labels = Labels::find(folder, &train, &test)?;
        let train = labels.resolve(train)?;
        let test = labels.resolve_trained(test, &train)?;
        let name = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
        let name = name.file_name().map_or("data".into(), |name| name.to_string_lossy());
        Ok(Dataset { name: name.into_owned(), labels: labels.names, train, test })
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
        if n == 0 || n > available {
            let problem = format!("data set {} has {available} labels", self.name);
            return Err(refuse(problem, format!("a number from 1 to {available}")));
        }
        self.labels.truncate(n);
        self.train.retain(|example| example.label < n);
        self.test.retain(|example| example.label < n);
        if self.train.is_empty() {
            let problem = format!("no training row of {} has one of these labels", self.name);
            return Err(refuse(problem, "a larger number".to_owned()));
        }
        Ok(self)
    }
}
