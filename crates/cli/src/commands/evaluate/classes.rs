//! How good a classifier is with each class, and what each is taken for.

use bonfire_engine::Confusion;
use bonfire_experiment::format::table::aligned;
use bonfire_experiment::format::{one_line, percent};
use serde::Serialize;

/// Classes that a class is taken for, at most, in the table.
const SHOWN: usize = 3;

/// A class.
#[derive(Debug, PartialEq, Serialize)]
pub struct Row<'l> {
    label: &'l str,
    examples: u64,
    precision: f64,
    recall: f64,
    f1: f64,
    /// What its examples were said to be when they were not said to be this, most often first.
    taken_for: Vec<Taken<'l>>,
}

/// A wrong class, and how often it was said.
#[derive(Debug, PartialEq, Serialize)]
struct Taken<'l> {
    label: &'l str,
    examples: u64,
}

/// The classes that occur, in the order of their numbers.
pub fn rows<'l>(confusion: &Confusion, labels: &'l [String]) -> Vec<Row<'l>> {
    let name = |class: usize| labels.get(class).map_or("?", String::as_str);
    let row = |class: usize| {
        let score = confusion.class(class);
        let wrong = (0..confusion.classes()).filter(|&said| said != class);
        let mut taken_for: Vec<Taken> =
            wrong.map(|said| Taken { label: name(said), examples: confusion.count(class, said) }).collect();
        taken_for.retain(|taken| taken.examples > 0);
        taken_for.sort_by_key(|taken| std::cmp::Reverse(taken.examples));
        let (precision, recall, f1) = (score.precision, score.recall, score.f1);
        Row { label: name(class), examples: score.examples, precision, recall, f1, taken_for }
    };
    (0..confusion.classes()).map(row).filter(|row| row.examples > 0 || row.precision > 0.0).collect()
}

/// The same to be read, the worst class first.
pub fn table(confusion: &Confusion, labels: &[String]) -> String {
    let mut rows = rows(confusion, labels);
    rows.sort_by(|a, b| a.f1.total_cmp(&b.f1));
    let line = |row: &Row| {
        let taken =
            row.taken_for.iter().take(SHOWN).map(|taken| format!("{} {}", taken.examples, one_line(taken.label)));
        vec![
            one_line(row.label),
            row.examples.to_string(),
            percent(row.precision),
            percent(row.recall),
            percent(row.f1),
            taken.collect::<Vec<_>>().join(", "),
        ]
    };
    let head = ["class", "examples", "precision", "recall", "F1", "taken for"].map(String::from).to_vec();
    aligned(&[vec![head], rows.iter().map(line).collect()].concat())
}
