//! Grouped products: ragged clients, ranks from none to all, one to three adapters on the same columns, on columns of their
//! own, or with columns between them that none has.

use super::*;
use crate::cube::cooperative::{self, Units};
use crate::cube::factors::Factors;
use crate::cube::lowrank::{down, up_add, up_gelu, up_through_gelu};
use crate::cube::outer::{Gradient, outer};
use crate::cube::share::widest;
use crate::cube::tensors::empty;
use crate::cube::tiles::{RankTable, TileTable};

/// One random problem: clients, adapters, the slots each client has of each, a factor for each client or for all.
struct Case {
    random: Random,
    clients: Segments,
    stacked: usize,
    adapters: Vec<Adapter>,
    table: TileTable,
    rank_table: Option<RankTable>,
}

struct Adapter {
    slots: usize,
    /// Slots of each client.
    ranks: Vec<usize>,
    columns: Range<usize>,
    /// `[stacked, slots, columns]`.
    factor: Vec<f32>,
}

const CLIENTS: usize = 5;

fn case(seed: u64, slots: &[usize], columns: &[Range<usize>], rows: usize, device: &CubeDevice) -> Case {
    let mut random = Random::new(seed);
    let clients = random.segments(CLIENTS, 70);
    let limited = !seed.is_multiple_of(3);
    let stacked = if seed.is_multiple_of(2) { 1 } else { CLIENTS };
    let adapters: Vec<Adapter> = slots
        .iter()
        .zip(columns)
        .enumerate()
        .map(|(i, (&slots, columns))| {
            let has = |c: usize| if limited { (((c + i) % CLIENTS) * slots / 3).min(slots) } else { slots };
            Adapter {
                slots,
                ranks: (0..CLIENTS).map(has).collect(),
                columns: columns.clone(),
                factor: random.numbers(stacked * slots * columns.len()),
            }
        })
        .collect();
    let ranks: Vec<u32> = adapters.iter().flat_map(|a| a.ranks.iter().map(|&rank| rank as u32)).collect();
    let rank_table = limited.then(|| RankTable::new(&ranks, device));
    let table = TileTable::new(&clients, rows, device);
    Case { random, clients, stacked, adapters, table, rank_table }
}

impl Case {
    fn matrix(&self, client: usize) -> usize {
        client.min(self.stacked - 1)
    }

    fn factors(&self, put: Put, device: &CubeDevice) -> Factors {
        let one = |a: &Adapter| (put(&a.factor, &[self.stacked, a.slots, a.columns.len()], device), a.columns.clone());
        Factors::new(self.adapters.iter().map(one).collect(), self.rank_table.clone())
    }

    /// Slots of all adapters.
    fn slots(&self) -> usize {
        self.adapters.iter().map(|a| a.slots).sum()
    }

    /// For every client, slot that it has (counted over all adapters) and column: what stands there.
    fn entries(&self) -> Vec<(usize, usize, usize, f32)> {
        let mut all = Vec::new();
        for c in 0..CLIENTS {
            let mut first = 0;
            for a in &self.adapters {
                for (r, j) in (0..a.ranks[c]).flat_map(|r| (0..a.columns.len()).map(move |j| (r, j))) {
                    let at = (self.matrix(c) * a.slots + r) * a.columns.len() + j;
                    all.push((c, first + r, a.columns.start + j, a.factor[at]));
                }
                first += a.slots;
            }
        }
        all
    }
}

/// Slots of each adapter, their columns, rows of a tile.
fn cases() -> Vec<(Vec<usize>, Vec<Range<usize>>, usize)> {
    let mut all: Vec<_> = [(1, 16), (7, 16), (16, 32), (21, 32), (40, 16), (70, 32)]
        .map(|(slots, rows)| (vec![slots], std::iter::once(13..13 + 75).collect(), rows))
        .into();
    // All on the same columns; each on its own; two with a gap between them, one of them narrower than a tile.
    all.push((vec![16, 5, 16], vec![0..70, 0..70, 0..70], 32));
    all.push((vec![3, 40, 7], vec![2..80, 2..80, 2..80], 16));
    all.push((vec![16, 16, 16], vec![0..64, 64..100, 100..136], 32));
    all.push((vec![5, 30], vec![3..13, 90..141], 16));
    all
}

