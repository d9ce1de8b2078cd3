//! A TOML file as a table that remembers on which line each key stood, and which `--set` last touched it.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::key::{Path, remove};
use super::overrides::Override;
use crate::user_error::UserError;

/// What helps with a Windows path.
const BACKSLASHES: &str =
    "between double quotes a backslash begins an escape: write 'C:\\folder' between single quotes, or \"C:/folder\"";

/// Sections that are one of several kinds, each with keys of its own.
const WHOLE: [&str; 3] = ["strategy", "privacy", "attack"];

/// A configuration before it is checked.
#[derive(Clone, Debug)]
pub struct Document {
    /// The values, overrides included.
    pub table: Table,
    name: String,
    lines: BTreeMap<Path, usize>,
    overrides: Vec<Override>,
}

impl Document {
    /// Reads TOML text; `name` is what messages call the file.
    ///
    /// # Errors
    /// Text that is not TOML, with its line.
    pub fn parse(name: &str, text: &str) -> Result<Document, UserError> {
        let spanned = DeTable::parse(text).map_err(|error| {
            let line = error.span().map(|span| Lines::of(text).at(span.start));
            let wrong = UserError::new(format!("not valid TOML: {}", error.message())).at(Some(place(name, line)));
            match line.and_then(|line| text.lines().nth(line - 1)).filter(|line| line.contains('\\')) {
                Some(_) => wrong.help(BACKSLASHES),
                None => wrong,
            }
        })?;
        let mut lines = BTreeMap::new();
        note_lines(spanned.get_ref(), &Lines::of(text), &mut Vec::new(), &mut lines);
        let table = toml::from_str(text).map_err(|error: toml::de::Error| {
            UserError::new(format!("not valid TOML: {}", error.message())).at(Some(place(name, None)))
        })?;
        Ok(Document { table, name: name.to_string(), lines, overrides: Vec::new() })
    }

    /// A configuration that was never text, so that its keys stand on no lines.
    pub fn of(name: &str, table: Table) -> Document {
        Document { table, name: name.to_string(), lines: BTreeMap::new(), overrides: Vec::new() }
    }

    /// Puts an override's value in place, making the tables on the way. Of a whole section the keys that are given are set, and the
    /// others stay; what is named by a key of its own (`strategy.name`, `privacy.kind`) is another thing with other keys, and takes the
    /// place of what was there.
    ///
    /// # Errors
    /// A path that leads through something that is not a table.
    pub fn apply(&mut self, change: Override) -> Result<(), UserError> {
        if let ([section], Value::Table(inner)) = (&change.path[..], &change.value)
            && !WHOLE.contains(&section.as_str())
        {
            let keys: Vec<Override> = inner.iter().map(|(key, value)| change.inside(key, value)).collect();
            return keys.into_iter().try_for_each(|change| self.apply(change));
        }
        let (last, parents) = change.path.split_last().expect("an override has at least one key");
        let mut table = &mut self.table;
        for (depth, key) in parents.iter().enumerate() {
            let value = table.entry(key.clone()).or_insert_with(|| Value::Table(Table::new()));
            let Value::Table(inner) = value else {
                let path = parents[..=depth].join(".");
                return Err(UserError::new(format!("`{path}` holds a value, so nothing can be set inside it"))
                    .at(Some(change.place())));
            };
            table = inner;
        }
        table.insert(last.clone(), change.value.clone());
        self.overrides.push(change);
        Ok(())
    }

    /// Takes a key away, so that its default holds.
    pub fn unset(&mut self, change: Override) {
        remove(&mut self.table, &change.path);
        self.overrides.push(change);
    }

    /// Whether `path` itself, or something around it, was given with `--set`.
    pub fn is_overridden(&self, path: &[String]) -> bool {
        self.overrides.iter().any(|change| path.starts_with(&change.path))
    }

    /// What is to be known of keys that were given by more than one `--set`: the last one holds.
    pub fn given_twice(&self) -> Vec<String> {
        let twice = self.overrides.iter().enumerate().filter_map(|(at, last)| {
            let before: Vec<&Override> = self.overrides[..at].iter().filter(|one| one.path == last.path).collect();
            let later = self.overrides[at + 1..].iter().any(|one| one.path == last.path);
            let said = before.iter().map(|one| one.place()).collect::<Vec<_>>().join("` and `");
            let key = last.path.join(".");
            (!before.is_empty() && !later)
                .then(|| format!("{key} is given more than once: `{}` holds, `{said}` does not", last.place()))
        });
        twice.collect()
    }

    /// Where a reader finds the value at `path`: the `--set` text, or file and line of the nearest key.
    pub fn place_of(&self, path: &[String]) -> String {
        let around = self.overrides.iter().rev().find(|change| path.starts_with(&change.path));
        let inside = self.overrides.iter().rev().find(|change| change.path.starts_with(path));
        if let Some(change) = around.or(inside) {
            return change.place();
        }
        let line = (1..=path.len()).rev().find_map(|n| self.lines.get(&path[..n]));
        place(&self.name, line.copied())
    }

