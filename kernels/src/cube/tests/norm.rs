//! Layer norm with residual sum, and its gradient, against f64 rows; widths below, at and above the workgroup's.

use super::*;
use crate::cube::norm::{add_norm, add_norm_backward};

const EPS: f64 = 1e-5;
/// Rows and their widths.
const SIZES: [(usize, usize); 4] = [(0, 8), (5, 7), (3, 256), (4, 700)];

/// Mean and inverse deviation of a row.
fn moments(row: &[f64]) -> (f64, f64) {
    let n = row.len() as f64;
    let mean = row.iter().sum::<f64>() / n;
    let var = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
    (mean, 1.0 / (var + EPS).sqrt())
}

fn f64s(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| v as f64).collect()
}

#[test]
pub(super) fn sum_and_norm() {
    let Some(device) = device() else { return };
    for (put, (tokens, width)) in LAYOUTS.into_iter().flat_map(|put| SIZES.map(|size| (put, size))) {
        let mut random = Random::new(width as u64);
        let [x, r] = [0, 1].map(|_| random.numbers(tokens * width));
        let [gamma, beta] = [0, 1].map(|_| random.numbers(width));
        let sums: Vec<f64> = x.iter().zip(&r).map(|(x, r)| (x + r) as f64).collect();
        let expected: Vec<f64> = sums
            .chunks(width)
            .flat_map(|row| {
                let (mean, inverse) = moments(row);
                let line = row.iter().zip(&gamma).zip(&beta);
                line.map(move |((s, &g), &b)| (s - mean) * inverse * g as f64 + b as f64).collect::<Vec<_>>()
            })
            .collect();
        let [x, r] = [x, r].map(|v| put(&v, &[tokens, width], &device));
        let [gamma, beta] = [gamma, beta].map(|v| put(&v, &[width], &device));
        let (out, sum) = add_norm(x, r, gamma, beta, EPS);
        close("sum", &values(sum), &sums);
        close("norm", &values(out), &expected);
    }
}

#[test]
pub(super) fn gradient() {
    let Some(device) = device() else { return };
    for (put, (tokens, width)) in LAYOUTS.into_iter().flat_map(|put| SIZES.map(|size| (put, size))) {
        let mut random = Random::new(width as u64 + 1);
        let [x, dy] = [0, 1].map(|_| random.numbers(tokens * width));
        let gamma = random.numbers(width);
        let (xs, dys, gs) = (f64s(&x), f64s(&dy), f64s(&gamma));
        let mut expected = Vec::new();
        for (x, dy) in xs.chunks(width).zip(dys.chunks(width)) {
            let (mean, inverse) = moments(x);
            let hat: Vec<f64> = x.iter().map(|x| (x - mean) * inverse).collect();
            let g: Vec<f64> = dy.iter().zip(&gs).map(|(dy, g)| dy * g).collect();
            let mean_g = g.iter().sum::<f64>() / width as f64;
            let mean_gh = g.iter().zip(&hat).map(|(g, h)| g * h).sum::<f64>() / width as f64;
            expected.extend(g.iter().zip(&hat).map(|(g, h)| (g - mean_g - h * mean_gh) * inverse));
        }
        let [x, dy] = [x, dy].map(|v| put(&v, &[tokens, width], &device));
        let dx = add_norm_backward(x, put(&gamma, &[width], &device), dy, EPS);
        close("gradient", &values(dx), &expected);
    }
}
