//! The rows of one JSONL or CSV file, with the line each came from, before the labels have names.
//! Here are the files and the fields that all rows have; what rows for causal language models say is in `causal.rs`.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::Content;
use crate::DataError;

/// A label as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Written {
    /// An index from 0.
    Index(u64),
    /// A name.
    Name(String),
}

/// One row as written.
#[derive(Debug)]
pub(super) struct Row {
    pub line: u64,
    pub content: Content,
    /// Never absent in a set for classification.
    pub label: Option<Written>,
    pub group: Option<String>,
}

/// All rows of a file.
#[derive(Debug)]
pub(super) struct Rows {
    pub path: PathBuf,
    pub rows: Vec<Row>,
    /// A CSV cell `3` may be an index or a name; only the labels file can tell.
    pub csv: bool,
}

impl Rows {
    /// Reads the split `train` or `test` of a folder.
    pub fn read(folder: &Path, split: &'static str, wanted: &Wanted) -> Result<Rows, DataError> {
        let path = find(folder, split, &["jsonl", "csv"])?;
        let csv = is(&path, "csv");
        let fields = Fields { path: &path, group: wanted.group, group_needed: wanted.group_needed };
        let rows = if csv { read_csv(&fields)? } else { read_jsonl(&fields, json_row)? };
        Ok(Rows { path, rows, csv })
    }
}

/// The column that says which group a row belongs to.
pub(super) struct Wanted<'a> {
    pub group: Option<&'a str>,
    /// Whether every row must have it.
    pub group_needed: bool,
}

/// Whether the file's name ends so.
pub(super) fn is(path: &Path, ending: &str) -> bool {
    path.extension().is_some_and(|of_path| of_path == ending)
}

/// The one file of a split, among those with these endings.
pub(super) fn find(folder: &Path, split: &'static str, endings: &[&str]) -> Result<PathBuf, DataError> {
    let names = endings.iter().map(|ending| format!("{split}.{ending}"));
    let there: Vec<String> = names.clone().filter(|name| folder.join(name).is_file()).collect();
    match there.as_slice() {
        [one] => Ok(folder.join(one)),
        [] => {
            let formats = names.collect::<Vec<_>>().join(" or ");
            Err(DataError::FileMissing { folder: folder.to_path_buf(), split, formats })
        }
        [first, second, ..] => {
            Err(DataError::FileAmbiguous { folder: folder.to_path_buf(), first: first.clone(), second: second.clone() })
        }
    }
}

/// What to look for in each row of a file.
pub(super) struct Fields<'a> {
    pub path: &'a Path,
    pub group: Option<&'a str>,
    pub group_needed: bool,
}

impl Fields<'_> {
    pub fn unreadable(&self, source: io::Error) -> DataError {
        DataError::Read { path: self.path.to_path_buf(), source }
    }

    pub fn bad(&self, line: u64, problem: impl Into<String>, expected: &'static str) -> DataError {
        DataError::BadLine { path: self.path.to_path_buf(), line, problem: problem.into(), expected }
    }

    pub fn missing<'n>(&self, line: u64, field: &str, present: impl Iterator<Item = &'n str>) -> DataError {
        DataError::FieldMissing {
            path: self.path.to_path_buf(),
            line,
            field: field.to_owned(),
            present: present.collect::<Vec<_>>().join(", "),
        }
    }

    pub fn not_utf8(&self, line: u64) -> DataError {
        DataError::NotUtf8 { path: self.path.to_path_buf(), line }
    }
}

/// Reads every line that is not blank with `row`.
pub(super) fn read_jsonl<R>(
    fields: &Fields,
    mut row: impl FnMut(&Fields, u64, &str) -> Result<R, DataError>,
) -> Result<Vec<R>, DataError> {
    let file = File::open(fields.path).map_err(|error| fields.unreadable(error))?;
    let mut reader = BufReader::new(file);
    let mut rows = Vec::new();
    let mut bytes = Vec::new();
    // Not `lines()`: that reports broken UTF-8 without saying where.
    for line in 1.. {
        bytes.clear();
        let read = reader.read_until(b'\n', &mut bytes).map_err(|error| fields.unreadable(error))?;
        if read == 0 {
            break;
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| fields.not_utf8(line))?;
        let text = if line == 1 { text.trim_start_matches('\u{feff}') } else { text };
        if !text.trim().is_empty() {
            rows.push(row(fields, line, text)?);
        }
    }
    Ok(rows)
}

