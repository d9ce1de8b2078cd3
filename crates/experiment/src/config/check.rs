//! From a document to a checked configuration: finds the key at fault and says what is wrong with it.
//!
//! The structs that own the settings refuse unknown keys and wrong types themselves (serde); their complaint carries a place in
//! the text at most. So the merged document is written out as TOML and read back, and the place leads to the key. Where serde
//! buffers a table before reading it (enums told apart by `name` or `kind`), the place is the whole table; then the key is the one
//! whose removal changes the complaint.

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::document::{Document, path_at};
use super::explain::{self, Fault};
use super::key::{Path, remove};
use crate::user_error::UserError;

/// Keys that say which kind of table this is, with the table they stand in.
const TAGS: [(&[&str], &str); 7] = [
    (&["strategy"], "name"),
    (&["data", "partition"], "kind"),
    (&["train", "optimizer"], "name"),
    (&["server", "optimizer"], "name"),
    (&["server", "aggregate"], "name"),
    (&["privacy"], "kind"),
    (&["attack"], "kind"),
];

/// Keys that are tried at most to find the one at fault. No section has a tenth as many that are known.
const TRIES: usize = 300;

/// Reads the document as `T`.
///
/// When the tag of a table was overridden, keys of the old kind that stand in the file are dropped; each gives a notice.
///
/// # Errors
/// The first thing wrong, with its key, its place and what would be right.
pub fn read<T: DeserializeOwned>(document: &mut Document, notices: &mut Vec<String>) -> Result<T, UserError> {
    loop {
        let fault = match attempt::<T>(&document.table) {
            Ok(config) => return Ok(config),
            Err(fault) => fault,
        };
        match leftover(document, &fault) {
            Some(notice) => {
                notices.push(notice);
                remove(&mut document.table, &fault.path);
            }
            None => return Err(explain::mistake(document, &fault)),
        }
    }
}

/// Reads `table` as `T`, or finds the key at fault.
pub fn attempt<T: DeserializeOwned>(table: &Table) -> Result<T, Fault> {
    // A first line of its own keeps places of the root apart from those of the first section.
    let text = format!("#\n{table}");
    toml::from_str(&text).map_err(|error| {
        let message = error.message().to_string();
        let start = error.span().map(|span| path_at(&text, span.start)).unwrap_or_default();
        let path = narrow::<T>(table, start, &message);
        Fault { path, message }
    })
}

/// Follows `path` down to the key whose removal changes the complaint.
fn narrow<T: DeserializeOwned>(table: &Table, path: Path, message: &str) -> Path {
    if message.starts_with("missing field") {
        return path;
    }
    let changes = |candidate: &Path| {
        let mut without = table.clone();
        remove(&mut without, candidate);
        match toml::from_str::<T>(&without.to_string()) {
            Ok(_) => true,
            Err(error) => error.message() != message,
        }
    };
    let mut below = Vec::new();
    keys_below(table, &path, &mut below);
    // Every try reads the whole again.
    below.into_iter().take(TRIES).find(changes).unwrap_or(path)
}

/// Every key below the table at `path`, innermost first, tags last: without its tag any table is wrong.
fn keys_below(root: &Table, path: &Path, found: &mut Vec<Path>) {
    let Some(Value::Table(table)) = lookup(root, path) else { return };
    let is_tag = |key: &str| TAGS.iter().any(|(parent, tag)| *tag == key && parent.iter().eq(path.iter()));
    let (tags, others): (Vec<&String>, Vec<&String>) = table.keys().partition(|key| is_tag(key));
    for key in others.into_iter().chain(tags) {
        let child: Path = path.iter().chain([key]).cloned().collect();
        keys_below(root, &child, found);
        found.push(child);
    }
}

/// The value at `path` below `root`.
fn lookup<'a>(root: &'a Table, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(root.get(first)?, |value, key| value.as_table()?.get(key))
}

/// Whether `fault` is a key of the old kind in a table whose tag was overridden; then what to tell the user.
fn leftover(document: &Document, fault: &Fault) -> Option<String> {
    if !fault.message.starts_with("unknown field") || document.is_overridden(&fault.path) {
        return None;
    }
    let (parent, tag) = TAGS.iter().find(|(parent, _)| {
        fault.path.len() == parent.len() + 1 && parent.iter().zip(&fault.path).all(|(a, b)| a == b)
    })?;
    let tag_path: Path = parent.iter().chain([tag]).map(|key| key.to_string()).collect();
    let kind = document.get(&tag_path)?.as_str()?;
    let key = fault.path.join(".");
    let place = document.place_of(&fault.path);
    document
        .is_overridden(&tag_path)
        .then(|| format!("{key} ({place}) does not belong to {} {kind:?} and is left out", parent.join(".")))
}
