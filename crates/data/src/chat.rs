//! Conversations to text, by the Jinja template that comes with a tokenizer.
//!
//! A template is somebody's program. It sees the conversation, the other fields of its row and the tokenizer's special tokens, and
//! has [`FUEL`] to do its work with. `chat/source.rs` makes its text ready, `chat/filters.rs` has what Transformers adds to Jinja.

mod date;
mod filters;
mod percent;
mod source;

use std::ops::Range;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{Environment, Error};

use crate::catch_panic::catch_panic;
use crate::{Cell, Conversation, DataError, Message, Score};

/// A tokenizer's chat template.
///
/// Templates are written for Python's Jinja as Transformers sets it up: blocks are trimmed, strings and lists have
/// Python's methods, `raise_exception`, `strftime_now`, `tojson` and `{% generation %}` are there. Today is always 26 July 2024, the
/// date that Llama 3's template falls back to: what a model learns must not depend on the day.
#[derive(Debug)]
pub struct ChatTemplate {
    templates: Environment<'static>,
    name: String,
    tokens: Vec<(String, String)>,
    asks_for_date: bool,
}

/// Instructions that a template may carry out on one conversation, about a second of them; templates in use need some
/// dozens a turn.
const FUEL: u64 = 10_000_000;

/// A conversation as text, and what of it is scored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The conversation up to the end of the assistant's last turn.
    pub text: String,
    /// The bytes of what is scored, in order; never empty.
    pub scored: Vec<Range<usize>>,
}

impl ChatTemplate {
    /// Reads a template; `name` is the file that errors name, `tokens` are the special tokens that it may write, by the names that
    /// Transformers gives them (`bos_token`, `eos_token`, …).
    ///
    /// # Errors
    /// [`DataError::ChatTemplate`] if it is not a Jinja template.
    pub fn parse(source: &str, name: &str, tokens: &[(&str, &str)]) -> Result<ChatTemplate, DataError> {
        let mut templates = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        templates.set_syntax(syntax.expect("the delimiters are the usual ones"));
        templates.set_fuel(Some(FUEL));
        filters::install(&mut templates);
        templates
            .add_template_owned(TEMPLATE.to_owned(), source::prepared(source))
            .map_err(|error| wrong(name, "the chat template cannot be read", &error))?;
        let tokens = tokens.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect();
        let asks_for_date = source.contains("strftime_now");
        Ok(ChatTemplate { templates, name: name.to_owned(), tokens, asks_for_date })
    }

    /// Whether the template can write the date, which is always 26 July 2024.
    pub fn asks_for_date(&self) -> bool {
        self.asks_for_date
    }

    /// The conversation as text; with `prompt` up to where the assistant is to speak.
    ///
    /// # Errors
    /// [`DataError::ChatTemplate`] if the template refuses the conversation or does not work.
    pub fn render(&self, talk: &Conversation, prompt: bool) -> Result<String, DataError> {
        Ok(unmarked(&self.marked(talk, &talk.turns, prompt)?).0)
    }

    /// These turns as text, what is scored between marks where the template says it.
    fn marked(&self, talk: &Conversation, turns: &[Message], prompt: bool) -> Result<String, DataError> {
        let template = self.templates.get_template(TEMPLATE).expect("it was added");
        let fields = |turn: &Message| {
            Value::from_pairs(turn.for_template().into_iter().map(|(name, cell)| (name.to_owned(), value(cell))))
        };
        let messages: Vec<Value> = turns.iter().map(fields).collect();
        let mut context: Vec<(&str, Value)> =
            self.tokens.iter().map(|(name, text)| (name.as_str(), Value::from(text.as_str()))).collect();
        context.extend([("tools", Value::from(())), ("documents", Value::from(()))]);
        // What comes later goes before what is of the same name.
        context.extend(talk.fields.iter().map(|(name, cell)| (name.as_str(), value(cell))));
        context.extend([("messages", Value::from(messages)), ("add_generation_prompt", Value::from(prompt))]);
        let context: Value = Value::from_pairs(context);
        match catch_panic(|| template.render(context)) {
            Ok(rendered) => rendered.map_err(|error| wrong(&self.name, "the chat template failed", &error)),
            Err(panic) => {
                let problem = format!("the chat template failed: {panic}");
                Err(DataError::ChatTemplate { name: self.name.clone(), problem })
            }
        }
    }

