//! Scores of a model that foretells numbers: how they go along with the right ones.

use serde::{Deserialize, Serialize};

use crate::RowEvaluation;

/// Correlations of what was foretold with what was right, −1 to 1; 0 where one of the two is always the same.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct NumberScores {
    /// Pearson's: of the numbers.
    pub pearson: f64,
    /// Spearman's: Pearson's of their ranks, equal numbers having the mean of their places.
    pub spearman: f64,
}

impl NumberScores {
    /// Of those of `rows` that were evaluated; `None` where they are no numbers.
    pub fn of(evaluated: &[Option<RowEvaluation>], rows: &[usize]) -> Option<NumberScores> {
        let pairs: Option<Vec<[f64; 2]>> =
            rows.iter().filter_map(|&row| evaluated[row].as_ref()).map(|row| row.number).collect();
        let pairs = pairs.filter(|pairs| !pairs.is_empty())?;
        let [right, said] = [0, 1].map(|side| pairs.iter().map(|pair| pair[side]).collect::<Vec<f64>>());
        Some(NumberScores { pearson: pearson(&right, &said), spearman: pearson(&ranks(&right), &ranks(&said)) })
    }
}

/// Pearson's correlation.
fn pearson(x: &[f64], y: &[f64]) -> f64 {
    let mean = |list: &[f64]| list.iter().sum::<f64>() / list.len() as f64;
    let (mean_x, mean_y) = (mean(x), mean(y));
    let (mut both, mut squares_x, mut squares_y) = (0.0, 0.0, 0.0);
    for (x, y) in x.iter().zip(y) {
        let (x, y) = (x - mean_x, y - mean_y);
        both += x * y;
        squares_x += x * x;
        squares_y += y * y;
    }
    // Apart, since the product of two small sums can be zero.
    let length = squares_x.sqrt() * squares_y.sqrt();
    if length > 0.0 { (both / length).clamp(-1.0, 1.0) } else { 0.0 }
}

/// Each number's place in the order of size, from 1; equal numbers have the mean of their places.
fn ranks(list: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..list.len()).collect();
    order.sort_by(|&x, &y| list[x].total_cmp(&list[y]));
    let mut ranks = vec![0.0; list.len()];
    let mut before = 0;
    for equal in order.chunk_by(|&x, &y| list[x] == list[y]) {
        let mean = before as f64 + (equal.len() + 1) as f64 / 2.0;
        equal.iter().for_each(|&at| ranks[at] = mean);
        before += equal.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(pairs: &[[f64; 2]]) -> NumberScores {
        let row = |pair: &[f64; 2]| Some(RowEvaluation { answers: 1, number: Some(*pair), ..RowEvaluation::default() });
        let evaluated: Vec<_> = pairs.iter().map(row).collect();
        NumberScores::of(&evaluated, &(0..pairs.len()).collect::<Vec<_>>()).expect("numbers")
    }

    /// `scipy.stats.pearsonr` and `spearmanr` on these, with equal numbers on both sides.
    #[test]
    fn correlations_are_those_of_scipy() {
        let right = [0.0, 1.5, 1.5, 2.0, 3.75, 5.0, 4.0, 1.5];
        let said = [0.25, 1.0, 2.0, 1.0, 3.0, 4.5, 4.75, 1.25];
        let found = scores(&right.into_iter().zip(said).map(|(r, s)| [r, s]).collect::<Vec<_>>());
        assert!((found.pearson - PEARSON).abs() < 1e-12, "{}", found.pearson);
        assert!((found.spearman - SPEARMAN).abs() < 1e-12, "{}", found.spearman);
    }

    const PEARSON: f64 = 0.9313466852482439;
    const SPEARMAN: f64 = 0.834497179245487;

    #[test]
    fn one_number_for_all_goes_along_with_nothing_and_classes_are_no_numbers() {
        let same = scores(&[[1.0, 2.0], [3.0, 2.0]]);
        assert_eq!((same.pearson, same.spearman), (0.0, 0.0));
        let line = scores(&[[1.0, -2.0], [2.0, -4.0], [3.0, -6.0]]);
        assert!((line.pearson + 1.0).abs() < 1e-12 && (line.spearman + 1.0).abs() < 1e-12, "{line:?}");
        let class = RowEvaluation { class: Some([0, 0]), ..RowEvaluation::default() };
        assert_eq!(NumberScores::of(&[Some(class)], &[0]), None);
    }
}
