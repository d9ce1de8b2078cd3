//! How good a classifier is with each class, and what each is taken for; of tagged words, with each type of span.

use bonfire_engine::{Confusion, RowEvaluation, Tally};
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
    /// What its examples were said to be when they were not said to be this, most often first; none where a text may have several.
    #[serde(skip_serializing_if = "Option::is_none")]
    taken_for: Option<Vec<Taken<'l>>>,
}

/// A wrong class, and how often it was said.
#[derive(Debug, PartialEq, Serialize)]
struct Taken<'l> {
    label: &'l str,
    examples: u64,
}

/// The classes that occur among those of `rows` that were evaluated, in the order of their numbers; `None` where there are none.
pub fn of<'l>(evaluated: &[Option<RowEvaluation>], rows: &[usize], names: &'l [String]) -> Option<Vec<Row<'l>>> {
    if let Some(confusion) = Confusion::of(evaluated, rows) {
        return Some(rows_of(&confusion, names));
    }
    let tally = Tally::of(evaluated, rows)?;
    let row = |(class, counts): (usize, &[u64; 3])| {
        let score = tally.class(class);
        let (label, examples) = (names.get(class).map_or("?", String::as_str), score.examples);
        let (precision, recall, f1) = (score.precision, score.recall, score.f1);
        (*counts != [0; 3]).then_some(Row { label, examples, precision, recall, f1, taken_for: None })
    };
    Some(tally.classes.iter().enumerate().filter_map(row).collect())
}

fn rows_of<'l>(confusion: &Confusion, labels: &'l [String]) -> Vec<Row<'l>> {
    let name = |class: usize| labels.get(class).map_or("?", String::as_str);
    let row = |class: usize| {
        let score = confusion.class(class);
        let wrong = (0..confusion.classes()).filter(|&said| said != class);
        let mut taken_for: Vec<Taken> =
            wrong.map(|said| Taken { label: name(said), examples: confusion.count(class, said) }).collect();
        taken_for.retain(|taken| taken.examples > 0);
        taken_for.sort_by_key(|taken| std::cmp::Reverse(taken.examples));
        let (precision, recall, f1) = (score.precision, score.recall, score.f1);
        Row { label: name(class), examples: score.examples, precision, recall, f1, taken_for: Some(taken_for) }
    };
    (0..confusion.classes()).map(row).filter(|row| row.examples > 0 || row.precision > 0.0).collect()
}

/// The same to be read, the worst class first.
pub fn table(rows: &[Row]) -> String {
    let mut rows: Vec<&Row> = rows.iter().collect();
    rows.sort_by(|a, b| a.f1.total_cmp(&b.f1));
    let takes = rows.iter().any(|row| row.taken_for.is_some());
    let line = |row: &&Row| {
        let taken = row
            .taken_for
            .iter()
            .flatten()
            .take(SHOWN)
            .map(|taken| format!("{} {}", taken.examples, one_line(taken.label)));
        let mut cells = vec![
            one_line(row.label),
            row.examples.to_string(),
            percent(row.precision),
            percent(row.recall),
            percent(row.f1),
        ];
        cells.extend(takes.then(|| taken.collect::<Vec<_>>().join(", ")));
        cells
    };
    let head = ["class", "examples", "precision", "recall", "F1", "taken for"];
    let head: Vec<String> = head.into_iter().take(if takes { 6 } else { 5 }).map(String::from).collect();
    aligned(&[vec![head], rows.iter().map(line).collect()].concat())
}
