//! Which columns hold the text and the label. Guesses are made only where one answer is possible.

use std::borrow::Cow;

use super::lists;
use super::place::Place;
use super::read::Reading;
use super::record::Record;
use crate::cell::field;
use crate::{Cell, DataError};

/// Names that a column of texts has.
const TEXT: [&str; 3] = ["sentence", "text", "content"];
/// Names that a column of labels has.
const LABEL: [&str; 4] = ["label", "labels", "intent", "category"];
/// Names that a column of a sentence's words has, and one of their tags.
const WORDS: [&str; 2] = ["tokens", "words"];
const TAGS: [&str; 6] = ["ner_tags", "tags", "ner", "labels", "label", "pos_tags"];
/// Names that tell that a text is one of two.
const OF_PAIRS: [&str; 9] =
    ["premise", "hypothesis", "question", "sentence1", "sentence2", "question1", "question2", "text1", "text2"];

/// The columns that are read.
#[derive(Debug, Clone)]
pub(super) struct Columns {
    /// One, or the two of a pair.
    pub text: Vec<String>,
    pub label: String,
}

impl Columns {
    /// The columns that the reading names, else those that the first row lets guess.
    pub fn of(reading: &Reading, place: &Place, row: &Record, notes: &mut Vec<String>) -> Result<Columns, DataError> {
        let text = Columns::of_texts(reading, place, row)?;
        let label = match &reading.label {
            Some(label) => label.clone(),
            None if !reading.label_columns.is_empty() => "label".to_owned(),
            None if reading.words => Columns::of_tags(place, row)?,
            None => guess(place, row, "label", &LABEL, &[])?,
        };
        if text.contains(&label) && reading.label_columns.is_empty() {
            let problem = format!("column {label:?} would be both text and label");
            return Err(place.bad(problem, "two columns, named with data.text and data.label"));
        }
        let guessed = (reading.text.is_empty() && text[0] != "text") || (reading.label.is_none() && label != "label");
        let guessed = guessed && !is_numbered(row) && reading.label_columns.is_empty();
        if guessed {
            let text = text.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(" and ");
            notes.push(format!("the texts are column {text}, the labels column {label:?}"));
        }
        Ok(Columns { text, label })
    }

    /// That of the tags: the last one where columns have no names.
    fn of_tags(place: &Place, row: &Record) -> Result<String, DataError> {
        match row.last() {
            Some((last, _)) if is_numbered(row) => Ok(last.clone()),
            _ => {
                // Published sets have tags of several kinds beside each other: entities are what is asked for.
                match field(row, TAGS[0]) {
                    Some(_) => Ok(TAGS[0].to_owned()),
                    None => guess(place, row, "tags", &TAGS, &[]),
                }
            }
        }
    }

    /// Those of the texts alone.
    pub fn of_texts(reading: &Reading, place: &Place, row: &Record) -> Result<Vec<String>, DataError> {
        match reading.text.is_empty() {
            true if reading.words && is_numbered(row) => Ok(vec![row[0].0.clone()]),
            true if reading.words => Ok(vec![guess(place, row, "tokens", &WORDS, &[])?]),
            true => Ok(vec![guess(place, row, "text", &TEXT, &OF_PAIRS)?]),
            false => Ok(reading.text.clone()),
        }
    }
}

/// Refuses two columns of one name that is read: which of them is meant nobody knows.
pub(super) fn refuse_doubles(reading: &Reading, place: &Place, row: &Record) -> Result<(), DataError> {
    let twice = |at: usize| row[..at].iter().any(|(of, _)| *of == row[at].0);
    let Some(at) = (1..row.len()).find(|&at| twice(at) && is_read(reading, &row[at].0)) else { return Ok(()) };
    Err(DataError::BadFile {
        path: place.file.to_path_buf(),
        problem: format!("two columns are called {:?}", row[at].0),
        expected: "one column of every name that is read; give the other a name of its own",
    })
}

/// Whether the column of this name is read, where it is there.
fn is_read(reading: &Reading, name: &str) -> bool {
    let of_causal = ["prompt", "response", "completion", "instruction", "input", "output", "text"];
    let texts = match () {
        () if !reading.text.is_empty() || reading.wording.is_some() => &[][..],
        () if reading.causal => &of_causal[..],
        () if reading.words => &WORDS[..1],
        () => &["text"][..],
    };
    let labels = match () {
        () if reading.label.is_some() || !reading.label_columns.is_empty() => &[][..],
        () if reading.words => &TAGS[..2],
        () => &["label"][..],
    };
    let templates = reading.wording.iter().flat_map(|wording| [&wording.prompt, &wording.response]);
    let named = reading.text.iter().chain(&reading.label).chain(&reading.label_columns).chain(&reading.group);
    let named = named.map(String::as_str).chain(templates.flat_map(|template| template.columns()));
    texts.iter().chain(labels).copied().chain(named).any(|of| of == name)
}

/// Whether the columns have no names, as in files of words and tags.
fn is_numbered(row: &Record) -> bool {
    row.iter().enumerate().all(|(at, (name, _))| *name == (at + 1).to_string())
}

/// Whether the first line of a tab-separated file names a column of words.
pub(super) fn is_header_of_words(reading: &Reading, line: &str) -> bool {
    let known = |name: &str| match reading.text.as_slice() {
        [] => WORDS.iter().any(|of| name.eq_ignore_ascii_case(of)),
        named => named.iter().any(|of| of == name),
    };
    line.split('\t').any(|name| known(name.trim()))
}

