//! Rows for causal language models: what kind they are, and what each of them says.

use super::columns;
use super::labels::Written;
use super::place::{Place, listed};
use super::read::Reading;
use super::record::Record;
use super::{Content, Row, Wording, chat};
use crate::cell::field;
use crate::{Cell, DataError};

/// The prompts of Stanford Alpaca (Taori et al. 2023, `PROMPT_DICT` of its train.py): with an input and without.
const ALPACA_INPUT: &str = "Below is an instruction that describes a task, paired with an input that provides further \
     context. Write a response that appropriately completes the request.";
const ALPACA: &str = "Below is an instruction that describes a task. Write a response that appropriately completes the \
     request.";

const ANY_KIND: &str = "`messages`, `conversations`, `prompt` and `response` or `completion`, `instruction` and `output`, or \
     `text`; other columns are named with data.text, or with data.prompt and data.response";

const ANY_QUESTION: &str = "`messages`, `conversations`, `prompt`, `instruction` or `text`; a run with data.prompt reads the columns \
     that it names";

/// What the rows of a set are; the first row decides.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// Turns in this field.
    Chat(&'static str),
    /// A prompt and what follows, by the name of the latter.
    Pair(&'static str),
    Alpaca,
    /// A text in this column.
    Text(String),
}

impl Kind {
    /// The kinds with the fields that tell them, the first that fits counting.
    fn all() -> [(Kind, &'static [&'static str]); 6] {
        [
            (Kind::Chat("messages"), &["messages"]),
            (Kind::Chat("conversations"), &["conversations"]),
            (Kind::Pair("response"), &["prompt", "response"]),
            (Kind::Pair("completion"), &["prompt", "completion"]),
            (Kind::Alpaca, &["instruction", "output"]),
            (Kind::Text("text".to_owned()), &["text"]),
        ]
    }

    fn of(row: &Record) -> Option<Kind> {
        let there = |name: &&str| field(row, name).is_some_and(|value| !value.is_null());
        Kind::all().into_iter().find(|(_, fields)| fields.iter().all(there)).map(|(kind, _)| kind)
    }

    /// Its fields.
    fn fields(&self) -> Vec<String> {
        let known = Kind::all().into_iter().find(|(kind, _)| kind == self);
        match (known, self) {
            (Some((_, fields)), _) => fields.iter().map(|field| (*field).to_owned()).collect(),
            (None, Kind::Text(column)) => vec![column.clone()],
            (None, _) => Vec::new(),
        }
    }

    /// Its fields in words.
    fn words(&self) -> String {
        self.fields().iter().map(|field| format!("`{field}`")).collect::<Vec<_>>().join(" and ")
    }
}

/// What the first row said about all of them.
#[derive(Default)]
pub(super) struct Kinds {
    kind: Option<Kind>,
    /// Whether rows are turns, by whatever columns.
    turns: bool,
    labelled: Option<bool>,
}

/// What becomes of a row.
pub(super) enum Outcome {
    Row(Row),
    /// It leaves nothing to learn, for this reason.
    Nothing(DataError),
}

impl Kinds {
    /// One row, whatever file it came from.
    pub fn row(
        &mut self,
        reading: &Reading,
        place: Place,
        row: &Record,
        needs_group: bool,
        loose: bool,
    ) -> Result<Outcome, DataError> {
        let content = match (&reading.wording, reading.text.as_slice()) {
            (Some(wording), _) => worded(&place, row, wording)?,
            (None, [column]) => {
                self.agree(&place, Kind::Text(column.clone()))?;
                Content::Text(columns::text(&place, row, column)?.into_owned())
            }
            _ => {
                let kind = Kind::of(row).ok_or_else(|| self.unknown(&place, row))?;
                self.agree(&place, kind.clone())?;
                content(&place, row, &kind)?
            }
        };
        self.turns |= matches!(content, Content::Chat(_));
        if let Some((problem, expected)) = nothing(&content) {
            return Ok(Outcome::Nothing(place.bad(problem, expected)));
        }
        let column = reading.label.as_deref().unwrap_or("label");
        let written = columns::value(row, column).filter(|value| !value.is_null());
        if reading.label.is_some() && written.is_none() {
            return Err(place.missing(column, row.iter().map(|(name, _)| name.as_str())));
        }
        self.agree_on_labels(&place, written.is_some())?;
        let label = written.map(|value| Written::of(&place, column, value, loose)).transpose()?;
        let group = columns::group(&place, row, reading.group.as_deref(), needs_group)?;
        Ok(Outcome::Row(Row { place, content, label, group }))
    }

