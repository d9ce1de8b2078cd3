//! From records to rows: what every record of a split says.

use std::path::{Path, PathBuf};

use super::causal::{Kinds, Outcome};
use super::columns::{self, Columns};
use super::labels::Written;
use super::place::Place;
use super::read::Reading;
use super::record::Record;
use super::records::{self, Format, WITH_COLUMNS};
use super::{Content, Row, lists};
use crate::{Cell, DataError};

/// Reads splits one after the other; what the first row says holds for all.
pub(super) struct Rows<'r> {
    reading: &'r Reading,
    notes: &'r mut Vec<String>,
    columns: Option<Columns>,
    kinds: Kinds,
    empty: usize,
}

impl<'r> Rows<'r> {
    pub fn new(reading: &'r Reading, notes: &'r mut Vec<String>) -> Self {
        Rows { reading, notes, columns: None, kinds: Kinds::default(), empty: 0 }
    }

    /// The column that labels are in.
    pub fn label_column(&self) -> String {
        let found = self.columns.as_ref().map(|columns| columns.label.clone());
        found.or_else(|| self.reading.label.clone()).unwrap_or_else(|| "label".to_owned())
    }

    /// What becomes of a row that is a prompt and a response.
    pub fn prompt_template(&self) -> Option<String> {
        match &self.reading.wording {
            Some(wording) => Some(format!("{}{}", wording.prompt, wording.response)),
            None => self.kinds.template(),
        }
    }

    /// A split of which no row has a text is a wrong column, or a wrong file.
    pub fn refuse_silence(&self, path: &Path, train: &[Row]) -> Result<(), DataError> {
        let Some(columns) = &self.columns else { return Ok(()) };
        if columns.text.is_empty() || !train.iter().all(|row| is_silent(&row.content)) {
            return Ok(());
        }
        let names: Vec<String> = columns.text.iter().map(|name| format!("{name:?}")).collect();
        Err(DataError::BadFile {
            path: path.to_path_buf(),
            problem: format!("every text in {} is empty", names.join(" and ")),
            expected: "texts to learn from; another column is named with data.text",
        })
    }

    /// Says once what was seen in all splits.
    pub fn tell(&mut self) {
        if self.empty > 0 {
            self.notes.push(format!("{} texts are empty, and kept: their labels count", self.empty));
        }
    }

    /// All rows of a split's files.
    pub fn split(&mut self, name: &'static str, files: &[PathBuf]) -> Result<Vec<Row>, DataError> {
        let (mut rows, mut nothing, mut first) = (Vec::new(), 0usize, None);
        for path in files {
            let format = Format::of_file(path);
            let loose = matches!(format, Some(Format::Csv | Format::Tsv));
            self.refuse_texts(path, format, name)?;
            let (mut notes, mut begun) = (Vec::new(), false);
            records::read_as(path, self.reading, false, &mut |note| notes.push(note), &mut |place, record| {
                if !std::mem::replace(&mut begun, true) {
                    columns::refuse_doubles(self.reading, &place, &record)?;
                }
                match self.row(place, &record, name == "train", loose)? {
                    Outcome::Row(row) => rows.push(row),
                    Outcome::Nothing(reason) => {
                        nothing += 1;
                        first.get_or_insert(reason);
                    }
                }
                Ok(())
            })?;
            self.notes.append(&mut notes);
        }
        match first {
            Some(reason) if rows.is_empty() && name == "train" => return Err(reason),
            Some(reason) => {
                let all = rows.len() + nothing;
                let reason = reason.to_string();
                let reason = reason.split("; expected").next().unwrap_or_default();
                self.notes.push(format!(
                    "{nothing} of {all} {name} rows have nothing to learn and are left out; the first: {reason}"
                ));
            }
            None => {}
        }
        rows.shrink_to_fit();
        Ok(rows)
    }

    /// A text file has no columns.
    fn refuse_texts(&self, path: &Path, format: Option<Format>, split: &str) -> Result<(), DataError> {
        let problem = match &self.reading {
            reading if format == Some(Format::Conll) && !reading.words => {
                "words and tags in columns, which are for model.task = \"token-classification\"".to_owned()
            }
            _ if format != Some(Format::Text) => return Ok(()),
            reading if reading.words => return Ok(()),
            reading if !reading.causal => "a text file has no labels".to_owned(),
            Reading { group: Some(group), .. } if split == "train" => format!("a text file has no column {group:?}"),
            reading if reading.wording.is_some() => {
                "a text file has no columns for data.prompt and data.response".to_owned()
            }
            reading if !reading.text.is_empty() => "a text file has no columns for data.text".to_owned(),
            _ => return Ok(()),
        };
        Err(DataError::BadFile { path: path.to_path_buf(), problem, expected: WITH_COLUMNS })
    }