/// The words in a column.
pub(super) fn words(place: &Place, row: &Record, name: &str, loose: bool) -> Result<Vec<String>, DataError> {
    let Some(cell) = value(row, name) else {
        return Err(place.missing(name, row.iter().map(|(name, _)| name.as_str())));
    };
    let word = |cell: &Cell| match cell {
        Cell::Text(word) => Ok(word.clone()),
        // A list in a table has words that look like numbers.
        Cell::Whole(_) | Cell::Float(_) if loose => Ok(cell.to_string()),
        other => Err(place.bad(format!("field {name:?} holds {other}"), "words, each a string")),
    };
    lists::items(place, name, cell, loose, char::is_whitespace)?.iter().map(word).collect()
}

/// The one column that can be meant.
fn guess(
    place: &Place,
    row: &Record,
    role: &'static str,
    names: &[&str],
    rivals: &[&str],
) -> Result<String, DataError> {
    if field(row, role).is_some() {
        return Ok(role.to_owned());
    }
    let present = || row.iter().map(|(name, _)| name.as_str());
    let fits = |list: &[&str], name: &str| list.iter().any(|of| name.trim().eq_ignore_ascii_case(of));
    let found: Vec<&str> = present().filter(|name| fits(names, name)).collect();
    let others: Vec<&str> = present().filter(|name| fits(rivals, name)).collect();
    match (found.as_slice(), others.as_slice()) {
        ([one], []) => Ok((*one).to_owned()),
        ([], []) => Err(DataError::ColumnUnknown {
            path: place.file.to_path_buf(),
            at: place.at,
            role,
            present: super::place::listed(present()),
            hint: hint(role, row),
        }),
        _ => Err(DataError::ColumnAmbiguous {
            path: place.file.to_path_buf(),
            at: place.at,
            role,
            candidates: super::place::listed(found.iter().chain(&others).copied()),
            hint: hint(role, row),
        }),
    }
}

/// What to write into the configuration, with the columns that are there where that is clear.
fn hint(role: &str, row: &Record) -> String {
    let present: Vec<&str> = row.iter().map(|(name, _)| name.as_str()).collect();
    if role == "tokens" {
        return "name the words' column with data.text = \"COLUMN\"".to_owned();
    }
    if role == "label" || role == "tags" {
        return "name it with data.label = \"COLUMN\"".to_owned();
    }
    let pair: Vec<&str> =
        present.iter().copied().filter(|name| OF_PAIRS.contains(&name.to_lowercase().as_str())).collect();
    // A column is a word or two; where names are sentences, there is no header row.
    if present.iter().any(|name| name.split_whitespace().count() > 4) {
        return "a table begins with a row of column names, and this one seems to have none: put one before its rows, such as \
                text,label"
            .to_owned();
    }
    match pair.as_slice() {
        [first, second] => {
            format!("name a pair with data.text = [{first:?}, {second:?}], one text with data.text = \"COLUMN\"")
        }
        _ => "name it with data.text = \"COLUMN\", or a pair with data.text = [\"COLUMN\", \"COLUMN\"]".to_owned(),
    }
}

/// The value of a column; a name with dots may lead into nested fields.
pub(super) fn value<'r>(row: &'r Record, name: &str) -> Option<&'r Cell> {
    field(row, name).or_else(|| {
        let (first, rest) = name.split_once('.')?;
        field(row, first)?.at_path(rest)
    })
}

/// The text in a column.
pub(super) fn text<'r>(place: &Place, row: &'r Record, name: &str) -> Result<Cow<'r, str>, DataError> {
    match value(row, name) {
        Some(Cell::Text(text)) => Ok(text.into()),
        Some(Cell::Null) => {
            Err(place.bad(format!("field {name:?} is null"), "a string; leave out rows that have no text"))
        }
        Some(_) => Err(place.bad(format!("field {name:?} is not a string"), "a string")),
        None => Err(place.missing(name, row.iter().map(|(name, _)| name.as_str()))),
    }
}

/// The group of a row, where one is asked for; `needed` in training rows.
pub(super) fn group(
    place: &Place,
    row: &Record,
    column: Option<&str>,
    needed: bool,
) -> Result<Option<String>, DataError> {
    let Some(column) = column else { return Ok(None) };
    match value(row, column) {
        // What stands in no cell is nobody's name.
        Some(Cell::Text(text)) if text.trim().is_empty() && needed => Err(nobody(place, column)),
        Some(Cell::Text(text)) if text.trim().is_empty() => Ok(None),
        Some(Cell::Text(text)) => Ok(Some(text.clone())),
        Some(cell @ (Cell::Whole(_) | Cell::Float(_) | Cell::Bool(_))) => Ok(Some(cell.to_string())),
        Some(Cell::List(_) | Cell::Record(_)) => {
            let problem = format!("group field {column:?} is a list or an object");
            Err(place.bad(problem, "a string, a number or a truth value"))
        }
        Some(Cell::Null) if needed => Err(nobody(place, column)),
        None if needed => Err(place.missing(column, row.iter().map(|(name, _)| name.as_str()))),
        Some(Cell::Null) | None => Ok(None),
    }
}

/// A training row that belongs to nobody.
fn nobody(place: &Place, column: &str) -> DataError {
    place.bad(
        format!("field {column:?} is empty, by which rows are dealt out to clients"),
        "whose row it is, in every training row",
    )
}
