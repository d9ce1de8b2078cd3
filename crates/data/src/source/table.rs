//! CSV and its kin: cells between commas, semicolons or tabs, with a header row.

use std::io::{BufRead, Read};
use std::path::Path;
use std::sync::Arc;

use super::lines::{Lines, counted};
use super::open::open;
use super::place::{At, Place};
use super::quotes::{Quotes, Swallowed};
use super::record::Each;
use crate::{Cell, DataError};

/// Bytes of the header that are looked at for the delimiter.
const LOOK: u64 = 1 << 16;

/// Hands every row to `each`; `tabs` is what the file's name lets expect.
pub(super) fn read(file: &Arc<Path>, tabs: bool, note: &mut dyn FnMut(String), each: Each) -> Result<(), DataError> {
    let delimiter = delimiter(file, tabs)?;
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
    let (bytes, lines) = counted(open(file)?, quotes.then(|| Quotes::new(delimiter)));
    let mut reader = builder(delimiter, quotes).from_reader(bytes);
    let header = reader.headers().map_err(|error| csv_error(file, error, &lines))?;
    let header: Vec<String> = header.iter().map(|name| name.trim().to_owned()).collect();
    refuse_open(file, &lines)?;
    let mut record = csv::StringRecord::new();
    let mut swallowed = Swallowed::new(delimiter, header.len());
    while reader.read_record(&mut record).map_err(|error| csv_error(file, error, &lines))? {
        refuse_open(file, &lines)?;
        // The reader's own count is of the line after the row before, which may be blank.
        let line = lines.at(record.position().map_or(0, csv::Position::byte));
        swallowed.look(&record, line);
        let place = Place { file: file.clone(), at: At::Line(line) };
        let cells = header.iter().zip(&record).map(|(name, cell)| (name.clone(), Cell::from(cell)));
        each(place, cells.collect())?;
    }
    swallowed.note(file).into_iter().for_each(note);
    Ok(())
}

/// Refuses a quote that takes in all lines to the end.
fn refuse_open(file: &Path, lines: &Lines) -> Result<(), DataError> {
    match lines.never_closed() {
        Some(line) => Err(never_closed(file, line)),
        None => Ok(()),
    }
}

fn never_closed(file: &Path, line: u64) -> DataError {
    DataError::BadLine {
        path: file.to_path_buf(),
        at: At::Line(line),
        problem: "a quote opens a cell here and never closes, so that the cell takes in the rest of the file"
            .to_owned(),
        expected: "a quote at the end of the cell too; one that is part of a text is doubled within a quoted cell",
    }
}

fn builder(delimiter: u8, quotes: bool) -> csv::ReaderBuilder {
    let mut builder = csv::ReaderBuilder::new();
    builder.delimiter(delimiter).quoting(quotes);
    builder
}

/// Whether all rows have as many cells as the header, and all quotes an end, when quotes are read as such.
fn is_even(file: &Path, delimiter: u8) -> Result<bool, DataError> {
    let (bytes, lines) = counted(open(file)?, Some(Quotes::new(delimiter)));
    let (mut reader, mut record) = (builder(delimiter, true).from_reader(bytes), csv::ByteRecord::new());
    loop {
        match reader.read_byte_record(&mut record) {
            Ok(true) => {}
            Ok(false) => return Ok(lines.never_closed().is_none()),
            Err(_) => return Ok(false),
        }
    }
}

/// What stands between the cells: whatever of comma, semicolon and tab the header has most of.
fn delimiter(file: &Path, tabs: bool) -> Result<u8, DataError> {
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
    Ok(if has_most(usual) { usual } else { found })
}

fn csv_error(file: &Path, error: csv::Error, lines: &Lines) -> DataError {
    // Such a row is too short, which is not what is wrong with it.
    if let Some(line) = lines.never_closed() {
        return never_closed(file, line);
    }
    let line = error.position().map_or(1, |position| lines.at(position.byte()));
    let path = file.to_path_buf();
    let text = error.to_string();
    let problem = match error.into_kind() {
        csv::ErrorKind::Io(source) => return DataError::Read { path, source },
        csv::ErrorKind::Utf8 { .. } => return DataError::NotUtf8 { path, line },
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            let cells = if len == 1 { "cell" } else { "cells" };
            format!("the row has {len} {cells}, the header row {expected_len}")
        }
        _ => text,
    };
    let expected = "as many cells as the header row has; a cell with the delimiter in it stands in quotes";
    DataError::BadLine { path, at: At::Line(line), problem, expected }
}