    /// What the rows become, their columns in braces; none for texts that stand as they are.
    pub fn template(&self) -> Option<String> {
        match self.kind.as_ref()? {
            _ if self.turns => Some("the chat template of the model's tokenizer".to_owned()),
            Kind::Pair(response) => Some(format!("{{prompt}}{{{response}}}")),
            Kind::Alpaca => {
                let form = |begin, input| {
                    format!("{begin}\n\n### Instruction:\n{{instruction}}{input}\n\n### Response:{{output}}")
                };
                let with_input = form(ALPACA_INPUT, "\n\n### Input:\n{input}");
                Some(format!("{}\n\nor, of a row with an input:\n\n{with_input}", form(ALPACA, "")))
            }
            Kind::Chat(_) | Kind::Text(_) => None,
        }
    }

    /// What to say of a row that is of no kind.
    fn unknown(&self, place: &Place, row: &Record) -> DataError {
        let present = || row.iter().map(|(name, _)| name.as_str());
        match &self.kind {
            Some(kind) => {
                let wanted = kind.fields();
                let missing = wanted.iter().find(|name| field(row, name).is_none_or(Cell::is_null));
                place.missing(missing.or(wanted.first()).map_or("text", String::as_str), present())
            }
            None => {
                let problem = format!("nothing here that can be learnt; the fields here are: {}", listed(present()));
                place.bad(problem, ANY_KIND)
            }
        }
    }

    fn agree(&mut self, place: &Place, kind: Kind) -> Result<(), DataError> {
        match self.kind.get_or_insert_with(|| kind.clone()) {
            first if *first == kind => Ok(()),
            first => {
                let problem = format!("a row with {}, but the first row has {}", kind.words(), first.words());
                Err(place.bad(problem, "rows of one kind"))
            }
        }
    }

    fn agree_on_labels(&mut self, place: &Place, labelled: bool) -> Result<(), DataError> {
        let problem = match (*self.labelled.get_or_insert(labelled), labelled) {
            (true, false) => "no label, but the first row has one",
            (false, true) => "a label, but the first row has none",
            _ => return Ok(()),
        };
        Err(place.bad(problem, "a `label` in every row or in none"))
    }
}

/// What a row asks, in the words that it is asked in when there is a response to learn.
pub(super) fn question(reading: &Reading, place: &Place, row: &Record) -> Result<Content, DataError> {
    if let Some(wording) = &reading.wording {
        let prompt = wording.prompt.fill(|name| stands(place, row, name))?;
        return Ok(Content::Pair { prompt, response: String::new() });
    }
    if let [column] = reading.text.as_slice() {
        return Ok(Content::Text(columns::text(place, row, column)?.into_owned()));
    }
    let has = |name: &str| field(row, name).is_some_and(|value| !value.is_null());
    let with = |name: &str| {
        let rest = row.iter().filter(|(of, _)| of != name).cloned();
        rest.chain([(name.to_owned(), Cell::from(""))]).collect::<Record>()
    };
    let turns = |name| {
        let mut talk = chat::conversation(place, row, name)?;
        // What the assistant says last is what is asked for.
        let asked = talk.turns.iter().rposition(|turn| turn.role() != "assistant").map_or(0, |last| last + 1);
        talk.turns.truncate(asked);
        Ok(Content::Chat(talk))
    };
    let asked = match () {
        () if has("messages") => turns("messages"),
        () if has("conversations") => turns("conversations"),
        () if field(row, "prompt").is_some_and(|prompt| prompt.list().is_some()) => turns("prompt"),
        () if has("prompt") => content(place, &with("response"), &Kind::Pair("response")),
        () if has("instruction") => content(place, &with("output"), &Kind::Alpaca),
        () if has("text") => content(place, row, &Kind::Text("text".to_owned())),
        () => {
            let present = listed(row.iter().map(|(name, _)| name.as_str()));
            Err(place.bad(format!("nothing here that can be asked; the fields here are: {present}"), ANY_QUESTION))
        }
    }?;
    Ok(match asked {
        Content::Pair { prompt, .. } => Content::Pair { prompt, response: String::new() },
        other => other,
    })
}

