//! serde's complaints in the words of a user of the configuration file, with the nearest right key or word.

use super::document::Document;
use super::key::Path;
use super::moved::new_name;
use super::{meant, schema};
use crate::user_error::UserError;

/// A complaint of serde's and the key it is about.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// The key; for a missing key, the table that lacks it.
    pub path: Path,
    /// serde's words.
    pub message: String,
}

/// Turns a fault into a message with its place and what would be right.
pub fn mistake(document: &Document, fault: &Fault) -> UserError {
    let key = fault.path.join(".");
    let place = Some(document.place_of(&fault.path));
    let message = fault.message.as_str();
    if let Some((name, choices)) = offered(message, "unknown field") {
        let table = fault.path[..fault.path.len().saturating_sub(1)].join(".");
        if let Some(now) = new_name(&key) {
            return UserError::new(format!("unknown {}", key_in(name, &table)))
                .at(place)
                .help(format!("it is `{now}` now"));
        }
        return UserError::new(format!("unknown {}", key_in(name, &table)))
            .at(place)
            .help(keys_help(name, &choices, &table));
    }
    if let Some((word, choices)) = offered(message, "unknown variant") {
        let help = meant::word(&key, word).map_or_else(|| advice("word", word, &choices), str::to_string);
        return UserError::new(format!("`{key}` cannot be \"{word}\"")).at(place).help(help);
    }
    if let Some(name) = quoted(message, "missing field").into_iter().next() {
        return UserError::new(format!("missing {}", key_in(name, &key))).at(place).help(missing_help(name, &key));
    }
    let wrong = UserError::new(format!("`{key}` {}", wrong_value(message))).at(place);
    match value_help(&key, message, document.get(&fault.path)) {
        Some(help) => wrong.help(help),
        None => wrong,
    }
}

/// What would be right in place of a value of another kind, where what was meant is plain.
fn value_help(key: &str, message: &str, value: Option<&toml::Value>) -> Option<String> {
    match value? {
        toml::Value::String(word) if message.contains("a boolean") => match word.as_str() {
            "True" | "yes" | "on" | "1" => Some("write true, without quotes".into()),
            "False" | "no" | "off" | "0" => Some("write false, without quotes".into()),
            _ => None,
        },
        toml::Value::String(word) => {
            let meant = schema::example(key, word).map(|example| format!("write {key} = {example}"));
            meant.or_else(|| {
                let table = schema::at(key).filter(|schema| !schema::choices(schema).is_empty())?;
                let kinds =
                    schema::choices(&table).iter().filter_map(|one| schema::example(key, one.word)).collect::<Vec<_>>();
                Some(format!("write one of {key} = {}", kinds.join(", ")))
            })
        }
        _ => None,
    }
}

/// `key `x` in [section]`, or `section [x]` at the root.
fn key_in(name: &str, table: &str) -> String {
    match table {
        "" => format!("section or key `{name}`"),
        table => format!("key `{name}` in [{table}]"),
    }
}

/// Advice on an unknown key: the nearest one here, or the section it belongs to.
fn keys_help(name: &str, choices: &[&str], table: &str) -> String {
    if let Some(help) = meant::key_help(table, name) {
        return help;
    }
    if let Some(section) = meant::section(name).filter(|_| table.is_empty()) {
        return format!("the section is called [{section}] here");
    }
    match schema::home_of(name) {
        // All but a letter of a key that does belong here is a slip.
        Some(home) if home != table && nearest_above(0.8, name, choices).is_none() => {
            format!("`{name}` belongs to [{home}]")
        }
        _ => advice("key", name, choices),
    }
}

fn missing_help(name: &str, table: &str) -> String {
    match table {
        "" => format!("add a section [{name}]"),
        // A table that says by a word what it is: its words with their keys.
        table if schema::at(table).is_some_and(|schema| schema::choices(&schema).iter().any(|one| one.tag == name)) => {
            let schema = schema::at(table).expect("as asked");
            let words: Vec<String> =
                schema::choices(&schema).iter().filter_map(|one| schema::example(table, one.word)).collect();
            format!("write one of {table} = {}", words.join(", "))
        }
        table => format!("add `{name} = …` to [{table}], or pass --set {table}.{name}=…"),
    }
}

/// `did you mean …?` and the list of what is possible.
fn advice(kind: &str, given: &str, choices: &[&str]) -> String {
    let list = choices.join(", ");
    match (nearest(given, choices), choices) {
        (_, []) => format!("no further {kind}s belong here"),
        (Some(near), [_]) => format!("did you mean `{near}`?"),
        (Some(near), _) => format!("did you mean `{near}`? Possible here: {list}"),
        (None, _) => format!("possible here: {list}"),
    }
}

