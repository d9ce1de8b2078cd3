//! Cross-entropy and its gradient against f64 rows, with scores far apart and widths below, at and above the workgroup's.

use super::*;
use crate::cube::loss::loss_and_slopes;

#[test]
pub(super) fn losses_and_slopes() {
    let Some(device) = device() else { return };
    for (put, (rows, width)) in
        LAYOUTS.into_iter().flat_map(|put| [(0, 8), (5, 7), (3, 256), (4, 1001)].map(|size| (put, size)))
    {
        let scores: Vec<f32> = Random::new(width as u64).numbers(rows * width).iter().map(|v| v * 40.0).collect();
        let targets: Vec<f32> = (0..rows).map(|row| (row * 7919 % width) as f32).collect();
        let (mut losses, mut slopes) = (Vec::new(), Vec::new());
        for (row, &target) in scores.chunks(width).zip(&targets) {
            let top = row.iter().fold(f64::MIN, |top, &v| top.max(v.into()));
            let total: f64 = row.iter().map(|&v| (f64::from(v) - top).exp()).sum();
            losses.push(top + total.ln() - f64::from(row[target as usize]));
            let onehot = |i: usize| f64::from(u8::from(i == target as usize));
            slopes.extend(row.iter().enumerate().map(|(i, &v)| (f64::from(v) - top).exp() / total - onehot(i)));
        }
        let scores = put(&scores, &[rows, width], &device);
        let kept = scores.clone();
        let before = values(kept.clone());
        let (found, gradient) = loss_and_slopes(scores, put(&targets, &[rows], &device));
        close("losses", &values(found), &losses);
        close("slopes", &values(gradient), &slopes);
        assert_eq!(values(kept), before, "scores held elsewhere are not written");
    }
}
