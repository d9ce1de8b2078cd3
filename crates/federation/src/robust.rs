//! Whose uploads count, and how much of them, where some clients may mean harm: Krum and Multi-Krum (Blanchard et al., NeurIPS 2017), the
//! choice of Bulyan (El Mhamdi et al., ICML 2018, arXiv 1802.07927), and norms cut to a bound (Sun et al., arXiv 1911.07963).
//!
//! Two uploads are as far apart as what they do to the adapter: over all numbers that anybody sent, a slot that a client did not send
//! having moved by nothing. That is what the mean makes of it too; where a slot is averaged over those that sent it, it is still how far
//! the clients' own models are apart.

use std::borrow::Cow;

use bonfire_engine::Upload;
use bonfire_models::Matrix;

use crate::Aggregation;

/// The uploads that `aggregation` counts, each as it counts it.
pub(crate) fn believed<'u>(aggregation: Aggregation, uploads: &[&'u Upload]) -> Vec<Cow<'u, Upload>> {
    let whole = |chosen: Vec<usize>| chosen.into_iter().map(|i| Cow::Borrowed(uploads[i])).collect();
    match aggregation {
        Aggregation::Mean {}
        | Aggregation::Median {}
        | Aggregation::TrimmedMean { .. }
        | Aggregation::QFedAvg { .. } => whole((0..uploads.len()).collect()),
        Aggregation::Krum { attackers } => whole(krum(&distances(uploads), attackers, 1)),
        Aggregation::MultiKrum { attackers, keep } => {
            let keep = keep.unwrap_or_else(|| uploads.len().saturating_sub(attackers));
            whole(krum(&distances(uploads), attackers, keep))
        }
        Aggregation::Bulyan { attackers } => whole(bulyan(&distances(uploads), attackers)),
        Aggregation::NormClip { norm } => {
            let bound = norm.unwrap_or_else(|| median(uploads.iter().map(|u| u.norm()).collect()));
            let cut = |upload: &&'u Upload| {
                if upload.norm() <= bound {
                    return Cow::Borrowed(*upload);
                }
                let mut cut = (*upload).clone();
                cut.clip(bound);
                Cow::Owned(cut)
            };
            uploads.iter().map(cut).collect()
        }
    }
}

/// Squared distances of all pairs.
pub(crate) fn distances(uploads: &[&Upload]) -> Vec<Vec<f64>> {
    let n = uploads.len();
    let mut all = vec![vec![0.0; n]; n];
    for i in 0..n {
        for j in i + 1..n {
            let far = distance(uploads[i], uploads[j]);
            (all[i][j], all[j][i]) = (far, far);
        }
    }
    all
}

fn distance(x: &Upload, y: &Upload) -> f64 {
    let mut sum = 0.0;
    for ((_, of_x), (_, of_y)) in x.factors.iter().zip(&y.factors) {
        for (target, (of_x, of_y)) in of_x.iter().zip(of_y).enumerate() {
            sum += of_slots((&x.slots.of(target), of_x), (&y.slots.of(target), of_y));
        }
    }
    let others = x.weights.iter().chain(&x.head).zip(y.weights.iter().chain(&y.head));
    sum + others.flat_map(|(x, y)| x.data.iter().zip(&y.data)).map(|(x, y)| square(x - y)).sum::<f64>()
}

fn square(v: f32) -> f64 {
    f64::from(v).powi(2)
}

/// Of two lists of slots, ascending, with a row each.
fn of_slots((slots_x, x): (&[usize], &Matrix), (slots_y, y): (&[usize], &Matrix)) -> f64 {
    let (mut i, mut j, mut sum) = (0, 0, 0.0);
    while i < slots_x.len() || j < slots_y.len() {
        let next = [slots_x.get(i), slots_y.get(j)].into_iter().flatten().min().copied();
        let row_x = (slots_x.get(i).copied() == next).then(|| row(x, i));
        let row_y = (slots_y.get(j).copied() == next).then(|| row(y, j));
        (i, j) = (i + usize::from(row_x.is_some()), j + usize::from(row_y.is_some()));
        sum += match (row_x, row_y) {
            (Some(x), Some(y)) => x.iter().zip(y).map(|(x, y)| square(x - y)).sum::<f64>(),
            (one, other) => one.or(other).into_iter().flatten().map(|v| square(*v)).sum(),
        };
    }
    sum
}

