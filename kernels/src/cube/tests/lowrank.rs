//! Grouped products: ragged clients, ranks from none to all, both storage orders, ranges of columns.

use super::*;
use crate::cube::lowrank::{down, up_add};
use crate::cube::outer::outer;
use crate::cube::tiles::{RankTable, TileTable};

/// One random problem: clients, the slots each has, a factor for each of them or for all.
struct Case {
    random: Random,
    clients: Segments,
    ranks: Vec<u32>,
    stacked: usize,
    table: TileTable,
    rank_table: Option<RankTable>,
}

fn case(seed: u64, slots: usize, rows: usize, device: &CubeDevice) -> Case {
    let mut random = Random::new(seed);
    let clients = random.segments(5, 70);
    let limited = !seed.is_multiple_of(3);
    let ranks: Vec<u32> =
        (0..5).map(|c| if limited { ((c * slots) / 3).min(slots) as u32 } else { slots as u32 }).collect();
    let rank_table = limited.then(|| RankTable::new(&ranks, device));
    let table = TileTable::new(&clients, rows, device);
    let stacked = if seed.is_multiple_of(2) { 1 } else { 5 };
    Case { random, clients, ranks, stacked, table, rank_table }
}

impl Case {
    fn matrix(&self, client: usize) -> usize {
        client.min(self.stacked - 1)
    }

    fn rank(&self, client: usize) -> usize {
        self.ranks[client] as usize
    }
}

/// A stack of matrices on the device, stored as it is or transposed.
fn stack(values: &[f32], dims: [usize; 3], transpose: bool, put: Put, device: &CubeDevice) -> CubeTensor {
    let [stack, rows, cols] = dims;
    if transpose { put(&transposed(values, dims), &[stack, cols, rows], device) } else { put(values, &dims, device) }
}

/// Every layout, with the factor stored as it is and transposed.
fn ways() -> impl Iterator<Item = (Put, bool)> {
    LAYOUTS.into_iter().flat_map(|put| [(put, false), (put, true)])
}

/// The transpose of a matrix as a view.
fn swapped(mut matrix: CubeTensor) -> CubeTensor {
    matrix.meta.swap(0, 1);
    matrix
}

const SIZES: [(usize, usize); 6] = [(1, 16), (7, 16), (16, 32), (21, 32), (40, 16), (70, 32)];

#[test]
pub(super) fn tokens_down_to_slots() {
    let Some(device) = device() else { return };
    for (seed, (slots, rows)) in SIZES.into_iter().enumerate() {
        let mut case = case(seed as u64, slots, rows, &device);
        let (tokens, wide, cols) = (case.clients.rows(), 93, 13..13 + 75);
        let x = case.random.numbers(tokens * wide);
        let a = case.random.numbers(case.stacked * cols.len() * slots);
        let mut expected = vec![0f64; tokens * slots];
        for (c, range) in case.clients.ranges().enumerate() {
            for t in range {
                for (k, x) in columns(&x, wide, t, &cols).iter().enumerate() {
                    for r in 0..case.rank(c) {
                        let a = a[(case.matrix(c) * cols.len() + k) * slots + r];
                        expected[t * slots + r] += 0.5 * (x * a) as f64;
                    }
                }
            }
        }
        for (put, transpose) in ways() {
            let a = stack(&a, [case.stacked, cols.len(), slots], transpose, put, &device);
            // A view with its columns apart in memory is as good.
            let x = if transpose {
                swapped(put(&transposed(&x, [1, tokens, wide]), &[wide, tokens], &device))
            } else {
                put(&x, &[tokens, wide], &device)
            };
            let h = down(x, cols.clone(), a, transpose, 0.5, &case.table, case.rank_table.as_ref());
            assert_eq!(dims(&h), [tokens, slots]);
            let found = values(h);
            close(&format!("down, case {seed}, transposed {transpose}"), &found, &expected);
            for (c, range) in case.clients.ranges().enumerate() {
                assert!(range.flat_map(|t| &found[t * slots + case.rank(c)..(t + 1) * slots]).all(|&h| h == 0.0));
            }
        }
    }
}

