//! Rows for causal language models: what kind they are, and what each of them says.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

use super::rows::{Fields, Row, Rows, Written, csv_error, csv_label, find, is, json_group, json_label, read_jsonl};
use super::{Content, Message, Wording, or_nothing};
use crate::DataError;

/// The prompts of Stanford Alpaca (Taori et al. 2023, `PROMPT_DICT` of its train.py): with an input and without.
const ALPACA_INPUT: &str = "Below is an instruction that describes a task, paired with an input that provides further \
     context. Write a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n\
     ### Input:\n{input}\n\n### Response:";
const ALPACA: &str = "Below is an instruction that describes a task. Write a response that appropriately completes the \
     request.\n\n### Instruction:\n{instruction}\n\n### Response:";

const ANY_KIND: &str = "`messages`, `prompt` and `response`, `instruction` and `output`, or `text`; other columns can be \
     named with data.prompt and data.response";

/// What the rows of a set are; the first row decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Chat,
    Pair,
    Alpaca,
    Text,
}

impl Kind {
    /// The kinds with the fields that tell them, the first that fits counting.
    const ALL: [(Kind, &[&str]); 4] = [
        (Kind::Chat, &["messages"]),
        (Kind::Pair, &["prompt", "response"]),
        (Kind::Alpaca, &["instruction", "output"]),
        (Kind::Text, &["text"]),
    ];

    fn of(row: &Map<String, Value>) -> Option<Kind> {
        let there = |name: &&str| row.get(*name).is_some_and(|value| !value.is_null());
        Kind::ALL.into_iter().find(|(_, fields)| fields.iter().all(there)).map(|(kind, _)| kind)
    }

    /// Its fields in words.
    fn words(self) -> String {
        let fields = Kind::ALL.iter().find(|(kind, _)| *kind == self).map_or(&[][..], |(_, fields)| fields);
        fields.iter().map(|field| format!("`{field}`")).collect::<Vec<_>>().join(" and ")
    }
}

/// Both splits.
pub(super) fn read(folder: &Path, group: Option<&str>, wording: Option<&Wording>) -> Result<(Rows, Rows), DataError> {
    let mut reader = Reader { wording, kind: None, labelled: None };
    let train = reader.split(folder, "train", group, true)?;
    if train.rows.is_empty() {
        return Err(DataError::NoRows { path: train.path });
    }
    let test = reader.split(folder, "test", group, false)?;
    Ok((train, test))
}

/// Both splits of a site or a server, of which either may be missing.
pub(super) fn read_part(folder: &Path, wording: Option<&Wording>) -> Result<(Rows, Rows), DataError> {
    let mut reader = Reader { wording, kind: None, labelled: None };
    let mut split = |name| or_nothing(folder, name, reader.split(folder, name, None, false));
    Ok((split("train")?, split("test")?))
}

/// What the first row said about all of them.
struct Reader<'w> {
    wording: Option<&'w Wording>,
    kind: Option<Kind>,
    labelled: Option<bool>,
}