fn row(m: &Matrix, at: usize) -> &[f32] {
    &m.data[at * m.cols..(at + 1) * m.cols]
}

/// The `keep` of least score, ascending: a score is the sum of the squared distances to the `n − f − 2` nearest others (at least one, where
/// there is another). Equal scores go to the first.
pub(crate) fn krum(distances: &[Vec<f64>], attackers: usize, keep: usize) -> Vec<usize> {
    let n = distances.len();
    let near = n.saturating_sub(attackers + 2).max(1);
    let score = |i: usize| {
        let mut others: Vec<f64> = (0..n).filter(|&j| j != i).map(|j| distances[i][j]).collect();
        others.sort_by(f64::total_cmp);
        others.iter().take(near).sum::<f64>()
    };
    let mut order: Vec<(f64, usize)> = (0..n).map(|i| (score(i), i)).collect();
    order.sort_by(|x, y| x.0.total_cmp(&y.0).then(x.1.cmp(&y.1)));
    let mut kept: Vec<usize> = order.into_iter().take(keep.clamp(1, n.max(1))).map(|(_, i)| i).collect();
    kept.sort_unstable();
    kept
}

/// Bulyan's choice: `n − 2f` of them (at least one), one after the other by Krum among those that are left.
pub(crate) fn bulyan(distances: &[Vec<f64>], attackers: usize) -> Vec<usize> {
    let n = distances.len();
    let mut left: Vec<usize> = (0..n).collect();
    let mut chosen = Vec::new();
    while chosen.len() < n.saturating_sub(2 * attackers).max(1).min(n) {
        let among: Vec<Vec<f64>> = left.iter().map(|&i| left.iter().map(|&j| distances[i][j]).collect()).collect();
        chosen.push(left.remove(krum(&among, attackers, 1)[0]));
    }
    chosen.sort_unstable();
    chosen
}

/// The mean of the `keep` values that lie nearest to their median (at least one).
pub(crate) fn near_median(values: &mut [f64], keep: usize) -> f64 {
    let middle = median(values.to_vec());
    values.sort_by(|x, y| (x - middle).abs().total_cmp(&(y - middle).abs()));
    let near = &values[..keep.clamp(1, values.len())];
    near.iter().sum::<f64>() / near.len() as f64
}