/// The tiles that cooperative matrices are computed in, by every unit on its own; small enough for 32 KiB of shared memory in f32.
fn by_hand(rows: usize, slots: usize) -> impl Iterator<Item = Units> {
    let forms = [([8, 8, 8], 32), ([16, 16, 16], 64), ([32, 8, 16], 128), ([8, 32, 16], 64), ([16, 16, 16], 128)];
    let units = forms.into_iter().map(move |(matrix, depth)| {
        let cols = slots.min(32).next_multiple_of(matrix[1]);
        Units { matrix, rows, cols, depth, plane: 32, by_hand: true }
    });
    units.filter(|units| units.fits() && units.bytes(size_of::<f32>()) <= 32 << 10)
}

/// The transpose of a matrix as a view.
fn swapped(mut matrix: CubeTensor) -> CubeTensor {
    matrix.meta.swap(0, 1);
    matrix
}

/// Features of the wide tensors.
const WIDE: usize = 150;

#[test]
pub(super) fn tokens_down_to_slots() {
    let Some(device) = device() else { return };
    for (seed, (slots, columns, rows)) in cases().into_iter().enumerate() {
        let mut case = case(seed as u64, &slots, &columns, rows, &device);
        let (tokens, slots) = (case.clients.rows(), case.slots());
        let x = case.random.numbers(tokens * WIDE);
        let mut expected = vec![0f64; tokens * slots];
        for (c, slot, column, factor) in case.entries() {
            for t in case.clients.range(c) {
                expected[t * slots + slot] += f64::from(x[t * WIDE + column]) * f64::from(factor);
            }
        }
        for (put, transpose) in LAYOUTS.into_iter().flat_map(|put| [(put, false), (put, true)]) {
            // A view with its columns apart in memory is as good.
            let x = if transpose {
                swapped(put(&transposed(&x, [1, tokens, WIDE]), &[WIDE, tokens], &device))
            } else {
                put(&x, &[tokens, WIDE], &device)
            };
            let h = down(x, &case.factors(put, &device), &case.table);
            assert_eq!(dims(&h), [tokens, slots]);
            let found = values(h);
            close(&format!("down, case {seed}, transposed {transpose}"), &found, &expected);
            let exact = expected.iter().zip(&found).filter(|(e, _)| **e == 0.0);
            assert!(exact.into_iter().all(|(_, f)| *f == 0.0), "slots that a client lacks are exactly zero");
        }
    }
}

/// All but the instructions themselves of the kernel for cooperative matrices: tiles, masks, ragged clients, parts of the depth.
#[test]
fn tokens_down_to_slots_by_cooperative_matrices() {
    let Some(device) = device() else { return };
    let mut kinds = HashSet::new();
    for (seed, (slots, columns, rows)) in cases().into_iter().enumerate() {
        let mut case = case(seed as u64, &slots, &columns, rows, &device);
        let (tokens, slots) = (case.clients.rows(), case.slots());
        let x = case.random.numbers(tokens * WIDE);
        let mut expected = vec![0f64; tokens * slots];
        for (c, slot, column, factor) in case.entries() {
            for t in case.clients.range(c) {
                expected[t * slots + slot] += f64::from(x[t * WIDE + column]) * f64::from(factor);
            }
        }
        for put in LAYOUTS {
            let factors = case.factors(put, &device);
            for units in by_hand(rows, widest(&factors)) {
                kinds.insert((units.matrix, units.depth, rows));
                let x = put(&x, &[tokens, WIDE], &device);
                let h = empty(&x, [tokens, slots], x.dtype);
                let found = values(cooperative::down(x, h, &factors, &case.table, units));
                close(&format!("down, case {seed}, {units:?}"), &found, &expected);
                let exact = expected.iter().zip(&found).filter(|(e, _)| **e == 0.0);
                assert!(exact.into_iter().all(|(_, f)| *f == 0.0), "slots that a client lacks are exactly zero");
            }
        }
    }
    assert!(kinds.len() > 4, "only {kinds:?}");
}

