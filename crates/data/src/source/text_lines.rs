//! The lines of a text file.

use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;

use super::open::open;
use super::place::{At, Place};
use crate::DataError;

/// Hands every line to `each` without what ends it, counted from 1, until `each` says that it is enough.
pub(super) fn each_line(
    file: &Path,
    each: &mut dyn FnMut(u64, &str) -> Result<bool, DataError>,
) -> Result<(), DataError> {
    let mut from = open(file)?;
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        let read = from.read_until(b'\n', &mut bytes);
        if read.map_err(|source| DataError::Read { path: file.to_path_buf(), source })? == 0 {
            break;
        }
        let text = std::str::from_utf8(&bytes);
        let text = text.map_err(|_| DataError::NotUtf8 { path: file.to_path_buf(), line })?;
        let text = if line == 1 { text.trim_start_matches('\u{feff}') } else { text };
        let text = text.strip_suffix('\n').unwrap_or(text);
        if !each(line, text.strip_suffix('\r').unwrap_or(text))? {
            break;
        }
    }
    Ok(())
}

/// All lines as texts of their own. Blank ones are left aside at the end alone: elsewhere a row would no longer be the line of its number.
pub(super) fn texts(file: &Path) -> Result<Vec<String>, DataError> {
    let (mut all, mut blank) = (Vec::new(), None);
    each_line(file, &mut |line, text| {
        match (text.trim().is_empty(), blank) {
            (true, _) => blank = blank.or(Some(line)),
            (false, None) => all.push(text.to_owned()),
            (false, Some(line)) => {
                let place = Place { file: Arc::from(file), at: At::Line(line) };
                return Err(
                    place.bad("a line without a text", "a text on every line, and blank lines at the end alone")
                );
            }
        }
        Ok(true)
    })?;
    Ok(all)
}
