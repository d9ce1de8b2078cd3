//! Slot scores with either factor shared.

use super::*;
use crate::cube::scores::slot_scores;

#[test]
pub(super) fn norms_of_both_factors() {
    let Some(device) = device() else { return };
    for (ca, cb, d_in, slots, d_out) in [(1, 3, 50, 5, 33), (3, 1, 7, 16, 90), (3, 3, 20, 35, 20), (1, 1, 1, 1, 1)] {
        let mut random = Random::new(slots as u64);
        let a = random.numbers(ca * d_in * slots);
        let b = random.numbers(cb * slots * d_out);
        let mut expected = Vec::new();
        for c in 0..ca.max(cb) {
            let (in_a, in_b) = (c.min(ca - 1) * d_in * slots, c.min(cb - 1) * slots * d_out);
            for r in 0..slots {
                let squares_a: f64 = (0..d_in).map(|k| (a[in_a + r * d_in + k] as f64).powi(2)).sum();
                let squares_b: f64 = (0..d_out).map(|n| (b[in_b + r * d_out + n] as f64).powi(2)).sum();
                expected.push((squares_a * squares_b).sqrt());
            }
        }
        for put in LAYOUTS {
            let found = slot_scores(put(&a, &[ca, slots, d_in], &device), put(&b, &[cb, slots, d_out], &device));
            close(&format!("{slots} slots"), &values(found), &expected);
        }
    }
}
