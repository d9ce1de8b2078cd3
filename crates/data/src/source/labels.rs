//! What the labels of a set are called, and which one a row means.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use super::Example;
use super::rows::{Row, Rows, Written};
use crate::DataError;

/// Without a labels file the highest index decides how many labels there are; beyond this it is a mistake
/// (an id column, a year) rather than a label.
const MOST_UNNAMED: u64 = 100_000;

const LISTED: &str = "a list of different, non-empty label names";

/// The label names of a set, and where they were written.
pub(super) struct Labels {
    pub names: Vec<String>,
    index: HashMap<String, usize>,
    file: Option<PathBuf>,
}

impl Labels {
    /// Takes the names from the labels file, or makes them up from the rows.
    pub fn find(folder: &Path, train: &Rows, test: &Rows) -> Result<Labels, DataError> {
        match Labels::listed(folder)? {
            Some(labels) => Ok(labels),
            None => Ok(Labels::of(from_rows(train, test)?, None)),
        }
    }

    /// Takes the names from the labels file, if there is one.
    pub fn listed(folder: &Path) -> Result<Option<Labels>, DataError> {
        Ok(read_file(folder)?.map(|(names, file)| Labels::of(names, Some(file))))
    }

    fn of(names: Vec<String>, file: Option<PathBuf>) -> Labels {
        let index = names.iter().enumerate().map(|(at, name)| (name.clone(), at)).collect();
        Labels { names, index, file }
    }

    /// Of a set without labels.
    pub fn none() -> Labels {
        Labels { names: Vec::new(), index: HashMap::new(), file: None }
    }

    /// The rows with their labels as indices.
    pub fn resolve(&self, rows: Rows) -> Result<Vec<Example>, DataError> {
        let Rows { path, rows, csv } = rows;
        let resolve = |row: Row| {
            let label = row.label.as_ref().map_or(Ok(0), |label| self.label(&path, csv, row.line, label))?;
            Ok(Example { content: row.content, label, group: row.group })
        };
        rows.into_iter().map(resolve).collect()
    }

    /// As [`Labels::resolve`], and every label must be one that the training rows have.
    pub fn resolve_trained(&self, rows: Rows, train: &[Example]) -> Result<Vec<Example>, DataError> {
        let trained: BTreeSet<usize> = train.iter().map(|example| example.label).collect();
        let (path, lines) = (rows.path.clone(), rows.rows.iter().map(|row| row.line).collect::<Vec<_>>());
        let test = self.resolve(rows)?;
        match test.iter().zip(lines).find(|(example, _)| !trained.contains(&example.label)) {
            Some((Example { label, .. }, line)) => {
                Err(DataError::LabelUntrained { path, line, label: self.names[*label].clone() })
            }
            None => Ok(test),
        }
    }

    fn label(&self, path: &Path, csv: bool, line: u64, label: &Written) -> Result<usize, DataError> {
        let path = path.to_path_buf();
        match label {
            Written::Index(at) => {
                let named = if csv { self.index.get(&at.to_string()).copied() } else { None };
                let at = named.map_or(*at, |named| named as u64);
                let labels = self.names.len();
                let label = usize::try_from(at).ok().filter(|label| *label < labels);
                label.ok_or(DataError::LabelRange { path, line, label: at, labels })
            }
            Written::Name(name) => self.index.get(name).copied().ok_or_else(|| {
                let listed = self.file.clone().unwrap_or_else(|| path.clone());
                DataError::LabelUnknown { path, line, label: name.clone(), listed }
            }),
        }
    }
}

fn read_file(folder: &Path) -> Result<Option<(Vec<String>, PathBuf)>, DataError> {
    let (json, txt) = (folder.join("labels.json"), folder.join("labels.txt"));
    let file = match (json.is_file(), txt.is_file()) {
        (false, false) => return Ok(None),
        (true, true) => {
            return Err(DataError::FileAmbiguous {
                folder: folder.to_path_buf(),
                first: "labels.json".to_owned(),
                second: "labels.txt".to_owned(),
            });
        }
        (true, false) => json,
        (false, true) => txt,
    };
    let bytes = fs::read(&file).map_err(|source| DataError::Read { path: file.clone(), source })?;
    let names = parse(&file, bytes)?;
    let mut seen = BTreeSet::new();
    let twice = names.iter().find(|name| name.is_empty() || !seen.insert(name.as_str()));
    let problem = match twice {
        _ if names.is_empty() => "no labels".to_owned(),
        Some(name) if name.is_empty() => "an empty label name".to_owned(),
        Some(name) => format!("label {name:?} is listed twice"),
        None => return Ok(Some((names, file))),
    };
    Err(DataError::LabelsFile { path: file, problem, expected: LISTED })
}

fn parse(file: &Path, bytes: Vec<u8>) -> Result<Vec<String>, DataError> {
    let bad = |problem: String, expected| DataError::LabelsFile { path: file.to_path_buf(), problem, expected };
    let text = String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count() as u64;
        DataError::NotUtf8 { path: file.to_path_buf(), line }
    })?;
    let text = text.trim_start_matches('\u{feff}');
    if file.extension().is_some_and(|extension| extension == "json") {
        const LIST: &str = "a JSON list of strings, such as [\"yes\", \"no\"]";
        return serde_json::from_str(text).map_err(|error| bad(format!("not a list of label names ({error})"), LIST));
    }
    Ok(text.trim_end().lines().map(|line| line.trim().to_owned()).collect())
}

fn labelled(file: &Rows) -> impl Iterator<Item = (&Row, &Written)> {
    file.rows.iter().filter_map(|row| Some((row, row.label.as_ref()?)))
}

fn from_rows(train: &Rows, test: &Rows) -> Result<Vec<String>, DataError> {
    let mut names = BTreeSet::new();
    let mut highest = 0;
    let by_name = matches!(train.rows.first().and_then(|row| row.label.as_ref()), Some(Written::Name(_)));
    let labelled = |file| labelled(file).map(move |(row, label)| (file, row, label));
    for (file, row, label) in [train, test].into_iter().flat_map(labelled) {
        let bad = |problem: String, expected| DataError::BadLine {
            path: file.path.clone(),
            line: row.line,
            problem,
            expected,
        };
        match label {
            Written::Index(at) if !by_name && *at < MOST_UNNAMED => highest = highest.max(*at),
            Written::Index(at) if !by_name => {
                let problem = format!("label {at} is too large for a set without label names");
                return Err(bad(problem, "an index below 100000, or a labels.json"));
            }
            // In CSV a name may look like a number; JSON says which it is.
            Written::Index(at) if file.csv => drop(names.insert(at.to_string())),
            Written::Name(name) if by_name => drop(names.insert(name.clone())),
            Written::Index(at) => {
                let problem = format!("label {at} is an index, but the first row has a name");
                return Err(bad(problem, "one kind of label, or a labels.json"));
            }
            Written::Name(name) => {
                let problem = format!("label {name:?} is a name, but the first row has an index");
                return Err(bad(problem, "one kind of label, or a labels.json"));
            }
        }
    }
    if by_name { Ok(names.into_iter().collect()) } else { Ok((0..=highest).map(|at| at.to_string()).collect()) }
}
