//! How alike clients choose their slots, beside what chance would give: where all choose the same, selection is a smaller
//! model for all and no adaptation to anybody.

use std::collections::BTreeMap;

use bonfire_engine::Slots;

/// Means over all pairs of clients that chose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Overlap {
    /// Of `|S_j ∩ S_k| / |S_j ∪ S_k|` (Jaccard).
    pub found: f64,
    /// Of its expectation where each draws as many of the slots without repetition.
    pub by_chance: f64,
}

/// Of the clients' `choices` among `slots` slots of the model. `None`: fewer than two clients chose.
pub(crate) fn overlap<'s>(choices: impl Iterator<Item = &'s Slots>, slots: usize) -> Option<Overlap> {
    let choices: Vec<(usize, Vec<u64>)> = choices.filter_map(bits).collect();
    // How many clients chose how many slots.
    let mut sizes: BTreeMap<usize, usize> = BTreeMap::new();
    choices.iter().for_each(|(size, _)| *sizes.entry(*size).or_default() += 1);
    let (mut found, mut by_chance, mut pairs) = (0.0, 0.0, 0.0);
    for (k, (size, bits)) in choices.iter().enumerate() {
        for (other_size, other) in &choices[..k] {
            let both: u32 = bits.iter().zip(other).map(|(x, y)| (x & y).count_ones()).sum();
            let either = size + other_size - both as usize;
            found += if either == 0 { 1.0 } else { f64::from(both) / either as f64 };
        }
    }
    for (i, (m, count)) in sizes.iter().enumerate() {
        for (n, other) in sizes.iter().take(i + 1) {
            let here = if m == n { count * (count - 1) / 2 } else { count * other };
            by_chance += expected(*m, *n, slots) * here as f64;
            pairs += here as f64;
        }
    }
    (pairs > 0.0).then(|| Overlap { found: found / pairs, by_chance: by_chance / pairs })
}

/// A choice as its size and a set of bits, one for each slot of the model; `None`: nothing was chosen.
fn bits(slots: &Slots) -> Option<(usize, Vec<u64>)> {
    let Slots::Chosen { rank, slots } = slots else { return None };
    let mut bits = vec![0u64; (rank * slots.len()).div_ceil(64)];
    slots.flat(*rank).for_each(|at| bits[at / 64] |= 1 << (at % 64));
    Some((slots.count(), bits))
}

/// `E[k / (m + n − k)]`, with `k` the hypergeometric number that a draw of `m` and one of `n` of `slots` have in common.
fn expected(m: usize, n: usize, slots: usize) -> f64 {
    if m + n == 0 {
        return 1.0;
    }
    let ln_choose = |n: usize, k: usize| (1..=k).map(|i| ((n - k + i) as f64 / i as f64).ln()).sum::<f64>();
    let least = (m + n).saturating_sub(slots);
    // The chance of each k from the one before it: P(k+1)/P(k) = (m−k)(n−k)/((k+1)(N−m−n+k+1)).
    let mut chance = (ln_choose(m, least) + ln_choose(slots - m, n - least) - ln_choose(slots, n)).exp();
    let mut sum = 0.0;
    for k in least..=m.min(n) {
        sum += chance * k as f64 / (m + n - k) as f64;
        let (ways, left) = ((m - k) * (n - k), (k + 1) * (slots + k + 1 - m - n));
        chance *= ways as f64 / left as f64;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same by going through all pairs of subsets.
    fn by_enumeration(m: usize, n: usize, slots: usize) -> f64 {
        let subsets = |size: usize| (0u32..1 << slots).filter(move |set| set.count_ones() as usize == size);
        let (mut sum, mut pairs) = (0.0, 0.0);
        for x in subsets(m) {
            for y in subsets(n) {
                sum += f64::from((x & y).count_ones()) / f64::from((x | y).count_ones());
                pairs += 1.0;
            }
        }
        sum / pairs
    }

    #[test]
    fn chance_is_what_all_draws_give_on_average() {
        for (m, n, slots) in [(1, 1, 4), (2, 3, 7), (5, 4, 7), (7, 7, 7), (6, 1, 8)] {
            let (found, right) = (expected(m, n, slots), by_enumeration(m, n, slots));
            assert!((found - right).abs() < 1e-12, "{m} {n} {slots}: {found} {right}");
        }
        // The size of a real model: RoBERTa-base's 72 linears at rank 16, budget 2. About m/(2N − m).
        assert!((expected(144, 144, 1152) - 0.0667).abs() < 5e-4);
    }

    #[test]
    fn every_pair_counts_once() {
        let chosen =
            |slots: &[&[usize]]| Slots::Chosen { rank: 40, slots: slots.iter().map(|list| list.to_vec()).collect() };
        let sent = [chosen(&[&[0, 1], &[39]]), chosen(&[&[1, 39], &[39]]), chosen(&[&[], &[0]])];
        // Pairs: {2 of 4}, {0 of 4}, {0 of 4}.
        let it = overlap(sent.iter(), 80).expect("three chose");
        assert!((it.found - 0.5 / 3.0).abs() < 1e-12, "{it:?}");
        assert!((it.by_chance - (expected(3, 3, 80) + 2.0 * expected(3, 1, 80)) / 3.0).abs() < 1e-12);
        assert_eq!(overlap(sent[..1].iter(), 80), None);
    }
}
