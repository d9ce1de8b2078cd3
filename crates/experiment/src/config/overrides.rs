//! `--set section.key=value`: TOML value syntax, with bare words taken as strings; `none` takes an optional key away.

use toml::{Table, Value};

use super::key::Path;
use crate::user_error::UserError;

/// One `--set`.
#[derive(Clone, Debug)]
pub struct Override {
    /// The key it sets.
    pub path: Path,
    /// Its value.
    pub value: Value,
    text: String,
    bare_none: bool,
}

impl Override {
    /// Reads `section.key=value`.
    ///
    /// # Errors
    /// No `=`, an empty key or value, or a value that starts like a TOML list, table or quoted text and does not end like one.
    pub fn parse(text: &str) -> Result<Override, UserError> {
        let wrong = |what: &str| {
            UserError::new(what)
                .at(Some(format!("--set {text}")))
                .help("write --set section.key=value, such as --set train.rounds=3")
        };
        let (key, raw) = text.split_once('=').ok_or_else(|| wrong("an override without `=`"))?;
        let path: Path = key.split('.').map(|part| part.trim().to_string()).collect();
        if path.iter().any(String::is_empty) {
            return Err(wrong("an override without a key"));
        }
        let value = value(raw.trim()).map_err(|reason| wrong(&reason))?;
        Ok(Override { path, value, text: text.to_string(), bare_none: raw.trim() == "none" })
    }

    /// Whether the value is the word `none` without quotes, which takes an optional key away.
    pub fn is_none(&self) -> bool {
        self.bare_none
    }

    /// The part of it that sets one key of the section that it sets.
    pub fn inside(&self, key: &str, value: &Value) -> Override {
        let path = self.path.iter().cloned().chain([key.to_owned()]).collect();
        Override { path, value: value.clone(), ..self.clone() }
    }

    /// What a message gives as the place of this value.
    pub fn place(&self) -> String {
        format!("--set {}", self.text)
    }
}

/// A TOML value; what is not one and does not look like one is text.
fn value(raw: &str) -> Result<Value, String> {
    if raw.is_empty() {
        return Err("an override without a value".into());
    }
    let parsed = toml::from_str::<Table>(&format!("value = {raw}"));
    match parsed {
        Ok(mut table) if table.len() == 1 && !raw.contains('\n') => Ok(table.remove("value").expect("its only key")),
        // TOML's whole numbers have 64 bits and a sign.
        Err(_) if is_whole(raw) && raw.replace('_', "").parse::<i64>().is_err() => {
            Err(format!("{raw} is beyond the whole numbers of TOML, which end at {}", i64::MAX))
        }
        // A template such as {question}, which is no table.
        Err(_) if raw.starts_with('{') && !raw.contains('=') => Ok(Value::String(raw.to_string())),
        Err(error) if raw.starts_with(['"', '\'', '[', '{']) => Err(format!("not a TOML value: {}", error.message())),
        _ => Ok(Value::String(raw.to_string())),
    }
}

/// Whether the text is a whole number of any size.
fn is_whole(raw: &str) -> bool {
    let digits = raw.strip_prefix(['-', '+']).unwrap_or(raw);
    digits.starts_with(|c: char| c.is_ascii_digit()) && digits.chars().all(|c| c.is_ascii_digit() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value_of(text: &str) -> Value {
        Override::parse(text).expect("valid").value
    }

    #[test]
    fn values_are_toml_and_words_are_text() {
        assert_eq!(value_of("a.b=3"), Value::Integer(3));
        assert_eq!(value_of("a.b=1e-3"), Value::Float(1e-3));
        assert_eq!(value_of("a.b=true"), Value::Boolean(true));
        assert_eq!(value_of("data.response={answer}"), Value::String("{answer}".into()));
        assert_eq!(value_of("data.prompt={a}: {b}"), Value::String("{a}: {b}".into()));
        assert_eq!(value_of("a.b=lora-a2"), Value::String("lora-a2".into()));
        assert_eq!(value_of("a.b=../some/folder"), Value::String("../some/folder".into()));
        assert_eq!(value_of("a.b=\"3\""), Value::String("3".into()));
        assert_eq!(value_of("a.b=[1, 2]"), Value::Array(vec![Value::Integer(1), Value::Integer(2)]));
        assert_eq!(value_of("a=x=y"), Value::String("x=y".into()));
        assert!(value_of("data.partition={ kind = \"iid\" }").is_table());
    }

    #[test]
    fn whole_numbers_that_toml_does_not_have_are_told_so() {
        assert_eq!(value_of("train.seed=9223372036854775807"), Value::Integer(i64::MAX));
        assert_eq!(value_of("name=007"), Value::String("007".into()));
        for number in ["18446744073709551615", "9_223_372_036_854_775_808", "-9223372036854775809"] {
            let error = Override::parse(&format!("train.seed={number}")).expect_err("too large");
            assert!(error.what.contains(number) && error.what.contains("which end at 9223372036854775807"), "{error}");
        }
    }

    #[test]
    fn broken_overrides_name_themselves() {
        for text in ["rounds", "=3", "a..b=3", "a.b=", "a.b=[1,", "a.b=\"x"] {
            let error = Override::parse(text).expect_err("broken");
            assert_eq!(error.place, Some(format!("--set {text}")));
        }
    }
}