/// The choice closest to `given`, if it is close enough to be meant.
pub fn nearest<'a>(given: &str, choices: &[&'a str]) -> Option<&'a str> {
    nearest_above(0.5, given, choices)
}

/// The choice closest to `given`, if their likeness (1: the same) is above `least`.
fn nearest_above<'a>(least: f64, given: &str, choices: &[&'a str]) -> Option<&'a str> {
    let given = given.to_lowercase();
    choices
        .iter()
        .map(|choice| (strsim::normalized_damerau_levenshtein(&given, choice), *choice))
        .filter(|(likeness, _)| *likeness > least)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, choice)| choice)
}

/// From ``unknown field `x`, expected one of `a`, `b` ``: `x` and the list.
fn offered<'a>(message: &'a str, start: &str) -> Option<(&'a str, Vec<&'a str>)> {
    let mut words = quoted(message, start).into_iter();
    Some((words.next()?, words.collect()))
}

/// The words between backticks of a message that begins with `start`.
fn quoted<'a>(message: &'a str, start: &str) -> Vec<&'a str> {
    match message.strip_prefix(start) {
        Some(rest) => rest.split('`').skip(1).step_by(2).collect(),
        None => Vec::new(),
    }
}

/// What is wrong with a value, from serde's `invalid type: string "x", expected usize` and the like.
fn wrong_value(message: &str) -> String {
    let body = ["invalid type: ", "invalid value: ", "invalid length "].iter().find_map(|p| message.strip_prefix(p));
    let Some((found, expected)) = body.and_then(|body| body.split_once(", expected ")) else {
        return match message {
            m if m.contains("untagged enum") => "holds a value of the wrong kind".to_string(),
            m if m.starts_with("expected ") => format!("holds a value of the wrong kind; {m}"),
            m => format!("cannot be {m}"),
        };
    };
    let found = if message.starts_with("invalid length") { format!("a list of {found}") } else { plain_found(found) };
    format!("must be {}, found {found}", plain_expected(expected))
}

/// serde's names for what it wanted, in plain words.
fn plain_expected(expected: &str) -> String {
    match expected {
        "usize" | "u64" | "u32" => "a whole number, not negative".into(),
        "f64" | "f32" => "a number".into(),
        "a boolean" => "true or false".into(),
        "a string" | "string" | "path string" => "text".into(),
        "a sequence" => "a list".into(),
        other => match other.strip_prefix("an array of length ") {
            Some(n) => format!("a list of {n}"),
            None if other.contains("struct") || other.contains("enum") || other == "a map" => "a table".into(),
            None => other.into(),
        },
    }
}

/// serde's names for what it found, in plain words.
fn plain_found(found: &str) -> String {
    let (kind, value) = found.split_once(' ').unwrap_or((found, ""));
    match kind {
        "string" => format!("the text {value}"),
        "integer" | "floating" => value.trim_start_matches("point ").replace('`', ""),
        "boolean" => value.replace('`', ""),
        "sequence" => "a list".into(),
        "map" => "a table".into(),
        _ => found.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_offered_only_when_near() {
        assert_eq!(nearest("rouns", &["rounds", "epochs"]), Some("rounds"));
        assert_eq!(nearest("LR_A", &["lr_a", "lr_b"]), Some("lr_a"));
        assert_eq!(nearest("colour", &["rounds", "epochs"]), None);
        let help = |name| keys_help(name, &["count", "devices"], "clients");
        assert_eq!(help("device"), "did you mean `devices`? Possible here: count, devices");
        assert_eq!(help("rounds"), "`rounds` belongs to [train]");
    }

    #[test]
    fn types_are_told_in_plain_words() {
        assert_eq!(
            wrong_value("invalid type: string \"ten\", expected usize"),
            "must be a whole number, not negative, found the text \"ten\""
        );
        assert_eq!(
            wrong_value("invalid value: integer `-1`, expected usize"),
            "must be a whole number, not negative, found -1"
        );
        assert_eq!(
            wrong_value("invalid type: floating point `2.5`, expected u64"),
            "must be a whole number, not negative, found 2.5"
        );
        assert_eq!(
            wrong_value("invalid length 1, expected an array of length 2"),
            "must be a list of 2, found a list of 1"
        );
    }

    #[test]
    fn lists_of_choices_are_read_from_serde() {
        let (name, choices) =
            offered("unknown field `x`, expected one of `a`, `b`, `c`", "unknown field").expect("read");
        assert_eq!((name, choices), ("x", vec!["a", "b", "c"]));
        let (_, none) = offered("unknown field `x`, there are no fields", "unknown field").expect("read");
        assert!(none.is_empty());
    }
}
