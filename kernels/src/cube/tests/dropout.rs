//! Dropout, element by element, with the masks that the host works out.

use super::*;
use crate::cube::dropout::dropped;
use crate::masks::drawn;
use crate::{DropMask, RowKeys};

#[test]
pub(super) fn elements() {
    let Some(device) = device() else { return };
    for (put, (rows, width)) in LAYOUTS.into_iter().flat_map(|put| [(1, 1), (5, 7), (9, 700)].map(|size| (put, size))) {
        let mut random = Random::new(width as u64);
        let keys = RowKeys::new((0..rows + 3).map(|_| random.bits() << 20 ^ random.bits()));
        // Two blocks of some of the rows.
        let mask = DropMask { rows: 2..rows + 2, ..DropMask::new(&keys, u32::MAX, 0.3) };
        let x = random.numbers(2 * rows * width);
        let expected: Vec<f64> = x
            .iter()
            .enumerate()
            .map(|(i, &x)| {
                let goes = drawn(mask.words_of(i / width), (i % width) as u32) < mask.threshold();
                if goes { 0.0 } else { f64::from(x * mask.scale()) }
            })
            .collect();
        let there = put(&x, &[2 * rows, width], &device);
        let held = there.clone();
        close("dropout", &values(dropped(there, &mask)), &expected);
        close("what somebody else holds stays", &values(held), &x.iter().map(|&v| f64::from(v)).collect::<Vec<_>>());
        let in_place = dropped(put(&x, &[2 * rows, width], &device), &mask);
        nothing_between(&in_place);
        close("in place", &values(in_place), &expected);
    }
}
