//! Conversations to text, by the Jinja template that comes with a tokenizer.
//!
//! A template is somebody's program. It sees the conversation and nothing else, and [`FUEL`] to do
//! its work with.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, StringInput, Value};
use minijinja::{Environment, Error, ErrorKind, context};
use serde::Serialize;

use crate::contain::contain;
use crate::{DataError, Message};

/// A tokenizer's chat template.
///
/// Templates are written for Python's Jinja as Transformers sets it up: blocks are trimmed, strings and lists have
/// Python's methods, `raise_exception`, `strftime_now` and `tojson` are there. Today is always 26 July 2024, the date
/// that Llama 3's template falls back to: what a model learns must not depend on the day.
#[derive(Debug)]
pub struct ChatTemplate {
    templates: Environment<'static>,
    name: String,
    bos: String,
    eos: String,
}

/// Instructions that a template may carry out on one conversation, about a second of them; templates in use need some
/// dozens a turn.
const FUEL: u64 = 10_000_000;

/// Spaces that a template may ask for at the beginning of a line.
const WIDEST: usize = 64;

/// A conversation as text, and where the assistant's last turn begins in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The conversation up to the end of the assistant's last turn.
    pub text: String,
    /// The byte at which what the assistant says last begins.
    pub from: usize,
}

impl ChatTemplate {
    /// Reads a template; `name` is the file that errors name, `bos` and `eos` are the tokens that it may write.
    ///
    /// # Errors
    /// [`DataError::ChatTemplate`] if it is not a Jinja template.
    pub fn parse(source: &str, name: &str, bos: &str, eos: &str) -> Result<ChatTemplate, DataError> {
        let mut templates = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        templates.set_syntax(syntax.expect("the delimiters are the usual ones"));
        templates.set_fuel(Some(FUEL));
        templates.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        templates.add_function("raise_exception", raise_exception);
        templates.add_function("strftime_now", strftime_now);
        templates.add_filter("tojson", to_json);
        templates.add_filter("indent", indent);
        let owned = |text: &str| text.to_owned();
        templates
            .add_template_owned(owned(TEMPLATE), owned(source))
            .map_err(|error| wrong(name, "the chat template cannot be read", &error))?;
        Ok(ChatTemplate { templates, name: owned(name), bos: owned(bos), eos: owned(eos) })
    }

    /// The conversation as text; with `prompt` up to where the assistant is to speak.
    ///
    /// # Errors
    /// [`DataError::ChatTemplate`] if the template refuses the conversation or does not work.
    pub fn render(&self, turns: &[Message], prompt: bool) -> Result<String, DataError> {
        let template = self.templates.get_template(TEMPLATE).expect("it was added");
        let (bos_token, eos_token) = (&self.bos, &self.eos);
        let turn = |turn: &Message| Value::from_pairs([("role", &turn.role), ("content", &turn.content)]);
        let messages: Vec<Value> = turns.iter().map(turn).collect();
        let context = context! { messages, bos_token, eos_token, add_generation_prompt => prompt };
        match contain(|| template.render(context)) {
            Ok(rendered) => rendered.map_err(|error| wrong(&self.name, "the chat template failed", &error)),
            Err(panic) => {
                let problem = format!("the chat template failed: {panic}");
                Err(DataError::ChatTemplate { name: self.name.clone(), problem })
            }
        }
    }

    /// The conversation up to the end of the assistant's last turn, and where that turn begins. Later turns of others
    /// are left out: nothing comes after them that could be learnt.
    ///
    /// The beginning is found by rendering what comes before and asking for the assistant to speak. Where that is not
    /// how the turn begins (templates that put more into that request), the turn's header counts to it.
    ///
    /// # Errors
    /// [`DataError::ChatTemplate`] if the template refuses the conversation, or if it renders what comes before the last
    /// turn otherwise once the turn is there.
    pub fn last_turn(&self, turns: &[Message]) -> Result<Rendered, DataError> {
        let bad = |problem: &str| DataError::ChatTemplate { name: self.name.clone(), problem: problem.to_owned() };
        let last = turns.iter().rposition(|turn| turn.role == "assistant");
        let last = last.ok_or_else(|| bad("a conversation without a turn of the assistant's"))?;
        let text = self.render(&turns[..=last], false)?;
        for prompt in [true, false] {
            let before = self.render(&turns[..last], prompt)?;
            if text.starts_with(&before) && before.len() < text.len() {
                return Ok(Rendered { from: before.len(), text });
            }
        }
        Err(bad(
            "the chat template writes the earlier turns otherwise when the assistant's last turn is there, so that \
                 where that turn begins cannot be told; use `prompt` and `response` instead",
        ))
    }
}

const TEMPLATE: &str = "chat";

fn wrong(name: &str, what: &str, error: &Error) -> DataError {
    let line = error.line().map_or(String::new(), |line| format!(" in its line {line}"));
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    DataError::ChatTemplate { name: name.to_owned(), problem: format!("{what}{line}: {detail}") }
}

/// How templates refuse a conversation.
fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// Friday, 26 July 2024, in the forms that templates ask for.
fn strftime_now(format: String) -> String {
    let forms = [
        ("%d", "26"),
        ("%m", "07"),
        ("%b", "Jul"),
        ("%B", "July"),
        ("%Y", "2024"),
        ("%y", "24"),
        ("%a", "Fri"),
        ("%A", "Friday"),
        ("%H", "00"),
        ("%M", "00"),
        ("%S", "00"),
    ];
    forms.into_iter().fold(format, |text, (form, value)| text.replace(form, value))
}

/// Jinja's own filter, for as many spaces as a text can need.
fn indent(
    value: StringInput<'_>,
    width: Option<usize>,
    first: Option<bool>,
    blank: Option<bool>,
    options: Kwargs,
) -> Result<Value, Error> {
    let asked = if options.has("width") { options.peek::<Option<usize>>("width")? } else { width };
    spaces(asked.unwrap_or(0))?;
    minijinja::filters::indent(value, width, first, blank, options)
}

fn spaces(width: usize) -> Result<String, Error> {
    match width {
        0..=WIDEST => Ok(" ".repeat(width)),
        _ => {
            Err(Error::new(ErrorKind::InvalidOperation, format!("an indent of {width}; at most {WIDEST} are written")))
        }
    }
}

/// Python's `json.dumps(value, ensure_ascii=False)`, which Transformers puts in the place of Jinja's own filter.
fn to_json(value: Value, options: Kwargs) -> Result<Value, Error> {
    let indent = options.get::<Option<usize>>("indent")?.map(spaces).transpose()?;
    let mut bytes = Vec::new();
    let written = match &indent {
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, OneLine)),
        Some(indent) => {
            let pretty = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, pretty))
        }
    };
    let bad = |problem: String| Error::new(ErrorKind::BadSerialization, problem);
    written.map_err(|error| bad(error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|error| bad(error.to_string()))?;
    Ok(Value::from_safe_string(text))
}

/// JSON on one line with Python's spaces: `{"a": 1, "b": [1, 2]}`.
struct OneLine;

impl serde_json::ser::Formatter for OneLine {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}
