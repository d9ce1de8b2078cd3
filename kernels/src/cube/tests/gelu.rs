//! GELU and its gradient, element by element.

use super::*;
use crate::cube::gelu::{gelu, gelu_backward};

/// Rows and their widths.
const SIZES: [(usize, usize); 4] = [(0, 8), (1, 1), (5, 7), (9, 700)];

/// `x · Φ(x)` and its slope.
pub(super) fn by_hand(x: f64) -> (f64, f64) {
    let below = 0.5 * libm::erfc(-x / std::f64::consts::SQRT_2);
    let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
    (x * below, below + x * density)
}

/// Numbers to where both tails are flat.
fn wide(random: &mut Random, count: usize) -> Vec<f32> {
    random.numbers(count).into_iter().map(|v| 6.0 * v).collect()
}

#[test]
pub(super) fn forward() {
    let Some(device) = device() else { return };
    for (put, (tokens, width)) in LAYOUTS.into_iter().flat_map(|put| SIZES.map(|size| (put, size))) {
        let x = wide(&mut Random::new(width as u64), tokens * width);
        let expected: Vec<f64> = x.iter().map(|x| by_hand(f64::from(*x)).0).collect();
        close("gelu", &values(gelu(&put(&x, &[tokens, width], &device))), &expected);
    }
}

#[test]
pub(super) fn gradient() {
    let Some(device) = device() else { return };
    for (put, (tokens, width)) in LAYOUTS.into_iter().flat_map(|put| SIZES.map(|size| (put, size))) {
        let mut random = Random::new(width as u64 + 1);
        let (x, dy) = (wide(&mut random, tokens * width), random.numbers(tokens * width));
        let expected: Vec<f64> = x.iter().zip(&dy).map(|(x, dy)| f64::from(*dy) * by_hand(f64::from(*x)).1).collect();
        let there = put(&dy, &[tokens, width], &device);
        let held = there.clone();
        let found = gelu_backward(&put(&x, &[tokens, width], &device), there);
        close("gradient", &values(found), &expected);
        let before: Vec<f64> = dy.iter().map(|v| f64::from(*v)).collect();
        close("what somebody else holds stays", &values(held), &before);
        let found = gelu_backward(&put(&x, &[tokens, width], &device), put(&dy, &[tokens, width], &device));
        close("gradient in place", &values(found), &expected);
    }
}
