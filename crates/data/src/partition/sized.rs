//! Partitions that set the sizes of shards alone, and natural clients put together in groups; the definitions are those of Flower
//! Datasets 0.6.

use rand_chacha::ChaCha8Rng;

use super::Rest;
use super::cut::{apportion, deal, shuffled};
use super::dirichlet::{check_alpha, proportions, tries, uniform};
use crate::random::{Use, stream};
use crate::{DataError, Dataset};

/// All rows shuffled and cut in proportion to the weights.
pub(super) fn by_weights(rows: usize, weights: &[f64], seed: u64) -> Vec<Vec<usize>> {
    let mut stream = stream(seed, Use::Partition, 0, 0, 0);
    let counts = apportion(rows, weights, &vec![0; weights.len()]);
    let mut shards = vec![Vec::new(); weights.len()];
    deal(shuffled((0..rows).collect(), &mut stream), &counts, &mut shards);
    shards
}

/// Sizes in proportion to a draw from a symmetric Dirichlet.
pub(super) fn dirichlet(
    data: &Dataset,
    alpha: f64,
    clients: usize,
    min_shard: usize,
    seed: u64,
) -> Result<Vec<Vec<usize>>, DataError> {
    check_alpha(alpha)?;
    let (rows, tries) = (data.train.len(), tries(clients, 1));
    let drawn = drawn(rows, min_shard, seed, tries, |stream| proportions(alpha, clients, stream));
    drawn.ok_or(DataError::DirichletUnlikely { alpha, clients, rows, min_shard, tries })
}

/// Sizes in proportion to draws from a Poisson distribution.
pub(super) fn poisson(
    data: &Dataset,
    mean: f64,
    clients: usize,
    min_shard: usize,
    seed: u64,
) -> Result<Vec<Vec<usize>>, DataError> {
    let wrong = |problem: &str, expected: &str| DataError::Setting {
        key: "mean",
        value: mean.to_string(),
        problem: problem.to_owned(),
        expected: expected.to_owned(),
    };
    if !(0.01..=1e6).contains(&mean) {
        return Err(wrong("it is the mean of a Poisson distribution", "a number from 0.01 to 1000000"));
    }
    let draw = |stream: &mut ChaCha8Rng| (0..clients).map(|_| poisson_draw(mean, stream)).collect();
    let drawn = drawn(data.train.len(), min_shard, seed, tries(clients, 1), draw);
    drawn.ok_or_else(|| {
        wrong(
            "some client had fewer than min_shard rows in each draw",
            "a larger mean, fewer clients or a smaller min_shard",
        )
    })
}

/// Draws weights until every client has enough rows, so many times at most.
fn drawn(
    rows: usize,
    min_shard: usize,
    seed: u64,
    tries: u64,
    draw: impl Fn(&mut ChaCha8Rng) -> Vec<f64>,
) -> Option<Vec<Vec<usize>>> {
    for attempt in 0..tries {
        let weights = draw(&mut stream(seed, Use::Partition, 0, 0, 1 + attempt));
        let counts = apportion(rows, &weights, &vec![0; weights.len()]);
        if counts.iter().sum::<usize>() == rows && counts.iter().all(|count| *count >= min_shard) {
            return Some(by_weights(rows, &weights, seed));
        }
    }
    None
}

/// A draw from a Poisson distribution. Knuth's product of uniforms, in pieces: a sum of Poissons is one.
fn poisson_draw(mean: f64, stream: &mut ChaCha8Rng) -> f64 {
    const PIECE: f64 = 500.0;
    let (mut left, mut total) = (mean, 0.0);
    // Beyond this the normal distribution differs by less than the rows can show.
    if mean > 1e4 {
        return (mean + mean.sqrt() * super::dirichlet::normal(stream)).round().max(0.0);
    }
    while left > 0.0 {
        let part = left.min(PIECE);
        left -= part;
        let (end, mut product) = ((-part).exp(), uniform(stream));
        while product > end {
            total += 1.0;
            product *= uniform(stream);
        }
    }
    total
}