    /// The conversation up to the end of the assistant's last turn, and what of it is scored. Later turns of others are left out:
    /// nothing comes after them that could be learnt.
    ///
    /// What a template puts between `{% generation %}` and `{% endgeneration %}` is scored. In others a turn begins where the text
    /// ends that comes of the turns before it and a request that the assistant speak, or, where that is not how the turn begins,
    /// without the request: then the turn's header counts to it. Where an earlier turn is written otherwise once others follow, it
    /// is found by what changes when it says something else.
    ///
    /// # Errors
    /// [`DataError::ChatTemplate`] if the template refuses the conversation, or if a turn cannot be found in the text.
    pub fn scored(&self, talk: &Conversation, score: Score) -> Result<Rendered, DataError> {
        let bad = |problem: &str| DataError::ChatTemplate { name: self.name.clone(), problem: problem.to_owned() };
        let spoken = |(at, turn): (usize, &Message)| (at >= talk.from && turn.role() == "assistant").then_some(at);
        let mut asked: Vec<usize> = talk.turns.iter().enumerate().filter_map(spoken).collect();
        let last = *asked.last().ok_or_else(|| bad("a conversation without a turn of the assistant's"))?;
        let turns = &talk.turns[..=last];
        let (text, marks) = unmarked(&self.marked(talk, turns, false)?);
        let marks: Vec<_> = marks.into_iter().filter(|mark| !mark.is_empty()).collect();
        if score == Score::Last {
            asked.drain(..asked.len() - 1);
        }
        if !marks.is_empty() {
            // Those of the prompt come first.
            let skip = match (score, talk.from) {
                (Score::Last, _) => marks.len() - 1,
                (Score::All, 0) => 0,
                (Score::All, from) => {
                    let before = unmarked(&self.marked(talk, &talk.turns[..from], false)?).1;
                    before.into_iter().filter(|mark| !mark.is_empty()).count().min(marks.len() - 1)
                }
            };
            return Ok(Rendered { text, scored: marks[skip..].to_vec() });
        }
        let mut scored: Vec<Range<usize>> = Vec::new();
        for turn in asked {
            let span = match self.by_rendering(talk, turn, turn == last, &text)? {
                Some(span) => Some(span),
                None if turn == last => None,
                None => self.by_changing(talk, turns, turn, &text)?,
            };
            let span = span.ok_or_else(|| {
                bad("the chat template writes the earlier turns otherwise when the assistant's turn is there, so that where \
                     that turn begins cannot be told; use `prompt` and `response` instead")
            })?;
            match scored.last_mut() {
                Some(before) if before.end >= span.start => before.end = before.end.max(span.end),
                _ => scored.push(span),
            }
        }
        Ok(Rendered { text, scored })
    }

    /// A turn found by rendering what comes before it and what goes up to its end.
    fn by_rendering(
        &self,
        talk: &Conversation,
        turn: usize,
        last: bool,
        text: &str,
    ) -> Result<Option<Range<usize>>, DataError> {
        let render = |turns: &[Message], prompt| Ok(unmarked(&self.marked(talk, turns, prompt)?).0);
        // Some templates refuse a conversation that does not end as they want.
        let end = if last {
            Some(text.len())
        } else {
            let upto: Result<String, DataError> = render(&talk.turns[..=turn], false);
            upto.ok().filter(|upto| text.starts_with(upto.as_str())).map(|upto| upto.len())
        };
        let Some(end) = end else { return Ok(None) };
        for prompt in [true, false] {
            let before: Result<String, DataError> = render(&talk.turns[..turn], prompt);
            let before = match before {
                Err(error) if last && !prompt => return Err(error),
                Err(_) => continue,
                Ok(before) => before,
            };
            if before.len() < end && text.starts_with(&before) {
                return Ok(Some(before.len()..end));
            }
        }
        Ok(None)
    }

    /// A turn found by letting it say something else: what it says is what changes, and with it what follows the last turn.
    fn by_changing(
        &self,
        talk: &Conversation,
        turns: &[Message],
        turn: usize,
        text: &str,
    ) -> Result<Option<Range<usize>>, DataError> {
        let said = turns[turn].content().trim();
        let other = if said.starts_with('Q') { "Z" } else { "Q" };
        let mut changed = turns.to_vec();
        changed[turn] = turns[turn].saying(other);
        let changed = unmarked(&self.marked(talk, &changed, false)?).0;
        let start = text.bytes().zip(changed.bytes()).take_while(|(a, b)| a == b).count();
        let Some(end) = text.len().checked_sub(changed.len() - changed.len().min(start + other.len())) else {
            return Ok(None);
        };
        let is_it = !said.is_empty()
            && end > start
            && text.is_char_boundary(start)
            && text.get(start..end) == Some(said)
            && text.get(end..) == changed.get(start + other.len()..);
        if !is_it {
            return Ok(None);
        }
        // How a turn ends is seen at the last.
        let last = turns.last().map_or("", |turn| turn.content().trim());
        let tail = text.rfind(last).map_or("", |at| &text[at + last.len()..]);
        let closed = if text[end..].starts_with(tail) { tail.len() } else { 0 };
        Ok(Some(start..end + closed))
    }
}

const TEMPLATE: &str = "chat";

/// A field as templates see it.
fn value(cell: &Cell) -> Value {
    match cell {
        Cell::Null => Value::from(()),
        Cell::Bool(value) => Value::from(*value),
        Cell::Whole(value) => Value::from(*value),
        Cell::Float(value) => Value::from(*value),
        Cell::Text(text) => Value::from(text.as_str()),
        Cell::List(items) => Value::from(items.iter().map(value).collect::<Vec<_>>()),
        Cell::Record(fields) => Value::from_pairs(fields.iter().map(|(name, cell)| (name.clone(), value(cell)))),
    }
}

/// The text without its marks, and the bytes that were between them.
fn unmarked(marked: &str) -> (String, Vec<Range<usize>>) {
    let mut text = String::with_capacity(marked.len());
    let (mut spans, mut open) = (Vec::new(), None);
    for piece in marked.split_inclusive([source::BEGINS, source::ENDS]) {
        let mark = piece.chars().next_back().filter(|c| [source::BEGINS, source::ENDS].contains(c));
        text.push_str(piece.trim_end_matches([source::BEGINS, source::ENDS]));
        match mark {
            Some(source::BEGINS) => open = Some(text.len()),
            Some(_) => spans.extend(open.take().map(|start| start..text.len())),
            None => {}
        }
    }
    (text, spans)
}

fn wrong(name: &str, what: &str, error: &Error) -> DataError {
    let line = error.line().map_or(String::new(), |line| format!(" in its line {line}"));
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    DataError::ChatTemplate { name: name.to_owned(), problem: format!("{what}{line}: {detail}") }
}