#[test]
pub(super) fn slots_up_to_features() {
    let Some(device) = device() else { return };
    for (seed, (slots, rows)) in SIZES.into_iter().enumerate() {
        let mut case = case(seed as u64, slots, rows, &device);
        let (tokens, wide, cols) = (case.clients.rows(), 150, 31..31 + 101);
        let y = case.random.numbers(tokens * wide);
        let h = case.random.numbers(tokens * slots);
        let b = case.random.numbers(case.stacked * slots * cols.len());
        let mut expected: Vec<f64> = y.iter().map(|&y| y as f64).collect();
        for (c, range) in case.clients.ranges().enumerate() {
            for t in range {
                for (j, n) in cols.clone().enumerate() {
                    for r in 0..case.rank(c) {
                        let b = b[(case.matrix(c) * slots + r) * cols.len() + j];
                        expected[t * wide + n] -= 1.5 * (h[t * slots + r] * b) as f64;
                    }
                }
            }
        }
        for (put, transpose) in ways() {
            let b = stack(&b, [case.stacked, slots, cols.len()], transpose, put, &device);
            let [h, y] = [(&h, slots), (&y, wide)].map(|(v, n)| put(v, &[tokens, n], &device));
            let kept = y.clone();
            let before = values(kept.clone());
            let ranks = case.rank_table.as_ref();
            let sum = up_add(y, cols.clone(), h.clone(), b.clone(), transpose, -1.5, &case.table, ranks);
            close(&format!("up, case {seed}, transposed {transpose}"), &values(sum), &expected);
            assert_eq!(values(kept.clone()), before, "a tensor held elsewhere is not written");
            let memory = identity(&kept);
            let sum = up_add(kept, cols.clone(), h, b, transpose, -1.5, &case.table, ranks);
            assert_eq!(identity(&sum), memory, "in place where nothing else holds it");
            nothing_between(&sum);
            close(&format!("up in place, case {seed}"), &values(sum), &expected);
        }
    }
}

#[test]
pub(super) fn gradients_of_factors() {
    let Some(device) = device() else { return };
    for (seed, (slots, rows)) in SIZES.into_iter().enumerate() {
        let mut case = case(seed as u64, slots, rows, &device);
        let shared = case.stacked == 1;
        let (features, width, tokens) = (16..16 + 45, 80, case.clients.rows());
        let [left, right] = [slots, width].map(|w| case.random.numbers(tokens * w));
        let mut expected = vec![0f64; case.stacked * slots * features.len()];
        for (c, range) in case.clients.ranges().enumerate() {
            let limit = if shared { slots } else { case.rank(c) };
            for t in range {
                let right = columns(&right, width, t, &features);
                for i in 0..limit {
                    for (j, r) in right.iter().enumerate() {
                        let at = (case.matrix(c) * slots + i) * features.len() + j;
                        expected[at] += 2.0 * (left[t * slots + i] * r) as f64;
                    }
                }
            }
        }
        for put in LAYOUTS {
            let [left, right] = [(&left, slots), (&right, width)].map(|(v, w)| put(v, &[tokens, w], &device));
            let ranks = case.rank_table.as_ref();
            let found = outer(left, 0..slots, right, features.clone(), 2.0, &case.table, shared, ranks);
            assert_eq!(dims(&found), [case.stacked, slots, features.len()]);
            close(&format!("outer, case {seed}"), &values(found), &expected);
        }
    }
}

#[test]
fn nothing_to_do() {
    let Some(device) = device() else { return };
    let table = TileTable::new(&Segments::from_lengths([0, 0]), 16, &device);
    let x = to_device(&[], &[0, 9], &device);
    let a = to_device(&[1.0; 2 * 9 * 3], &[2, 9, 3], &device);
    assert_eq!(dims(&down(x.clone(), 0..9, a, false, 1.0, &table, None)), [0, 3]);
    let dy = to_device(&[], &[0, 4], &device);
    assert_eq!(values(outer(x, 0..9, dy, 0..4, 1.0, &table, false, None)), [0.0; 2 * 9 * 4]);
}