impl Reader<'_> {
    fn split(
        &mut self,
        folder: &Path,
        split: &'static str,
        group: Option<&str>,
        group_needed: bool,
    ) -> Result<Rows, DataError> {
        let path = find(folder, split, &["jsonl", "csv", "txt"])?;
        let fields = Fields { path: &path, group, group_needed };
        let csv = is(&path, "csv");
        let rows = match () {
            () if csv => self.read_csv(&fields)?,
            () if is(&path, "txt") => self.read_texts(&fields)?,
            () => read_jsonl(&fields, |fields, line, text| self.json_row(fields, line, text))?,
        };
        Ok(Rows { path, rows, csv })
    }

    fn json_row(&mut self, fields: &Fields, line: u64, text: &str) -> Result<Row, DataError> {
        const OBJECT: &str = "one JSON object a line, such as {\"prompt\": \"hello\", \"response\": \"hi\"}";
        let row = serde_json::from_str(text)
            .map_err(|error| fields.bad(line, format!("not a JSON object ({error})"), OBJECT))?;
        self.row(fields, line, &row, json_label)
    }

    fn read_csv(&mut self, fields: &Fields) -> Result<Vec<Row>, DataError> {
        let mut reader = csv::Reader::from_path(fields.path).map_err(|error| csv_error(fields, error))?;
        let header = reader.headers().map_err(|error| csv_error(fields, error))?.clone();
        let mut rows = Vec::new();
        for record in reader.records() {
            let record = record.map_err(|error| csv_error(fields, error))?;
            let line = record.position().map_or(0, csv::Position::line);
            let cells = header.iter().zip(&record).map(|(name, cell)| (name.to_owned(), Value::from(cell)));
            let label =
                |fields: &Fields, line, cell: &Value| csv_label(fields, line, cell.as_str().unwrap_or_default());
            rows.push(self.row(fields, line, &cells.collect(), label)?);
        }
        Ok(rows)
    }

    /// Texts with blank lines between them.
    fn read_texts(&mut self, fields: &Fields) -> Result<Vec<Row>, DataError> {
        const COLUMNS: &str = "a .jsonl or .csv file, which has columns";
        if let Some(group) = fields.group.filter(|_| fields.group_needed) {
            return Err(fields.bad(1, format!("a text file has no column {group:?}"), COLUMNS));
        }
        if self.wording.is_some() {
            return Err(fields.bad(1, "a text file has no columns for data.prompt and data.response", COLUMNS));
        }
        let bytes = fs::read(fields.path).map_err(|error| fields.unreadable(error))?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            fields.not_utf8(1 + before.iter().filter(|byte| **byte == b'\n').count() as u64)
        })?;
        let mut rows: Vec<Row> = Vec::new();
        for (line, text) in paragraphs(text.trim_start_matches('\u{feff}')) {
            self.agree(fields, line, Kind::Text)?;
            self.agree_on_labels(fields, line, false)?;
            rows.push(Row { line, content: Content::Text(text), label: None, group: None });
        }
        Ok(rows)
    }

    /// One row, whatever file it came from.
    fn row(
        &mut self,
        fields: &Fields,
        line: u64,
        row: &Map<String, Value>,
        label: impl Fn(&Fields, u64, &Value) -> Result<Written, DataError>,
    ) -> Result<Row, DataError> {
        let cells = Cells { fields, line, row };
        let content = match self.wording {
            Some(wording) => cells.worded(wording)?,
            None => {
                let kind = Kind::of(row).ok_or_else(|| self.unknown(&cells))?;
                self.agree(fields, line, kind)?;
                cells.content(kind)?
            }
        };
        refuse_empty(fields, line, &content)?;
        let written = row.get("label").filter(|value| !value.is_null());
        self.agree_on_labels(fields, line, written.is_some())?;
        let label = written.map(|value| label(fields, line, value)).transpose()?;
        Ok(Row { line, content, label, group: json_group(fields, line, row)? })
    }

    /// What to say of a row that is of no kind.
    fn unknown(&self, cells: &Cells) -> DataError {
        match self.kind.and_then(|kind| Kind::ALL.iter().find(|(known, _)| *known == kind)) {
            Some((_, wanted)) => {
                let missing = wanted.iter().find(|name| cells.row.get(**name).is_none_or(Value::is_null));
                cells.missing(missing.unwrap_or(&wanted[0]))
            }
            None => {
                let problem = format!("nothing here that can be learnt; the fields here are: {}", cells.present());
                cells.fields.bad(cells.line, problem, ANY_KIND)
            }
        }
    }

    fn agree(&mut self, fields: &Fields, line: u64, kind: Kind) -> Result<(), DataError> {
        match *self.kind.get_or_insert(kind) {
            first if first == kind => Ok(()),
            first => {
                let problem = format!("a row with {}, but the first row has {}", kind.words(), first.words());
                Err(fields.bad(line, problem, "rows of one kind"))
            }
        }
    }

    fn agree_on_labels(&mut self, fields: &Fields, line: u64, labelled: bool) -> Result<(), DataError> {
        let problem = match (*self.labelled.get_or_insert(labelled), labelled) {
            (true, false) => "no label, but the first row has one",
            (false, true) => "a label, but the first row has none",
            _ => return Ok(()),
        };
        Err(fields.bad(line, problem, "a `label` in every row or in none"))
    }
}