/// Factors are rounded to what they are multiplied in, and nothing else is.
#[test]
fn factors_are_rounded_for_cooperative_matrices() {
    use burn::tensor::FloatDType;
    let Some(device) = device() else { return };
    if !<CubeBackend as burn::backend::Backend>::supports_dtype(&device, burn::backend::DType::F16) {
        println!("SKIPPED: the device has no f16");
        return;
    }
    let (slots, columns, rows) = (vec![16, 5, 16], vec![0..70, 0..70, 0..70], 32);
    let mut case = case(8, &slots, &columns, rows, &device);
    let (tokens, slots) = (case.clients.rows(), case.slots());
    let x: Vec<f32> = case.random.numbers(tokens * WIDE).iter().map(|v| (v * 64.0).round() / 64.0).collect();
    let mut expected = vec![0f64; tokens * slots];
    for (c, slot, column, factor) in case.entries() {
        for t in case.clients.range(c) {
            // 11 bits from the first one on.
            let last = 2f32.powi(factor.abs().log2().floor().max(-14.0) as i32 - 10);
            let rounded = (factor / last).round_ties_even() * last;
            expected[t * slots + slot] += f64::from(x[t * WIDE + column]) * f64::from(rounded);
        }
    }
    let factors = case.factors(to_device, &device);
    for units in by_hand(rows, widest(&factors)) {
        let x = CubeBackend::float_cast(to_device(&x, &[tokens, WIDE], &device), FloatDType::F16);
        let h = empty(&x, [tokens, slots], burn::backend::DType::F32);
        let found = values(cooperative::down(x, h, &factors, &case.table, units));
        close(&format!("down, {units:?}"), &found, &expected);
    }
}

/// Which of a device's matrices are taken: those of NVIDIA's cards, and none where there is nothing to be gained.
#[test]
fn matrices_are_chosen_by_what_a_device_has() {
    use burn_cubecl::cubecl::features::MmaConfig;
    use burn_cubecl::cubecl::ir::{ElemType, FloatKind};
    let [bf16, f16, f32] = [FloatKind::BF16, FloatKind::F16, FloatKind::F32].map(ElemType::Float);
    let of = |operand, sum, [m, n, k]: [u32; 3]| MmaConfig { a_type: operand, b_type: operand, cd_type: sum, m, n, k };
    let shapes = [[16, 16, 16], [32, 8, 16], [8, 32, 16]];
    let types = [(bf16, f32), (f16, f32), (f16, f16)];
    let nvidia: Vec<MmaConfig> =
        types.iter().flat_map(|&(operand, sum)| shapes.map(|shape| of(operand, sum, shape))).collect();
    let taken = |matrices: &[MmaConfig], operand, planes, rows, slots| {
        Units::among(matrices.iter(), operand, planes, rows, slots).map(|units| (units.matrix, units.cols, units.depth))
    };
    for operand in [bf16, f16] {
        assert_eq!(taken(&nvidia, operand, [32, 32], 32, 48), Some(([16, 16, 16], 48, 128)), "q, k, v of rank 16");
        assert_eq!(taken(&nvidia, operand, [32, 32], 16, 16), Some(([16, 16, 16], 16, 128)));
        assert_eq!(taken(&nvidia, operand, [32, 32], 32, 5), Some(([32, 8, 16], 8, 128)), "fewer slots in vain");
        assert_eq!(taken(&nvidia, operand, [32, 32], 32, 300), Some(([16, 16, 16], 64, 128)), "tiles of 64 slots");
    }
    assert_eq!(taken(&nvidia, f32, [32, 32], 32, 16), None, "f32 stays f32");
    assert_eq!(taken(&nvidia, bf16, [32, 64], 32, 16), None, "planes of one size");
    assert_eq!(taken(&nvidia[6..], f16, [32, 32], 32, 16), None, "sums are f32");
    assert_eq!(taken(&[], bf16, [32, 32], 32, 16), None);
}

