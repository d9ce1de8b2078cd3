//! What the labels of a set are called, and which one a row means.
//!
//! Classes are the values that occur in training, or the names that a file lists. `listing.rs` reads such files.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use super::place::Place;
use super::read::UnseenLabels;
use super::record::Record;
use super::{Example, Row, lists};
use crate::{Cell, DataError};

/// A label as written.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Written {
    /// Nothing is there.
    Nothing,
    /// The file has no column for it.
    Absent,
    /// A whole number; with its text where that may also be a name, as in CSV.
    Whole(i64, Option<String>),
    /// A name.
    Name(String),
    /// A number that is foretold as such.
    Number(f64),
    /// Several of these, of which none is nothing: the tags of a sentence's words, or the labels of a text, where there may be none.
    Several(Vec<Written>),
}

impl Written {
    /// Reads a label; `loose` cells are text whatever they hold, as in CSV.
    pub fn of(place: &Place, column: &str, cell: &Cell, loose: bool) -> Result<Written, DataError> {
        const EXPECTED: &str =
            "a whole number from 0, a name or a truth value; another column is named with data.label";
        Ok(match cell {
            Cell::Null => Written::Nothing,
            Cell::Bool(value) => Written::Name(value.to_string()),
            Cell::Whole(value) => Written::Whole(*value, None),
            Cell::Float(value) if value.fract() == 0.0 && value.abs() < 1e15 => Written::Whole(*value as i64, None),
            Cell::Text(text) if loose => Written::of_text(text.trim()),
            Cell::Text(text) if text.trim().is_empty() => Written::Nothing,
            Cell::Text(text) => Written::Name(text.trim().to_owned()),
            other => return Err(place.bad(format!("field {column:?} is {other}"), EXPECTED)),
        })
    }

    /// Reads a number that is to be foretold; in `loose` cells, as of CSV, it is text.
    pub fn number(place: &Place, column: &str, cell: &Cell, loose: bool) -> Result<Written, DataError> {
        const EXPECTED: &str = "a finite number; another column is named with data.label";
        let number = match cell {
            Cell::Null => return Ok(Written::Nothing),
            Cell::Whole(value) => Some(*value as f64),
            Cell::Float(value) => Some(*value),
            Cell::Text(text) if text.trim().is_empty() => return Ok(Written::Nothing),
            Cell::Text(text) if loose => text.trim().parse().ok(),
            _ => None,
        };
        // What f32 cannot hold a model cannot learn.
        match number.filter(|number| number.is_finite() && (*number as f32).is_finite()) {
            Some(number) => Ok(Written::Number(number)),
            None => Err(place.bad(format!("field {column:?} is {cell}"), EXPECTED)),
        }
    }

    /// What stands in a table is a number if it is written as numbers are; a code such as `007` is not.
    fn of_text(text: &str) -> Written {
        let whole = text.split_once('.').map_or(text, |(whole, part)| {
            if !part.is_empty() && part.bytes().all(|digit| digit == b'0') { whole } else { text }
        });
        match whole.parse::<i64>() {
            _ if text.is_empty() => Written::Nothing,
            Ok(value) if value.to_string() == whole => Written::Whole(value, Some(text.to_owned())),
            _ => Written::Name(text.to_owned()),
        }
    }

    /// Reads the tags of a sentence's words.
    pub fn tags(place: &Place, column: &str, cells: &[Cell], loose: bool) -> Result<Written, DataError> {
        let tag = |cell: &Cell| match Written::of(place, column, cell, loose)? {
            Written::Nothing => {
                Err(place.bad(format!("field {column:?} holds {cell}"), "a tag for every word; O where there is none"))
            }
            tag => Ok(tag),
        };
        cells.iter().map(tag).collect::<Result<_, _>>().map(Written::Several)
    }

    /// Reads the labels of a text: a list, or one. In `loose` cells they stand between commas, semicolons or bars.
    pub fn several(place: &Place, column: &str, cell: &Cell, loose: bool) -> Result<Written, DataError> {
        let cells = match cell {
            Cell::List(_) => lists::items(place, column, cell, loose, |_| false)?,
            Cell::Text(_) if loose => lists::items(place, column, cell, loose, |c| ",;|".contains(c))?,
            Cell::Null => return Ok(Written::Nothing),
            one => std::slice::from_ref(one).into(),
        };
        let labels = cells.iter().map(|cell| Written::of(place, column, cell, loose)).collect::<Result<Vec<_>, _>>()?;
        Ok(Written::Several(labels.into_iter().filter(|label| *label != Written::Nothing).collect()))
    }

