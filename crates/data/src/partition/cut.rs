//! Partitions that are cut in one pass over the rows: IID, pathological, shards, natural; and what they share.

use std::collections::BTreeMap;

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::random::{Use, stream};
use crate::{DataError, Dataset, Example};

/// Shuffles all rows and cuts them evenly.
pub(super) fn iid(rows: usize, clients: usize, seed: u64) -> Vec<Vec<usize>> {
    let rows = shuffled((0..rows).collect(), &mut stream(seed, Use::Partition, 0, 0, 0));
    pieces(&rows, clients)
}

/// Gives every client `classes` whole or shared classes; see [`super::Partition::Pathological`].
pub(super) fn pathological(
    data: &Dataset,
    classes: usize,
    clients: usize,
    seed: u64,
) -> Result<Vec<Vec<usize>>, DataError> {
    let by_label = rows_of_classes(data);
    check_classes(classes, clients, by_label.len())?;
    let mut holders = vec![Vec::new(); by_label.len()];
    for (client, start) in starts(classes, clients, by_label.len()).into_iter().enumerate() {
        for class in start..start + classes {
            holders[class % by_label.len()].push(client);
        }
    }
    let mut stream = stream(seed, Use::Partition, 0, 0, 0);
    let mut shards = vec![Vec::new(); clients];
    for (rows, holders) in by_label.into_iter().zip(holders) {
        if rows.len() < holders.len() {
            let label = &data.kinds()[data.train[rows[0]].label];
            let problem = format!(
                "label {label:?} has {} training rows for {} clients that should hold it",
                rows.len(),
                holders.len()
            );
            return Err(refuse("classes", classes, problem, "fewer classes or fewer clients".into()));
        }
        let mut weights = vec![0.0; clients];
        holders.iter().for_each(|client| weights[*client] = 1.0);
        let held: Vec<usize> = shards.iter().map(Vec::len).collect();
        let counts = apportion(rows.len(), &weights, &held);
        deal(shuffled(rows, &mut stream), &counts, &mut shards);
    }
    Ok(shards)
}

/// The first class of every client. Dealing on round the table covers every class as evenly as can be; sorting
/// the hands puts clients that hold the same classes next to each other.
fn starts(classes: usize, clients: usize, available: usize) -> Vec<usize> {
    let mut starts: Vec<usize> = (0..clients).map(|hand| hand * classes % available).collect();
    starts.sort_unstable();
    starts
}

fn check_classes(classes: usize, clients: usize, available: usize) -> Result<(), DataError> {
    if classes == 0 || classes > available {
        let problem = format!("the training rows have {available} different labels");
        return Err(refuse("classes", classes, problem, format!("a number from 1 to {available}")));
    }
    if classes * clients < available {
        let problem =
            format!("{clients} clients with {classes} classes each leave some of the {available} labels with nobody");
        let least = available.div_ceil(clients);
        return Err(refuse("classes", classes, problem, format!("at least {least}, or more clients")));
    }
    Ok(())
}

/// Sorts the rows by label, cuts them into pieces and deals the pieces at random.
pub(super) fn shards(
    data: &Dataset,
    per_client: usize,
    clients: usize,
    seed: u64,
) -> Result<Vec<Vec<usize>>, DataError> {
    let rows: Vec<usize> = rows_of_classes(data).concat();
    let count = clients.checked_mul(per_client).filter(|count| (1..=rows.len()).contains(count));
    let Some(count) = count else {
        let problem = format!("{} training rows cannot be cut into that many for {clients} clients", rows.len());
        let most = (rows.len() / clients).max(1);
        return Err(refuse("per_client", per_client, problem, format!("a number from 1 to {most}")));
    };
    let hands = shuffled((0..count).collect(), &mut stream(seed, Use::Partition, 0, 0, 0));
    let pieces = pieces(&rows, count);
    let hand = |hand: &[usize]| hand.iter().flat_map(|piece| pieces[*piece].clone()).collect();
    Ok(hands.chunks(per_client).map(hand).collect())
}

