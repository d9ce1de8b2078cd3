//! The records of a file, one after the other, whatever kind of file it is.
//!
//! The name says the kind, with two exceptions that many published files need: what is called `.jsonl` may be one JSON array, and
//! what is called `.json` may have an object a line.

use std::io::{BufRead, Read};
use std::path::Path;
use std::sync::Arc;

use serde::de::{DeserializeSeed, SeqAccess, Visitor};

use super::open::open;
use super::place::{At, Place};
use super::read::Reading;
use super::record::Each;
use super::text_lines::each_line;
use super::{columns, conll, parquet, table};
use crate::{Cell, DataError};

/// The kinds of files that hold rows, by how their names end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Csv,
    Tsv,
    Text,
    /// Words and tags in columns.
    Conll,
    Parquet,
}

/// The kinds by their endings.
const ENDINGS: [(&str, Format); 11] = [
    ("jsonl", Format::Json),
    ("ndjson", Format::Json),
    ("json", Format::Json),
    ("csv", Format::Csv),
    ("tsv", Format::Tsv),
    ("txt", Format::Text),
    ("conll", Format::Conll),
    ("bio", Format::Conll),
    ("iob", Format::Conll),
    ("iob2", Format::Conll),
    ("parquet", Format::Parquet),
];

/// What files of rows may be called, in words.
pub(super) const KINDS: &str = ".jsonl, .json, .csv, .tsv, .parquet, for language models .txt, for words and tags in columns .conll, .bio, .iob, .tsv or .txt, each \
     also with .gz or .zst; a spreadsheet's rows are saved as .csv first";

/// What is right where a text file is not.
pub(super) const WITH_COLUMNS: &str = "a file that has columns, such as .jsonl or .csv";

impl Format {
    /// The kind of a file by its name.
    pub fn of_file(path: &Path) -> Option<Format> {
        Some(Format::of(path.file_name()?.to_str()?)?.0)
    }

    /// The kind of a file by its name, and the name without the endings.
    pub fn of(name: &str) -> Option<(Format, &str)> {
        let bare = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(name);
        let (stem, ending) = bare.rsplit_once('.')?;
        let (_, format) = ENDINGS.into_iter().find(|(known, _)| ending.eq_ignore_ascii_case(known))?;
        // Parquet is read from its end, and packs by itself.
        (format != Format::Parquet || bare == name).then_some((format, stem))
    }
}

/// [`read`] as `reading` wants it: what may hold words and tags in columns does where such rows are read. In columns words may stand
/// `alone` where no tags are asked for.
pub(super) fn read_as(
    path: &Path,
    reading: &Reading,
    alone: bool,
    note: &mut dyn FnMut(String),
    each: Each,
) -> Result<(), DataError> {
    let in_columns = match Format::of_file(path).filter(|_| reading.words) {
        Some(Format::Text | Format::Conll) => true,
        // A table has a header.
        Some(Format::Tsv) => !columns::is_header_of_words(reading, &first_line(path)?),
        _ => false,
    };
    if in_columns { conll::read(&path.into(), alone, each) } else { read(path, note, each) }
}

/// The first line that is not blank.
fn first_line(path: &Path) -> Result<String, DataError> {
    const LOOK: u64 = 1 << 16;
    let mut start = Vec::new();
    let read = open(path)?.take(LOOK).read_to_end(&mut start);
    read.map_err(|source| DataError::Read { path: path.to_path_buf(), source })?;
    let text = String::from_utf8_lossy(&start);
    let line = text.trim_start_matches('\u{feff}').lines().find(|line| !line.trim().is_empty());
    Ok(line.unwrap_or_default().to_owned())
}

/// Hands every record of the file to `each`, and to `note` what had to be found out.
pub(super) fn read(path: &Path, note: &mut dyn FnMut(String), each: Each) -> Result<(), DataError> {
    let file: Arc<Path> = path.into();
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    match Format::of(&name).map(|(format, _)| format) {
        Some(Format::Parquet) => parquet::read(&file, each),
        Some(Format::Csv) => table::read(&file, false, note, each),
        Some(Format::Tsv) => table::read(&file, true, note, each),
        Some(Format::Text) => texts(&file, each),
        Some(Format::Conll) => conll::read(&file, false, each),
        Some(Format::Json) => json(&file, name.contains(".json") && !name.contains(".jsonl"), each),
        None => Err(DataError::NotRows { path: path.to_path_buf(), kinds: KINDS }),
    }
}