#[test]
pub(super) fn slots_up_to_features() {
    let Some(device) = device() else { return };
    // Rows of nobody come after the clients'.
    for ((seed, (slots, columns, rows)), surplus) in cases().into_iter().enumerate().zip([0, 5, 40].into_iter().cycle())
    {
        let mut case = case(seed as u64, &slots, &columns, rows, &device);
        let (tokens, slots) = (case.clients.rows(), case.slots());
        let all = tokens + surplus;
        let y = case.random.numbers(all * WIDE);
        let h = case.random.numbers(tokens * slots);
        let bias = case.random.numbers(WIDE);
        let mut update = vec![0f64; all * WIDE];
        for (c, slot, column, factor) in case.entries() {
            for t in case.clients.range(c) {
                update[t * WIDE + column] -= 1.5 * f64::from(h[t * slots + slot]) * f64::from(factor);
            }
        }
        for (put, biased) in LAYOUTS.into_iter().flat_map(|put| [(put, false), (put, true)]) {
            let added = |i: usize| if biased { f64::from(bias[i % WIDE]) } else { 0.0 };
            let expected: Vec<f64> =
                update.iter().zip(&y).enumerate().map(|(i, (u, &y))| f64::from(y) + u + added(i)).collect();
            let (h, y) = (put(&h, &[tokens, slots], &device), put(&y, &[all, WIDE], &device));
            let bias = || biased.then(|| put(&bias, &[WIDE], &device));
            let factors = case.factors(put, &device);
            let kept = y.clone();
            let before = values(kept.clone());
            let sum = up_add(y, h.clone(), &factors, -1.5, bias(), &case.table);
            close(&format!("up, case {seed}, biased {biased}"), &values(sum), &expected);
            assert_eq!(values(kept.clone()), before, "a tensor held elsewhere is not written");
            let memory = identity(&kept);
            let sum = up_add(kept, h, &factors, -1.5, bias(), &case.table);
            assert_eq!(identity(&sum), memory, "in place where nothing else holds it");
            nothing_between(&sum);
            close(&format!("up in place, case {seed}"), &values(sum), &expected);
        }
    }
}

/// GELU of the sums beside them, and sums times GELU's slope, in every row and column.
#[test]
pub(super) fn slots_up_around_gelu() {
    let Some(device) = device() else { return };
    for ((seed, (slots, columns, rows)), surplus) in cases().into_iter().enumerate().zip([5, 0, 40].into_iter().cycle())
    {
        let mut case = case(seed as u64, &slots, &columns, rows, &device);
        let (tokens, slots) = (case.clients.rows(), case.slots());
        let all = tokens + surplus;
        let y = case.random.numbers(all * WIDE);
        let h = case.random.numbers(tokens * slots);
        let bias = case.random.numbers(WIDE);
        let before: Vec<f32> = case.random.numbers(all * WIDE).into_iter().map(|v| 6.0 * v).collect();
        let mut sums: Vec<f64> = y.iter().map(|&y| f64::from(y)).collect();
        for (c, slot, column, factor) in case.entries() {
            for t in case.clients.range(c) {
                sums[t * WIDE + column] -= 1.5 * f64::from(h[t * slots + slot]) * f64::from(factor);
            }
        }
        let bent = |x: f64| super::gelu::by_hand(x);
        let through: Vec<f64> = sums.iter().zip(&before).map(|(dy, &x)| dy * bent(x.into()).1).collect();
        for put in LAYOUTS {
            let factors = case.factors(put, &device);
            let h = || put(&h, &[tokens, slots], &device);
            let y = || put(&y, &[all, WIDE], &device);
            for biased in [false, true] {
                let added = |i: usize| if biased { f64::from(bias[i % WIDE]) } else { 0.0 };
                let expected: Vec<f64> = sums.iter().enumerate().map(|(i, sum)| sum + added(i)).collect();
                let bias = biased.then(|| put(&bias, &[WIDE], &device));
                let [sum, after] = up_gelu(y(), h(), &factors, -1.5, bias, &case.table);
                nothing_between(&sum);
                close(&format!("before GELU, case {seed}"), &values(sum), &expected);
                let expected: Vec<f64> = expected.into_iter().map(|x| bent(x).0).collect();
                close(&format!("GELU, case {seed}, biased {biased}"), &values(after), &expected);
            }
            let before = put(&before, &[all, WIDE], &device);
            let found = up_through_gelu(y(), h(), &factors, -1.5, before.clone(), &case.table);
            nothing_between(&found);
            close(&format!("through GELU, case {seed}"), &values(found), &through);
        }
    }
}

