//! Scores of a classifier beside its accuracy, from how often each class was taken for each other.

use serde::{Deserialize, Serialize};

use crate::RowEvaluation;

/// How often each class was taken for each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    /// `counts[right * classes + said]`.
    counts: Vec<u64>,
}

/// How good a classifier is with one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClassScore {
    /// Share of the examples said to be of this class that are; 0 where there is none.
    pub precision: f64,
    /// Share of the examples of this class that are said to be; 0 where there is none.
    pub recall: f64,
    /// The harmonic mean of the two.
    pub f1: f64,
    /// Examples of this class.
    pub examples: u64,
}

/// Scores over all classes, 0 to 1 but for `matthews`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassScores {
    /// Mean F1 of the classes that occur, among the right answers or among those given, as scikit-learn's `average="macro"`.
    pub macro_f1: f64,
    /// Their mean precision.
    pub macro_precision: f64,
    /// Their mean recall.
    pub macro_recall: f64,
    /// F1 over all answers together, `average="micro"`: where every text has one label, its precision and its recall are the same and
    /// equal the accuracy.
    pub micro_f1: f64,
    /// Matthews' correlation of answers and classes, −1 to 1; for more than two classes that of Gorodkin (2004). CoLA's score. 0
    /// where one of the two is always the same; none where a text may have several labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matthews: Option<f64>,
}

impl Confusion {
    /// Of those of `rows` that were evaluated; `None` where they are no classes.
    pub fn of(evaluated: &[Option<RowEvaluation>], rows: &[usize]) -> Option<Confusion> {
        let pairs: Option<Vec<[usize; 2]>> =
            rows.iter().filter_map(|&row| evaluated[row].as_ref()).map(|row| row.class).collect();
        let pairs = pairs.filter(|pairs| !pairs.is_empty())?;
        let classes = pairs.iter().flatten().max()? + 1;
        let mut counts = vec![0; classes * classes];
        pairs.iter().for_each(|[right, said]| counts[right * classes + said] += 1);
        Some(Confusion { classes, counts })
    }

    /// From counts of `[right, said, examples]`, as [`Self::counts`] gives them; `None` where there are none.
    pub fn of_counts(counts: &[[u64; 3]]) -> Option<Confusion> {
        const MOST: u64 = 20_000;
        let classes = counts.iter().flat_map(|[right, said, _]| [*right, *said]).max()? + 1;
        if classes > MOST {
            return None;
        }
        let mut it = Confusion { classes: classes as usize, counts: vec![0; (classes * classes) as usize] };
        for [right, said, examples] in counts {
            let count = &mut it.counts[(right * classes + said) as usize];
            *count = count.saturating_add(*examples);
        }
        Some(it)
    }

    /// `[right, said, examples]` of every pair of classes that occurs.
    pub fn counts(&self) -> Vec<[u64; 3]> {
        let pair = |(at, &count): (usize, &u64)| {
            (count > 0).then_some([(at / self.classes) as u64, (at % self.classes) as u64, count])
        };
        self.counts.iter().enumerate().filter_map(pair).collect()
    }

    /// Classes, up to the highest that occurs.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// How often an example of class `right` was said to be of class `said`.
    pub fn count(&self, right: usize, said: usize) -> u64 {
        self.counts[right * self.classes + said]
    }

    /// Share of the examples of other classes that were said to be of class `said`, 0 to 1; `None` where there are no others.
    pub fn taken_for(&self, said: usize) -> Option<f64> {
        let others = || self.counts().into_iter().filter(|[right, ..]| *right != said as u64);
        let all: u64 = others().map(|[.., examples]| examples).sum();
        let taken: u64 = others().filter(|[_, found, _]| *found == said as u64).map(|[.., examples]| examples).sum();
        (all > 0).then(|| taken as f64 / all as f64)
    }

    /// Examples of `class`, and how many were said to be.
    fn sums(&self, class: usize) -> (u64, u64) {
        let all = 0..self.classes;
        (all.clone().map(|said| self.count(class, said)).sum(), all.map(|right| self.count(right, class)).sum())
    }

    /// How good the classifier is with `class`.
    pub fn class(&self, class: usize) -> ClassScore {
        let (examples, said) = self.sums(class);
        let hit = self.count(class, class) as f64;
        ClassScore {
            precision: hit / said.max(1) as f64,
            recall: hit / examples.max(1) as f64,
            f1: 2.0 * hit / (examples + said).max(1) as f64,
            examples,
        }
    }