/// The middle value, or the mean of the two middle ones.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    (values[(n - 1) / 2] + values[n / 2]) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::testing::{server, uploads};
    use bonfire_engine::Slots;
    use bonfire_models::Factor;

    /// Points on a line.
    fn on_a_line(points: &[f64]) -> Vec<Vec<f64>> {
        points.iter().map(|x| points.iter().map(|y| (x - y).powi(2)).collect()).collect()
    }

    #[test]
    fn krum_by_hand() {
        // n = 7, f = 2: the 3 nearest. Of 0: 1 + 4 + 9; of 1: 1 + 1 + 4; of 2: 1 + 1 + 4; of 3: 1 + 4 + 9 = 14; of 10: 49 + 64 + 81;
        // of 20 and 21: 1 + 100 + 289 and 1 + 121 + 324.
        let points = on_a_line(&[0.0, 1.0, 2.0, 3.0, 10.0, 20.0, 21.0]);
        assert_eq!(krum(&points, 2, 1), [1], "the first of the two with a score of 6");
        assert_eq!(krum(&points, 2, 3), [0, 1, 2], "6, 6 and the first 14");
        assert_eq!(krum(&points, 2, 5), [0, 1, 2, 3, 4]);
        // With two attackers close together and f = 0 five neighbours count, and the middle wins.
        assert_eq!(krum(&on_a_line(&[5.0]), 0, 1), [0]);
        assert_eq!(krum(&on_a_line(&[5.0, 9.0]), 1, 1), [0], "two that differ: the first");
    }

    #[test]
    fn bulyan_by_hand() {
        // n = 7, f = 1: five of them. Krum by the 4 nearest takes 2 (of 0, 1, 3, 4), then among 6 by the 3 nearest 1 (1 + 4 + 9 = 14, 3 the
        // same), among 5 by 2: 3 (1 + 9; 0: 9 + 16; 4: 1 + 16), among 4 (0, 4, 10, 30) by the 1 nearest: 0 and 4 at 16, the first; among 3: 4.
        let points = on_a_line(&[0.0, 1.0, 2.0, 3.0, 4.0, 10.0, 30.0]);
        assert_eq!(bulyan(&points, 1), [0, 1, 2, 3, 4]);
        assert_eq!(bulyan(&on_a_line(&[1.0, 2.0]), 1), [0]);
    }

    #[test]
    fn near_median_by_hand() {
        // Median 3; nearest to it are 3, 2 and 4 or 5 …
        assert_eq!(near_median(&mut [1.0, 2.0, 3.0, 4.5, 100.0], 3), (2.0 + 3.0 + 4.5) / 3.0);
        assert_eq!(near_median(&mut [1.0, 3.0], 9), 2.0);
        assert_eq!(near_median(&mut [7.0], 0), 7.0);
    }

    #[test]
    fn a_slot_that_was_not_sent_has_not_moved() {
        let it = server(4, 1);
        let mut sent = uploads(&it, &[Factor::B], &[4, 2], 3);
        sent[1].slots = Slots::Given { rank: 4, slots: [vec![1, 3], vec![1, 3]].into_iter().collect() };
        let far = distance(&sent[0], &sent[1]);
        // The same in full: rows 1 and 3 of the second, zeros elsewhere.
        let mut whole = sent[1].clone();
        whole.slots = Slots::All { rank: 4 };
        for m in &mut whole.factors[0].1 {
            let mut all = Matrix::zeros(4, m.cols);
            for (row, slot) in [1, 3].into_iter().enumerate() {
                all.data[slot * m.cols..(slot + 1) * m.cols].copy_from_slice(&m.data[row * m.cols..(row + 1) * m.cols]);
            }
            *m = all;
        }
        let pairs = sent[0].matrices().zip(whole.matrices()).flat_map(|(x, y)| x.data.iter().zip(&y.data));
        let want: f64 = pairs.map(|(x, y)| f64::from(x - y).powi(2)).sum();
        assert!((far - want).abs() < 1e-9 * want, "{far} {want}");
        assert!((distance(&sent[1], &whole)).abs() < 1e-12);
    }

    #[test]
    fn norms_are_cut_to_the_bound_or_to_their_median() {
        let it = server(4, 1);
        let sent = uploads(&it, &[Factor::A, Factor::B], &[4, 4, 4], 3);
        let mut sent: Vec<Upload> = sent;
        sent[2].clip(1e-3);
        sent[0].factors.iter_mut().flat_map(|(_, list)| list).flat_map(|m| &mut m.data).for_each(|v| *v *= 50.0);
        let refs: Vec<&Upload> = sent.iter().collect();
        let norms = |norm| {
            let all = believed(Aggregation::NormClip { norm }, &refs);
            all.iter().map(|u| u.norm()).collect::<Vec<f64>>()
        };
        let middle = sent[1].norm();
        let near = |x: f64, y: f64| (x - y).abs() < 1e-5 * y;
        let cut = norms(None);
        assert!(near(cut[0], middle) && near(cut[1], middle) && near(cut[2], 1e-3), "{cut:?}");
        assert!(norms(Some(2e-3)).iter().zip([2e-3, 2e-3, 1e-3]).all(|(x, y)| near(*x, y)));
    }
}
