//! Parquet, the kind of file that the Hub serves, row by row and without Arrow.

mod pages;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parquet::file::reader::FileReader;
use parquet::record::{Field, Row};

use self::pages::PackedFile;
use super::open::allowed;
use super::place::{At, Place};
use super::record::{Each, Record};
use crate::catch_panic::catch_panic;
use crate::{Cell, DataError};

const WHOLE: &str = "a whole Parquet file; fetch or write it again";

/// Hands every row to `each`.
pub(super) fn read(file: &Arc<Path>, each: Each) -> Result<(), DataError> {
    let reader = open(file)?;
    // Runs of one value take no space in a file, and would take all memory as rows.
    let mut left = allowed(reader.size());
    let rows = contained(file, || reader.get_row_iter(None))?;
    let mut rows = rows.map_err(|error| damaged(file, 0, &error.to_string()))?;
    for row in 1.. {
        let Some(next) = contained(file, || rows.next())? else { break };
        let next = next.map_err(|error| damaged(file, row, &error.to_string()))?;
        let record = record(next);
        left = left.checked_sub(weight(&record)).ok_or_else(|| {
            let times = super::open::MOST_TIMES;
            damaged(
                file,
                row,
                &format!("its rows up to here are more than {times} times its size, which texts are not"),
            )
        })?;
        each(Place { file: file.clone(), at: At::Row(row) }, record)?;
    }
    Ok(())
}

/// The names of a column's classes, where `datasets` wrote them into the file.
pub(super) fn class_names(file: &Path, column: &str) -> Result<Option<Vec<String>>, DataError> {
    let reader = open(file)?;
    let notes = reader.metadata().file_metadata().key_value_metadata();
    let note =
        notes.into_iter().flatten().find(|entry| entry.key == "huggingface").and_then(|entry| entry.value.as_ref());
    let Some(note) = note.and_then(|text| serde_json::from_str::<Cell>(text).ok()) else { return Ok(None) };
    let Some(features) = note.at_path("info.features") else { return Ok(None) };
    let feature = features.get(column).or_else(|| features.at_path(column));
    // Of a list of classes the items say it.
    let of_items = feature.and_then(|feature| feature.get("feature"));
    let names = [feature, of_items].into_iter().flatten().find_map(|feature| feature.get("names")?.list());
    Ok(names.map(|names| names.iter().filter_map(|name| name.text().map(str::to_owned)).collect()))
}

fn open(file: &Path) -> Result<PackedFile, DataError> {
    let from = File::open(file).map_err(|source| DataError::Read { path: file.to_path_buf(), source })?;
    let reader = contained(file, || PackedFile::new(from))?;
    reader.map_err(|error| damaged(file, 0, &error.to_string()))
}

fn contained<T>(file: &Path, work: impl FnOnce() -> T) -> Result<T, DataError> {
    catch_panic(work).map_err(|panic| damaged(file, 0, &panic))
}

/// What is wrong with a file; in row 0 it is the file as a whole.
fn damaged(file: &Path, row: u64, problem: &str) -> DataError {
    let problem = problem.trim_start_matches("Parquet error: ");
    match row {
        0 => DataError::BadFile {
            path: file.to_path_buf(),
            problem: format!("not Parquet that can be read ({problem})"),
            expected: WHOLE,
        },
        row => DataError::BadLine {
            path: file.to_path_buf(),
            at: At::Row(row),
            problem: problem.to_owned(),
            expected: WHOLE,
        },
    }
}

fn record(row: Row) -> Record {
    row.into_columns().into_iter().map(|(name, field)| (name, cell(field))).collect()
}

fn cell(field: Field) -> Cell {
    match field {
        Field::Null => Cell::Null,
        Field::Bool(value) => Cell::Bool(value),
        Field::Byte(value) => Cell::Whole(value.into()),
        Field::Short(value) => Cell::Whole(value.into()),
        Field::Int(value) => Cell::Whole(value.into()),
        Field::Long(value) => Cell::Whole(value),
        Field::UByte(value) => Cell::Whole(value.into()),
        Field::UShort(value) => Cell::Whole(value.into()),
        Field::UInt(value) => Cell::Whole(value.into()),
        Field::ULong(value) => Cell::whole(value),
        Field::Float16(value) => Cell::number(value.into()),
        Field::Float(value) => Cell::number(value.into()),
        Field::Double(value) => Cell::number(value),
        Field::Str(text) => Cell::Text(text),
        // Writers of old did not say that bytes are text.
        Field::Bytes(bytes) => String::from_utf8(bytes.data().to_vec()).map_or(Cell::Null, Cell::Text),
        Field::Group(row) => Cell::Record(record(row)),
        Field::ListInternal(list) => Cell::List(list.elements().iter().cloned().map(cell).collect()),
        Field::MapInternal(map) => {
            let entry = |(key, value): &(Field, Field)| (key_text(key), cell(value.clone()));
            Cell::Record(map.entries().iter().map(entry).collect())
        }
        // Days, times and decimals as the library writes them.
        other => Cell::Text(other.to_string()),
    }
}

fn key_text(key: &Field) -> String {
    match key {
        Field::Str(text) => text.clone(),
        other => other.to_string(),
    }
}

/// About how many bytes a row takes.
fn weight(record: &Record) -> u64 {
    64 + record.iter().map(|(_, cell)| weight_of(cell)).sum::<u64>()
}

fn weight_of(cell: &Cell) -> u64 {
    8 + match cell {
        Cell::Text(text) => text.len() as u64,
        Cell::List(items) => items.iter().map(weight_of).sum(),
        Cell::Record(fields) => weight(fields),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_beyond_63_bits_stay_apart() {
        assert_eq!(cell(Field::ULong(7)), Cell::Whole(7));
        assert_eq!(cell(Field::ULong(u64::MAX)), Cell::from("18446744073709551615"));
        assert_eq!(cell(Field::ULong(u64::MAX - 1)), Cell::from("18446744073709551614"));
    }
}
