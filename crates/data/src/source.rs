//! Text sets: what one is, and how it is read.
//!
//! `source/splits.rs` finds the files of the splits, `records.rs` the records of a file (`table.rs` those of CSV, `parquet.rs` those of
//! Parquet), `columns.rs` the columns that matter, `causal.rs` and `chat.rs` what rows for causal language models say,
//! `labels.rs` which class a label is, `wording.rs` prompts and responses of other columns. `conll.rs` reads words and tags in columns,
//! `lists.rs` lists in cells, `strata.rs` finds what partitions go by where a row has no one label.

mod causal;
mod chat;
mod columns;
mod conll;
mod labels;
mod lines;
mod listing;
mod lists;
mod noticed;
mod open;
mod parquet;
mod place;
mod questions;
mod quotes;
mod read;
mod record;
mod records;
mod rows;
mod share;
mod splits;
mod strata;
mod table;
mod text_lines;
mod wording;

use std::path::{Path, PathBuf};

use crate::{Conversation, DataError};
use labels::{Labels, Written};
pub use place::At;
use place::Place;
pub use questions::{question, questions};
pub use read::{Reading, Score, SplitShares, UnseenLabels};
use rows::Rows;
use splits::Splits;
pub use splits::{SplitFile, split_of_file};
pub use wording::Wording;

/// What an example says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A text. One to be classified may be empty (a tokenizer still adds its special tokens).
    Text(String),
    /// What is given, and what a causal language model is to say to it: neither a start token nor an end is written in.
    Pair {
        /// What is given.
        prompt: String,
        /// What follows.
        response: String,
    },
    /// Two texts to be classified together.
    Two(String, String),
    /// A conversation with at least one turn of the assistant's.
    Chat(Conversation),
    /// A sentence's words, each of which has a tag.
    Words(Vec<String>),
}

/// One row before its label is a class.
#[derive(Debug)]
struct Row {
    place: Place,
    content: Content,
    /// Never absent in a set for classification.
    label: Option<Written>,
    group: Option<String>,
}

impl Row {
    fn example(self, label: usize) -> Example {
        Example { content: self.content, label, labels: Vec::new(), value: 0.0, group: self.group }
    }

    /// Of a set whose rows have labels of any number.
    fn example_of_all(self, labels: Vec<usize>) -> Example {
        Example { labels, ..self.example(0) }
    }

    /// Of a set whose labels are numbers.
    fn example_of(self, value: f64) -> Example {
        Example { value, ..self.example(0) }
    }
}

/// One example.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// What it says.
    pub content: Content,
    /// Index into [`Dataset::labels`]; 0 in a set without labels. Where rows have several, what partitions go by: an index into
    /// [`Dataset::strata`].
    pub label: usize,
    /// Indices into [`Dataset::labels`] where a row has several: a sentence's tags word by word ([`Reading::words`]), or the labels of a
    /// text, ascending and each once ([`Reading::several`]); empty elsewhere.
    pub labels: Vec<usize>,
    /// The number that is to be foretold, in a set of those ([`Reading::numbers`]); 0 elsewhere.
    pub value: f64,
    /// Value of the column that a natural partition splits by, where one was asked for.
    pub group: Option<String>,
}

impl Example {
    /// A text that is to be classified.
    pub fn labelled(text: impl Into<String>, label: usize, group: Option<String>) -> Example {
        Example { content: Content::Text(text.into()), label, labels: Vec::new(), value: 0.0, group }
    }

    /// The text; of two texts the first, of a prompt and response the prompt, of a conversation its first turn, of words the first.
    pub fn text(&self) -> &str {
        match &self.content {
            Content::Text(text) | Content::Two(text, _) => text,
            Content::Pair { prompt, .. } => prompt,
            Content::Chat(talk) => talk.turns.first().map_or("", |turn| turn.content()),
            Content::Words(words) => words.first().map_or("", String::as_str),
        }
    }
}

/// The splits of a set with their label names.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Dataset {
    /// The name of the set: its folder's last part.
    pub name: String,
    /// Label names; an example's label is an index into them. Sets for causal language models may have none.
    pub labels: Vec<String>,
    /// What partitions go by where a row has no one label: kinds of rows, into which an example's label is an index then; else empty.
    pub strata: Vec<String>,
    /// The rows that are split over the clients.
    pub train: Vec<Example>,
    /// The rows by which settings may be chosen; often none.
    pub validation: Vec<Example>,
    /// The rows that measure.
    pub test: Vec<Example>,
    /// Where rows are prompts and responses: what a row becomes, its columns in braces; or, in words, whose template makes it.
    pub prompt_template: Option<String>,
    /// What a user should know of how it was read, a line each.
    pub notes: Vec<String>,
}