    /// Reads which of several columns say by 1 that a row has the label they are called after; -1 in all of them stands for no labels.
    pub fn columns(place: &Place, columns: &[String], row: &Record, loose: bool) -> Result<Written, DataError> {
        const EXPECTED: &str = "0 or 1, or a truth value, in every column that data.label names";
        let (mut labels, mut hidden) = (Vec::new(), 0);
        for name in columns {
            let cell = super::columns::value(row, name);
            let cell = cell.ok_or_else(|| place.missing(name, row.iter().map(|(name, _)| name.as_str())))?;
            let number = match Written::number(place, name, cell, loose) {
                Ok(Written::Number(number)) => Some(number),
                _ => None,
            };
            match (cell, number) {
                (Cell::Bool(true), _) | (_, Some(1.0)) => labels.push(Written::Name(name.clone())),
                (Cell::Bool(false), _) | (_, Some(0.0)) => {}
                (_, Some(-1.0)) => hidden += 1,
                (Cell::Text(text), _) if loose && text.trim().eq_ignore_ascii_case("true") => {
                    labels.push(Written::Name(name.clone()));
                }
                (Cell::Text(text), _) if loose && text.trim().eq_ignore_ascii_case("false") => {}
                _ => return Err(place.bad(format!("field {name:?} is {cell}"), EXPECTED)),
            }
        }
        match hidden {
            0 => Ok(Written::Several(labels)),
            all if all == columns.len() => Ok(Written::Nothing),
            _ => Err(place.bad("-1 in some of the labels' columns", EXPECTED)),
        }
    }

    /// What is written, one by one.
    fn each(&self) -> &[Written] {
        match self {
            Written::Several(all) => all,
            one => std::slice::from_ref(one),
        }
    }

    fn name(&self) -> String {
        match self {
            Written::Nothing | Written::Absent => String::new(),
            Written::Whole(value, text) => text.clone().unwrap_or_else(|| value.to_string()),
            Written::Name(name) => name.clone(),
            Written::Number(number) => number.to_string(),
            Written::Several(all) => all.iter().map(Written::name).collect::<Vec<_>>().join(", "),
        }
    }
}

/// Takes the scores of a published test split away that has none: all of them are −1 (GLUE's STS-B on the Hub).
pub(super) fn forget_placeholders(rows: &mut [Row]) {
    if rows.iter().all(|row| row.label == Some(Written::Number(-1.0))) {
        rows.iter_mut().for_each(|row| row.label = Some(Written::Nothing));
    }
}

/// The label names of a set, and where they were written.
pub(super) struct Labels {
    pub names: Vec<String>,
    index: HashMap<String, usize>,
    /// Of numbers that are classes without names.
    numbers: Option<BTreeMap<i64, usize>>,
    file: Option<PathBuf>,
    /// Whether a row has any number of them.
    several: bool,
}

/// What became of a split's labels.
pub(super) struct Resolved {
    pub rows: Vec<Example>,
    /// Rows left out since they have no label.
    pub unlabelled: usize,
    /// Rows left out since their file has no column of labels.
    pub absent: usize,
    /// Labels that no training row has, with the number of rows left out and the nearest one that is known.
    pub unseen: BTreeMap<String, (usize, Option<String>)>,
}

impl Labels {
    /// The same of rows that have any number of them.
    pub fn of_several(self) -> Labels {
        Labels { several: true, ..self }
    }

    /// Of a set without labels.
    pub fn none() -> Labels {
        Labels::listed(Vec::new(), None)
    }

    /// The names that a file lists.
    pub fn listed(names: Vec<String>, file: Option<PathBuf>) -> Labels {
        let mut index: HashMap<_, _> = names.iter().enumerate().map(|(at, name)| (name.clone(), at)).collect();
        // Rows have their labels without blanks around them.
        for (at, name) in names.iter().enumerate() {
            index.entry(name.trim().to_owned()).or_insert(at);
        }
        Labels { names, index, numbers: None, file, several: false }
    }

