//! CSV and its kin: cells between commas, semicolons or tabs, with a header row.

use std::io::{BufRead, Read};
use std::path::Path;
use std::sync::Arc;

use super::open::open;
use super::place::{At, Place};
use super::record::Each;
use crate::{Cell, DataError};

/// Bytes of the header that are looked at for the delimiter.
const LOOK: u64 = 1 << 16;

/// Hands every row to `each`; `tabs` is what the file's name lets expect.
pub(super) fn read(file: &Arc<Path>, tabs: bool, note: &mut dyn FnMut(String), each: Each) -> Result<(), DataError> {
    let (delimiter, crlf) = delimiter(file, tabs)?;
    if (delimiter == b'\t') != tabs || delimiter == b';' {
        let word = match delimiter {
            b';' => "semicolons",
            b'\t' => "tabs",
            _ => "commas",
        };
        note(format!("{}: cells stand between {word}", file.display()));
    }
    // Tab-separated files mostly know no quotes, and one that begins a text would take in the following lines.
    let quotes = delimiter != b'\t' || is_even(file, delimiter)?;
    if !quotes {
        note(format!("{}: quotes are part of the texts", file.display()));
    }
    let mut reader = reader(file, delimiter, quotes)?;
    let header = reader.headers().map_err(|error| csv_error(file, error, 0))?;
    let header: Vec<String> = header.iter().map(|name| name.trim().to_owned()).collect();
    let mut record = csv::StringRecord::new();
    // Where lines end in two characters the reader has not yet seen the second one when it says on which line a row begins.
    let ahead = u64::from(crlf);
    while reader.read_record(&mut record).map_err(|error| csv_error(file, error, ahead))? {
        let line = record.position().map_or(0, csv::Position::line) + ahead;
        let place = Place { file: file.clone(), at: At::Line(line) };
        let cells = header.iter().zip(&record).map(|(name, cell)| (name.clone(), Cell::from(cell)));
        each(place, cells.collect())?;
    }
    Ok(())
}

type Reader = csv::Reader<Box<dyn BufRead>>;

fn reader(file: &Path, delimiter: u8, quotes: bool) -> Result<Reader, DataError> {
    Ok(csv::ReaderBuilder::new().delimiter(delimiter).quoting(quotes).from_reader(open(file)?))
}

/// Whether all rows have as many cells as the header when quotes are read as such.
fn is_even(file: &Path, delimiter: u8) -> Result<bool, DataError> {
    let (mut reader, mut record) = (reader(file, delimiter, true)?, csv::ByteRecord::new());
    let mut last = None;
    loop {
        match reader.read_byte_record(&mut record) {
            Ok(true) => last = Some(record.as_slice().iter().filter(|byte| **byte == b'\n').count()),
            // A quote that never closes takes in all lines to the end.
            Ok(false) => return Ok(last.is_none_or(|lines| lines < 2)),
            Err(_) => return Ok(false),
        }
    }
}

/// What stands between the cells: whatever of comma, semicolon and tab the header has most of; and whether the header ends in a
/// carriage return and a line feed.
fn delimiter(file: &Path, tabs: bool) -> Result<(u8, bool), DataError> {
    let mut line = Vec::new();
    let read = open(file)?.take(LOOK).read_until(b'\n', &mut line);
    read.map_err(|source| DataError::Read { path: file.to_path_buf(), source })?;
    let mut quoted = false;
    let mut counts = [(b',', 0), (b';', 0), (b'\t', 0)];
    for &byte in &line {
        quoted ^= byte == b'"';
        counts.iter_mut().filter(|(of, _)| *of == byte && !quoted).for_each(|(_, count)| *count += 1);
    }
    let usual = if tabs { b'\t' } else { b',' };
    let most = counts.iter().map(|(_, count)| *count).max().unwrap_or(0);
    let has_most = |of: u8| counts.iter().any(|(byte, count)| *byte == of && *count == most);
    let found = counts.iter().find(|(_, count)| *count == most).map_or(usual, |(byte, _)| *byte);
    Ok((if has_most(usual) { usual } else { found }, line.ends_with(b"\r\n")))
}

fn csv_error(file: &Path, error: csv::Error, ahead: u64) -> DataError {
    let line = error.position().map_or(1, |position| position.line() + ahead);
    let path = file.to_path_buf();
    let text = error.to_string();
    match error.into_kind() {
        csv::ErrorKind::Io(source) => DataError::Read { path, source },
        csv::ErrorKind::Utf8 { .. } => DataError::NotUtf8 { path, line },
        _ => DataError::BadLine {
            path,
            at: At::Line(line),
            problem: text,
            expected: "as many cells as the header row has; a cell with the delimiter in it stands in quotes",
        },
    }
}