/// One shard per distinct group, sorted by the group's name.
pub(super) fn natural(train: &[Example], column: &str) -> Result<Vec<Vec<usize>>, DataError> {
    let mut groups: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (row, example) in train.iter().enumerate() {
        let missing = || DataError::GroupMissing { row, column: column.to_owned() };
        groups.entry(example.group.as_deref().ok_or_else(missing)?).or_default().push(row);
    }
    Ok(groups.into_values().collect())
}

/// Some of the rows by label: `[labels]`, each ascending.
pub(super) fn rows_by_label(examples: &[Example], rows: &[usize], labels: usize) -> Vec<Vec<usize>> {
    let mut by_label = vec![Vec::new(); labels];
    rows.iter().for_each(|row| by_label[examples[*row].label].push(*row));
    by_label
}

/// The training rows of every class that has any.
pub(super) fn rows_of_classes(data: &Dataset) -> Vec<Vec<usize>> {
    let all: Vec<usize> = (0..data.train.len()).collect();
    let mut by_label = rows_by_label(&data.train, &all, data.classes());
    by_label.retain(|rows| !rows.is_empty());
    by_label
}

pub(super) fn shuffled(mut rows: Vec<usize>, stream: &mut ChaCha8Rng) -> Vec<usize> {
    rows.shuffle(stream);
    rows
}

/// Divides `total` in proportion to the weights by largest remainders; between equal remainders whoever holds
/// least comes first, so that the first clients do not collect the odd row of every class.
pub(super) fn apportion(total: usize, weights: &[f64], held: &[usize]) -> Vec<usize> {
    let sum: f64 = weights.iter().sum();
    if sum <= 0.0 {
        return vec![0; weights.len()];
    }
    let quotas: Vec<f64> = weights.iter().map(|weight| total as f64 * weight / sum).collect();
    let mut counts: Vec<usize> = quotas.iter().map(|quota| quota.floor() as usize).collect();
    let mut order: Vec<usize> = (0..weights.len()).filter(|at| weights[*at] > 0.0).collect();
    let remainder = |at: usize| quotas[at] - quotas[at].floor();
    order.sort_by(|a, b| remainder(*b).total_cmp(&remainder(*a)).then(held[*a].cmp(&held[*b])).then(a.cmp(b)));
    let left = total.saturating_sub(counts.iter().sum());
    order.iter().cycle().take(left).for_each(|at| counts[*at] += 1);
    // Rounding may lift a floor by one; the sum must still be exact.
    let mut surplus = counts.iter().sum::<usize>().saturating_sub(total);
    for at in order.into_iter().rev() {
        let cut = surplus.min(counts[at]).min(1);
        counts[at] -= cut;
        surplus -= cut;
    }
    counts
}

/// Hands out consecutive runs of rows; rows beyond the counts go to nobody.
pub(super) fn deal(rows: Vec<usize>, counts: &[usize], shards: &mut [Vec<usize>]) {
    let mut rows = rows.into_iter();
    for (shard, count) in shards.iter_mut().zip(counts) {
        shard.extend(rows.by_ref().take(*count));
    }
}

fn pieces(rows: &[usize], count: usize) -> Vec<Vec<usize>> {
    let at = |piece: usize| piece * rows.len() / count;
    (0..count).map(|piece| rows[at(piece)..at(piece + 1)].to_vec()).collect()
}

fn refuse(key: &'static str, value: usize, problem: String, expected: String) -> DataError {
    DataError::Setting { key, value: value.to_string(), problem, expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_share_as_in_the_paper() {
        let expected: Vec<usize> = (0..20).map(|client| client / 2 * 2).collect();
        assert_eq!(starts(2, 20, 20), expected);
    }

    #[test]
    fn apportion_is_exact_and_fair() {
        assert_eq!(apportion(7, &[1.0, 1.0], &[5, 0]), [3, 4]);
        assert_eq!(apportion(10, &[0.0, 3.0, 1.0], &[0; 3]), [0, 8, 2]);
        assert_eq!(apportion(3, &[0.0, 0.0], &[0; 2]), [0, 0]);
        assert_eq!(apportion(3, &[1e-300, 1.0], &[0; 2]), [0, 3]);
        assert_eq!(apportion(0, &[1.0], &[0]), [0]);
    }
}
