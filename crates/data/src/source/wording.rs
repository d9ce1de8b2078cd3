//! Prompts and responses made of a row's columns, by templates such as `Question: {question}`.

use std::fmt;

use crate::DataError;

/// How prompt and response are made of a row's columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wording {
    pub(super) prompt: Template,
    pub(super) response: Template,
}

impl Wording {
    /// Reads the two templates: text with columns in braces; `{{` and `}}` stand for braces.
    ///
    /// # Errors
    /// [`DataError::Wording`] for braces that do not close and for a response that holds no column.
    pub fn parse(prompt: &str, response: &str) -> Result<Wording, DataError> {
        let bad = |key| move |problem: String| DataError::Wording { key, problem };
        let prompt = Template::parse(prompt).map_err(bad("prompt"))?;
        let response = Template::parse(response).map_err(bad("response"))?;
        if response.columns().next().is_none() {
            return Err(bad("response")("names no column, so that all responses would be the same".to_owned()));
        }
        Ok(Wording { prompt, response })
    }
}

/// Text with columns in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Column(String),
}

impl fmt::Display for Template {
    /// As it is written in a configuration.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.iter().try_for_each(|piece| match piece {
            Piece::Text(plain) => f.write_str(&plain.replace('{', "{{").replace('}', "}}")),
            Piece::Column(name) => write!(f, "{{{name}}}"),
        })
    }
}

impl Template {
    fn parse(text: &str) -> Result<Template, String> {
        let (mut pieces, mut plain, mut rest) = (Vec::new(), String::new(), text);
        while let Some(at) = rest.find(['{', '}']) {
            let brace = &rest[at..=at];
            plain.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                plain.push_str(brace);
                rest = after;
                continue;
            }
            let closing = rest.find(['{', '}']).filter(|end| brace == "{" && rest[*end..].starts_with('}'));
            let Some(end) = closing else {
                return Err(format!(
                    "the brace after {:?} has no partner; a brace itself is written twice",
                    &text[..text.len() - rest.len() - 1]
                ));
            };
            pieces.push(Piece::Text(std::mem::take(&mut plain)));
            pieces.push(Piece::Column(rest[..end].to_owned()));
            rest = &rest[end + 1..];
        }
        plain.push_str(rest);
        pieces.push(Piece::Text(plain));
        Ok(Template(pieces))
    }

    /// The columns that it holds.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Column(name) => Some(name.as_str()),
            Piece::Text(_) => None,
        })
    }

    /// The text with every column's value in its place.
    pub fn fill<E>(&self, mut value: impl FnMut(&str) -> Result<String, E>) -> Result<String, E> {
        let mut text = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(plain) => text.push_str(plain),
                Piece::Column(name) => text.push_str(&value(name)?),
            }
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str) -> Result<String, String> {
        Template::parse(text)?.fill(|column| Ok(format!("<{column}>")))
    }

    #[test]
    fn columns_are_filled_in_and_braces_can_be_written() {
        assert_eq!(filled("Q: {question}\nA:").as_deref(), Ok("Q: <question>\nA:"));
        assert_eq!(filled("{a}{b c}").as_deref(), Ok("<a><b c>"));
        assert_eq!(filled("{{x}} {y}").as_deref(), Ok("{x} <y>"));
        assert_eq!(filled("").as_deref(), Ok(""));
        for text in ["Q: {question}\nA:", "{{x}} {y}"] {
            assert_eq!(Template::parse(text).map(|template| template.to_string()).as_deref(), Ok(text));
        }
    }

    #[test]
    fn braces_without_a_partner_are_refused() {
        for wrong in ["a {b", "a } b", "{a {b}", "{"] {
            assert!(filled(wrong).is_err_and(|problem| problem.contains("no partner")), "{wrong}");
        }
        let error = Wording::parse("{a}", "yes").expect_err("no column").to_string();
        assert!(error.starts_with("response: names no column"), "{error}");
    }
}
