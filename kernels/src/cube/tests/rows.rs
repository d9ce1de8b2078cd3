//! Launches of more workgroups than a device allows in a row: real ones, and everything else again in rows of a few.

use super::attention::Problem;
use super::*;
use crate::cube::attention::{Qkv, attend};
use crate::cube::factors::Factors;
use crate::cube::lowrank::{down, up_add};
use crate::cube::outer::{Gradient, outer};
use crate::cube::tensors::{LONGEST, ROW};
use crate::cube::tiles::TileTable;

/// Sequences of one or two tokens, more than fit a row.
fn many() -> Segments {
    Segments::from_lengths((0..LONGEST + 300).map(|i| 1 + usize::from(i % 1000 == 0)))
}

#[test]
fn more_sequences_than_a_row_holds() {
    let Some(device) = device() else { return };
    let problem = Problem::of(Random::new(1), many(), [1, 1], 8, false);
    let (reference, sequences) = (problem.reference(), &problem.sequences);
    let table = sequences.tables().for_sequences(sequences, &device);
    assert!(table.count > LONGEST);
    let (out, lse) = attend(&Qkv::fused(problem.fused(to_device, &device), 1, 1, false), sequences.rows(), &table);
    close("output", &values(out), &reference.out);
    close("denominators", &values(lse), &reference.lse);
}

#[test]
fn more_clients_than_a_row_holds() {
    let Some(device) = device() else { return };
    let (clients, mut random) = (many(), Random::new(2));
    let (tokens, table) = (clients.rows(), TileTable::new(&clients, 16, &device));
    assert!(table.count > LONGEST);
    let [x, a, y] = [tokens * 2, 2, tokens * 2].map(|n| random.numbers(n));
    let on_device = |v: &[f32], width| to_device(v, &[tokens, width], &device);
    // One slot, two features: h = x·a, y + h·aᵀ, and each client's Σ h·x.
    let hidden: Vec<f64> = x.chunks(2).map(|x| (x[0] * a[0] + x[1] * a[1]) as f64).collect();
    let factors = Factors::new(vec![(to_device(&a, &[1, 1, 2], &device), 0..2)], None);
    let h = down(on_device(&x, 2), &factors, &table);
    close("down", &values(h.clone()), &hidden);
    let sums: Vec<f64> = (0..2 * tokens).map(|i| y[i] as f64 + hidden[i / 2] * a[i % 2] as f64).collect();
    close("up", &values(up_add(on_device(&y, 2), h.clone(), &factors, 1.0, None, &table)), &sums);
    let wanted = Gradient { pair: 0, slots: 0..1, columns: 0..2, shared: false, adapter: 0 };
    let found = outer(&[[h, on_device(&x, 2)]], &[wanted], 1.0, &table, None).remove(0);
    let each = clients.ranges().flat_map(|range| {
        let (hidden, x) = (&hidden, &x);
        [0, 1].map(|j| range.clone().map(|t| hidden[t] * x[2 * t + j] as f64).sum::<f64>())
    });
    close("outer", &values(found), &each.collect::<Vec<_>>());
}

/// In rows of seven, few of which come out even.
#[test]
fn short_rows() {
    ROW.set(7);
    EVERY_KERNEL.into_iter().for_each(|test| test());
}