    /// The distinct values that the training rows have, names in their order and numbers in theirs.
    pub fn of_rows(train: &[Row]) -> Result<Labels, DataError> {
        let mut numbers = BTreeSet::new();
        let mut names = BTreeSet::new();
        let labelled =
            || train.iter().flat_map(|row| row.label.iter().flat_map(Written::each).map(move |label| (row, label)));
        let named = labelled().find(|(_, label)| matches!(label, Written::Name(_)));
        let bare = labelled().find(|(_, label)| matches!(label, Written::Whole(_, None)));
        if let (Some((named_at, named)), Some((bare_at, bare))) = (named, bare) {
            let is_named = named_at.place.at_least(&bare_at.place);
            let (later, label) = if is_named { (named_at, named) } else { (bare_at, bare) };
            let problem = format!(
                "label {:?} is {}",
                label.name(),
                if is_named {
                    "a name, but a row before has a number"
                } else {
                    "a number, but a row before has a name"
                }
            );
            return Err(later.place.bad(problem, "one kind of label, or a labels.json"));
        }
        for (_, label) in labelled() {
            match label {
                Written::Whole(value, _) if named.is_none() => drop(numbers.insert(*value)),
                Written::Nothing | Written::Absent => {}
                label => drop(names.insert(label.name())),
            }
        }
        if named.is_some() {
            return Ok(Labels::listed(names.into_iter().collect(), None));
        }
        let names = numbers.iter().map(i64::to_string).collect();
        let places = numbers.into_iter().enumerate().map(|(at, value)| (value, at)).collect();
        Ok(Labels { numbers: Some(places), ..Labels::listed(names, None) })
    }

    /// Whether the label says that there is none: nothing, or the −1 of published test splits where it is not a name.
    pub fn is_none(&self, label: &Written) -> bool {
        match label {
            Written::Nothing | Written::Absent => true,
            Written::Whole(-1, Some(text)) => !self.index.contains_key(text),
            Written::Whole(-1, None) => self.numbers.is_some() || self.file.is_some() || !self.index.contains_key("-1"),
            _ => false,
        }
    }

    /// The places of all labels of a row that has several; the first that is no class is given back.
    fn all(&self, place: &Place, labels: &[Written]) -> Result<Result<Vec<usize>, Written>, DataError> {
        let mut places = Vec::with_capacity(labels.len());
        for label in labels {
            match self.label(place, label)? {
                Some(at) => places.push(at),
                None => return Ok(Err(label.clone())),
            }
        }
        Ok(Ok(places))
    }

    /// The training rows with their labels as indices.
    pub fn resolve(&self, rows: Vec<Row>) -> Result<Vec<Example>, DataError> {
        // Said with the first of them.
        let unlabelled = rows.iter().filter(|row| row.label.as_ref().is_some_and(|label| self.is_none(label))).count();
        let all = rows.len();
        let resolve = |row: Row| {
            let label = match &row.label {
                None => 0,
                Some(Written::Number(value)) => {
                    let value = *value;
                    return Ok(row.example_of(value));
                }
                Some(Written::Several(labels)) => {
                    return match self.all(&row.place, labels)? {
                        Ok(labels) => Ok(row.example_of_all(labels)),
                        Err(label) => Err(self.unknown(&row.place, &label)),
                    };
                }
                Some(label) if self.is_none(label) => {
                    let what = if *label == Written::Nothing { "no label" } else { "label -1, which stands for none" };
                    let problem = match unlabelled {
                        1 => what.to_owned(),
                        several => format!("{what}, as in {several} of the {all} training rows"),
                    };
                    return Err(row.place.bad(
                        problem,
                        "a label in every training row; leave the others out, or write a class as a number from 0 or a name",
                    ));
                }
                Some(label) => match self.label(&row.place, label)? {
                    Some(label) => label,
                    None => return Err(self.unknown(&row.place, label)),
                },
            };
            Ok(row.example(label))
        };
        rows.into_iter().map(resolve).collect()
    }

