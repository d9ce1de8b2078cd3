//! Rows that hold conversations, in the three ways in which they are published.

use super::place::Place;
use super::record::Record;
use crate::cell::field;
use crate::{Cell, Conversation, DataError, Message};

const TURNS: &str =
    "a list such as [{\"role\": \"user\", \"content\": \"hello\"}, {\"role\": \"assistant\", \"content\": \"hi\"}]";

/// Who speaks, by the names of ShareGPT and of the sets made after it.
const SPEAKERS: [(&str, &str); 12] = [
    ("human", "user"),
    ("user", "user"),
    ("prompter", "user"),
    ("gpt", "assistant"),
    ("assistant", "assistant"),
    ("chatgpt", "assistant"),
    ("bing", "assistant"),
    ("bard", "assistant"),
    ("function_call", "assistant"),
    ("observation", "tool"),
    ("function_response", "tool"),
    ("tool", "tool"),
];

/// The conversation in the field `name`; fields of the row that are not named in `used` go with it.
pub(super) fn conversation(place: &Place, row: &Record, name: &str) -> Result<Conversation, DataError> {
    let mut turns = turns(place, row, name)?;
    let mut fields = others(row, &[name]);
    // ShareGPT sets have what the system says beside the turns.
    let says =
        fields.iter().position(|(name, cell)| name == "system" && cell.text().is_some_and(|text| !text.is_empty()));
    if let Some(at) =
        says.filter(|_| name == "conversations" && turns.first().is_none_or(|turn| turn.role() != "system"))
    {
        let (_, system) = fields.remove(at);
        turns.insert(0, Message::new("system", system.text().unwrap_or_default()));
    }
    Ok(Conversation { turns, fields, from: 0 })
}

/// A prompt and a completion that are turns: the completion's are scored.
pub(super) fn completed(place: &Place, row: &Record, completion: &str) -> Result<Conversation, DataError> {
    let mut turns_of_both = turns(place, row, "prompt")?;
    let from = turns_of_both.len();
    turns_of_both.extend(turns(place, row, completion)?);
    Ok(Conversation { turns: turns_of_both, fields: others(row, &["prompt", completion]), from })
}

/// The fields that are not the turns themselves. Tools are often published as JSON in a string.
fn others(row: &Record, used: &[&str]) -> Vec<(String, Cell)> {
    const STRINGS: [&str; 2] = ["tools", "documents"];
    let parsed = |name: &str, cell: &Cell| {
        let text = cell.text().filter(|_| STRINGS.contains(&name))?;
        serde_json::from_str::<Cell>(text).ok().filter(|cell| cell.list().is_some())
    };
    let rest = row.iter().filter(|(name, _)| !used.contains(&name.as_str()));
    rest.map(|(name, cell)| (name.clone(), parsed(name, cell).unwrap_or_else(|| cell.clone()))).collect()
}

fn turns(place: &Place, row: &Record, name: &str) -> Result<Vec<Message>, DataError> {
    let bad = |problem: String| place.bad(problem, TURNS);
    let Some(Cell::List(turns)) = field(row, name) else {
        return Err(bad(format!("field {name:?} is not a list")));
    };
    let turn = |(at, turn): (usize, &Cell)| {
        message(turn).map_err(|problem| bad(format!("message {at} (counted from 0) {problem}")))
    };
    turns.iter().enumerate().map(turn).collect()
}

/// A turn, with ShareGPT's names and lists of text parts put into the usual form.
fn message(turn: &Cell) -> Result<Message, String> {
    const LACKS: &str = "lacks a text `role` or `content`";
    let Cell::Record(fields) = turn else { return Err(format!("is {} and no object", turn.kind())) };
    let of_share_gpt = turn.get("role").is_none() && turn.get("from").is_some();
    let mut out: Vec<(String, Cell)> = Vec::with_capacity(fields.len());
    for (name, cell) in fields {
        match (name.as_str(), cell) {
            ("from", cell) if of_share_gpt => {
                let speaker = cell.text().ok_or(LACKS)?;
                let role =
                    SPEAKERS.iter().find(|(of, _)| speaker.eq_ignore_ascii_case(of)).map_or(speaker, |(_, role)| role);
                out.push(("role".to_owned(), Cell::from(role)));
            }
            ("value", cell) if of_share_gpt => out.push(("content".to_owned(), content(cell)?)),
            ("content", cell) => out.push((name.clone(), content(cell)?)),
            _ => out.push((name.clone(), cell.clone())),
        }
    }
    let calls = field(&out, "tool_calls").is_some_and(|calls| !calls.is_null());
    match field(&out, "content") {
        None if !calls => return Err(LACKS.to_owned()),
        Some(Cell::Null) if !calls => return Err("has null for `content` and calls no tools".to_owned()),
        _ => {}
    }
    Message::of(out).ok_or_else(|| LACKS.to_owned())
}

/// What is said: a text, nothing, or parts of kind text, which are put together.
fn content(cell: &Cell) -> Result<Cell, String> {
    match cell {
        Cell::Text(_) | Cell::Null => Ok(cell.clone()),
        Cell::List(parts) => {
            let part = |part: &Cell| match (part, part.get("type").and_then(Cell::text)) {
                (Cell::Text(text), _) => Ok(text.clone()),
                (_, Some("text")) => part
                    .get("text")
                    .and_then(Cell::text)
                    .map(str::to_owned)
                    .ok_or("has a part of kind text without `text`".to_owned()),
                (_, kind) => Err(format!("has a part of kind {}, and only text is read", kind.unwrap_or("unknown"))),
            };
            Ok(Cell::Text(parts.iter().map(part).collect::<Result<String, String>>()?))
        }
        _ => Err("has a `content` that is neither text nor parts".to_owned()),
    }
}
