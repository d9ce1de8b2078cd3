//! What is read as it stands, and a user should know of: rows of nobody, test texts that training knows, labels that may be one.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::place::listed;
use super::read::Reading;
use super::{Content, Row};

/// Sets of fewer rows are somebody's try, of which shares say nothing.
const LEAST: usize = 20;

/// Test rows of a group that has no training rows belong to no client.
pub(super) fn groups(reading: &Reading, train: &[Row], test: &[Row], notes: &mut Vec<String>) {
    let (Some(column), false) = (&reading.group, train.is_empty()) else { return };
    let known: HashSet<&str> = train.iter().filter_map(|row| row.group.as_deref()).collect();
    let strange = || test.iter().filter_map(|row| row.group.as_deref()).filter(|group| !known.contains(group));
    let names: BTreeSet<&str> = strange().collect();
    if !names.is_empty() {
        notes.push(format!(
            "{} test rows have a {column:?} that no training row has ({}): they count for the federation's accuracy and for no client's",
            strange().count(),
            listed(names.into_iter())
        ));
    }
}

/// Test texts that stand in the training rows too: accuracy on them says little.
pub(super) fn texts(reading: &Reading, train: &[Row], test: &[Row], notes: &mut Vec<String>) {
    if reading.causal || test.len() < LEAST {
        return;
    }
    // Of the two splits the test split is the one that is small enough to be held twice.
    let mut waiting: HashMap<(&str, &str), usize> = HashMap::new();
    test.iter().filter_map(|row| written(&row.content)).for_each(|text| *waiting.entry(text).or_default() += 1);
    let known = train.iter().filter_map(|row| written(&row.content));
    let twice: usize = known.filter_map(|text| waiting.remove(&text)).sum();
    // A few stock phrases are in every set.
    if twice * 20 >= test.len() {
        notes.push(format!(
            "{twice} of {} test texts stand in the training rows too; accuracy on texts that were trained on flatters",
            test.len()
        ));
    }
}

/// A text or a pair of which something is written.
fn written(content: &Content) -> Option<(&str, &str)> {
    let (first, second) = match content {
        Content::Text(text) => (text.trim(), ""),
        Content::Two(first, second) => (first.trim(), second.trim()),
        _ => return None,
    };
    (!first.is_empty() || !second.is_empty()).then_some((first, second))
}

/// Labels that are one but for upper and lower case, and sets that have hardly two rows of a label.
pub(super) fn labels(names: &[String], rows: usize, notes: &mut Vec<String>) {
    let mut seen: HashMap<String, &str> = HashMap::new();
    let mut alike = Vec::new();
    for name in names {
        match seen.get(name.to_lowercase().as_str()) {
            Some(first) => alike.push(format!("{first:?} and {name:?}")),
            None => drop(seen.insert(name.to_lowercase(), name)),
        }
    }
    if !alike.is_empty() {
        notes.push(format!(
            "labels that differ in case alone are labels apart: {}",
            listed(alike.iter().map(String::as_str))
        ));
    }
    if names.len() * 2 > rows && rows >= LEAST {
        notes.push(format!("{} labels of {rows} training rows: hardly two rows of each", names.len()));
    }
}