    fn row(&mut self, place: Place, record: &Record, train: bool, loose: bool) -> Result<Outcome, DataError> {
        if self.reading.causal {
            return self.kinds.row(self.reading, place, record, train, loose);
        }
        if self.columns.is_none() {
            self.columns = Some(Columns::of(self.reading, &place, record, self.notes)?);
        }
        let columns = self.columns.as_ref().expect("they were just found");
        if self.reading.words {
            return sentence(self.reading, columns, place, record, train, loose);
        }
        let text = |name: &String| columns::text(&place, record, name).map(String::from);
        let content = match columns.text.as_slice() {
            [first, second] => Content::Two(text(first)?, text(second)?),
            [one, ..] => Content::Text(text(one)?),
            [] => Content::Text(String::new()),
        };
        self.empty += usize::from(is_silent(&content));
        let label = match columns::value(record, &columns.label) {
            _ if !self.reading.label_columns.is_empty() => {
                let there = |name: &String| columns::value(record, name).is_some();
                match train || self.reading.label_columns.iter().any(there) {
                    true => Written::columns(&place, &self.reading.label_columns, record, loose)?,
                    false => absent(&place, &self.reading.label_columns, record)?,
                }
            }
            Some(cell) if self.reading.several => Written::several(&place, &columns.label, cell, loose)?,
            Some(cell) if self.reading.numbers => Written::number(&place, &columns.label, cell, loose)?,
            Some(cell) => Written::of(&place, &columns.label, cell, loose)?,
            // Published test splits often have no labels.
            None if !train => absent(&place, std::slice::from_ref(&columns.label), record)?,
            None => return Err(place.missing(&columns.label, record.iter().map(|(name, _)| name.as_str()))),
        };
        let group = columns::group(&place, record, self.reading.group.as_deref(), train)?;
        Ok(Outcome::Row(Row { place, content, label: Some(label), group }))
    }
}

/// What a row says that has none of the labels' columns; one of almost the same name is a slip.
fn absent(place: &Place, columns: &[String], record: &Record) -> Result<Written, DataError> {
    let bare = |name: &str| name.trim().to_lowercase();
    let alike =
        |(name, _): &(String, Cell)| columns.iter().find(|of| bare(of) == bare(name)).map(|of| (of, name.clone()));
    match record.iter().find_map(alike) {
        Some((wanted, there)) => {
            let problem = format!("no column {wanted:?}, but one called {there:?}");
            Err(place.bad(problem, "one name for the labels' column in all files"))
        }
        None => Ok(Written::Absent),
    }
}

/// Whether nothing is written there.
fn is_silent(content: &Content) -> bool {
    match content {
        Content::Two(a, b) => a.trim().is_empty() && b.trim().is_empty(),
        Content::Text(text) => text.trim().is_empty(),
        _ => false,
    }
}

/// A sentence's words with their tags.
fn sentence(
    reading: &Reading,
    columns: &Columns,
    place: Place,
    record: &Record,
    train: bool,
    loose: bool,
) -> Result<Outcome, DataError> {
    let words = columns::words(&place, record, &columns.text[0], loose)?;
    if words.is_empty() {
        return Ok(Outcome::Nothing(place.bad("no words", "a list of words")));
    }
    let label = match columns::value(record, &columns.label) {
        Some(Cell::Null) if !train => Written::Nothing,
        None if !train => absent(&place, std::slice::from_ref(&columns.label), record)?,
        Some(cell) => {
            let tags = lists::items(&place, &columns.label, cell, loose, char::is_whitespace)?;
            if tags.len() != words.len() {
                let problem = format!("{} words and {} tags", words.len(), tags.len());
                return Err(place.bad(problem, "a tag for every word"));
            }
            Written::tags(&place, &columns.label, &tags, loose)?
        }
        None => return Err(place.missing(&columns.label, record.iter().map(|(name, _)| name.as_str()))),
    };
    let group = columns::group(&place, record, reading.group.as_deref(), train)?;
    Ok(Outcome::Row(Row { place, content: Content::Words(words), label: Some(label), group }))
}
