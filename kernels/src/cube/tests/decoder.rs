//! What decoders have between their products: root mean square norms, gated units, rotary positions, and their gradients.

use super::*;
use crate::Bend;
use crate::cube::glu::{glu, glu_backward, turn};
use crate::cube::norm::{rms, rms_backward};

const EPS: f64 = 1e-5;
/// Rows and their widths.
const SIZES: [(usize, usize); 4] = [(0, 8), (5, 7), (3, 256), (4, 700)];

#[test]
pub(super) fn norms() {
    let Some(device) = device() else { return };
    for (put, (tokens, width)) in LAYOUTS.into_iter().flat_map(|put| SIZES.map(|size| (put, size))) {
        for offset in [0.0, 1.0] {
            let mut random = Random::new(width as u64);
            let [x, dy] = [0, 1].map(|_| random.numbers(tokens * width));
            let gamma = random.numbers(width);
            let (mut expected, mut slopes) = (Vec::new(), Vec::new());
            for (x, dy) in x.chunks(width).zip(dy.chunks(width)) {
                let inverse = 1.0 / (x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / width as f64 + EPS).sqrt();
                let hat: Vec<f64> = x.iter().map(|x| f64::from(*x) * inverse).collect();
                let gains: Vec<f64> = gamma.iter().map(|gamma| f64::from(*gamma) + offset).collect();
                let g: Vec<f64> = dy.iter().zip(&gains).map(|(dy, gain)| f64::from(*dy) * gain).collect();
                let mean = g.iter().zip(&hat).map(|(g, h)| g * h).sum::<f64>() / width as f64;
                expected.extend(hat.iter().zip(&gains).map(|(h, gain)| h * gain));
                slopes.extend(g.iter().zip(&hat).map(|(g, h)| (g - h * mean) * inverse));
            }
            let past = random.numbers(tokens * width);
            let summed: Vec<f64> = slopes.iter().zip(&past).map(|(slope, past)| slope + f64::from(*past)).collect();
            let [x, dy, past] = [x, dy, past].map(|v| put(&v, &[tokens, width], &device));
            let gamma = || put(&gamma, &[width], &device);
            close("norm", &values(rms(&x, gamma(), offset, EPS)), &expected);
            close("its gradient", &values(rms_backward(&x, gamma(), dy.clone(), None, offset, EPS)), &slopes);
            let found = rms_backward(&x, gamma(), dy, Some(past), offset, EPS);
            close("its gradient and the residual's", &values(found), &summed);
        }
    }
}

/// A bent gate and its slope.
fn bent(x: f64, bend: Bend) -> (f64, f64) {
    match bend {
        Bend::Silu => {
            let s = 1.0 / (1.0 + (-x).exp());
            (x * s, s * (1.0 + x * (1.0 - s)))
        }
        Bend::Gelu => {
            let below = 0.5 * libm::erfc(-x / std::f64::consts::SQRT_2);
            (x * below, below + x * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt())
        }
        Bend::GeluTanh => {
            let (root, cube) = ((2.0 / std::f64::consts::PI).sqrt(), 0.044715);
            let t = (root * (x + cube * x.powi(3))).tanh();
            let slope = 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * root * (1.0 + 3.0 * cube * x * x);
            (0.5 * x * (1.0 + t), slope)
        }
    }
}

#[test]
pub(super) fn gated_units() {
    let Some(device) = device() else { return };
    for (put, (tokens, width)) in LAYOUTS.into_iter().flat_map(|put| SIZES.map(|size| (put, size))) {
        for bend in [Bend::Silu, Bend::Gelu, Bend::GeluTanh] {
            let mut random = Random::new(width as u64 + 3);
            // To where a gate is shut and where it is open.
            let wide: Vec<f32> = random.numbers(tokens * 2 * width).into_iter().map(|v| 6.0 * v).collect();
            let dy = random.numbers(tokens * width);
            let (mut expected, mut slopes) = (Vec::new(), Vec::new());
            for (wide, dy) in wide.chunks(2 * width).zip(dy.chunks(width)) {
                let unit = |i: usize| (bent(f64::from(wide[i]), bend), f64::from(wide[width + i]), f64::from(dy[i]));
                expected.extend((0..width).map(|i| unit(i).0.0 * unit(i).1));
                slopes.extend((0..width).map(|i| unit(i).0.1 * unit(i).1 * unit(i).2));
                slopes.extend((0..width).map(|i| unit(i).0.0 * unit(i).2));
            }
            let wide = put(&wide, &[tokens, 2 * width], &device);
            close("glu", &values(glu(&wide, bend)), &expected);
            let found = glu_backward(&wide, put(&dy, &[tokens, width], &device), bend);
            close("its gradient", &values(found), &slopes);
        }
    }
}

#[test]
pub(super) fn turned_heads() {
    let Some(device) = device() else { return };
    for (put, (tokens, heads, half, more)) in
        LAYOUTS.into_iter().flat_map(|put| [(0, 1, 4, 0), (5, 3, 4, 9), (7, 2, 40, 80), (3, 1, 1, 0)].map(|s| (put, s)))
    {
        let mut random = Random::new(half as u64);
        let columns = heads * 2 * half + more;
        let x = random.numbers(tokens * columns);
        let [cos, sin] = [0, 1].map(|_| random.numbers(tokens * half));
        for (back, sign) in [(false, 1.0), (true, -1.0)] {
            let mut expected: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
            for token in 0..tokens {
                for pair in 0..heads * half {
                    let (head, feature) = (pair / half, pair % half);
                    let at = token * columns + head * 2 * half + feature;
                    let [c, s] = [&cos, &sin].map(|table| f64::from(table[token * half + feature]));
                    let [a, b] = [at, at + half].map(|i| f64::from(x[i]));
                    (expected[at], expected[at + half]) = (a * c - b * s * sign, b * c + a * s * sign);
                }
            }
            let there = put(&x, &[tokens, columns], &device);
            let held = there.clone();
            let angles = || [&cos, &sin].map(|table| put(table, &[tokens, half], &device));
            let [c, s] = angles();
            close("turned", &values(turn(there, c, s, heads, back)), &expected);
            let before: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
            close("what somebody else holds stays", &values(held), &before);
            let [c, s] = angles();
            close("turned in place", &values(turn(put(&x, &[tokens, columns], &device), c, s, heads, back)), &expected);
        }
    }
}
