//! What a model is asked after training: rows as in training, without the labels and responses that it is to give.

use std::path::Path;
use std::sync::Arc;

use super::columns::{self, Columns};
use super::place::{At, Place};
use super::read::Reading;
use super::record::Record;
use super::records::{self, Format, WITH_COLUMNS};
use super::{Content, causal, conll, text_lines};
use crate::{Cell, DataError};

/// The rows of a file as what is asked: for a causal language model prompts, else texts. Of a text file that is every line, where
/// the model does not go on with texts, and blank lines stand at its end alone; where words are tagged, a sentence a line, or words in
/// columns if it looks like that.
///
/// # Errors
/// A file that cannot be read or is none of rows; a row without the columns that the reading names or that can be found out.
pub fn questions(path: &Path, reading: &Reading) -> Result<Vec<Content>, DataError> {
    let all = match Format::of_file(path) {
        Some(Format::Text) if reading.words && !conll::is_in_columns(path)? => {
            let words = |line: String| line.split_whitespace().map(str::to_owned).collect();
            text_lines::texts(path)?.into_iter().map(|line| Content::Words(words(line))).collect()
        }
        Some(Format::Text) if !reading.causal && !reading.words => texts(path, reading)?,
        _ => of_records(path, reading)?,
    };
    if all.is_empty() { Err(DataError::NoRows { path: path.to_path_buf() }) } else { Ok(all) }
}

/// The lines of a text file.
fn texts(path: &Path, reading: &Reading) -> Result<Vec<Content>, DataError> {
    if reading.text.len() == 2 {
        let problem = "a text file has no columns for the two texts of a pair".to_owned();
        return Err(DataError::BadFile { path: path.to_path_buf(), problem, expected: WITH_COLUMNS });
    }
    Ok(text_lines::texts(path)?.into_iter().map(Content::Text).collect())
}

fn of_records(path: &Path, reading: &Reading) -> Result<Vec<Content>, DataError> {
    let (mut all, mut found) = (Vec::new(), None);
    let loose = path.to_str().is_some_and(|name| name.contains(".csv") || name.contains(".tsv"));
    records::read_as(path, reading, true, &mut |_| (), &mut |place, record| {
        if all.is_empty() {
            columns::refuse_doubles(reading, &place, &record)?;
        }
        all.push(one(reading, &place, &record, &mut found, loose)?);
        Ok(())
    })?;
    Ok(all)
}

/// What a row of these fields asks, which was given by hand.
///
/// # Errors
/// As [`questions`].
pub fn question(fields: &[(&str, &str)], reading: &Reading) -> Result<Content, DataError> {
    let record: Record = fields.iter().map(|(name, text)| ((*name).to_owned(), Cell::from(*text))).collect();
    let place = Place { file: Arc::from(Path::new("the command line")), at: At::Row(0) };
    one(reading, &place, &record, &mut None, true)
}

fn one(
    reading: &Reading,
    place: &Place,
    record: &Record,
    found: &mut Option<Vec<String>>,
    loose: bool,
) -> Result<Content, DataError> {
    if reading.causal {
        return causal::question(reading, place, record);
    }
    if found.is_none() {
        *found = Some(Columns::of_texts(reading, place, record)?);
    }
    if let Some([words, ..]) = found.as_deref().filter(|_| reading.words) {
        return Ok(Content::Words(columns::words(place, record, words, loose)?));
    }
    let text = |name: &String| columns::text(place, record, name).map(String::from);
    match found.as_deref() {
        Some([first, second]) => Ok(Content::Two(text(first)?, text(second)?)),
        Some([one]) => Ok(Content::Text(text(one)?)),
        _ => Ok(Content::Text(String::new())),
    }
}
