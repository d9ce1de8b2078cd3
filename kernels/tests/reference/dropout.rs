//! Dropout against loops, its masks against the formula written out once more, and what makes them masks: the share that goes,
//! and that no two rows, columns or places know of each other.

use bonfire_kernels::{
    Arithmetic, AttentionLayout, DropMask, LowRank, RowKeys, Segments, adapted_linear_composed, dropout,
    dropped_update, packed_attention, packed_attention_composed, packed_attention_dropped,
};
use burn::tensor::{Tensor, TensorData};

use super::{agree, close, device, fixed, tensor, values};

/// The formula of [`dropout`] with the integers that it speaks of.
fn is_dropped(key: u64, place: u32, column: u32, rate: f64) -> bool {
    let mix = |word: u64| {
        let word = ((word ^ (word >> 16)) * 0x7feb_352d) & 0xffff_ffff;
        let word = ((word ^ (word >> 15)) * 0x846c_a68b) & 0xffff_ffff;
        word ^ (word >> 16)
    };
    let (low, high) = (key & 0xffff_ffff, key >> 32);
    let first = mix(low ^ mix(u64::from(place)));
    let second = mix((high + u64::from(place)) & 0xffff_ffff);
    let word = mix((mix(u64::from(column) ^ first) + second) & 0xffff_ffff);
    (word as f64) < rate * 4_294_967_296.0
}

/// Keys as different as a generator makes them.
fn keys(n: usize) -> Vec<u64> {
    (1..=n as u64).map(|i| (i * 0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xbf58_476d_1ce4_e5b9)).collect()
}

/// The mask `[rows, width]` as numbers: 0, or what is kept is multiplied by.
fn mask(keys: &[u64], place: u32, width: usize, rate: f64) -> Vec<f32> {
    let kept =
        |key: u64, column: usize| if is_dropped(key, place, column as u32, rate) { 0.0 } else { 1.0 / (1.0 - rate) };
    keys.iter().flat_map(|&key| (0..width).map(move |column| kept(key, column) as f32)).collect()
}

fn constant(values: Vec<f32>, shape: [usize; 2]) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values, shape), &device().autodiff())
}

#[test]
fn elements_and_gradients() {
    for (rows, width, rate) in [(1, 1, 0.5), (7, 33, 0.1), (40, 700, 0.05)] {
        let keys = keys(rows);
        let x = tensor([rows, width], 1);
        let found = dropout(x.clone(), DropMask::new(&RowKeys::new(keys.clone()), 77, rate));
        let expected = x.clone() * constant(mask(&keys, 77, width, rate), [rows, width]);
        agree("dropout", [&x], found, expected);
    }
    let x = tensor([3, 4], 1);
    let none = dropout(x.clone(), DropMask::new(&RowKeys::new(keys(3)), 1, 0.0));
    assert_eq!(values(none), values(x));
}

/// Worked out in Python, with its integers: rows of keys 1, 2³² and 0x123456789abcdef0, place 5, rate 0.5.
#[test]
fn masks_are_those_worked_out_elsewhere() {
    let keys = RowKeys::new([1, 1 << 32, 0x1234_5678_9abc_def0]);
    let ones = Tensor::<2>::ones([3, 8], &device());
    let found = values(dropout(ones, DropMask::new(&keys, 5, 0.5)));
    assert_eq!(found.iter().map(|&v| v as u8).collect::<Vec<_>>(), MASKS_FROM_PYTHON);
}

const MASKS_FROM_PYTHON: [u8; 24] = [2, 0, 0, 2, 2, 2, 0, 2, 0, 0, 2, 2, 2, 2, 2, 0, 0, 0, 0, 0, 0, 0, 2, 0];

#[test]
fn blocks_are_places_and_parts_are_rows() {
    let (all, width, rate) = (keys(9), 5, 0.4);
    let row_keys = RowKeys::new(all.clone());
    let part = DropMask { rows: 2..6, ..DropMask::new(&row_keys, 100, rate) };
    let found = dropout(Tensor::<2>::ones([12, width], &device()), part);
    let expected: Vec<f32> = (100..103).flat_map(|place| mask(&all[2..6], place, width, rate)).collect();
    close("three blocks of four rows", values(found), expected);
}

