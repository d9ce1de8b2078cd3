//! What decoders have between their products: root mean square norms, gated units, rotary positions.

use burn::tensor::Device;

use super::pointwise::gelu_by_hand;
use super::threads::each;
use super::{Exact, Format, backward, compare, gradient, read};
use crate::{Bend, glu, rms_norm, rotate};

const EPS: f64 = 1e-5;

pub(super) fn small(seed: u64) -> Vec<Exact> {
    let norms =
        [(5, 7, 0.0), (3, 256, 1.0), (4, 700, 0.0)].map(|(tokens, width, offset)| norm(tokens, width, offset, seed));
    let units = [Bend::Silu, Bend::Gelu, Bend::GeluTanh].map(|bend| unit(3, 17, bend, seed));
    let heads =
        [(5, 3, 4, 9), (1, 1, 1, 0)].map(|(tokens, heads, half, more)| heads_turned(tokens, heads, half, more, seed));
    norms.into_iter().chain(units).chain(heads).collect()
}

pub(super) fn real(tokens: usize, seed: u64) -> Vec<Exact> {
    vec![norm(tokens, 2048, 0.0, seed), unit(tokens, 5632, Bend::Silu, seed), heads_turned(tokens, 36, 32, 256, seed)]
}

fn f64s(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

/// Rows of results and gradients, numbered.
fn numbered(rows: Vec<[Vec<f64>; 2]>) -> [Vec<(usize, Vec<f64>)>; 2] {
    let (ys, dxs) = rows.into_iter().enumerate().map(|(t, [y, dx])| ((t, y), (t, dx))).unzip();
    [ys, dxs]
}

fn norm(tokens: usize, width: usize, offset: f64, seed: u64) -> Exact {
    let run = move |device: &Device, format: Format| {
        let draw = |n, s| format.numbers(n, 1000 * seed + s);
        let [x, dy] = [80, 81].map(|s| draw(tokens * width, s));
        let gamma = draw(width, 82);
        let device = &device.clone().autodiff();
        let put = format.put(&x, [tokens, width], device).require_grad();
        let y = rms_norm(put.clone(), format.put(&gamma, [width], device), offset, EPS);
        let grads = backward(&y, format.put(&dy, [tokens, width], device));
        let [ys, dxs] = numbered(each(tokens, |t| {
            let row = |v: &[f32]| f64s(&v[t * width..(t + 1) * width]);
            let (x, dy) = (row(&x), row(&dy));
            let inverse = 1.0 / (x.iter().map(|v| v * v).sum::<f64>() / width as f64 + EPS).sqrt();
            let gains: Vec<f64> = gamma.iter().map(|gamma| f64::from(*gamma) + offset).collect();
            let mean = (0..width).map(|i| dy[i] * gains[i] * x[i] * inverse).sum::<f64>() / width as f64;
            let y = (0..width).map(|i| x[i] * inverse * gains[i]).collect();
            [y, (0..width).map(|i| (dy[i] * gains[i] - x[i] * inverse * mean) * inverse).collect()]
        }));
        Ok(vec![
            compare("result", &read(y)?, width, &ys),
            compare("gradient of x", &gradient("x", &put, &grads)?, width, &dxs),
        ])
    };
    let gains = if offset == 0.0 { "" } else { ", gains from 1" };
    Exact { operation: "RMS norm", shape: format!("[{tokens}, {width}]{gains}"), rounded: true, run: Box::new(run) }
}

/// A bent gate and its slope.
fn bent(x: f64, bend: Bend) -> (f64, f64) {
    match bend {
        Bend::Silu => {
            let s = 1.0 / (1.0 + (-x).exp());
            (x * s, s * (1.0 + x * (1.0 - s)))
        }
        Bend::Gelu => gelu_by_hand(x, 1.0),
        Bend::GeluTanh => {
            let (root, cube) = ((2.0 / std::f64::consts::PI).sqrt(), 0.044715);
            let t = (root * (x + cube * x.powi(3))).tanh();
            (0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * root * (1.0 + 3.0 * cube * x * x))
        }
    }
}

fn unit(tokens: usize, width: usize, bend: Bend, seed: u64) -> Exact {
    let run = move |device: &Device, format: Format| {
        let draw = |n, s| format.numbers(n, 1000 * seed + s);
        // To where a gate is shut and where it is open.
        let wide: Vec<f32> = draw(tokens * 2 * width, 83).into_iter().map(|v| v * 4.0).collect();
        let dy = draw(tokens * width, 84);
        let device = &device.clone().autodiff();
        let put = format.put(&wide, [tokens, 2 * width], device).require_grad();
        let y = glu(put.clone(), bend);
        let grads = backward(&y, format.put(&dy, [tokens, width], device));
        let [ys, dxs] = numbered(each(tokens, |t| {
            let (wide, dy) = (&wide[t * 2 * width..(t + 1) * 2 * width], &dy[t * width..(t + 1) * width]);
            let unit = |i: usize| (bent(wide[i].into(), bend), f64::from(wide[width + i]), f64::from(dy[i]));
            let gates = (0..width).map(|i| unit(i).0.1 * unit(i).1 * unit(i).2);
            let ups = (0..width).map(|i| unit(i).0.0 * unit(i).2);
            [(0..width).map(|i| unit(i).0.0 * unit(i).1).collect(), gates.chain(ups).collect()]
        }));
        Ok(vec![
            compare("result", &read(y)?, width, &ys),
            compare("gradient of gates and ups", &gradient("gates and ups", &put, &grads)?, 2 * width, &dxs),
        ])
    };
    let shape = format!("[{tokens}, 2 x {width}], {bend:?}");
    Exact { operation: "gated unit", shape, rounded: true, run: Box::new(run) }
}

fn heads_turned(tokens: usize, heads: usize, half: usize, more: usize, seed: u64) -> Exact {
    let columns = heads * 2 * half + more;
    let run = move |device: &Device, format: Format| {
        let draw = |n, s| format.numbers(n, 1000 * seed + s);
        let [x, dy] = [85, 86].map(|s| draw(tokens * columns, s));
        let [cos, sin] = [87, 88].map(|s| draw(tokens * half, s));
        let device = &device.clone().autodiff();
        let put = format.put(&x, [tokens, columns], device).require_grad();
        let [put_cos, put_sin] = [&cos, &sin].map(|table| format.put(table, [tokens, half], device));
        let y = rotate(put.clone(), put_cos, put_sin, heads);
        let grads = backward(&y, format.put(&dy, [tokens, columns], device));
        let turned = |row: &[f32], t: usize, sign: f64| {
            let mut out = f64s(row);
            for pair in 0..heads * half {
                let at = pair / half * 2 * half + pair % half;
                let [c, s] = [&cos, &sin].map(|table| f64::from(table[t * half + pair % half]));
                let [a, b] = [at, at + half].map(|i| f64::from(row[i]));
                (out[at], out[at + half]) = (a * c - b * s * sign, b * c + a * s * sign);
            }
            out
        };
        let [ys, dxs] = numbered(each(tokens, |t| {
            let row = t * columns..(t + 1) * columns;
            [turned(&x[row.clone()], t, 1.0), turned(&dy[row], t, -1.0)]
        }));
        Ok(vec![
            compare("result", &read(y)?, columns, &ys),
            compare("gradient of x", &gradient("x", &put, &grads)?, columns, &dxs),
        ])
    };
    let shape =
        format!("[{tokens}, {heads} x {}{}]", 2 * half, if more == 0 { String::new() } else { format!(" + {more}") });
    Exact { operation: "rotary positions", shape, rounded: true, run: Box::new(run) }
}
