//! Which clients are alike, as FedLEASE (Wang et al., NeurIPS 2025, arXiv 2509.15087) has it: by the angle between their B's,
//! clusters of average linkage, and as many of them as give the highest silhouette.

use bonfire_models::Matrix;
use rayon::prelude::*;

/// `distances[i][j]` of all pairs.
pub(crate) type Distances = Vec<Vec<f64>>;

/// Every target's B of a client as one vector, with its norm.
type Normed<'m> = Vec<(&'m Matrix, f64)>;

fn normed(client: &[Matrix]) -> Normed<'_> {
    client.iter().map(|b| (b, dot(b, b).sqrt())).collect()
}

/// In eight sums, so that the processor's vectors can be used.
fn dot(a: &Matrix, b: &Matrix) -> f64 {
    let mut sums = [0.0; 8];
    let (a, b) = (a.data.chunks(8), b.data.chunks(8));
    for (a, b) in a.zip(b) {
        for (sum, (x, y)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += f64::from(*x) * f64::from(*y);
        }
    }
    sums.iter().sum()
}

fn apart(one: &Normed<'_>, other: &Normed<'_>) -> f64 {
    let of = |((a, norm), (b, other)): (&(&Matrix, f64), &(&Matrix, f64))| {
        if norm * other > 0.0 { 1.0 - dot(a, b) / (norm * other) } else { 1.0 }
    };
    one.iter().zip(other).map(of).sum::<f64>() / one.len().max(1) as f64
}

/// Distance of two clients: `mean over targets of 1 − cos(B_i, B_j)`, each B as one vector. One that has not moved is at a right angle
/// to all.
pub(crate) fn distance(one: &[Matrix], other: &[Matrix]) -> f64 {
    apart(&normed(one), &normed(other))
}

/// All distances of these clients.
pub(crate) fn distances(clients: &[&[Matrix]]) -> Distances {
    let clients: Vec<Normed<'_>> = clients.par_iter().map(|client| normed(client)).collect();
    let before = |i: usize| (0..i).map(|j| apart(&clients[i], &clients[j])).collect();
    let below: Vec<Vec<f64>> = (0..clients.len()).into_par_iter().map(before).collect();
    let of = |i: usize, j: usize| if i == j { 0.0 } else { below[i.max(j)][i.min(j)] };
    (0..clients.len()).map(|i| (0..clients.len()).map(|j| of(i, j)).collect()).collect()
}

/// Puts them into `wanted` groups, or into as many of 2 to `most` as have the highest silhouette (of equal ones the fewest). Gives each one's
/// group; groups are numbered by their first member. Fewer than three are one group where nothing is wanted: two say nothing about
/// likeness.
pub(crate) fn groups(distances: &Distances, wanted: Option<usize>, most: usize) -> Vec<usize> {
    let n = distances.len();
    if let Some(wanted) = wanted {
        let wanted = wanted.clamp(1, n.max(1));
        return clusters(distances, wanted, wanted).pop().unwrap_or_default();
    }
    let most = most.min(n.saturating_sub(1));
    let mut best = (f64::NEG_INFINITY, vec![0; n]);
    for found in clusters(distances, 2, most).into_iter().rev() {
        let score = silhouette(distances, &found);
        if score > best.0 {
            best = (score, found);
        }
    }
    best.1
}

/// Agglomerative clustering by average linkage: the two clusters whose members are nearest on average become one, of equally near ones the
/// first. Gives each one's cluster where there are `most`, one fewer, and so on to `least`.
fn clusters(distances: &Distances, least: usize, most: usize) -> Vec<Vec<usize>> {
    let n = distances.len();
    let mut clusters: Vec<Vec<usize>> = (0..n).map(|i| vec![i]).collect();
    let mut found = Vec::new();
    let mut far = distances.clone();
    while clusters.len() >= least && !clusters.is_empty() {
        if clusters.len() <= most {
            // A cluster's first member is its smallest: merges go to the one that began earlier.
            let mut of = vec![0; n];
            clusters.iter().enumerate().for_each(|(g, members)| members.iter().for_each(|&i| of[i] = g));
            found.push(of);
        }
        let mut nearest = (f64::INFINITY, 0, 0);
        for (b, row) in far.iter().enumerate() {
            for (a, &distance) in row.iter().enumerate().take(b) {
                if distance < nearest.0 {
                    nearest = (distance, a, b);
                }
            }
        }
        let (_, a, b) = nearest;
        if a == b {
            break;
        }
        let merged = clusters.remove(b);
        clusters[a].extend(merged);
        far.remove(b);
        for row in &mut far {
            row.remove(b);
        }
        let mean_to = |other: &Vec<usize>| {
            let sum: f64 = clusters[a].iter().flat_map(|&i| other.iter().map(move |&j| distances[i][j])).sum();
            sum / (clusters[a].len() * other.len()) as f64
        };
        let anew: Vec<f64> = clusters.iter().map(mean_to).collect();
        for (other, mean) in anew.into_iter().enumerate().filter(|(other, _)| *other != a) {
            far[a][other] = mean;
            far[other][a] = mean;
        }
    }
    found
}