impl Dataset {
    /// Reads a folder with the files of the splits, or one file.
    ///
    /// A split is a `.jsonl`, `.json`, `.csv`, `.tsv` or `.parquet` file (for language models also `.txt`, texts with blank lines
    /// between them), each but Parquet also packed as `.gz` or `.zst`; or parts of one, `train-00000-of-00002.parquet`; or a folder
    /// of files. Training and test rows are needed; where there is no test split, or none of its rows has a label, the validation
    /// split takes its place. [`Reading`] names files, columns and shares where names do not say them.
    ///
    /// Rows to classify have a text or a pair of texts, and a label: a name, a number or a truth value. Classes are the values that
    /// the training rows have, or the names that `labels.json`, `labels.txt` or a Parquet file's own notes list, to which numbers
    /// from 0 are indices. With [`Reading::numbers`] labels are numbers as they are, and there are no classes.
    ///
    /// With [`Reading::several`] a row's label is a list of them, or none; with [`Reading::words`] rows are sentences, lists of words with
    /// lists of tags, or lines of words and tags in columns with blank lines between sentences (CoNLL-2003).
    ///
    /// Rows for a causal language model are what the first training row is: `messages`, `conversations` (ShareGPT), `prompt` and
    /// `response` or `completion` (texts or turns), `instruction` and `output` (put into the prompts of Stanford Alpaca), or `text`
    /// alone; [`Reading::wording`] makes prompts and responses of any columns. They may have a `label` (all or none), by which
    /// partitions can go. Rows that leave nothing to learn are left out and counted.
    ///
    /// What was found out, left out or cut is in [`Dataset::notes`].
    ///
    /// # Errors
    /// Names file and line for: files and folders that are not there or not whole, two files for one split, text that is not UTF-8 or not
    /// what its kind of file holds, columns that are missing or may be several, labels outside a list, training rows without a
    /// label, no rows.
    pub fn read(path: &Path, reading: &Reading) -> Result<Dataset, DataError> {
        let mut notes = Vec::new();
        let mut splits = Splits::find(path, reading, &mut notes)?;
        let share = reading.shares.is_some();
        let inner = splits.folders.last().cloned().unwrap_or_else(|| path.to_path_buf());
        if !reading.part {
            if splits.train.is_empty() {
                return Err(splits::missing(path, &inner, "train"));
            }
            if splits.test.is_empty() && !share {
                if splits.validation.is_empty() {
                    return Err(splits::missing(path, &inner, "test"));
                }
                notes.push("there is no test split: the validation split takes its place".to_owned());
                splits.test = std::mem::take(&mut splits.validation);
            }
        }
        let mut rows = Rows::new(reading, &mut notes);
        let mut train = rows.split("train", &splits.train)?;
        let (mut validation, mut test) =
            (rows.split("validation", &splits.validation)?, rows.split("test", &splits.test)?);
        let column = rows.label_column();
        let prompt_template = rows.prompt_template();
        rows.tell();
        if train.is_empty() && !reading.part {
            return Err(DataError::NoRows { path: splits.train[0].clone() });
        }
        if let Some(first) = splits.train.first() {
            rows.refuse_silence(first, &train)?;
        }
        if let Some(shares) = &reading.shares {
            let drawn = share::draw(&mut train, shares, reading.seed)?;
            for (name, share, split, drawn) in
                [("validation", shares.validation, &mut validation, drawn.0), ("test", shares.test, &mut test, drawn.1)]
            {
                if share > 0.0 {
                    let instead = if split.is_empty() { "" } else { ", instead of the split that is there" };
                    notes.push(format!("{} of the training rows are the {name} split{instead}", drawn.len()));
                    *split = drawn;
                }
            }
            if shares.test == 0.0 && splits.test.is_empty() && !reading.part {
                return Err(splits::missing(path, &inner, "test"));
            }
        }
        if reading.numbers {
            [&mut validation, &mut test].into_iter().for_each(|rows| labels::forget_placeholders(rows));
        }
        noticed::groups(reading, &train, &test, &mut notes);
        noticed::texts(reading, &train, &test, &mut notes);
        let labelled = !reading.numbers
            && (!reading.causal || [&train, &validation, &test].into_iter().flatten().any(|row| row.label.is_some()));
        let labels = if labelled {
            let listed = match reading.label_columns.as_slice() {
                [] => labels::listing(&splits.folders, &splits.train, &column)?,
                // Columns in their order.
                columns => Some(Labels::listed(columns.to_vec(), None)),
            };
            match listed {
                Some(labels) => labels,
                None if reading.part => return Err(DataError::LabelsUnlisted { folder: path.to_path_buf() }),
                None => Labels::of_rows(&train)?,
            }
        } else {
            Labels::none()
        };
        noticed::labels(&labels.names, train.len(), &mut notes);
        let labels = if reading.several || reading.words { labels.of_several() } else { labels };
        let train = labels.resolve(train)?;
        let mut measured = |name: &str, rows: Vec<Row>| {
            let known = if reading.part || reading.causal || reading.numbers { &[][..] } else { &train[..] };
            let count = rows.len();
            let first = rows.first().map(|row| row.place.clone());
            let resolved = labels.resolve_measured(rows, known, reading.unseen)?;
            let lost = count > 0 && resolved.rows.is_empty();
            let unlabelled = lost && resolved.unseen.is_empty();
            match first {
                // An unlabelled split is left out by name below.
                Some(place) if lost && !unlabelled => Err(resolved.all_unseen(name, &place)),
                _ => {
                    resolved.note(name, &column, &mut notes);
                    let why = resolved.why_unlabelled(&column);
                    Ok((resolved.rows, unlabelled.then_some(why)))
                }
            }
        };
        let (mut validation, _) = measured("validation", validation)?;
        let (mut test, unlabelled) = measured("test", test)?;
        if let (Some(why), false) = (unlabelled, reading.part) {
            if validation.is_empty() {
                return Err(DataError::TestUnlabelled { path: path.to_path_buf(), why });
            }
            notes.push("no test row has a label: the validation split takes the place of the test split".to_owned());
            test = std::mem::take(&mut validation);
        }
        // A site may hold rows of one class; its labels are those of the whole federation.
        if let ([only], false, false) = (labels.names.as_slice(), reading.causal, reading.several) {
            return Err(DataError::BadFile {
                path: splits.train.first().map_or_else(|| path.to_path_buf(), PathBuf::clone),
                problem: format!("{only:?} is the only label, in column {column:?}"),
                expected: "at least two labels to tell apart; another column is named with data.label",
            });
        }
        let mut data = Dataset {
            name: name_of(path),
            labels: labels.names,
            strata: Vec::new(),
            train,
            validation,
            test,
            prompt_template,
            notes,
        };
        if reading.words {
            strata::by_spans(&mut data);
        } else if reading.several {
            strata::by_rarest(&mut data);
        }
        Ok(data)
    }