fn content(place: &Place, row: &Record, kind: &Kind) -> Result<Content, DataError> {
    let text = |name: &str| columns::text(place, row, name).map(String::from);
    Ok(match kind {
        Kind::Text(column) => Content::Text(text(column)?),
        Kind::Pair(response) if field(row, "prompt").is_some_and(|prompt| prompt.list().is_some()) => {
            Content::Chat(chat::completed(place, row, response)?)
        }
        Kind::Pair(response) => Content::Pair { prompt: text("prompt")?, response: text(response)? },
        Kind::Alpaca => alpaca(place, row)?,
        Kind::Chat(name) => Content::Chat(chat::conversation(place, row, name)?),
    })
}

/// A task in the prompts of Stanford Alpaca. What was said before (`history`, pairs of instruction and answer) stands before it in
/// the same form, and a `system` text in the place of the sentence that begins the prompt.
fn alpaca(place: &Place, row: &Record) -> Result<Content, DataError> {
    let text = |name: &str| columns::text(place, row, name).map(String::from);
    let optional = |name: &str| match field(row, name) {
        None | Some(Cell::Null) => Ok(String::new()),
        Some(_) => text(name),
    };
    let (instruction, response) = (text("instruction")?, text("output")?);
    let (input, system) = (optional("input")?, optional("system")?);
    let usual = if input.is_empty() { ALPACA } else { ALPACA_INPUT };
    let mut prompt = if system.is_empty() { usual.to_owned() } else { system };
    for (asked, answered) in history(place, row)? {
        prompt.push_str(&format!("\n\n### Instruction:\n{asked}\n\n### Response:{answered}"));
    }
    prompt.push_str(&format!("\n\n### Instruction:\n{instruction}"));
    if !input.is_empty() {
        prompt.push_str(&format!("\n\n### Input:\n{input}"));
    }
    prompt.push_str("\n\n### Response:");
    Ok(Content::Pair { prompt, response })
}

/// What was asked and answered before.
fn history<'r>(place: &Place, row: &'r Record) -> Result<Vec<(&'r str, &'r str)>, DataError> {
    let bad = || place.bad("field \"history\" is not a list of pairs", "a list such as [[\"hello\", \"hi\"]]");
    let turns = match field(row, "history") {
        None | Some(Cell::Null) => return Ok(Vec::new()),
        // In CSV there is nothing, or what Python writes.
        Some(Cell::Text(text)) if text.trim().is_empty() || text.trim() == "[]" => return Ok(Vec::new()),
        Some(Cell::List(turns)) => turns,
        Some(_) => return Err(bad()),
    };
    let pair = |turn: &'r Cell| match turn.list() {
        Some([asked, answered]) => Some((asked.text()?, answered.text()?)),
        _ => None,
    };
    turns.iter().map(|turn| pair(turn).ok_or_else(bad)).collect()
}

/// A field as it stands in a prompt or a response.
fn stands(place: &Place, row: &Record, name: &str) -> Result<String, DataError> {
    match columns::value(row, name) {
        Some(Cell::Text(text)) => Ok(text.clone()),
        Some(value @ (Cell::Whole(_) | Cell::Float(_) | Cell::Bool(_))) => Ok(value.to_string()),
        Some(_) => {
            let problem = format!("field {name:?} cannot stand in a prompt or a response");
            Err(place.bad(problem, "a string, a number or a truth value"))
        }
        None => Err(place.missing(name, row.iter().map(|(name, _)| name.as_str()))),
    }
}

fn worded(place: &Place, row: &Record, wording: &Wording) -> Result<Content, DataError> {
    let value = |name: &str| stands(place, row, name);
    Ok(Content::Pair { prompt: wording.prompt.fill(value)?, response: wording.response.fill(value)? })
}

/// Why nothing can be learnt of this, and what could.
fn nothing(content: &Content) -> Option<(&'static str, &'static str)> {
    match content {
        Content::Text(text) if text.trim().is_empty() => Some(("empty text", "a text to learn")),
        Content::Pair { response, .. } if response.trim().is_empty() => Some(("empty response", "a response to learn")),
        Content::Chat(talk) => {
            let mut scored = talk.turns.iter().skip(talk.from);
            match scored.rfind(|turn| turn.role() == "assistant") {
                None => {
                    Some(("a conversation without a turn of the assistant's", "a message with the role \"assistant\""))
                }
                Some(turn) if turn.is_empty() => Some(("empty last turn of the assistant's", "a turn to learn")),
                Some(_) => None,
            }
        }
        _ => None,
    }
}
