//! Which spans of words tags such as `B-PER` and `I-PER` stand for: what seqeval's `get_entities` finds in its default mode, which reads
//! IOB1, IOB2 and IOBES alike and is what conlleval does.

use std::collections::BTreeSet;

/// What the tags of a set say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tags {
    /// Of every tag its first letter and what comes after it, as an index into `types`.
    parts: Vec<(char, usize)>,
    types: Vec<String>,
    /// What stands outside.
    outside: (char, usize),
}

/// Words that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// What they are: an index into [`Tags::types`].
    pub kind: usize,
    /// The first word, from 0.
    pub start: usize,
    /// The word after the last.
    pub end: usize,
}

/// The first letters by which spans are written: inside, outside, begin; end and single, or last and unit.
const LETTERS: &str = "IOBESLU";

impl Tags {
    /// Of the tags' names, which are the classes of words in this order.
    pub fn of(names: &[String]) -> Tags {
        let parts = names.iter().map(|name| split(name));
        let types: BTreeSet<&str> = parts.clone().filter(|(letter, _)| *letter != 'O').map(|(_, kind)| kind).collect();
        let types: Vec<String> = types.into_iter().map(str::to_owned).collect();
        let place = |(letter, kind): (char, &str)| {
            (letter, types.binary_search_by(|of| of.as_str().cmp(kind)).unwrap_or(types.len()))
        };
        let (outside, parts) = (place(split("O")), parts.map(place).collect());
        Tags { parts, types, outside }
    }

    /// The types of spans, by name.
    pub fn types(&self) -> &[String] {
        &self.types
    }

    /// The spans of a sentence's words, whose tags are `classes`.
    ///
    /// # Panics
    /// If a class is none of the tags.
    pub fn spans(&self, classes: &[usize]) -> Vec<Span> {
        let mut spans = Vec::new();
        let mut before: (char, Option<usize>) = ('O', None);
        let mut start = 0;
        // A last tag outside ends what is open.
        let tags = classes.iter().map(|&class| self.parts[class]).chain([self.outside]);
        for (at, tag) in tags.map(|(letter, kind)| (letter, Some(kind))).enumerate() {
            if ends(before, tag) {
                spans.push(Span { kind: before.1.unwrap_or_default(), start, end: at });
            }
            if starts(before, tag) {
                start = at;
            }
            before = tag;
        }
        spans
    }

    /// The first name that is no tag of a span: neither `O` nor a letter, a hyphen and a type.
    pub fn first_other(names: &[String]) -> Option<&String> {
        let is_tag = |name: &&String| {
            let mut letters = name.chars();
            let first = letters.next().is_some_and(|letter| LETTERS.contains(letter));
            first && matches!((letters.next(), letters.next()), (None, _) | (Some('-'), Some(_)))
        };
        names.iter().find(|name| !is_tag(name))
    }
}

/// A tag's first letter and its type: what follows the first hyphen, `_` where there is nothing.
fn split(name: &str) -> (char, &str) {
    let mut letters = name.chars();
    let letter = letters.next().unwrap_or('O');
    let rest = letters.as_str();
    let kind = rest.split_once('-').map_or(rest, |(_, kind)| kind);
    (letter, if kind.is_empty() { "_" } else { kind })
}

type Tag = (char, Option<usize>);

/// Whether a span ended before `now`.
fn ends(before: Tag, now: Tag) -> bool {
    match (before.0, now.0) {
        ('E' | 'S', _) | ('B' | 'I', 'B' | 'S' | 'O') => true,
        (letter, _) => letter != 'O' && letter != '.' && before.1 != now.1,
    }
}

/// Whether a span starts at `now`.
fn starts(before: Tag, now: Tag) -> bool {
    match (before.0, now.0) {
        (_, 'B' | 'S') | ('E' | 'S' | 'O', 'E' | 'I') => true,
        (_, letter) => letter != 'O' && letter != '.' && before.1 != now.1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sentences of all kinds of tags with what `seqeval.metrics.sequence_labeling.get_entities` finds in each
    /// (`scripts/fixtures/make_span_fixtures.py`).
    #[test]
    fn spans_are_those_of_seqeval() {
        let file: serde_json::Value = serde_json::from_str(include_str!("../tests/fixtures/spans.json")).expect("JSON");
        let sentences = file["sentences"].as_array().expect("a list");
        assert!(sentences.len() > 300);
        for sentence in sentences {
            let words: Vec<String> = serde_json::from_value(sentence["tags"].clone()).expect("tags");
            let tags = Tags::of(&words);
            let classes: Vec<usize> = (0..words.len()).collect();
            let found: Vec<(String, usize, usize)> = tags
                .spans(&classes)
                .into_iter()
                .map(|span| (tags.types()[span.kind].clone(), span.start, span.end - 1))
                .collect();
            let expected: Vec<(String, usize, usize)> =
                serde_json::from_value(sentence["spans"].clone()).expect("spans");
            assert_eq!(found, expected, "{words:?}");
        }
    }

    #[test]
    fn other_tags_are_told_from_those_of_spans() {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(Tags::first_other(&owned(&["O", "B-PER", "I-PER", "S-a-b", "U-X", "L-X"])), None);
        for other in ["NOUN", "", "B-", "X-PER", "0", "BPER"] {
            assert_eq!(Tags::first_other(&owned(&["O", other])).map(String::as_str), Some(other));
        }
        assert_eq!(Tags::of(&owned(&["O", "I-b", "B-a", "B-b"])).types(), ["a", "b"]);
    }
}