/// Natural clients put together, `group` to one.
pub(super) fn grouped(natural: Vec<Vec<usize>>, group: usize, rest: Rest) -> Result<Vec<Vec<usize>>, DataError> {
    let (values, wrong) = (natural.len(), |problem: String, expected: &str| DataError::Setting {
        key: "group",
        value: group.to_string(),
        problem,
        expected: expected.to_owned(),
    });
    if group == 0 || (group > values && rest != Rest::Smaller) {
        return Err(wrong(
            format!("the column has {values} different values"),
            &format!("a number from 1 to {values}"),
        ));
    }
    let (full, over) = (values / group, values % group);
    let sizes: Vec<usize> = match rest {
        Rest::Refuse if over > 0 => {
            let problem = format!("{values} values do not fill groups of that size: {over} are left over");
            return Err(wrong(problem, "a divisor of that number, or another `rest`"));
        }
        Rest::Smaller => std::iter::repeat_n(group, full).chain((over > 0).then_some(over)).collect(),
        // As evenly as can be, the first ones larger.
        Rest::Larger => (0..full).map(|at| values / full + usize::from(at < values % full)).collect(),
        Rest::Drop | Rest::Refuse => vec![group; full],
    };
    let mut natural = natural.into_iter();
    Ok(sizes.into_iter().map(|size| natural.by_ref().take(size).flatten().collect()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poisson_draws_have_the_right_mean_and_variance() {
        let mut stream = stream(5, Use::Partition, 0, 0, 0);
        for mean in [0.3, 4.0, 900.0, 2e4] {
            let draws: Vec<f64> = (0..20_000).map(|_| poisson_draw(mean, &mut stream)).collect();
            let average = draws.iter().sum::<f64>() / draws.len() as f64;
            let variance = draws.iter().map(|x| (x - average).powi(2)).sum::<f64>() / draws.len() as f64;
            assert!((average / mean - 1.0).abs() < 0.03, "{mean}: mean {average}");
            assert!((variance / mean - 1.0).abs() < 0.06, "{mean}: variance {variance}");
        }
    }

    #[test]
    fn sizes_of_a_dirichlet_have_its_mean_and_variance() {
        let row = |i: usize| crate::Example::labelled(i.to_string(), 0, None);
        let data = Dataset { labels: vec!["a".into()], train: (0..1000).map(row).collect(), ..Dataset::default() };
        for alpha in [0.5, 5.0] {
            let shares: Vec<f64> = (0..4000)
                .flat_map(|seed| dirichlet(&data, alpha, 5, 0, seed).expect("drawn"))
                .map(|rows| rows.len() as f64 / 1000.0)
                .collect();
            // A share of a symmetric Dirichlet over k: mean 1/k, variance (1/k)·(1 − 1/k) / (k·α + 1).
            let variance = shares.iter().map(|share| (share - 0.2).powi(2)).sum::<f64>() / shares.len() as f64;
            let expected = 0.2 * 0.8 / (5.0 * alpha + 1.0);
            assert!((variance / expected - 1.0).abs() < 0.05, "{alpha}: {variance}, expected {expected}");
        }
        let shards = dirichlet(&data, 0.5, 5, 0, 1).expect("drawn");
        let mut all = shards.concat();
        all.sort_unstable();
        assert_eq!(all, (0..1000).collect::<Vec<_>>(), "every row once");
    }

    #[test]
    fn groups_are_those_of_flower_datasets() {
        // GroupedNaturalIdPartitioner on seven ids in groups of three, sorted.
        let natural = || (0..7).map(|id| vec![id]).collect::<Vec<_>>();
        let sizes = |rest| grouped(natural(), 3, rest).expect("groups");
        assert_eq!(sizes(Rest::Smaller), [vec![0, 1, 2], vec![3, 4, 5], vec![6]]);
        assert_eq!(sizes(Rest::Larger), [vec![0, 1, 2, 3], vec![4, 5, 6]]);
        assert_eq!(sizes(Rest::Drop), [vec![0, 1, 2], vec![3, 4, 5]]);
        assert!(grouped(natural(), 3, Rest::Refuse).is_err_and(|error| error.to_string().contains("1 are left over")));
        assert_eq!(grouped(natural(), 9, Rest::Smaller).expect("one group").len(), 1);
        assert!(grouped(natural(), 9, Rest::Drop).is_err() && grouped(natural(), 0, Rest::Smaller).is_err());
    }

    #[test]
    fn sizes_grow_as_said() {
        use super::super::Growth;
        let sizes = |by: Growth, clients| -> Vec<usize> {
            by_weights(1000, &by.weights(clients), 1).iter().map(Vec::len).collect()
        };
        assert_eq!(sizes(Growth::Linear, 4), [100, 200, 300, 400]);
        // 1000 · (1, 4, 9, 16) / 30; three have the same remainder, and one of them the row that is left.
        let square = sizes(Growth::Square, 4);
        assert_eq!(square.iter().sum::<usize>(), 1000);
        assert!(square.iter().zip([33.3, 133.3, 300.0, 533.3]).all(|(size, share)| (*size as f64 - share).abs() < 1.0));
        // 1000 · (e, e², e³) / (e + e² + e³)
        assert_eq!(sizes(Growth::Exponential, 3), [90, 245, 665]);
        assert_eq!(sizes(Growth::Exponential, 900).iter().sum::<usize>(), 1000);
    }
}
