//! The class-wise Dirichlet split, with shares that stay right for very small concentrations.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::cut::{apportion, deal, rows_of_classes, shuffled};
use crate::random::{Use, stream};
use crate::{DataError, Dataset};

/// Draws of the whole split before giving up. A draw costs no shuffle, so all of them take about half a second where there are few
/// clients.
const TRIES: u64 = 10_000;

/// Numbers that are drawn before giving up: 16 s of a slow core for 1000 clients and 77 classes.
const NUMBERS: u64 = 50_000_000;

/// What is tried however many numbers a draw takes.
const FEWEST: u64 = 20;

/// How many draws of `clients` × `classes` numbers are made before giving up.
pub(super) fn tries(clients: usize, classes: usize) -> u64 {
    let numbers = (clients as u64).saturating_mul(classes as u64).max(1);
    (NUMBERS / numbers).clamp(FEWEST, TRIES)
}

/// Draws shares for every class until every client has `min_shard` rows, then deals the shuffled rows.
pub(super) fn split(
    data: &Dataset,
    alpha: f64,
    clients: usize,
    min_shard: usize,
    seed: u64,
) -> Result<Vec<Vec<usize>>, DataError> {
    check_alpha(alpha)?;
    let by_label = rows_of_classes(data);
    let tries = tries(clients, by_label.len());
    for attempt in 0..tries {
        let mut stream = stream(seed, Use::Partition, 0, 0, attempt);
        let counts = draw(&by_label, alpha, clients, &mut stream);
        let size = |client: usize| counts.iter().map(|of_class| of_class[client]).sum::<usize>();
        if (0..clients).all(|client| size(client) >= min_shard) {
            let mut shards = vec![Vec::new(); clients];
            for (rows, counts) in by_label.into_iter().zip(counts) {
                deal(shuffled(rows, &mut stream), &counts, &mut shards);
            }
            return Ok(shards);
        }
    }
    let rows = data.train.len();
    Err(DataError::DirichletUnlikely { alpha, clients, rows, min_shard, tries })
}

pub(super) fn check_alpha(alpha: f64) -> Result<(), DataError> {
    if (1e-6..=1e6).contains(&alpha) {
        return Ok(());
    }
    Err(DataError::Setting {
        key: "alpha",
        value: alpha.to_string(),
        problem: "it is the concentration of a Dirichlet distribution".to_owned(),
        expected: "a number from 0.000001 to 1000000".to_owned(),
    })
}

/// Rows per class and client: `[classes][clients]`.
fn draw(by_label: &[Vec<usize>], alpha: f64, clients: usize, stream: &mut ChaCha8Rng) -> Vec<Vec<usize>> {
    let held = vec![0; clients];
    let mut class = |rows: &Vec<usize>| apportion(rows.len(), &proportions(alpha, clients, stream), &held);
    by_label.iter().map(&mut class).collect()
}

/// A draw from the symmetric Dirichlet, up to a factor: the largest share is 1.
///
/// Gamma(0.01) is below the smallest f64 about once in a thousand draws, and a class whose draws all underflow
/// would divide 0 by 0. So the Gammas stay logarithms until the largest is taken out.
pub(super) fn proportions(alpha: f64, clients: usize, stream: &mut ChaCha8Rng) -> Vec<f64> {
    let logs: Vec<f64> = (0..clients).map(|_| log_gamma_draw(alpha, stream)).collect();
    let largest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    logs.into_iter().map(|log| (log - largest).exp()).collect()
}

/// The logarithm of a Gamma(alpha, 1) draw: `Gamma(a) = Gamma(a + 1) U^(1/a)` below 1.
fn log_gamma_draw(alpha: f64, stream: &mut ChaCha8Rng) -> f64 {
    if alpha >= 1.0 {
        return gamma_draw(alpha, stream).ln();
    }
    gamma_draw(alpha + 1.0, stream).ln() + uniform(stream).ln() / alpha
}

/// Marsaglia and Tsang (2000), for shapes from 1.
fn gamma_draw(shape: f64, stream: &mut ChaCha8Rng) -> f64 {
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let x = normal(stream);
        let v = (1.0 + c * x).powi(3);
        if v > 0.0 && uniform(stream).ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return d * v;
        }
    }
}

/// Marsaglia's polar method; the second value is dropped to keep no state.
pub(super) fn normal(stream: &mut ChaCha8Rng) -> f64 {
    loop {
        let (x, y) = (2.0 * uniform(stream) - 1.0, 2.0 * uniform(stream) - 1.0);
        let square = x * x + y * y;
        if square > 0.0 && square < 1.0 {
            return x * (-2.0 * square.ln() / square).sqrt();
        }
    }
}

/// In (0, 1], so that its logarithm is finite.
pub(super) fn uniform(stream: &mut ChaCha8Rng) -> f64 {
    1.0 - stream.random::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(draws: usize, mut draw: impl FnMut(&mut ChaCha8Rng) -> f64) -> (f64, f64) {
        let mut stream = stream(5, Use::Partition, 0, 0, 0);
        let values: Vec<f64> = (0..draws).map(|_| draw(&mut stream)).collect();
        let mean = values.iter().sum::<f64>() / draws as f64;
        (mean, values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / draws as f64)
    }

    #[test]
    fn tries_are_fewer_where_each_of_them_is_long() {
        assert_eq!([tries(30, 77), tries(60, 77), tries(0, 0)], [TRIES; 3]);
        assert_eq!((tries(1000, 77), tries(usize::MAX, usize::MAX)), (649, FEWEST));
    }

    #[test]
    fn gammas_have_the_right_mean_and_variance() {
        for alpha in [0.1, 0.5, 1.0, 3.0] {
            let (mean, variance) = sample(200_000, |stream| log_gamma_draw(alpha, stream).exp());
            assert!((mean / alpha - 1.0).abs() < 0.03, "{alpha}: mean {mean}");
            assert!((variance / alpha - 1.0).abs() < 0.08, "{alpha}: variance {variance}");
        }
    }

    #[test]
    fn shares_have_the_variance_of_a_dirichlet() {
        // Var = (1/K)(1 - 1/K) / (K alpha + 1); at 0.01 nearly all of a class goes to one client.
        for alpha in [0.01, 0.5] {
            let expected = 0.1 * 0.9 / (10.0 * alpha + 1.0);
            let (mean, variance) = sample(20_000, |stream| {
                let shares = proportions(alpha, 10, stream);
                shares[3] / shares.iter().sum::<f64>()
            });
            assert!((mean - 0.1).abs() < 0.01, "{alpha}: mean {mean}");
            assert!((variance / expected - 1.0).abs() < 0.06, "{alpha}: variance {variance}");
        }
    }

    #[test]
    fn the_smallest_concentration_still_gives_finite_shares() {
        let mut stream = stream(1, Use::Partition, 0, 0, 0);
        for _ in 0..1000 {
            let shares = proportions(1e-6, 30, &mut stream);
            assert!(shares.iter().all(|share| share.is_finite()) && shares.contains(&1.0));
        }
    }
}