/// The mean over all of `(b − a)/max(a, b)`: `a` is the mean distance to the others of the own group, `b` that to the nearest other group;
/// 0 of one that is alone (Rousseeuw 1987).
fn silhouette(distances: &Distances, of: &[usize]) -> f64 {
    let count = 1 + of.iter().max().copied().unwrap_or(0);
    let mean_to = |i: usize, group: usize| {
        let others = || (0..of.len()).filter(|&j| j != i && of[j] == group);
        (others().next().is_some()).then(|| others().map(|j| distances[i][j]).sum::<f64>() / others().count() as f64)
    };
    let one = |i: usize| {
        let Some(own) = mean_to(i, of[i]) else { return 0.0 };
        let other = (0..count).filter(|&g| g != of[i]).filter_map(|g| mean_to(i, g)).fold(f64::INFINITY, f64::min);
        let larger = own.max(other);
        if larger > 0.0 && other.is_finite() { (other - own) / larger } else { 0.0 }
    };
    (0..of.len()).map(one).sum::<f64>() / of.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(serde::Deserialize)]
    struct Found {
        labels: Vec<usize>,
        silhouette: f64,
    }

    /// A case of `tests/fixtures/grouping.json`: `b` target by target, client by client.
    #[derive(serde::Deserialize)]
    struct Case {
        b: Vec<Vec<Vec<f32>>>,
        apart: Distances,
        by_count: BTreeMap<String, Found>,
        best: usize,
    }

    fn cases() -> Vec<Case> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/grouping.json");
        serde_json::from_slice(&std::fs::read(path).expect("the fixture")).expect("JSON")
    }

    #[test]
    fn distances_clusters_and_silhouettes_are_scikit_learns() {
        for case in cases() {
            let n = case.apart.len();
            let of = |k: usize| -> Vec<Matrix> {
                case.b.iter().map(|target| Matrix::new(1, target[k].len(), target[k].clone())).collect()
            };
            let b: Vec<Vec<Matrix>> = (0..n).map(of).collect();
            let found = distances(&b.iter().map(Vec::as_slice).collect::<Vec<_>>());
            for (i, j) in (0..n).flat_map(|i| (0..n).map(move |j| (i, j))) {
                assert!((found[i][j] - case.apart[i][j]).abs() < 1e-12, "{n} {i} {j}");
            }
            for (count, expected) in &case.by_count {
                let of = groups(&case.apart, count.parse().ok(), 8);
                assert_eq!(of, expected.labels, "{n} clients in {count}");
                let off = silhouette(&case.apart, &of) - expected.silhouette;
                assert!(off.abs() < 1e-12, "{n} clients in {count}: {off}");
            }
            assert_eq!(groups(&case.apart, None, n), case.by_count[&case.best.to_string()].labels, "{n}");
        }
    }

    #[test]
    fn two_clients_are_one_group_and_a_client_that_did_not_move_is_at_a_right_angle() {
        assert_eq!(groups(&vec![vec![0.0, 2.0], vec![2.0, 0.0]], None, 8), [0, 0]);
        assert_eq!(groups(&vec![vec![0.0]], Some(3), 8), [0]);
        let (still, moved) = ([Matrix::zeros(1, 2)], [Matrix::new(1, 2, vec![1.0, 0.0])]);
        assert_eq!((distance(&still, &moved), distance(&moved, &moved)), (1.0, 0.0));
    }

    #[test]
    fn no_more_groups_than_said() {
        let case = &cases()[4];
        assert_eq!(groups(&case.apart, None, 2), case.by_count["2"].labels);
    }
}