    /// Rows that measure: those without a label, and those whose label no training row has, are left out or refused.
    pub fn resolve_measured(
        &self,
        rows: Vec<Row>,
        train: &[Example],
        unseen: UnseenLabels,
    ) -> Result<Resolved, DataError> {
        let mut trained = vec![false; self.names.len()];
        for example in train {
            match example.labels.as_slice() {
                [] if !self.several => trained[example.label] = true,
                labels => labels.iter().for_each(|&label| trained[label] = true),
            }
        }
        let mut resolved = Resolved { rows: Vec::new(), unlabelled: 0, absent: 0, unseen: BTreeMap::new() };
        for row in rows {
            let label = match &row.label {
                None => {
                    resolved.rows.push(row.example(0));
                    continue;
                }
                Some(Written::Number(value)) => {
                    let value = *value;
                    resolved.rows.push(row.example_of(value));
                    continue;
                }
                Some(Written::Several(labels)) => {
                    let places = self.all(&row.place, labels)?;
                    let known = |at: &usize| trained[*at] || train.is_empty();
                    let unknown = match &places {
                        Ok(places) => places.iter().position(|at| !known(at)).map(|at| labels[at].clone()),
                        Err(label) => Some(label.clone()),
                    };
                    match (unknown, places) {
                        (Some(label), _) => self.leave_out(&row, &label, unseen, &mut resolved)?,
                        (None, places) => resolved.rows.push(row.example_of_all(places.unwrap_or_default())),
                    }
                    continue;
                }
                Some(label) => label,
            };
            if self.is_none(label) {
                match label {
                    Written::Absent => resolved.absent += 1,
                    _ => resolved.unlabelled += 1,
                }
                continue;
            }
            match self.label(&row.place, label)?.filter(|at| trained[*at] || train.is_empty()) {
                Some(at) => resolved.rows.push(row.example(at)),
                None => self.leave_out(&row, label, unseen, &mut resolved)?,
            }
        }
        Ok(resolved)
    }

    /// Counts a row that has a label which no training row has, or refuses it.
    fn leave_out(
        &self,
        row: &Row,
        label: &Written,
        unseen: UnseenLabels,
        resolved: &mut Resolved,
    ) -> Result<(), DataError> {
        if unseen == UnseenLabels::Refuse {
            return Err(DataError::LabelUntrained {
                path: row.place.file.to_path_buf(),
                at: row.place.at,
                label: self.shown(label),
                nearest: did_you_mean(self.nearest(&label.name())),
            });
        }
        let near = || (0, self.nearest(&label.name()).map(str::to_owned));
        resolved.unseen.entry(self.shown(label)).or_insert_with(near).0 += 1;
        Ok(())
    }

    /// What a label is called; a number by its name where a file lists one.
    fn shown(&self, label: &Written) -> String {
        let listed = match label {
            Written::Whole(value, _) if self.numbers.is_none() => {
                usize::try_from(*value).ok().and_then(|at| self.names.get(at))
            }
            _ => None,
        };
        listed.cloned().unwrap_or_else(|| label.name())
    }

    /// The class of a label; `None` for a value that is no class of a set without a list.
    fn label(&self, place: &Place, label: &Written) -> Result<Option<usize>, DataError> {
        if let Some(numbers) = &self.numbers {
            return Ok(match label {
                Written::Whole(value, _) => numbers.get(value).copied(),
                // Digits that are a string elsewhere.
                label => self.index.get(&label.name()).copied(),
            });
        }
        let named = match label {
            // A number is an index into a list.
            Written::Whole(_, None) if self.file.is_some() => None,
            label => self.index.get(&label.name()).copied().or_else(|| self.truth(&label.name())),
        };
        match (named, label, &self.file) {
            (Some(at), ..) => Ok(Some(at)),
            (None, Written::Whole(value, _), Some(_)) => {
                let at = usize::try_from(*value).ok().filter(|at| *at < self.names.len());
                let labels = self.names.len();
                let out =
                    || DataError::LabelRange { path: place.file.to_path_buf(), at: place.at, label: *value, labels };
                at.map(Some).ok_or_else(out)
            }
            (None, _, Some(_)) => Err(self.unknown(place, label)),
            (None, _, None) => Ok(None),
        }
    }

    /// The class of a truth value where these are all classes: JSON has `true`, Python writes `True` into tables.
    fn truth(&self, name: &str) -> Option<usize> {
        let is = |value: &str| self.names.iter().position(|of| of.eq_ignore_ascii_case(value));
        match (is("true"), is("false")) {
            (Some(_), Some(_)) if self.names.len() == 2 => {
                ["true", "false"].into_iter().find(|value| name.eq_ignore_ascii_case(value)).and_then(is)
            }
            _ => None,
        }
    }