/// JSON: an object a line, or one array of objects, or an object with the array as its `data`.
fn json(file: &Arc<Path>, whole: bool, each: Each) -> Result<(), DataError> {
    let unreadable = |source| DataError::Read { path: file.to_path_buf(), source };
    let mut from = open(file)?;
    let start = first_byte(&mut from).map_err(unreadable)?;
    if start == Some(b'[') {
        return array(file, from, each);
    }
    if whole && is_one_object(open(file)?).map_err(unreadable)? {
        return object(file, from, each);
    }
    lines(file, each)
}

/// The first byte that is neither a blank nor a byte order mark; it stays to be read.
fn first_byte(from: &mut dyn BufRead) -> std::io::Result<Option<u8>> {
    loop {
        let buffer = from.fill_buf()?;
        let Some(&first) = buffer.first() else { return Ok(None) };
        if !(first.is_ascii_whitespace() || [0xef, 0xbb, 0xbf].contains(&first)) {
            return Ok(Some(first));
        }
        from.consume(1);
    }
}

/// Whether the first line is not a whole object, so that the object is the file.
fn is_one_object(mut from: impl BufRead) -> std::io::Result<bool> {
    let mut line = Vec::new();
    from.read_until(b'\n', &mut line)?;
    let text = String::from_utf8_lossy(&line);
    let text = text.trim_start_matches('\u{feff}').trim();
    let first: Option<Cell> = serde_json::from_str(text).ok();
    let rest = first_byte(&mut from)?;
    Ok(match first {
        // The whole set may stand on one line.
        Some(cell) => rest.is_none() && cell.get("data").is_some_and(|data| data.list().is_some()),
        None => text == "{" || rest.is_some_and(|byte| byte != b'{'),
    })
}

const OBJECT: &str = "one JSON object a line, such as {\"text\": \"hello\", \"label\": 0}";

fn lines(file: &Arc<Path>, each: Each) -> Result<(), DataError> {
    each_line(file, &mut |line, text| {
        let place = Place { file: file.clone(), at: At::Line(line) };
        if text.trim().is_empty() {
            return Ok(true);
        }
        match serde_json::from_str(text) {
            Ok(Cell::Record(record)) => each(place, record)?,
            Ok(other) => return Err(place.bad(format!("not a JSON object but {}", other.kind()), OBJECT)),
            Err(error) => return Err(no_json(&place, &error, text, OBJECT)),
        }
        Ok(true)
    })
}

/// What to say of text that is not JSON; of what Python writes and reads all the same, with the way out.
fn no_json(place: &Place, error: &serde_json::Error, text: &str, expected: &'static str) -> DataError {
    let said = error.to_string();
    if said.contains("surrogate") || said.contains("hex escape") {
        let problem = format!("half of a character (an escape such as \\ud83d without its other half; {said})");
        return place.bad(
            problem,
            "whole characters; in Python text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace') mends a text",
        );
    }
    // The place is that of the word's first letter.
    let at = |back: usize| error.column().checked_sub(back).and_then(|at| text.get(at..)).unwrap_or_default();
    let word =
        ["NaN", "Infinity", "-Infinity"].into_iter().find(|word| at(1).starts_with(word) || at(2).starts_with(word));
    match word {
        Some(word) => place.bad(
            format!("{word}, which is no JSON ({said})"),
            "null where there is nothing, or no such row; pandas leaves such rows out by dropna()",
        ),
        None => place.bad(format!("not a JSON object ({said})"), expected),
    }
}

const ARRAY: &str = "an array of objects, such as [{\"text\": \"hello\", \"label\": 0}]";

