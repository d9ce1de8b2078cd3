//! Which clients are alike, as FedLEASE (Wang et al., NeurIPS 2025, arXiv 2509.15087) has it: by the angle between their B's,
//! clusters of average linkage, and as many of them as give the highest silhouette.

use bonfire_models::Matrix;

/// Distance of two clients: `mean over targets of 1 − cos(B_i, B_j)`, each B as one vector. One that has not moved is at a right angle
/// to all.
pub(crate) fn distance(one: &[Matrix], other: &[Matrix]) -> f64 {
    let dot =
        |a: &Matrix, b: &Matrix| a.data.iter().zip(&b.data).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let apart = |(a, b): (&Matrix, &Matrix)| {
        let norms = (dot(a, a) * dot(b, b)).sqrt();
        if norms > 0.0 { 1.0 - dot(a, b) / norms } else { 1.0 }
    };
    one.iter().zip(other).map(apart).sum::<f64>() / one.len().max(1) as f64
}

/// `distances[i][j]` of all pairs.
pub(crate) type Distances = Vec<Vec<f64>>;

/// All distances of these clients.
pub(crate) fn distances(clients: &[&[Matrix]]) -> Distances {
    let mut all = vec![vec![0.0; clients.len()]; clients.len()];
    for i in 0..clients.len() {
        for j in 0..i {
            all[i][j] = distance(clients[i], clients[j]);
            all[j][i] = all[i][j];
        }
    }
    all
}

/// Puts them into `wanted` groups, or into as many of 2 to `most` as have the highest silhouette (of equal ones the fewest). Gives each one's
/// group; groups are numbered by their first member. Fewer than three are one group where nothing is wanted: two say nothing about
/// likeness.
pub(crate) fn groups(distances: &Distances, wanted: Option<usize>, most: usize) -> Vec<usize> {
    let n = distances.len();
    if let Some(wanted) = wanted {
        return clusters(distances, wanted.clamp(1, n.max(1)));
    }
    let mut best = (f64::NEG_INFINITY, vec![0; n]);
    for count in 2..=most.min(n.saturating_sub(1)) {
        let found = clusters(distances, count);
        let score = silhouette(distances, &found);
        if score > best.0 {
            best = (score, found);
        }
    }
    best.1
}

/// Agglomerative clustering by average linkage: the two clusters whose members are nearest on average become one, until `count` are
/// left. Of equally near ones the first.
fn clusters(distances: &Distances, count: usize) -> Vec<usize> {
    let mut clusters: Vec<Vec<usize>> = (0..distances.len()).map(|i| vec![i]).collect();
    let apart = |a: &[usize], b: &[usize]| {
        let sum: f64 = a.iter().flat_map(|&i| b.iter().map(move |&j| distances[i][j])).sum();
        sum / (a.len() * b.len()) as f64
    };
    while clusters.len() > count {
        let mut nearest = (f64::INFINITY, 0, 1);
        for b in 1..clusters.len() {
            for a in 0..b {
                let far = apart(&clusters[a], &clusters[b]);
                if far < nearest.0 {
                    nearest = (far, a, b);
                }
            }
        }
        let merged = clusters.remove(nearest.2);
        clusters[nearest.1].extend(merged);
    }
    // A cluster's first member is its smallest: merges go to the one that began earlier.
    let mut of = vec![0; distances.len()];
    clusters.iter().enumerate().for_each(|(g, members)| members.iter().for_each(|&i| of[i] = g));
    of
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
