//! What Transformers adds to Jinja, or has otherwise than MiniJinja: filters, functions and methods of Python's strings.

use minijinja::value::{Kwargs, Rest, StringInput, Value, from_args};
use minijinja::{Environment, Error, ErrorKind, State};
use serde::Serialize;

/// Spaces that a template may ask for at the beginning of a line.
const WIDEST: usize = 64;

/// Puts all of it into an environment.
pub(super) fn install(templates: &mut Environment<'static>) {
    templates.set_unknown_method_callback(method);
    templates.add_function("raise_exception", raise_exception);
    templates.add_function("strftime_now", super::date::strftime_now);
    templates.add_filter("tojson", to_json);
    templates.add_filter("indent", indent);
    // Nothing is not iterable in Python; here it would count as an empty list.
    templates.add_test("iterable", |value: Value| !value.is_none() && value.try_iter().is_ok());
    templates.add_filter("wordcount", |text: StringInput<'_>| text.as_str().split_whitespace().count());
    templates.add_filter("urlencode", urlencode);
    templates.add_filter(super::source::PERCENT, super::percent::format);
    templates.add_filter(super::source::SCORED, scored);
}

/// Marks what a `{% generation %}` block says.
fn scored(text: StringInput<'_>) -> String {
    format!("{}{}{}", super::source::BEGINS, text.as_str(), super::source::ENDS)
}

/// How templates refuse a conversation.
fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

fn wrong(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what.into())
}

/// Methods of Python's strings that MiniJinja's own compatibility lacks.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let Some(text) = value.as_str() else {
        return minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args);
    };
    let one = || from_args::<(&str,)>(args).map(|(one,)| one);
    let parts = |found: Option<(&str, &str)>, sep: &str, first: bool| {
        let (before, sep, after) = match found {
            Some((before, after)) => (before, sep, after),
            None if first => (text, "", ""),
            None => ("", "", text),
        };
        Value::from([before, sep, after].map(Value::from).to_vec())
    };
    let place = |byte: usize| text[..byte].chars().count() as i64;
    Ok(match name {
        "removeprefix" => Value::from(text.strip_prefix(one()?).unwrap_or(text)),
        "removesuffix" => Value::from(text.strip_suffix(one()?).unwrap_or(text)),
        "partition" => parts(text.split_once(one()?), one()?, true),
        "rpartition" => parts(text.rsplit_once(one()?), one()?, false),
        "index" => Value::from(text.find(one()?).map(place).ok_or_else(|| wrong("substring not found"))?),
        "rindex" => Value::from(text.rfind(one()?).map(place).ok_or_else(|| wrong("substring not found"))?),
        "zfill" => {
            let (width,) = from_args::<(usize,)>(args)?;
            let missing = width.min(WIDEST).saturating_sub(text.chars().count());
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
            Value::from(format!("{sign}{}{digits}", "0".repeat(missing)))
        }
        "ljust" | "rjust" | "center" => {
            let (width, fill) = from_args::<(usize, Option<char>)>(args)?;
            let fill = fill.unwrap_or(' ').to_string();
            let missing = width.min(WIDEST).saturating_sub(text.chars().count());
            // Python puts the odd one to the left where the width is odd.
            let left = match name {
                "ljust" => 0,
                "rjust" => missing,
                _ => missing / 2 + (missing & width & 1),
            };
            Value::from(format!("{}{text}{}", fill.repeat(left), fill.repeat(missing - left)))
        }
        "swapcase" | "casefold" => {
            let _: () = from_args(args)?;
            let swap =
                |c: char| if c.is_uppercase() { c.to_lowercase().to_string() } else { c.to_uppercase().to_string() };
            Value::from(if name == "casefold" { text.to_lowercase() } else { text.chars().map(swap).collect() })
        }
        "format" => return format_method(text, args),
        _ => return minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    })
}

/// `"{} {name}".format(…)`, for fields without a format of their own.
fn format_method(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (positional, named) = from_args::<(Rest<Value>, Kwargs)>(args)?;
    let (mut out, mut rest, mut next) = (String::new(), text, 0);
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        let brace = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            out.push_str(brace);
            rest = after;
            continue;
        }
        let (field, after) = rest.split_once('}').ok_or_else(|| wrong("a brace without its partner in format()"))?;
        rest = after;
        let value = match field.parse::<usize>() {
            Ok(at) => positional.get(at).cloned(),
            Err(_) if field.is_empty() => {
                next += 1;
                positional.get(next - 1).cloned()
            }
            Err(_) => named.peek::<Value>(field).ok(),
        };
        let value = value.ok_or_else(|| wrong(format!("format() has no value for {{{field}}}")))?;
        out.push_str(&value.to_string());
    }
    out.push_str(rest);
    Ok(Value::from(out))
}

/// Jinja's own: what is neither a letter, a digit nor one of `-._~/` as its bytes.
fn urlencode(text: StringInput<'_>) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    text.as_str().bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
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

/// Python's `json.dumps(value, ensure_ascii=False)` with its other options, which Transformers puts in the place of Jinja's own filter.
fn to_json(value: Value, options: Kwargs) -> Result<Value, Error> {
    let bad = |problem: String| Error::new(ErrorKind::BadSerialization, problem);
    if value.is_undefined() {
        return Err(bad("Object of type Undefined is not JSON serializable".to_owned()));
    }
    let indent = options.get::<Option<usize>>("indent")?.map(spaces).transpose()?;
    let ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sorted = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    options.assert_all_used()?;
    let mut bytes = Vec::new();
    // The library's own maps have their keys in order.
    let in_order =
        if sorted { Some(serde_json::to_value(&value).map_err(|error| bad(error.to_string()))?) } else { None };
    let written = match &indent {
        None => {
            let (between, after_key) = match separators.as_deref() {
                Some([between, after_key]) => (between.clone(), after_key.clone()),
                _ => (", ".to_owned(), ": ".to_owned()),
            };
            let mut to = serde_json::Serializer::with_formatter(&mut bytes, OneLine { between, after_key });
            match &in_order {
                None => value.serialize(&mut to),
                Some(sorted) => sorted.serialize(&mut to),
            }
        }
        Some(indent) => {
            let pretty = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            let mut to = serde_json::Serializer::with_formatter(&mut bytes, pretty);
            match &in_order {
                None => value.serialize(&mut to),
                Some(sorted) => sorted.serialize(&mut to),
            }
        }
    };
    written.map_err(|error| bad(error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|error| bad(error.to_string()))?;
    Ok(Value::from_safe_string(if ascii { escaped(&text) } else { text }))
}

/// What is not ASCII as JSON's escapes.
fn escaped(text: &str) -> String {
    let mut units = [0; 2];
    let mut one = |c: char| {
        if c.is_ascii() {
            c.to_string()
        } else {
            c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect()
        }
    };
    text.chars().map(&mut one).collect()
}

/// JSON on one line with Python's spaces: `{"a": 1, "b": [1, 2]}`.
struct OneLine {
    between: String,
    after_key: String,
}

impl serde_json::ser::Formatter for OneLine {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(self.between.as_bytes()) }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(self.between.as_bytes()) }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        out.write_all(self.after_key.as_bytes())
    }
}
