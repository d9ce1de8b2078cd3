//! Files that list the names of the labels: `labels.json`, a list or a map such as `id2label`, or `labels.txt`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::{Cell, DataError};

const LISTED: &str = "a list of different, non-empty label names";
const JSON: &str = "a JSON list of names, such as [\"yes\", \"no\"], or a map such as {\"0\": \"yes\", \"1\": \"no\"}";

/// The names and the file that lists them, if one is there.
pub(super) fn read(folder: &Path) -> Result<Option<(Vec<String>, PathBuf)>, DataError> {
    let (json, txt) = (folder.join("labels.json"), folder.join("labels.txt"));
    let file = match (json.is_file(), txt.is_file()) {
        (false, false) => return Ok(None),
        (true, true) => {
            return Err(DataError::FileAmbiguous {
                folder: folder.to_path_buf(),
                first: "labels.json".to_owned(),
                second: "labels.txt".to_owned(),
                split: "",
            });
        }
        (true, false) => json,
        (false, true) => txt,
    };
    let bytes = fs::read(&file).map_err(|source| DataError::Read { path: file.clone(), source })?;
    let names = checked(parse(&file, bytes)?, &file)?;
    Ok(Some((names, file)))
}

/// Refuses names that are empty or come twice.
pub(super) fn checked(names: Vec<String>, file: &Path) -> Result<Vec<String>, DataError> {
    let mut seen = BTreeSet::new();
    let twice = names.iter().find(|name| name.is_empty() || !seen.insert(name.as_str()));
    let problem = match twice {
        _ if names.is_empty() => "no labels".to_owned(),
        Some(name) if name.is_empty() => "an empty label name".to_owned(),
        Some(name) => format!("label {name:?} is listed twice"),
        None => return Ok(names),
    };
    Err(DataError::LabelsFile { path: file.to_path_buf(), problem, expected: LISTED })
}

fn parse(file: &Path, bytes: Vec<u8>) -> Result<Vec<String>, DataError> {
    let text = String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count() as u64;
        DataError::NotUtf8 { path: file.to_path_buf(), line }
    })?;
    let text = text.trim_start_matches('\u{feff}');
    if file.extension().is_none_or(|extension| extension != "json") {
        return Ok(text.trim_end().lines().map(|line| line.trim().to_owned()).collect());
    }
    let bad = |problem: String| DataError::LabelsFile { path: file.to_path_buf(), problem, expected: JSON };
    let cell: Cell = serde_json::from_str(text).map_err(|error| bad(format!("not a list of label names ({error})")))?;
    let map = cell.get("id2label").or_else(|| cell.get("label2id")).or_else(|| cell.get("names")).unwrap_or(&cell);
    names_of(map).map_err(bad)
}

/// The names in a list, in a map from indices to names, or in one from names to indices.
fn names_of(cell: &Cell) -> Result<Vec<String>, String> {
    const NOT: &str = "not a list of label names";
    let name = |cell: &Cell| cell.text().map(str::to_owned).ok_or_else(|| format!("{NOT}: {cell} is not a string"));
    let fields = match cell {
        Cell::List(items) => return items.iter().map(name).collect(),
        Cell::Record(fields) => fields,
        other => return Err(format!("{NOT} but {}", other.kind())),
    };
    let by_index = fields.iter().map(|(key, cell)| Some((key.parse::<usize>().ok()?, cell.text()?.to_owned())));
    let by_name = fields.iter().map(|(key, cell)| match cell {
        Cell::Whole(at) => Some((usize::try_from(*at).ok()?, key.clone())),
        _ => None,
    });
    let pairs: Option<Vec<(usize, String)>> = by_index.collect::<Option<_>>().or_else(|| by_name.collect());
    let mut pairs = pairs.ok_or_else(|| format!("{NOT}, nor a map between indices and names"))?;
    pairs.sort();
    match pairs.iter().enumerate().find(|(at, (index, _))| at != index) {
        Some((at, _)) => Err(format!("a map in which index {at} is missing or comes twice")),
        None => Ok(pairs.into_iter().map(|(_, name)| name).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_maps_say_the_same() {
        for text in [
            r#"["no", "yes"]"#,
            r#"{"1": "yes", "0": "no"}"#,
            r#"{"yes": 1, "no": 0}"#,
            r#"{"id2label": {"0": "no", "1": "yes"}, "label2id": {}}"#,
        ] {
            let names = parse(Path::new("labels.json"), text.into()).expect("names");
            assert_eq!(names, ["no", "yes"], "{text}");
        }
        for (text, problem) in [
            (r#"{"0": "no", "2": "yes"}"#, "index 1 is missing"),
            (r#"{"a": "b"}"#, "nor a map"),
            ("3", "but a number"),
            (r#"["a", 1]"#, "1 is not a string"),
        ] {
            let error = parse(Path::new("labels.json"), text.into()).expect_err("refused").to_string();
            assert!(error.contains(problem), "{error}");
        }
    }
}