    fn unknown(&self, place: &Place, label: &Written) -> DataError {
        DataError::LabelUnknown {
            path: place.file.to_path_buf(),
            at: place.at,
            label: label.name(),
            listed: self.file.clone().unwrap_or_else(|| place.file.to_path_buf()),
            nearest: did_you_mean(self.nearest(&label.name())),
        }
    }

    /// The label that differs in case and blanks alone.
    fn nearest(&self, name: &str) -> Option<&str> {
        let bare = |name: &str| name.split_whitespace().collect::<String>().to_lowercase().replace(['_', '-'], "");
        self.names.iter().find(|of| bare(of) == bare(name)).map(String::as_str)
    }
}

/// The question in brackets, or nothing.
fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map_or(String::new(), |name| format!(" (did you mean {name:?}?)"))
}

impl Resolved {
    /// What to say of a split of which no row has a label that is known.
    pub fn all_unseen(&self, split: &str, place: &Place) -> DataError {
        let (label, near) =
            self.unseen.iter().next().map_or(("", None), |(name, (_, near))| (name.as_str(), near.as_deref()));
        let problem =
            format!("no {split} row has a label that a training row has; the first is {label:?}{}", did_you_mean(near));
        place.bad(problem, "the same labels in all splits")
    }

    /// How it is told that rows have no label, of a split in which none has one.
    pub fn why_unlabelled(&self, column: &str) -> String {
        match self.absent {
            0 => "-1 or null stands for none".to_owned(),
            _ => format!("there is no column {column:?}"),
        }
    }

    /// One line on the rows that were left out; labels are in this column.
    pub fn note(&self, split: &str, column: &str, notes: &mut Vec<String>) {
        if self.absent > 0 {
            let rows = self.absent;
            notes.push(format!("{rows} {split} rows have no label (no column {column:?}) and are left out"));
        }
        if self.unlabelled > 0 {
            notes.push(format!("{} {split} rows have no label (-1 or null) and are left out", self.unlabelled));
        }
        let rows: usize = self.unseen.values().map(|(rows, _)| rows).sum();
        if rows > 0 {
            let one = |(name, (rows, near)): (&String, &(usize, Option<String>))| {
                format!("{name:?} ({rows}){}", did_you_mean(near.as_deref()))
            };
            let names: Vec<String> = self.unseen.iter().take(5).map(one).collect();
            let more =
                if self.unseen.len() > 5 { format!(" and {} more", self.unseen.len() - 5) } else { String::new() };
            notes.push(format!(
                "{rows} {split} rows have labels that no training row has and are left out: {}{more}",
                names.join(", ")
            ));
        }
    }
}

impl Place {
    /// Whether this place comes after the other, or in another file.
    fn at_least(&self, other: &Place) -> bool {
        use super::place::At;
        let number = |place: &Place| match place.at {
            At::Line(at) | At::Row(at) => at,
        };
        self.file != other.file || number(self) >= number(other)
    }
}

/// Where the names of the labels are listed: a file beside the rows, else the training file itself.
pub(super) fn listing(folders: &[PathBuf], train: &[PathBuf], column: &str) -> Result<Option<Labels>, DataError> {
    for folder in folders {
        if let Some((names, file)) = super::listing::read(folder)? {
            return Ok(Some(Labels::listed(names, Some(file))));
        }
    }
    let is_parquet = |path: &&PathBuf| path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("parquet"));
    let Some(file) = train.first().filter(is_parquet) else { return Ok(None) };
    let names = super::parquet::class_names(Path::new(file), column)?;
    let names = names.filter(|names| !names.is_empty());
    names
        .map(|names| super::listing::checked(names, file).map(|names| Labels::listed(names, Some(file.clone()))))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_hold_numbers_codes_and_names() {
        let whole = |value: i64, text: &str| Written::Whole(value, Some(text.to_owned()));
        for (text, expected) in [
            ("1", whole(1, "1")),
            ("1.0", whole(1, "1.0")),
            ("1.00", whole(1, "1.00")),
            ("-1", whole(-1, "-1")),
            ("0", whole(0, "0")),
            ("", Written::Nothing),
        ] {
            assert_eq!(Written::of_text(text), expected, "{text}");
        }
        for name in ["007", "1.5", "1.", "+1", "-0", "1e3", "true", "99999999999999999999"] {
            assert_eq!(Written::of_text(name), Written::Name(name.to_owned()));
        }
    }
}
