//! Reading what a run left. What is missing or damaged is said with its file and line.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;

/// The text of a file that every run has.
///
/// # Errors
/// A file that cannot be read, with its path.
pub fn text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// A whole JSON file.
///
/// # Errors
/// A file that cannot be read, or is not as a run leaves it.
pub fn json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    serde_json::from_str(&text(path)?).with_context(|| format!("{} is not as a run leaves it", path.display()))
}

/// Calls `each` with every row of a JSONL file. A last line that was cut, by a run that was killed while it wrote, is left
/// out; whether there was one.
///
/// # Errors
/// A file that cannot be read, a line that is not as a run leaves it.
pub fn rows<T: DeserializeOwned>(path: &Path, mut each: impl FnMut(T)) -> Result<bool> {
    let unreadable = || format!("cannot read {}", path.display());
    let mut file = BufReader::new(File::open(path).with_context(unreadable)?);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if file.read_until(b'\n', &mut line).with_context(unreadable)? == 0 {
            break;
        }
        match serde_json::from_slice(&line) {
            Ok(row) => each(row),
            Err(_) if line.last() != Some(&b'\n') => return Ok(true),
            Err(error) => {
                let place = format!("{}, line {number}, is not as a run leaves it", path.display());
                return Err(error).context(place);
            }
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(Vec<u32>, bool)> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, text).expect("written");
        let mut found = Vec::new();
        let cut = rows(&path, |row: Vec<u32>| found.extend(row))?;
        Ok((found, cut))
    }

    #[test]
    fn a_cut_last_line_is_left_out_and_any_other_is_named() {
        assert_eq!(read("[1]\n[2]\n").expect("fine"), (vec![1, 2], false));
        assert_eq!(read("[1]\n[2]").expect("fine"), (vec![1, 2], false));
        assert_eq!(read("[1]\n[2").expect("fine"), (vec![1], true));
        assert_eq!(read("").expect("fine"), (vec![], false));
        for text in ["[1]\n[2\n[3]\n", "[1]\nx\n"] {
            let error = read(text).expect_err("damaged").to_string();
            assert!(error.contains("metrics.jsonl, line 2"), "{error}");
        }
    }
}