    /// The line on which `path` itself stands.
    pub fn line_of(&self, path: &[String]) -> Option<usize> {
        self.lines.get(path).copied()
    }

    /// The value at `path`.
    pub fn get(&self, path: &[String]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(self.table.get(first)?, |value, key| value.as_table()?.get(key))
    }
}

/// `name, line n`.
fn place(name: &str, line: Option<usize>) -> String {
    match line {
        Some(line) => format!("{name}, line {line}"),
        None => name.to_string(),
    }
}

/// Where the lines of a text end, so that many offsets are looked up in little time.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Lines {
        Lines(text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect())
    }

    /// Line of a byte offset, from 1.
    fn at(&self, offset: usize) -> usize {
        self.0.partition_point(|&end| end < offset) + 1
    }
}

/// Writes down the line of every key below `table`.
fn note_lines(table: &DeTable<'_>, text: &Lines, path: &mut Path, lines: &mut BTreeMap<Path, usize>) {
    for (key, value) in table {
        path.push(key.get_ref().to_string());
        lines.insert(path.clone(), text.at(key.span().start));
        if let DeValue::Table(inner) = value.get_ref() {
            note_lines(inner, text, path, lines);
        }
        path.pop();
    }
}

/// The innermost key of `text` whose name or value covers the byte `offset`; empty when only the root does.
pub fn path_at(text: &str, offset: usize) -> Path {
    let mut path = Vec::new();
    if let Ok(root) = DeTable::parse(text) {
        descend(root.get_ref(), offset, &mut path);
    }
    path
}

fn descend(table: &DeTable<'_>, offset: usize, path: &mut Path) {
    let covers = |span: std::ops::Range<usize>| span.contains(&offset);
    for (key, value) in table {
        path.push(key.get_ref().to_string());
        if let DeValue::Table(inner) = value.get_ref() {
            let before = path.len();
            descend(inner, offset, path);
            if path.len() > before {
                return;
            }
        }
        if covers(key.span()) || covers(Spanned::span(value)) {
            return;
        }
        path.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Path {
        text.split('.').map(str::to_string).collect()
    }

    #[test]
    fn keys_know_their_lines() {
        let text = "name = \"a\"\n\n[train]\n# why\nrounds = 3\n[strategy]\nname = \"x\"\nprobe = { epochs = 2,\n reset = true }\n";
        let document = Document::parse("a.toml", text).expect("valid");
        assert_eq!(document.place_of(&path("train.rounds")), "a.toml, line 5");
        assert_eq!(document.place_of(&path("strategy.probe.reset")), "a.toml, line 9");
        assert_eq!(document.place_of(&path("train.nothing")), "a.toml, line 3");
        assert_eq!(document.place_of(&path("nowhere.nothing")), "a.toml");
    }

    #[test]
    fn two_hundred_thousand_keys_are_read() {
        // A look at all lines for every key would be forty thousand million of them.
        let count = 200_000;
        let keys: String = (0..count).map(|key| format!("k{key} = {key}\n")).collect();
        let document = Document::parse("a.toml", &format!("[train]\n{keys}")).expect("valid");
        let last = document.place_of(&path(&format!("train.k{}", count - 1)));
        assert_eq!(last, format!("a.toml, line {}", count + 1));
    }

    #[test]
    fn broken_toml_has_a_line() {
        let error = Document::parse("a.toml", "a = 1\nb = = 2\n").expect_err("broken");
        assert_eq!(error.place.as_deref(), Some("a.toml, line 2"));
    }

    #[test]
    fn overrides_are_their_own_place() {
        let mut document = Document::parse("a.toml", "[train]\nrounds = 3\n").expect("valid");
        document.apply(Override::parse("train.rounds=4").expect("valid")).expect("applies");
        document.apply(Override::parse("new.section.key=word").expect("valid")).expect("applies");
        assert_eq!(document.place_of(&path("new.section")), "--set new.section.key=word");
        assert_eq!(document.place_of(&path("train.rounds")), "--set train.rounds=4");
        assert_eq!(document.get(&path("new.section.key")), Some(&Value::String("word".into())));
        assert!(document.apply(Override::parse("train.rounds.x=4").expect("valid")).is_err());
    }

    #[test]
    fn offsets_lead_back_to_keys() {
        let text = "name = \"a\"\n[train]\nrounds = 3\n[strategy.probe]\nepochs = \"x\"\n";
        let at = |needle: &str| path_at(text, text.find(needle).expect("there"));
        assert_eq!(at("rounds"), path("train.rounds"));
        assert_eq!(at("\"x\""), path("strategy.probe.epochs"));
        assert_eq!(at("[train]"), path("train"));
    }
}