/// Of every adapter two gradients: one with the columns that all read, one with its own, as A and B have them.
#[test]
pub(super) fn gradients_of_factors() {
    let Some(device) = device() else { return };
    for (seed, (slots, columns, rows)) in cases().into_iter().enumerate() {
        let mut case = case(seed as u64, &slots, &columns, rows, &device);
        let (tokens, all) = (case.clients.rows(), case.slots());
        let [g, h] = [0, 1].map(|_| case.random.numbers(tokens * all));
        let [x, dy] = [0, 1].map(|_| case.random.numbers(tokens * WIDE));
        let (mut wanted, mut expected, mut first) = (Vec::new(), Vec::new(), 0);
        for (adapter, a) in case.adapters.iter().enumerate() {
            // One of each kind is left out, as where a factor is frozen.
            for (pair, columns) in [(0, 16..16 + 45), (1, a.columns.clone())] {
                if case.adapters.len() > 1 && adapter == pair {
                    continue;
                }
                let shared = (case.stacked == 1) != (pair == 1);
                let (left, right) = if pair == 0 { (&g, &x) } else { (&h, &dy) };
                let matrices = if shared { 1 } else { CLIENTS };
                let mut sums = vec![0f64; matrices * a.slots * columns.len()];
                for (c, range) in case.clients.ranges().enumerate() {
                    let limit = if shared { a.slots } else { a.ranks[c] };
                    for (t, i) in range.flat_map(|t| (0..limit).map(move |i| (t, i))) {
                        for (j, column) in columns.clone().enumerate() {
                            let at = (c.min(matrices - 1) * a.slots + i) * columns.len() + j;
                            sums[at] +=
                                2.0 * f64::from(left[t * all + first + i]) * f64::from(right[t * WIDE + column]);
                        }
                    }
                }
                expected.push(([matrices, a.slots, columns.len()], sums));
                wanted.push(Gradient { pair, slots: first..first + a.slots, columns, shared, adapter });
            }
            first += a.slots;
        }
        for put in LAYOUTS {
            let [g, h] = [&g, &h].map(|v| put(v, &[tokens, all], &device));
            let [x, dy] = [&x, &dy].map(|v| put(v, &[tokens, WIDE], &device));
            let found = outer(&[[g, x], [h, dy]], &wanted, 2.0, &case.table, case.rank_table.as_ref());
            assert_eq!(found.len(), wanted.len());
            for (found, (shape, expected)) in found.into_iter().zip(&expected) {
                assert_eq!(dims(&found), shape);
                close(&format!("outer, case {seed}"), &values(found), expected);
            }
        }
    }
}

#[test]
fn nothing_to_do() {
    let Some(device) = device() else { return };
    let table = TileTable::new(&Segments::from_lengths([0, 0]), 16, &device);
    let x = to_device(&[], &[0, 9], &device);
    let a = Factors::new(vec![(to_device(&[1.0; 2 * 9 * 3], &[2, 3, 9], &device), 0..9)], None);
    assert_eq!(dims(&down(x.clone(), &a, &table)), [0, 3]);
    let [left, dy] = [3, 4].map(|width| to_device(&[], &[0, width], &device));
    let wanted = Gradient { pair: 0, slots: 0..3, columns: 0..4, shared: false, adapter: 0 };
    let found = outer(&[[left, dy]], &[wanted], 1.0, &table, None);
    assert_eq!(values(found.into_iter().next().unwrap()), [0.0; 2 * 3 * 4]);
    // Rows of nobody alone: they want the bias.
    let y = to_device(&[1.0; 2 * 9], &[2, 9], &device);
    let h = to_device(&[], &[0, 3], &device);
    let bias = to_device(&[0.5; 9], &[9], &device);
    assert_eq!(values(up_add(y, h, &a, 1.0, Some(bias), &table)), [1.5; 2 * 9]);
}
