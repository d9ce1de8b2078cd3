//! What decoders have between their products, on the CPU: root mean square norms, gated activations, rotary positions. Each in
//! one visit to memory, in vector registers, on all threads.

use burn::backend::TensorMetadata;
use burn::tensor::Shape;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::gelu::{exp_of_negative, slope, value};
use super::micro::vectorised;
use super::{dense, filled, tensor, values};
use crate::options::Bend;

/// Numbers a task works on, about: less is not worth another thread.
const NUMBERS_A_TASK: usize = 1 << 14;
/// Running sums side by side: see [`super::norm`].
const LANES: usize = 16;

/// Rows a task works on.
fn rows_a_task(width: usize) -> usize {
    (NUMBERS_A_TASK / width.max(1)).max(1)
}

/// Sum of products of two rows, in [`LANES`] running sums.
#[inline(always)]
fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut sums = [0f32; LANES];
    let (xs, ys) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
    let rest: f32 = xs.remainder().iter().zip(ys.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in xs.zip(ys) {
        for ((s, x), y) in sums.iter_mut().zip(x).zip(y) {
            *s += x * y;
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// One over a row's root mean square.
#[inline(always)]
fn inverse(x: &[f32], eps: f32) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt()
}

/// See [`crate::backends::Kernels::rms_rows`].
pub(super) fn rms(x: FlexTensor, gamma: FlexTensor, offset: f64, eps: f64) -> FlexTensor {
    let (x, gamma) = (dense(x), dense(gamma));
    let (shape, width) = (x.shape(), x.shape()[1]);
    let (xs, gamma) = (values(&x), gains(&gamma, offset));
    assert_eq!(gamma.len(), width, "one gain a column");
    let task = rows_a_task(width) * width.max(1);
    let rows = |out: &mut [f32]| {
        out.par_chunks_mut(task).zip(xs.par_chunks(task)).for_each(|(out, x)| {
            vectorised(|| {
                for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                    let inverse = inverse(x, eps as f32);
                    for ((o, x), gamma) in out.iter_mut().zip(x).zip(&gamma) {
                        *o = x * inverse * gamma;
                    }
                }
            });
        });
    };
    // SAFETY: a row of the result goes with every row of `x`, and is written whole: there is a gain for each column.
    #[allow(unsafe_code)]
    let (out, ()) = unsafe { filled(xs.len(), rows) }; // [T, D]
    tensor(out, shape)
}

/// See [`crate::backends::Kernels::rms_backward`].
pub(super) fn rms_backward(
    x: FlexTensor,
    gamma: FlexTensor,
    dy: FlexTensor,
    residual: Option<FlexTensor>,
    offset: f64,
    eps: f64,
) -> FlexTensor {
    let ([x, gamma, dy], residual) = ([x, gamma, dy].map(dense), residual.map(dense));
    let (shape, width) = (x.shape(), x.shape()[1]);
    let (xs, gamma, dys) = (values(&x), gains(&gamma, offset), values(&dy));
    assert!(gamma.len() == width && xs.len() == dys.len(), "one gain a column, one gradient an element");
    let residuals = residual.as_ref().map(values);
    assert!(residuals.is_none_or(|residuals| residuals.len() == xs.len()), "one residual gradient an element");
    let task = rows_a_task(width) * width.max(1);
    let rows = |out: &mut [f32]| {
        let inputs = xs.par_chunks(task).zip(dys.par_chunks(task));
        out.par_chunks_mut(task).zip(inputs).enumerate().for_each(|(i, (out, (x, dy)))| {
            let residual = residuals.map(|all| &all[i * task..i * task + out.len()]);
            vectorised(|| {
                let inputs = x.chunks_exact(width).zip(dy.chunks_exact(width));
                for (out, (x, dy)) in out.chunks_exact_mut(width).zip(inputs) {
                    for ((o, dy), gamma) in out.iter_mut().zip(dy).zip(&gamma) {
                        *o = dy * gamma;
                    }
                    let inverse = inverse(x, eps as f32);
                    let mean = dot(out, x) * inverse * inverse / width as f32;
                    for (o, x) in out.iter_mut().zip(x) {
                        *o = (*o - x * mean) * inverse;
                    }
                }
                if let Some(residual) = residual {
                    out.iter_mut().zip(residual).for_each(|(o, r)| *o += r);
                }
            });
        });
    };
    // SAFETY: as in `rms`; a row is written whole before it is read.
    #[allow(unsafe_code)]
    let (out, ()) = unsafe { filled(xs.len(), rows) }; // [T, D]
    tensor(out, shape)
}

fn gains(gamma: &FlexTensor, offset: f64) -> Vec<f32> {
    values(gamma).iter().map(|gamma| gamma + offset as f32).collect()
}

/// `σ(x)`.
#[inline(always)]
fn logistic(x: f32) -> f32 {
    let e = exp_of_negative(-x.abs());
    let below = e / (1.0 + e);
    if x < 0.0 { below } else { 1.0 - below }
}

/// `√(2/π)`.
const ROOT: f32 = 0.797_884_6;
const CUBE: f32 = 0.044_715;

/// `tanh(x)`.
#[inline(always)]
fn tanh(x: f32) -> f32 {
    let e = exp_of_negative(-2.0 * x.abs());
    ((1.0 - e) / (1.0 + e)).copysign(x)
}

/// The activation of a gate, and its derivative.
#[inline(always)]
fn silu(x: f32) -> [f32; 2] {
    let s = logistic(x);
    [x * s, s * (1.0 + x * (1.0 - s))]
}

#[inline(always)]
fn gelu(x: f32) -> [f32; 2] {
    [value(x), slope(x)]
}

#[inline(always)]
fn gelu_tanh(x: f32) -> [f32; 2] {
    let t = tanh(ROOT * (x + CUBE * x * x * x));
    let below = 0.5 * (1.0 + t);
    [x * below, below + 0.5 * x * (1.0 - t * t) * ROOT * (1.0 + 3.0 * CUBE * x * x)]
}

/// See [`crate::backends::Kernels::glu_forward`].
pub(super) fn glu(wide: FlexTensor, bend: Bend) -> FlexTensor {
    match bend {
        Bend::Silu => glu_by(wide, silu),
        Bend::Gelu => glu_by(wide, gelu),
        Bend::GeluTanh => glu_by(wide, gelu_tanh),
    }
}

fn glu_by(wide: FlexTensor, bend: impl Fn(f32) -> [f32; 2] + Sync + Copy) -> FlexTensor {
    let wide = dense(wide);
    let (tokens, width) = (wide.shape()[0], wide.shape()[1] / 2);
    let ws = values(&wide);
    let task = rows_a_task(width);
    let rows = |out: &mut [f32]| {
        let inputs = ws.par_chunks(2 * width.max(1) * task);
        out.par_chunks_mut(width.max(1) * task).zip(inputs).for_each(|(out, wide)| {
            vectorised(|| {
                for (out, wide) in out.chunks_exact_mut(width).zip(wide.chunks_exact(2 * width)) {
                    let (gate, up) = wide.split_at(width);
                    for ((o, gate), up) in out.iter_mut().zip(gate).zip(up) {
                        *o = bend(*gate)[0] * up;
                    }
                }
            });
        });
    };
    // SAFETY: every row of the result is written whole: twice as many columns lie in every row of `wide`.
    #[allow(unsafe_code)]
    let (out, ()) = unsafe { filled(tokens * width, rows) }; // [T, I]
    tensor(out, Shape::from([tokens, width]))
}

/// See [`crate::backends::Kernels::glu_backward`].
pub(super) fn glu_backward(wide: FlexTensor, dy: FlexTensor, bend: Bend) -> FlexTensor {
    match bend {
        Bend::Silu => glu_backward_by(wide, dy, silu),
        Bend::Gelu => glu_backward_by(wide, dy, gelu),
        Bend::GeluTanh => glu_backward_by(wide, dy, gelu_tanh),
    }
}

fn glu_backward_by(wide: FlexTensor, dy: FlexTensor, bend: impl Fn(f32) -> [f32; 2] + Sync + Copy) -> FlexTensor {
    let (wide, dy) = (dense(wide), dense(dy));
    let (shape, width) = (wide.shape(), wide.shape()[1] / 2);
    let (ws, dys) = (values(&wide), values(&dy));
    assert_eq!(ws.len(), 2 * dys.len(), "a gradient for each gate");
    let task = rows_a_task(width);
    let rows = |out: &mut [f32]| {
        let inputs = ws.par_chunks(2 * width.max(1) * task).zip(dys.par_chunks(width.max(1) * task));
        out.par_chunks_mut(2 * width.max(1) * task).zip(inputs).for_each(|(out, (wide, dy))| {
            vectorised(|| {
                let inputs = wide.chunks_exact(2 * width).zip(dy.chunks_exact(width));
                for (out, (wide, dy)) in out.chunks_exact_mut(2 * width).zip(inputs) {
                    let ((gate, up), (d_gate, d_up)) = (wide.split_at(width), out.split_at_mut(width));
                    let outputs = d_gate.iter_mut().zip(d_up);
                    for (((d_gate, d_up), (gate, up)), dy) in outputs.zip(gate.iter().zip(up)).zip(dy) {
                        let [bent, slope] = bend(*gate);
                        *d_gate = up * slope * dy;
                        *d_up = bent * dy;
                    }
                }
            });
        });
    };
    // SAFETY: every row of the result is written whole: as many columns lie in every row of `wide`.
    #[allow(unsafe_code)]
    let (out, ()) = unsafe { filled(ws.len(), rows) }; // [T, 2·I]
    tensor(out, shape)
}

/// See [`crate::backends::Kernels::turn`]; in place where nobody else has `x`.
pub(super) fn turn(x: FlexTensor, cos: FlexTensor, sin: FlexTensor, heads: usize, back: bool) -> FlexTensor {
    let [mut x, cos, sin] = [x, cos, sin].map(dense);
    let (tokens, columns, half) = (x.shape()[0], x.shape()[1], cos.shape()[1]);
    let (cos, sin) = (values(&cos), values(&sin));
    assert!(
        heads * 2 * half <= columns && cos.len() == tokens * half && sin.len() == cos.len(),
        "angles of every token"
    );
    if half == 0 || heads == 0 || tokens == 0 {
        return x;
    }
    let sign = if back { -1.0 } else { 1.0 };
    let task = rows_a_task(columns);
    let all = &mut x.storage_mut::<f32>()[..tokens * columns]; // [T, N]
    let angles = cos.par_chunks(half * task).zip(sin.par_chunks(half * task));
    all.par_chunks_mut(columns * task).zip(angles).for_each(|(rows, (cos, sin))| {
        vectorised(|| {
            let angles = cos.chunks_exact(half).zip(sin.chunks_exact(half));
            for (row, (cos, sin)) in rows.chunks_exact_mut(columns).zip(angles) {
                for head in row[..heads * 2 * half].chunks_exact_mut(2 * half) {
                    let (first, second) = head.split_at_mut(half);
                    for (((x, y), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                        let sin = sin * sign;
                        (*x, *y) = (*x * cos - *y * sin, *y * cos + *x * sin);
                    }
                }
            }
        });
    });
    x
}