/// An array is read item by item, so that it never lies in memory as a whole.
fn array(file: &Arc<Path>, from: impl BufRead, each: Each) -> Result<(), DataError> {
    let mut failed = None;
    let items = Items { file, each, failed: &mut failed };
    let mut reader = serde_json::Deserializer::from_reader(from);
    let read = items.deserialize(&mut reader).and_then(|()| reader.end());
    match (failed, read) {
        (Some(error), _) => Err(error),
        (None, Err(error)) if error.is_io() => Err(DataError::Read { path: file.to_path_buf(), source: error.into() }),
        (None, Err(error)) => {
            let place = Place { file: file.clone(), at: At::Line(error.line() as u64) };
            Err(no_json(&place, &error, "", ARRAY))
        }
        (None, Ok(())) => Ok(()),
    }
}

struct Items<'i, 'e> {
    file: &'i Arc<Path>,
    each: Each<'e>,
    failed: &'i mut Option<DataError>,
}

impl<'de> DeserializeSeed<'de> for Items<'_, '_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Items<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(ARRAY)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<(), A::Error> {
        let mut row = 0;
        while let Some(cell) = from.next_element::<Cell>()? {
            row += 1;
            let place = Place { file: self.file.clone(), at: At::Row(row) };
            let done = match cell {
                Cell::Record(record) => (self.each)(place, record),
                other => Err(place.bad(format!("not a JSON object but {}", other.kind()), ARRAY)),
            };
            if let Err(error) = done {
                *self.failed = Some(error);
                return Err(serde::de::Error::custom("stopped"));
            }
        }
        Ok(())
    }
}

fn object(file: &Arc<Path>, from: impl BufRead, each: Each) -> Result<(), DataError> {
    const DATA: &str = "an object a line, an array of objects, or {\"data\": [ … ]}";
    let whole: Cell = serde_json::from_reader(from).map_err(|error| {
        let place = Place { file: file.clone(), at: At::Line(error.line().max(1) as u64) };
        if error.is_io() {
            DataError::Read { path: file.to_path_buf(), source: error.into() }
        } else {
            no_json(&place, &error, "", DATA)
        }
    })?;
    let Cell::Record(fields) = whole else { return Ok(()) };
    let names: Vec<String> = fields.iter().map(|(name, _)| name.clone()).collect();
    let Some((_, Cell::List(rows))) = fields.into_iter().find(|(name, _)| name == "data") else {
        let place = Place { file: file.clone(), at: At::Line(1) };
        let fields = super::place::listed(names.iter().map(String::as_str));
        return Err(place.bad(format!("one object without a list `data`; its fields are: {fields}"), DATA));
    };
    for (row, cell) in (1..).zip(rows) {
        let place = Place { file: file.clone(), at: At::Row(row) };
        match cell {
            Cell::Record(record) => each(place, record)?,
            other => return Err(place.bad(format!("not a JSON object but {}", other.kind()), DATA)),
        }
    }
    Ok(())
}

/// Texts with blank lines between them, each as the field `text`.
fn texts(file: &Arc<Path>, each: Each) -> Result<(), DataError> {
    let (mut text, mut first) = (String::new(), 0);
    let mut end = |text: &mut String, line: u64| {
        if text.is_empty() {
            Ok(())
        } else {
            let place = Place { file: file.clone(), at: At::Line(line) };
            each(place, vec![("text".to_owned(), Cell::Text(std::mem::take(text)))])
        }
    };
    each_line(file, &mut |line, of_line| {
        if of_line.trim().is_empty() {
            end(&mut text, first)?;
        } else if text.is_empty() {
            first = line;
            text.push_str(of_line);
        } else {
            text.push('\n');
            text.push_str(of_line);
        }
        Ok(true)
    })?;
    end(&mut text, first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_names() {
        assert_eq!(Format::of("train.jsonl"), Some((Format::Json, "train")));
        assert_eq!(Format::of("train-00000-of-00002.parquet"), Some((Format::Parquet, "train-00000-of-00002")));
        assert_eq!(Format::of("a.b.TSV.gz"), Some((Format::Tsv, "a.b")));
        assert_eq!(Format::of("x.csv.zst"), Some((Format::Csv, "x")));
        assert_eq!(Format::of("x.parquet.gz"), None);
        assert_eq!(Format::of("README.md"), None);
        assert_eq!(Format::of("train"), None);
    }
}