    /// Scores over all classes.
    pub fn scores(&self) -> ClassScores {
        let sums: Vec<(u64, u64)> = (0..self.classes).map(|class| self.sums(class)).collect();
        let there: Vec<ClassScore> =
            (0..self.classes).filter(|&class| sums[class] != (0, 0)).map(|class| self.class(class)).collect();
        let mean = |score: fn(&ClassScore) -> f64| there.iter().map(score).sum::<f64>() / there.len().max(1) as f64;
        let total: f64 = self.counts.iter().map(|&n| n as f64).sum();
        let hits: f64 = (0..self.classes).map(|class| self.count(class, class) as f64).sum();
        type Sum = fn(&(u64, u64)) -> u64;
        let dot = |a: Sum, b: Sum| -> f64 { sums.iter().map(|sums| a(sums) as f64 * b(sums) as f64).sum() };
        let (right, said): (Sum, Sum) = (|sums| sums.0, |sums| sums.1);
        let spread = ((total * total - dot(said, said)) * (total * total - dot(right, right))).sqrt();
        ClassScores {
            macro_f1: mean(|class| class.f1),
            macro_precision: mean(|class| class.precision),
            macro_recall: mean(|class| class.recall),
            micro_f1: hits / total.max(1.0),
            matthews: Some(if spread > 0.0 { (hits * total - dot(right, said)) / spread } else { 0.0 }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn confusion(pairs: &[[usize; 2]]) -> Confusion {
        let row =
            |class: &[usize; 2]| Some(RowEvaluation { answers: 1, class: Some(*class), ..RowEvaluation::default() });
        let evaluated: Vec<_> = pairs.iter().map(row).collect();
        Confusion::of(&evaluated, &(0..pairs.len()).collect::<Vec<_>>()).expect("classes")
    }

    /// `sklearn.metrics` 1.x, `average="macro", zero_division=0` and `average="micro"`, and `matthews_corrcoef`, on these answers.
    #[test]
    fn scores_are_those_of_scikit_learn() {
        let right = [0, 0, 0, 0, 1, 1, 1, 2, 2, 4];
        let said = [0, 0, 1, 2, 1, 1, 0, 2, 3, 4];
        let pairs: Vec<[usize; 2]> = right.into_iter().zip(said).map(|(r, s)| [r, s]).collect();
        let it = confusion(&pairs);
        let scores = it.scores();
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a}, expected {b}");
        near(scores.macro_precision, EXPECTED[0]);
        near(scores.macro_recall, EXPECTED[1]);
        near(scores.macro_f1, EXPECTED[2]);
        near(scores.matthews.expect("one label each"), EXPECTED[3]);
        near(scores.micro_f1, 0.6);
        assert_eq!(Confusion::of_counts(&it.counts()), Some(it.clone()));
        // Of the six that are not 0 one is said to be, of all ten, none of which is 3, one is said to be that.
        near(it.taken_for(0).expect("others"), 1.0 / 6.0);
        near(it.taken_for(3).expect("others"), 0.1);
        near(it.taken_for(7).expect("others"), 0.0);
        assert_eq!(confusion(&[[1, 0], [1, 1]]).taken_for(1), None);
        assert_eq!((it.count(0, 2), it.count(2, 0), it.class(0).examples, it.class(3).examples), (1, 0, 4, 0));
        near(it.class(1).f1, 2.0 / 3.0);
        // Two classes.
        let two: Vec<[usize; 2]> =
            [0, 1, 1, 1, 0, 1, 0, 0].into_iter().zip([0, 1, 0, 1, 1, 1, 0, 1]).map(|(r, s)| [r, s]).collect();
        near(confusion(&two).scores().matthews.expect("one label each"), EXPECTED[4]);
    }

    const EXPECTED: [f64; 5] =
        [0.5666666666666667, 0.5333333333333333, 0.5476190476190477, 0.4661472225410195, 0.2581988897471611];

    #[test]
    fn one_answer_for_all_correlates_with_nothing_and_tokens_are_no_classes() {
        let same = confusion(&[[0, 0], [1, 0], [2, 0]]).scores();
        assert_eq!((same.matthews, same.macro_recall), (Some(0.0), 1.0 / 3.0));
        assert_eq!(Confusion::of(&[Some(RowEvaluation::default())], &[0]), None);
        assert_eq!(Confusion::of(&[None], &[0]), None);
        assert_eq!((Confusion::of_counts(&[]), Confusion::of_counts(&[[0, u64::MAX - 1, 1]])), (None, None));
    }
}
