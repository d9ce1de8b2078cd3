//! The rows of one JSONL or CSV file, with the line each came from, before the labels have names.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

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
    pub text: String,
    pub label: Written,
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
    pub fn read(
        folder: &Path,
        split: &'static str,
        group: Option<&str>,
        group_needed: bool,
    ) -> Result<Rows, DataError> {
        let (path, csv) = find(folder, split)?;
        let fields = Fields { path: &path, group, group_needed };
        let rows = if csv { read_csv(&fields)? } else { read_jsonl(&fields)? };
        Ok(Rows { path, rows, csv })
    }
}

fn find(folder: &Path, split: &'static str) -> Result<(PathBuf, bool), DataError> {
    let (jsonl, csv) = (format!("{split}.jsonl"), format!("{split}.csv"));
    match (folder.join(&jsonl).is_file(), folder.join(&csv).is_file()) {
        (true, false) => Ok((folder.join(jsonl), false)),
        (false, true) => Ok((folder.join(csv), true)),
        (false, false) => Err(DataError::FileMissing { folder: folder.to_path_buf(), split }),
        (true, true) => Err(DataError::FileAmbiguous { folder: folder.to_path_buf(), first: jsonl, second: csv }),
    }
}

/// What to look for in each row of a file.
struct Fields<'a> {
    path: &'a Path,
    group: Option<&'a str>,
    group_needed: bool,
}

impl Fields<'_> {
    fn unreadable(&self, source: io::Error) -> DataError {
        DataError::Read { path: self.path.to_path_buf(), source }
    }

    fn bad(&self, line: u64, problem: impl Into<String>, expected: &'static str) -> DataError {
        DataError::BadLine { path: self.path.to_path_buf(), line, problem: problem.into(), expected }
    }

    fn missing<'n>(&self, line: u64, field: &str, present: impl Iterator<Item = &'n str>) -> DataError {
        DataError::FieldMissing {
            path: self.path.to_path_buf(),
            line,
            field: field.to_owned(),
            present: present.collect::<Vec<_>>().join(", "),
        }
    }

    fn not_utf8(&self, line: u64) -> DataError {
        DataError::NotUtf8 { path: self.path.to_path_buf(), line }
    }
}

fn read_jsonl(fields: &Fields) -> Result<Vec<Row>, DataError> {
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
            rows.push(json_row(fields, line, text)?);
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
    let label = match field("label")? {
        Value::String(name) => Written::Name(name.clone()),
        Value::Number(number) if number.is_u64() => Written::Index(number.as_u64().expect("is_u64 was asked")),
        other => {
            let problem = format!("field \"label\" is {other}");
            return Err(fields.bad(line, problem, "a whole number from 0, or a name"));
        }
    };
    let group = json_group(fields, line, &row)?;
    Ok(Row { line, text: text.clone(), label, group })
}

fn json_group(fields: &Fields, line: u64, row: &Map<String, Value>) -> Result<Option<String>, DataError> {
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
        let cell = record[label].trim();
        let label = match cell.parse() {
            _ if cell.is_empty() => return Err(fields.bad(line, "empty label", "an index or a name")),
            Ok(index) => Written::Index(index),
            Err(_) => Written::Name(cell.to_owned()),
        };
        let group = group.map(|at| record[at].to_owned());
        rows.push(Row { line, text: record[text].to_owned(), label, group });
    }
    Ok(rows)
}

fn csv_error(fields: &Fields, error: csv::Error) -> DataError {
    let line = error.position().map_or(1, csv::Position::line);
    let text = error.to_string();
    match error.into_kind() {
        csv::ErrorKind::Io(error) => fields.unreadable(error),
        csv::ErrorKind::Utf8 { .. } => fields.not_utf8(line),
        _ => fields.bad(line, text, "as many cells as the header row has"),
    }
}