fn json_row(fields: &Fields, line: u64, text: &str) -> Result<Row, DataError> {
    const OBJECT: &str = "one JSON object a line, such as {\"text\": \"hello\", \"label\": 0}";
    let row: Map<String, Value> =
        serde_json::from_str(text).map_err(|error| fields.bad(line, format!("not a JSON object ({error})"), OBJECT))?;
    let field = |name: &str| row.get(name).ok_or_else(|| fields.missing(line, name, row.keys().map(String::as_str)));
    let Value::String(text) = field("text")? else {
        return Err(fields.bad(line, "field \"text\" is not a string", "a string"));
    };
    let label = json_label(fields, line, field("label")?)?;
    let group = json_group(fields, line, &row)?;
    Ok(Row { line, content: Content::Text(text.clone()), label: Some(label), group })
}

pub(super) fn json_label(fields: &Fields, line: u64, label: &Value) -> Result<Written, DataError> {
    match label {
        Value::String(name) => Ok(Written::Name(name.clone())),
        Value::Number(number) if number.is_u64() => Ok(Written::Index(number.as_u64().expect("is_u64 was asked"))),
        other => {
            let problem = format!("field \"label\" is {other}");
            Err(fields.bad(line, problem, "a whole number from 0, or a name"))
        }
    }
}

pub(super) fn json_group(fields: &Fields, line: u64, row: &Map<String, Value>) -> Result<Option<String>, DataError> {
    let Some(column) = fields.group else { return Ok(None) };
    match row.get(column) {
        Some(Value::String(value)) => Ok(Some(value.clone())),
        Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(Some(value.to_string())),
        Some(Value::Array(_) | Value::Object(_)) => {
            let problem = format!("group field {column:?} is a list or an object");
            Err(fields.bad(line, problem, "a string, a number or a truth value"))
        }
        Some(Value::Null) | None if fields.group_needed => {
            Err(fields.missing(line, column, row.keys().map(String::as_str)))
        }
        Some(Value::Null) | None => Ok(None),
    }
}

fn read_csv(fields: &Fields) -> Result<Vec<Row>, DataError> {
    let mut reader = csv::Reader::from_path(fields.path).map_err(|error| csv_error(fields, error))?;
    let header = reader.headers().map_err(|error| csv_error(fields, error))?.clone();
    let column = |name: &str| header.iter().position(|column| column == name);
    let needed = |name: &str| column(name).ok_or_else(|| fields.missing(1, name, header.iter()));
    let (text, label) = (needed("text")?, needed("label")?);
    let group = match fields.group {
        Some(name) if fields.group_needed => Some(needed(name)?),
        Some(name) => column(name),
        None => None,
    };
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| csv_error(fields, error))?;
        let line = record.position().map_or(0, csv::Position::line);
        let label = Some(csv_label(fields, line, &record[label])?);
        let group = group.map(|at| record[at].to_owned());
        rows.push(Row { line, content: Content::Text(record[text].to_owned()), label, group });
    }
    Ok(rows)
}

pub(super) fn csv_label(fields: &Fields, line: u64, cell: &str) -> Result<Written, DataError> {
    let cell = cell.trim();
    match cell.parse() {
        _ if cell.is_empty() => Err(fields.bad(line, "empty label", "an index or a name")),
        Ok(index) => Ok(Written::Index(index)),
        Err(_) => Ok(Written::Name(cell.to_owned())),
    }
}

pub(super) fn csv_error(fields: &Fields, error: csv::Error) -> DataError {
    let line = error.position().map_or(1, csv::Position::line);
    let text = error.to_string();
    match error.into_kind() {
        csv::ErrorKind::Io(error) => fields.unreadable(error),
        csv::ErrorKind::Utf8 { .. } => fields.not_utf8(line),
        _ => fields.bad(line, text, "as many cells as the header row has"),
    }
}
