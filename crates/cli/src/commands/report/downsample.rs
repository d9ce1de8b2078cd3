//! Fewer numbers than a run has, so that the page of a long run stays small: what is left out is said on the page.

/// Every `n`th of `items`, counted from the last, and the first: `most` and one at most. Also that `n`.
pub fn thin<T>(items: Vec<T>, most: usize) -> (usize, Vec<T>) {
    let count = items.len();
    let every = count.div_ceil(most.max(1)).max(1);
    let stays = |i: usize| i == 0 || (count - 1 - i).is_multiple_of(every);
    (every, items.into_iter().enumerate().filter(|(i, _)| stays(*i)).map(|(_, item)| item).collect())
}

/// Means of rows of numbers over neighbours, at most `most` of them, each with the rounds it is of.
pub fn mean_spans(rounds: &[usize], rows: &[Vec<f64>], most: usize) -> (Vec<[usize; 2]>, Vec<Vec<f64>>) {
    let width = rows.len().div_ceil(most.max(1)).max(1);
    let spans = rounds.chunks(width).map(|chunk| [chunk[0], chunk[chunk.len() - 1]]).collect();
    let mean = |chunk: &[Vec<f64>]| {
        let columns = chunk.iter().map(Vec::len).max().unwrap_or(0);
        let sum = |c: usize| chunk.iter().filter_map(|row| row.get(c)).sum::<f64>();
        (0..columns).map(|c| short(sum(c) / chunk.len() as f64)).collect()
    };
    (spans, rows.chunks(width).map(mean).collect())
}

/// Evenly spaced places among `count`, `most` at most.
pub fn spaced(count: usize, most: usize) -> Vec<usize> {
    let kept = count.min(most);
    (0..kept).map(|i| i * count / kept).collect()
}

/// Six digits: more cannot be seen.
pub fn short(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_and_last_stay() {
        assert_eq!(thin((0..5).collect(), 10), (1, vec![0, 1, 2, 3, 4]));
        assert_eq!(thin((0..10).collect(), 4), (3, vec![0, 3, 6, 9]));
        assert_eq!(thin((0..11).collect(), 4), (3, vec![0, 1, 4, 7, 10]));
        assert_eq!(thin(Vec::<u8>::new(), 4), (1, vec![]));
    }

    #[test]
    fn spans_are_means_and_say_of_what() {
        let rows: Vec<Vec<f64>> = (1..=5).map(|r| vec![f64::from(r), 1.0]).collect();
        let (spans, means) = mean_spans(&[1, 2, 3, 4, 5], &rows, 3);
        assert_eq!(spans, [[1, 2], [3, 4], [5, 5]]);
        assert_eq!(means, [[1.5, 1.0], [3.5, 1.0], [5.0, 1.0]]);
    }

    #[test]
    fn places_are_even_and_numbers_short() {
        assert_eq!(spaced(3, 5), [0, 1, 2]);
        assert_eq!(spaced(10, 4), [0, 2, 5, 7]);
        assert_eq!(short(0.123_456_789), 0.123_457);
        assert_eq!(short(0.0), 0.0);
    }
}