    /// The same with other labels: label `i` becomes number `places[i]` of `names`.
    ///
    /// # Panics
    /// If a label has no place, or one that has no name.
    pub fn renamed(mut self, names: Vec<String>, places: &[usize]) -> Dataset {
        for example in self.train.iter_mut().chain(&mut self.validation).chain(&mut self.test) {
            example.labels.iter_mut().for_each(|label| *label = places[*label]);
            if self.strata.is_empty() {
                example.label = places[example.label];
            }
        }
        assert!(places.iter().all(|place| *place < names.len()), "a name for every label");
        self.labels = names;
        if matches!(self.train.first().or(self.test.first()), Some(Example { content: Content::Words(_), .. })) {
            strata::by_spans(&mut self);
        } else if !self.strata.is_empty() {
            strata::by_rarest(&mut self);
        }
        self
    }

    /// The names of what partitions go by: kinds of rows, or the labels.
    pub fn kinds(&self) -> &[String] {
        if self.strata.is_empty() { &self.labels } else { &self.strata }
    }

    /// Whether a folder or file has training rows, as far as names tell.
    pub fn has_training_rows(path: &Path, reading: &Reading) -> bool {
        Splits::find(path, reading, &mut Vec::new()).is_ok_and(|splits| !splits.train.is_empty())
    }

    /// Whether the rows have labels.
    pub fn is_labelled(&self) -> bool {
        !self.labels.is_empty()
    }

    /// How many classes of rows a partition sees: the labels, or all rows as one.
    pub(crate) fn classes(&self) -> usize {
        self.kinds().len().max(1)
    }

    /// Keeps the first `n` labels and their rows only.
    ///
    /// # Errors
    /// [`DataError::Setting`] if `n` is 0 or more than there are labels, or if no training row is left.
    pub fn keep_labels(mut self, n: usize) -> Result<Dataset, DataError> {
        let refuse = |problem: String, expected: String| DataError::Setting {
            key: "labels",
            value: n.to_string(),
            problem,
            expected,
        };
        let available = self.labels.len();
        if available == 0 {
            let problem = format!("the rows of data set {} have no labels", self.name);
            return Err(refuse(problem, "no such setting, or a `label` in every row".to_owned()));
        }
        if n == 0 || n > available {
            let problem = format!("data set {} has {available} labels", self.name);
            return Err(refuse(problem, format!("a number from 1 to {available}")));
        }
        let had_rows = !self.train.is_empty();
        let all = self.train.len();
        self.labels.truncate(n);
        self.train.retain(|example| example.label < n);
        self.validation.retain(|example| example.label < n);
        self.test.retain(|example| example.label < n);
        if had_rows && self.train.is_empty() {
            let problem = format!("no training row of {} has one of these labels", self.name);
            return Err(refuse(problem, "a larger number".to_owned()));
        }
        if n < available {
            let kept = self.train.len();
            self.notes.push(format!("labels = {n} keeps {n} of {available} labels and {kept} of {all} training rows"));
        }
        Ok(self)
    }
}

/// What a set is called: its folder's last part.
fn name_of(folder: &Path) -> String {
    let name = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
    name.file_name().map_or("data".into(), |name| name.to_string_lossy()).into_owned()
}