/// The texts between blank lines, each with the number of its first line.
fn paragraphs(text: &str) -> Vec<(u64, String)> {
    let mut found: Vec<(u64, String)> = Vec::new();
    let mut open = false;
    for (number, line) in (1..).zip(text.lines()) {
        match (line.trim().is_empty(), found.last_mut()) {
            (true, _) => open = false,
            (false, Some((_, text))) if open => {
                text.push('\n');
                text.push_str(line);
            }
            (false, _) => {
                found.push((number, line.to_owned()));
                open = true;
            }
        }
    }
    found
}

/// One row's fields.
struct Cells<'a> {
    fields: &'a Fields<'a>,
    line: u64,
    row: &'a Map<String, Value>,
}

impl Cells<'_> {
    fn present(&self) -> String {
        self.row.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
    }

    fn missing(&self, name: &str) -> DataError {
        self.fields.missing(self.line, name, self.row.keys().map(String::as_str))
    }

    fn content(&self, kind: Kind) -> Result<Content, DataError> {
        Ok(match kind {
            Kind::Text => Content::Text(self.text("text")?),
            Kind::Pair => Content::Pair { prompt: self.text("prompt")?, response: self.text("response")? },
            Kind::Alpaca => self.alpaca()?,
            Kind::Chat => Content::Chat(self.chat()?),
        })
    }

    fn text(&self, name: &str) -> Result<String, DataError> {
        match self.row.get(name) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => Err(self.fields.bad(self.line, format!("field {name:?} is not a string"), "a string")),
            None => Err(self.missing(name)),
        }
    }

    fn alpaca(&self) -> Result<Content, DataError> {
        let (instruction, response) = (self.text("instruction")?, self.text("output")?);
        let input = match self.row.get("input") {
            None | Some(Value::Null) => String::new(),
            Some(_) => self.text("input")?,
        };
        let template = if input.is_empty() { ALPACA } else { ALPACA_INPUT };
        let (before, after) = template.split_once("{instruction}").expect("both templates hold it");
        let prompt = format!("{before}{instruction}{}", after.replace("{input}", &input));
        Ok(Content::Pair { prompt, response })
    }

    fn worded(&self, wording: &Wording) -> Result<Content, DataError> {
        let value = |name: &str| match self.row.get(name) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(value.to_string()),
            Some(_) => {
                let problem = format!("field {name:?} cannot stand in a prompt or a response");
                Err(self.fields.bad(self.line, problem, "a string, a number or a truth value"))
            }
            None => Err(self.missing(name)),
        };
        Ok(Content::Pair { prompt: wording.prompt.fill(value)?, response: wording.response.fill(value)? })
    }

    fn chat(&self) -> Result<Vec<Message>, DataError> {
        const TURNS: &str = "a list such as [{\"role\": \"user\", \"content\": \"hello\"}, {\"role\": \"assistant\", \"content\": \"hi\"}], in a .jsonl file";
        let bad = |problem: String| self.fields.bad(self.line, problem, TURNS);
        let Some(Value::Array(turns)) = self.row.get("messages") else {
            return Err(bad("field \"messages\" is not a list".to_owned()));
        };
        let turn = |(at, turn): (usize, &Value)| {
            let part = |name: &str| turn.get(name).and_then(Value::as_str).map(str::to_owned);
            let message = part("role").zip(part("content")).map(|(role, content)| Message { role, content });
            message.ok_or_else(|| bad(format!("message {at} (counted from 0) lacks a text `role` or `content`")))
        };
        turns.iter().enumerate().map(turn).collect()
    }
}

/// Refuses what leaves nothing to learn.
fn refuse_empty(fields: &Fields, line: u64, content: &Content) -> Result<(), DataError> {
    let (problem, expected) = match content {
        Content::Text(text) if text.trim().is_empty() => ("empty text", "a text to learn"),
        Content::Pair { response, .. } if response.trim().is_empty() => ("empty response", "a response to learn"),
        Content::Chat(turns) => match turns.iter().rfind(|turn| turn.role == "assistant") {
            None => ("a conversation without a turn of the assistant's", "a message with the role \"assistant\""),
            Some(turn) if turn.content.trim().is_empty() => ("empty last turn of the assistant's", "a turn to learn"),
            Some(_) => return Ok(()),
        },
        _ => return Ok(()),
    };
    Err(fields.bad(line, problem, expected))
}
