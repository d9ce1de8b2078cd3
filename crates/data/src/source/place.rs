//! Where a row stands: its file and its line there, so that an error can say it.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::DataError;

/// A place in a file: a line where there are lines, else a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// A line, counted from 1.
    Line(u64),
    /// A row, counted from 1.
    Row(u64),
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            At::Line(line) => write!(f, ":{line}"),
            At::Row(row) => write!(f, ", row {row}"),
        }
    }
}

/// A row's file and place in it.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub file: Arc<Path>,
    pub at: At,
}

impl Place {
    pub fn bad(&self, problem: impl Into<String>, expected: &'static str) -> DataError {
        DataError::BadLine { path: self.file.to_path_buf(), at: self.at, problem: problem.into(), expected }
    }

    /// A field that is not there, among those that are.
    pub fn missing<'n>(&self, field: &str, present: impl Iterator<Item = &'n str>) -> DataError {
        DataError::FieldMissing {
            path: self.file.to_path_buf(),
            at: self.at,
            field: field.to_owned(),
            present: listed(present),
        }
    }
}

/// Names side by side, of which a great many are not shown.
pub(super) fn listed<'n>(names: impl Iterator<Item = &'n str>) -> String {
    const MOST: usize = 24;
    const LONGEST: usize = 60;
    let mut shown = Vec::new();
    for (at, name) in names.enumerate() {
        if at == MOST {
            shown.push("…".to_owned());
            break;
        }
        let short: String = name.chars().take(LONGEST).collect();
        shown.push(if short.len() < name.len() { format!("{short}…") } else { short });
    }
    shown.join(", ")
}
