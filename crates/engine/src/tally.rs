//! Scores of what a text may have several of, or none: spans of words, labels.

use std::sync::Arc;

use bonfire_data::Tags;
use serde::{Deserialize, Serialize};

use crate::{ClassScore, ClassScores, RowEvaluation};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Counted {
    /// Spans of words, by type.
    Spans,
    /// Labels of texts.
    Labels,
}

/// How often something of each class was there, was said to be there, and was both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// What is counted.
    pub counted: Counted,
    /// `[there, said, both]` of every class.
    pub classes: Vec<[u64; 3]>,
}

/// Scores of spans over all types together, 0 to 1; 0 where there are none.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpanScores {
    /// The harmonic mean of precision and recall: seqeval's `f1_score`.
    pub f1: f64,
    /// Share of the spans said to be there that are, from the first word to the last and of that type.
    pub precision: f64,
    /// Share of the spans that are found.
    pub recall: f64,
}

/// What one text adds to a tally.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RowTally {
    counted: Counted,
    /// Classes that there are.
    of: usize,
    /// Those that occur here, each once.
    classes: Vec<(usize, [u64; 3])>,
}

impl RowTally {
    /// Of the labels that a text has and those that were said.
    pub fn labels(there: &[bool], said: &[bool]) -> RowTally {
        let of_label = |(label, (&there, &said)): (usize, (&bool, &bool))| {
            (there || said).then_some((label, [there, said, there && said].map(u64::from)))
        };
        let classes = there.iter().zip(said).enumerate().filter_map(of_label).collect();
        RowTally { counted: Counted::Labels, of: there.len(), classes }
    }

    /// Of the tags that a sentence's words have and those that were said.
    pub fn spans(tags: &Tags, there: &[usize], said: &[usize]) -> RowTally {
        let (there, said) = (tags.spans(there), tags.spans(said));
        let mut all = vec![[0u64; 3]; tags.types().len()];
        for span in &there {
            all[span.kind][0] += 1;
            all[span.kind][2] += u64::from(said.contains(span));
        }
        said.iter().for_each(|span| all[span.kind][1] += 1);
        let classes = all.into_iter().enumerate().filter(|(_, counts)| *counts != [0; 3]).collect();
        RowTally { counted: Counted::Spans, of: tags.types().len(), classes }
    }
}

impl Tally {
    /// Of those of `rows` that were evaluated; `None` where they have one answer each.
    pub fn of(evaluated: &[Option<RowEvaluation>], rows: &[usize]) -> Option<Tally> {
        let seen: Option<Vec<&Arc<RowTally>>> =
            rows.iter().filter_map(|&row| evaluated[row].as_ref()).map(|row| row.tally.as_ref()).collect();
        let seen = seen?;
        let first = seen.first()?;
        let mut classes = vec![[0; 3]; first.of];
        for (class, counts) in seen.iter().flat_map(|row| &row.classes) {
            (0..3).for_each(|i| classes[*class][i] += counts[i]);
        }
        Some(Tally { counted: first.counted, classes })
    }

    /// How good the model is with `class`.
    pub fn class(&self, class: usize) -> ClassScore {
        score(self.classes[class])
    }

    /// How good it is with all classes together: `average="micro"`.
    pub fn together(&self) -> ClassScore {
        score(self.classes.iter().fold([0; 3], |sum, counts| [0, 1, 2].map(|i| sum[i] + counts[i])))
    }

    /// Of spans, the scores over all types together.
    pub fn spans(&self) -> Option<SpanScores> {
        let ClassScore { f1, precision, recall, .. } = self.together();
        (self.counted == Counted::Spans).then_some(SpanScores { f1, precision, recall })
    }

    /// Of labels, the scores over all of them, those that never occur included.
    pub fn labels(&self) -> Option<ClassScores> {
        let mean = |of: fn(&ClassScore) -> f64| {
            self.classes.iter().map(|counts| of(&score(*counts))).sum::<f64>() / self.classes.len().max(1) as f64
        };
        (self.counted == Counted::Labels).then(|| ClassScores {
            macro_f1: mean(|class| class.f1),
            macro_precision: mean(|class| class.precision),
            macro_recall: mean(|class| class.recall),
            micro_f1: self.together().f1,
            matthews: None,
        })
    }
}

fn score([there, said, both]: [u64; 3]) -> ClassScore {
    let hit = both as f64;
    ClassScore {
        precision: hit / said.max(1) as f64,
        recall: hit / there.max(1) as f64,
        f1: 2.0 * hit / (there + said).max(1) as f64,
        examples: there,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(rows: Vec<RowTally>) -> Tally {
        let row = |tally: RowTally| Some(RowEvaluation { tally: Some(tally.into()), ..RowEvaluation::default() });
        let evaluated: Vec<_> = rows.into_iter().map(row).collect();
        Tally::of(&evaluated, &(0..evaluated.len()).collect::<Vec<_>>()).expect("counts")
    }

    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "{found}, expected {expected}");
    }

    /// Printed by `scripts/fixtures/make_span_fixtures.py`: `seqeval.metrics` of these sentences.
    #[test]
    fn scores_of_spans_are_those_of_seqeval() {
        let names = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"].map(String::from);
        let tags = Tags::of(&names);
        let right: [&[usize]; 4] = [&[3, 4, 0, 1], &[1, 2, 2, 0, 3], &[0, 0], &[3, 3, 4]];
        let said: [&[usize]; 4] = [&[3, 4, 0, 3], &[1, 2, 0, 0, 3], &[0, 1], &[3, 4, 4]];
        let found = tally(right.iter().zip(said).map(|(right, said)| RowTally::spans(&tags, right, said)).collect());
        let scores = found.spans().expect("spans");
        near(scores.precision, 0.3333333333333333);
        near(scores.recall, 0.3333333333333333);
        near(scores.f1, 0.3333333333333333);
        // Of two places none is found, of four persons two, and four are said to be there.
        assert_eq!((found.classes.as_slice(), found.class(1).examples), (&[[2, 2, 0], [4, 4, 2]][..], 4));
        assert!(found.labels().is_none());
    }

    /// Printed by the same: `sklearn.metrics` of an indicator matrix.
    #[test]
    fn scores_of_labels_are_those_of_scikit_learn() {
        let rows = [
            ([1, 0, 1, 0], [1, 0, 0, 0]),
            ([0, 0, 0, 0], [0, 0, 0, 0]),
            ([1, 1, 0, 0], [1, 0, 1, 0]),
            ([0, 1, 0, 0], [0, 1, 0, 0]),
            ([1, 0, 0, 0], [0, 1, 0, 0]),
        ];
        let truth = |row: [u8; 4]| row.map(|there| there == 1);
        let found = tally(rows.map(|(right, said)| RowTally::labels(&truth(right), &truth(said))).to_vec());
        let scores = found.labels().expect("labels");
        near(found.together().precision, 0.6);
        near(found.together().recall, 0.5);
        near(scores.micro_f1, 0.5454545454545454);
        near(scores.macro_precision, 0.375);
        near(scores.macro_recall, 0.29166666666666663);
        near(scores.macro_f1, 0.325);
        assert!(found.spans().is_none() && scores.matthews.is_none());
    }

    #[test]
    fn rows_with_one_answer_have_no_tally() {
        assert_eq!(Tally::of(&[Some(RowEvaluation::default())], &[0]), None);
        assert_eq!(Tally::of(&[None], &[0]), None);
    }
}
