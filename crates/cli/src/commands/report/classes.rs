//! How good a run's classifier is with each class, as far as it can be seen on a page.

use bonfire_engine::Tally;
use bonfire_experiment::classes_file::ClassesFile;
use bonfire_federation::Summary;
use serde::Serialize;

use super::downsample::short;

/// Classes of the table at most: the worst.
const LISTED: usize = 100;
/// Classes of the matrix at most: those that are most often taken for others.
const DRAWN: usize = 40;

/// What the last evaluation took for what.
#[derive(Serialize)]
pub struct ClassesData {
    round: usize,
    /// Of the clients' own models in place of the global one.
    personal: bool,
    /// All classes that occur.
    all: usize,
    /// A row a class, the worst first.
    rows: Vec<ClassRow>,
    /// Names of the classes of the matrix, in their order.
    drawn: Vec<String>,
    /// `[right][said]`.
    cells: Vec<Vec<u64>>,
}

/// A class.
#[derive(Serialize)]
struct ClassRow {
    name: String,
    examples: u64,
    precision: f64,
    recall: f64,
    f1: f64,
}

impl ClassesData {
    /// Of what a run left, whose last round is that of `summary`; `None` where a later round has no such file.
    pub fn of(file: ClassesFile, summary: &Summary) -> Option<ClassesData> {
        if file.round > summary.rounds {
            return None;
        }
        if let Some(tally) = &file.found {
            return ClassesData::of_tally(&file, tally);
        }
        let confusion = file.confusion()?;
        let name = |class: usize| file.labels.get(class).cloned().unwrap_or_else(|| class.to_string());
        let said = |class: usize| (0..confusion.classes()).map(|right| confusion.count(right, class)).sum::<u64>();
        let there: Vec<usize> =
            (0..confusion.classes()).filter(|&class| confusion.class(class).examples + said(class) > 0).collect();
        let mut worst = there.clone();
        worst.sort_by(|&x, &y| confusion.class(x).f1.total_cmp(&confusion.class(y).f1).then(x.cmp(&y)));
        let row = |&class: &usize| {
            let score = confusion.class(class);
            let [precision, recall, f1] = [score.precision, score.recall, score.f1].map(short);
            ClassRow { name: name(class), examples: score.examples, precision, recall, f1 }
        };
        // Wrong either way.
        let wrong = |class: usize| confusion.class(class).examples + said(class) - 2 * confusion.count(class, class);
        let mut drawn = there.clone();
        drawn.sort_by_key(|&class| (std::cmp::Reverse(wrong(class)), class));
        drawn.truncate(DRAWN);
        drawn.sort_unstable();
        Some(ClassesData {
            round: file.round,
            personal: file.personal,
            all: there.len(),
            rows: worst.iter().take(LISTED).map(row).collect(),
            cells: drawn
                .iter()
                .map(|&right| drawn.iter().map(|&said| confusion.count(right, said)).collect())
                .collect(),
            drawn: drawn.into_iter().map(name).collect(),
        })
    }

    /// Of labels or spans of which a text may have several: none is taken for another.
    fn of_tally(file: &ClassesFile, tally: &Tally) -> Option<ClassesData> {
        let mut there: Vec<usize> = (0..tally.classes.len()).filter(|&class| tally.classes[class] != [0; 3]).collect();
        there.sort_by(|&x, &y| tally.class(x).f1.total_cmp(&tally.class(y).f1).then(x.cmp(&y)));
        let row = |&class: &usize| {
            let score = tally.class(class);
            let [precision, recall, f1] = [score.precision, score.recall, score.f1].map(short);
            let name = file.labels.get(class).cloned().unwrap_or_else(|| class.to_string());
            ClassRow { name, examples: score.examples, precision, recall, f1 }
        };
        let rows: Vec<ClassRow> = there.iter().take(LISTED).map(row).collect();
        let (round, personal, all) = (file.round, file.personal, there.len());
        (all > 0).then_some(ClassesData { round, personal, all, rows, drawn: Vec::new(), cells: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use bonfire_engine::Counted;

    use super::*;

    fn summary(rounds: usize) -> Summary {
        serde_json::from_value(serde_json::json!({
            "name": "a", "strategy": "fedit", "seed": 1, "device": "cpu", "rounds": rounds, "clients": 2,
            "final_accuracy": 0.5, "best_accuracy": 0.5, "upload_params": 1, "upload_bytes": 1, "download_params": 1,
            "download_bytes": 1, "trainable_params": 1, "train_seconds": 1.0, "tokens_trained": 1, "tokens_per_second": 1.0,
        }))
        .expect("a summary")
    }

    #[test]
    fn types_of_spans_are_listed_and_nothing_is_drawn() {
        let found = Some(Tally { counted: Counted::Spans, classes: vec![[4, 4, 3], [0, 0, 0], [2, 6, 2]] });
        let labels = ["LOC", "MISC", "PER"].map(String::from).to_vec();
        let file = ClassesFile { round: 2, personal: false, labels, counts: Vec::new(), found };
        let data = ClassesData::of(file, &summary(2)).expect("types");
        let rows: Vec<_> =
            data.rows.iter().map(|row| (row.name.as_str(), row.examples, row.precision, row.f1)).collect();
        assert_eq!(rows, [("PER", 2, short(1.0 / 3.0), 0.5), ("LOC", 4, 0.75, 0.75)]);
        assert_eq!((data.all, data.drawn.len(), data.cells.len()), (2, 0, 0));
    }

    #[test]
    fn the_worst_classes_are_listed_and_those_that_are_mistaken_are_drawn() {
        // 150 classes; each is right nine times, and of class 3 nine more are taken for class 140.
        let mut counts: Vec<[u64; 3]> = (0..150).map(|class| [class, class, 9]).collect();
        counts.push([3, 140, 9]);
        let labels = (0..150).map(|class| format!("l{class}")).collect();
        let file = ClassesFile { round: 2, personal: false, labels, counts, found: None };
        assert!(ClassesData::of(file.clone(), &summary(1)).is_none(), "of a round that was given up");
        let data = ClassesData::of(file, &summary(2)).expect("classes");
        assert_eq!((data.all, data.rows.len(), data.drawn.len()), (150, 100, 40));
        // F1 of both: 2·9 / (18 + 9).
        assert_eq!((data.rows[0].name.as_str(), data.rows[1].name.as_str()), ("l3", "l140"));
        assert_eq!((data.rows[0].recall, data.rows[0].precision, data.rows[0].examples), (0.5, 1.0, 18));
        assert!((data.rows[0].f1 - 2.0 / 3.0).abs() < 1e-3);
        let at = |name: &str| data.drawn.iter().position(|other| other == name).expect("drawn");
        assert_eq!(data.cells[at("l3")][at("l140")], 9);
    }
}