#[test]
fn the_share_goes_and_nothing_knows_of_anything() {
    // 2²⁰ elements: a share is known to within 3 standard deviations of a fair draw.
    let (rows, width) = (1024, 1024);
    let row_keys = RowKeys::new(keys(rows));
    let drawn = |place: u32, rate: f64| {
        values(dropout(Tensor::<2>::ones([rows, width], &device()), DropMask::new(&row_keys, place, rate)))
    };
    let n = (rows * width) as f64;
    for rate in [0.05, 0.1, 0.5] {
        let share = drawn(3, rate).iter().filter(|v| **v == 0.0).count() as f64 / n;
        assert!((share - rate).abs() < 3.0 * (rate * (1.0 - rate) / n).sqrt(), "{share} of {rate}");
    }
    let [one, other] = [3, 4].map(|place| drawn(place, 0.5));
    let zero = |v: f32| v == 0.0;
    // Where one is dropped the other is so half the time: between places, between neighbouring rows and between columns.
    let together = |pairs: &mut dyn Iterator<Item = (f32, f32)>| {
        let (mut both, mut all) = (0, 0);
        pairs.for_each(|(x, y)| (both, all) = (both + usize::from(zero(x) == zero(y)), all + 1));
        ((both as f64 / all as f64 - 0.5).abs(), 3.5 * (0.25 / all as f64).sqrt())
    };
    let row = |from: usize| one[from * width..].iter().copied();
    let (apart, allowed) = together(&mut one.iter().copied().zip(other.iter().copied()));
    assert!(apart < allowed, "places: {apart} of {allowed}");
    let (apart, allowed) = together(&mut row(0).zip(row(1)));
    assert!(apart < allowed, "rows: {apart} of {allowed}");
    let (apart, allowed) = together(&mut row(0).zip(one[1..].iter().copied()));
    assert!(apart < allowed, "columns: {apart} of {allowed}");
    // Each row and column has its share, none is all or nothing.
    let most = (0..rows).map(|i| one[i * width..(i + 1) * width].iter().filter(|v| zero(**v)).count()).max();
    assert!(most.is_some_and(|most| most < width / 2 + 90), "a row of 1024 loses {most:?}");
}

#[test]
fn updates_of_a_dropped_input() {
    let (clients, d, n, rank, rate) = (Segments::from_lengths([3, 0, 4]), 9, 6, 2, 0.3);
    // A row of nobody has a key as well.
    let keys = keys(8);
    for (ca, cb) in [(3, 1), (1, 3), (3, 3)] {
        let (x, y, a, b) = (tensor([8, d], 1), tensor([8, n], 2), tensor([ca, rank, d], 3), tensor([cb, rank, 4], 4));
        let factors = LowRank { a: a.clone(), b: b.clone(), used: None, scale: 0.7 };
        let found = dropped_update(
            y.clone(),
            x.clone(),
            (&factors, 1..5),
            &clients,
            DropMask::new(&RowKeys::new(keys.clone()), 9, rate),
        );
        let dropped = x.clone() * constant(mask(&keys, 9, d, rate), [8, d]);
        let nothing = fixed([d, n], 5) * 0.0;
        let update = adapted_linear_composed(dropped, nothing, None, &[(&factors, 1..5)], &clients, Arithmetic::F32);
        agree("update", [&x, &y, &a, &b], found, y.clone() + update);
    }
}

#[test]
fn weights_of_attention() {
    let layout =
        AttentionLayout { heads: 2, kv_heads: 1, ..AttentionLayout::full(Segments::from_lengths([3, 0, 5]), 2) };
    let (width, rate, keys) = (4, 0.3, keys(9));
    let qkv = tensor([9, 4 * width], 1);
    let row_keys = RowKeys::new(keys.clone());
    let found = packed_attention_dropped(qkv.clone(), &layout, &[], &row_keys, 20, rate);
    // Query by query, in plain numbers.
    let numbers: Vec<f64> = values(qkv.clone()).into_iter().map(f64::from).collect();
    let part = |row: usize, from: usize| &numbers[row * 4 * width + from * width..][..width];
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let mut expected = vec![0.0; 9 * 2 * width];
    for range in layout.sequences.ranges() {
        for (i, head) in range.clone().flat_map(|i| [(i, 0), (i, 1)]) {
            let scores: Vec<f64> = range.clone().map(|j| (dot(part(i, head), part(j, 2)) / 2.0).exp()).collect();
            let total: f64 = scores.iter().sum();
            for (column, j) in range.clone().enumerate() {
                let kept =
                    if is_dropped(keys[i], 20 + head as u32, column as u32, rate) { 0.0 } else { 1.0 / (1.0 - rate) };
                for w in 0..width {
                    expected[(i * 2 + head) * width + w] += scores[column] / total * kept * part(j, 3)[w];
                }
            }
        }
    }
    close("attention", values(found), expected.into_iter().map(|v| v as f32).collect());
    let none = packed_attention_dropped(qkv.clone(), &layout, &[], &row_keys, 20, 0.0);
    agree("attention without dropout", [&qkv], none, packed_attention_composed(qkv.clone(), &layout));
    close(
        "and the kernel",
        values(packed_attention(qkv.clone(), &layout)),
        values(packed_attention_composed(qkv, &layout)),
    );
}
