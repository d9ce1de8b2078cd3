//! The norm of a sum, GELU, and dropout.

use burn::tensor::Device;

use super::threads::each;
use super::{Exact, Format, backward, compare, gradient, read};
use crate::{DropMask, RowKeys, add_norm, dropout, gelu};

const EPS: f64 = 1e-5;

pub(super) fn small(seed: u64) -> Vec<Exact> {
    let norms = [(5, 7), (3, 256), (4, 700)].map(|(tokens, width)| norm(tokens, width, seed));
    norms.into_iter().chain([gelu_rows(3, 17, 1, seed), dropped_rows(5, 17, 1, seed)]).collect()
}

pub(super) fn real(tokens: usize, seed: u64) -> Vec<Exact> {
    vec![norm(tokens, 768, seed), gelu_rows(tokens, 3072, 16, seed), dropped_rows(tokens, 768, 4, seed)]
}

fn f64s(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

fn norm(tokens: usize, width: usize, seed: u64) -> Exact {
    let run = move |device: &Device, format: Format| {
        let draw = |n, s| format.numbers(n, 1000 * seed + s);
        let [x, r, dy] = [1, 2, 5].map(|s| draw(tokens * width, s));
        let [gamma, beta] = [3, 4].map(|s| draw(width, s));
        let device = &device.clone().autodiff();
        let [put_x, put_r] = [&x, &r].map(|v| format.put(v, [tokens, width], device).require_grad());
        let [put_gamma, put_beta] = [&gamma, &beta].map(|v| format.put(v, [width], device));
        let y = add_norm(put_x.clone(), put_r.clone(), put_gamma, put_beta, EPS);
        let grads = backward(&y, format.put(&dy, [tokens, width], device));
        let expected = each(tokens, |t| {
            let row = |v: &[f32]| f64s(&v[t * width..(t + 1) * width]);
            let sum: Vec<f64> = row(&x).iter().zip(row(&r)).map(|(x, r)| x + r).collect();
            norm_by_hand(&sum, &f64s(&gamma), &f64s(&beta), &row(&dy))
        });
        let (ys, dxs): (Vec<_>, Vec<_>) =
            expected.into_iter().enumerate().map(|(t, [y, dx])| ((t, y), (t, dx))).unzip();
        Ok(vec![
            compare("result", &read(y)?, width, &ys),
            compare("gradient of x", &gradient("x", &put_x, &grads)?, width, &dxs),
            compare("gradient of the residual", &gradient("the residual", &put_r, &grads)?, width, &dxs),
        ])
    };
    Exact { operation: "norm of a sum", shape: format!("[{tokens}, {width}]"), rounded: true, run: Box::new(run) }
}

/// A row's norm and the gradient of its input.
fn norm_by_hand(sum: &[f64], gamma: &[f64], beta: &[f64], dy: &[f64]) -> [Vec<f64>; 2] {
    let n = sum.len() as f64;
    let mean = sum.iter().sum::<f64>() / n;
    let var = sum.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
    let inverse = 1.0 / (var + EPS).sqrt();
    let hat: Vec<f64> = sum.iter().map(|v| (v - mean) * inverse).collect();
    let y = hat.iter().zip(gamma).zip(beta).map(|((h, g), b)| h * g + b).collect();
    let g: Vec<f64> = dy.iter().zip(gamma).map(|(d, g)| d * g).collect();
    let mean_g = g.iter().sum::<f64>() / n;
    let mean_gh = g.iter().zip(&hat).map(|(g, h)| g * h).sum::<f64>() / n;
    let dx = g.iter().zip(&hat).map(|(g, h)| (g - mean_g - h * mean_gh) * inverse).collect();
    [y, dx]
}

/// Every `step`-th row is compared.
fn gelu_rows(tokens: usize, width: usize, step: usize, seed: u64) -> Exact {
    let run = move |device: &Device, format: Format| {
        let draw = |s| format.numbers(tokens * width, 1000 * seed + s);
        // To where the function is nothing and where it is its argument.
        let x: Vec<f32> = draw(6).into_iter().map(|v| v * 6.0).collect();
        let dy = draw(7);
        let device = &device.clone().autodiff();
        let put = format.put(&x, [tokens, width], device).require_grad();
        let y = gelu(put.clone());
        let grads = backward(&y, format.put(&dy, [tokens, width], device));
        let expected = each(tokens.div_ceil(step), |i| {
            let row = i * step * width..(i * step + 1) * width;
            let values = x[row.clone()].iter().zip(&dy[row]).map(|(&x, &dy)| gelu_by_hand(x.into(), dy.into()));
            (i * step, values.unzip::<f64, f64, Vec<_>, Vec<_>>())
        });
        let (ys, dxs): (Vec<_>, Vec<_>) = expected.into_iter().map(|(t, (y, dx))| ((t, y), (t, dx))).unzip();
        Ok(vec![
            compare("result", &read(y)?, width, &ys),
            compare("gradient of x", &gradient("x", &put, &grads)?, width, &dxs),
        ])
    };
    Exact { operation: "GELU", shape: format!("[{tokens}, {width}]"), rounded: true, run: Box::new(run) }
}

/// A quarter dropped, by masks whose formula is written out once more. Every `step`-th row is compared.
fn dropped_rows(tokens: usize, width: usize, step: usize, seed: u64) -> Exact {
    const RATE: f64 = 0.25;
    let run = move |device: &Device, format: Format| {
        let [x, dy] = [8, 9].map(|s| format.numbers(tokens * width, 1000 * seed + s));
        let keys: Vec<u64> = (1..=tokens as u64).map(|i| (seed + i).wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
        let device = &device.clone().autodiff();
        let put = format.put(&x, [tokens, width], device).require_grad();
        let y = dropout(put.clone(), DropMask::new(&RowKeys::new(keys.clone()), 3, RATE));
        let grads = backward(&y, format.put(&dy, [tokens, width], device));
        let expected = each(tokens.div_ceil(step), |i| {
            let row = i * step;
            let kept = |column| if goes_by_hand(keys[row], 3, column, RATE) { 0.0 } else { 1.0 / (1.0 - RATE) };
            let times = |v: &[f32]| {
                let row = v[row * width..(row + 1) * width].iter();
                row.enumerate().map(|(column, &v)| f64::from(v) * kept(column as u64)).collect::<Vec<f64>>()
            };
            (row, [times(&x), times(&dy)])
        });
        let (ys, dxs): (Vec<_>, Vec<_>) = expected.into_iter().map(|(t, [y, dx])| ((t, y), (t, dx))).unzip();
        Ok(vec![
            compare("result", &read(y)?, width, &ys),
            compare("gradient of x", &gradient("x", &put, &grads)?, width, &dxs),
        ])
    };
    Exact { operation: "dropout", shape: format!("[{tokens}, {width}]"), rounded: true, run: Box::new(run) }
}

/// The formula of [`dropout`], in 64 bits.
fn goes_by_hand(key: u64, place: u64, column: u64, rate: f64) -> bool {
    const LOW: u64 = 0xffff_ffff;
    let mix = |word: u64| {
        let word = ((word ^ (word >> 16)) * 0x7feb_352d) & LOW;
        let word = ((word ^ (word >> 15)) * 0x846c_a68b) & LOW;
        word ^ (word >> 16)
    };
    let (a, b) = (mix((key & LOW) ^ mix(place)), mix(((key >> 32) + place) & LOW));
    (mix((mix(column ^ a) + b) & LOW) as f64) < rate * 2f64.powi(32)
}

/// `x·Φ(x)` and its slope times `dy`.
pub(super) fn gelu_by_hand(x: f64, dy: f64) -> (f64, f64) {
    use std::f64::consts::{FRAC_1_SQRT_2, PI};
    let below = 0.5 * (1.0 + erf(x * FRAC_1_SQRT_2));
    let density = (-0.5 * x * x).exp() / (2.0 * PI).sqrt();
    (x * below, dy * (below + x * density))
}

/// The error function to about 1e-15: its series near zero, the continued fraction of its complement beyond.
fn erf(x: f64) -> f64 {
    use std::f64::consts::{FRAC_2_SQRT_PI, PI};
    let (size, square) = (x.abs(), x * x);
    if size < 2.5 {
        let (mut term, mut sum) = (size, size);
        for n in 1..80 {
            term *= -square / n as f64;
            sum += term / (2 * n + 1) as f64;
        }
        return (FRAC_2_SQRT_PI * sum).copysign(x);
    }
    let fraction = (1..60).rev().fold(size, |tail, n| size + n as f64 / 2.0 / tail);
    (1.0 - (-square).exp() / (PI.sqrt() * fraction)).copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_function_is_known() {
        for (x, expected) in [
            (0.0, 0.0),
            (0.5, 0.520_499_877_813_046_5),
            (1.0, 0.842_700_792_949_714_9),
            (2.4999, 0.999_592_830_099_6),
            (3.0, 0.999_977_909_503_001_4),
            (6.0, 1.0),
        ] {
            assert!((erf(x) - expected).abs() < 1e-12 && erf(-x) == -erf(x), "erf({x}) = {}", erf(x));
        }
    }

    #[test]
    fn slopes_are_those_of_the_values() {
        let step = 1e-6;
        for x in [-5.9, -1.3, 0.0, 0.7, 3.6] {
            let slope = (gelu_by_hand(x + step, 1.0).0 - gelu_by_hand(x - step, 1.0).0) / (2.0 * step);
            assert!((gelu_by_hand(x, 1.0).1 - slope).abs() < 1e-8, "at {x}");
        }
        let (sum, gamma, beta, dy) = ([0.3, -0.2, 0.9], [1.0, 0.5, -2.0], [0.1; 3], [0.4, -1.0, 0.7]);
        let weighted = |sum: &[f64]| -> f64 {
            norm_by_hand(sum, &gamma, &beta, &dy)[0].iter().zip(&dy).map(|(y, dy)| y * dy).sum()
        };
        for i in 0..3 {
            let moved = |by: f64| {
                let mut there = sum;
                there[i] += by;
                weighted(&there)
            };
            let slope = (moved(step) - moved(-step)) / (2.0 * step);
            assert!((norm_by_hand(&sum, &gamma, &beta, &dy)[1][i] - slope).abs() < 1e-6, "entry {i}");
        }
    }
}
