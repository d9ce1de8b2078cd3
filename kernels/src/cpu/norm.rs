//! Layer normalisation of a sum on the CPU: sum, mean, variance and result in one visit to each row.

use burn::backend::TensorMetadata;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::micro::vectorised;
use super::{dense, filled, tensor, values};

const ROWS_A_TASK: usize = 64;
/// Running sums side by side, so that a long sum fills vector registers without being reordered differently on
/// different machines.
const LANES: usize = 16;

/// See [`crate::backends::Kernels::add_norm_rows`].
pub(super) fn forward(
    x: FlexTensor,
    r: FlexTensor,
    gamma: FlexTensor,
    beta: FlexTensor,
    eps: f64,
) -> (FlexTensor, FlexTensor) {
    let shape = x.shape();
    let width = shape[1];
    let [x, r, gamma, beta] = [x, r, gamma, beta].map(dense);
    let (xs, rs, gamma, beta) = (values(&x), values(&r), values(&gamma), values(&beta));
    // What is written below is written for each row of both, and no further than a row's parameters reach.
    assert!(xs.len() == rs.len() && gamma.len() == width && beta.len() == width, "add_norm of unequal shapes");
    let task = ROWS_A_TASK * width;
    let rows = |out: &mut [f32], total: &mut [f32]| {
        let inputs = xs.par_chunks(task).zip(rs.par_chunks(task));
        out.par_chunks_mut(task).zip(total.par_chunks_mut(task)).zip(inputs).for_each(|((out, total), (x, r))| {
            vectorised(|| {
                let rows = out.chunks_exact_mut(width).zip(total.chunks_exact_mut(width));
                for ((out, total), (x, r)) in rows.zip(x.chunks_exact(width).zip(r.chunks_exact(width))) {
                    row(x, r, gamma, beta, eps as f32, total, out);
                }
            });
        });
    };
    // SAFETY: the shapes are equal, so that a row of `out` and `total` goes with every row of `x` and `r`; `row` writes all of
    // `total`, then all of `out`.
    #[allow(unsafe_code)]
    let (out, (total, ())) = unsafe { filled(xs.len(), |out| filled(xs.len(), |total| rows(out, total))) }; // [T, D] each
    (tensor(out, shape.clone()), tensor(total, shape))
}

#[inline(always)]
fn add_up(x: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().map(|&v| of(v)).sum();
    for chunk in chunks {
        for (s, &v) in sums.iter_mut().zip(chunk) {
            *s += of(v);
        }
    }
    sums.iter().sum::<f32>() + rest
}

#[inline(always)]
fn row(x: &[f32], r: &[f32], gamma: &[f32], beta: &[f32], eps: f32, total: &mut [f32], out: &mut [f32]) {
    let n = x.len() as f32;
    for ((t, x), r) in total.iter_mut().zip(x).zip(r) {
        *t = x + r;
    }
    let mean = add_up(total, |v| v) / n;
    let var = add_up(total, |v| (v - mean) * (v - mean)) / n;
    let inv = 1.0 / (var + eps).sqrt();
    for (((o, t), gamma), beta) in out.iter_mut().zip(total.iter()).zip(gamma).zip(beta) {
        *o = (t - mean) * inv * gamma + beta;
    }
}

/// See [`crate::backends::Kernels::add_norm_backward`].
pub(super) fn backward(total: FlexTensor, gamma: FlexTensor, dy: FlexTensor, eps: f64) -> FlexTensor {
    let shape = total.shape();
    let width = shape[1];
    let [total, gamma, dy] = [total, gamma, dy].map(dense);
    let (xs, gamma, dys) = (values(&total), values(&gamma), values(&dy));
    assert!(xs.len() == dys.len() && gamma.len() == width, "add_norm's backward of unequal shapes");
    let task = ROWS_A_TASK * width;
    let rows = |out: &mut [f32]| {
        out.par_chunks_mut(task).zip(xs.par_chunks(task).zip(dys.par_chunks(task))).for_each(|(out, (x, dy))| {
            vectorised(|| {
                let inputs = x.chunks_exact(width).zip(dy.chunks_exact(width));
                for (out, (x, dy)) in out.chunks_exact_mut(width).zip(inputs) {
                    row_backward(x, gamma, dy, eps as f32, out);
                }
            });
        });
    };
    // SAFETY: the shapes are equal, so that a row of `out` goes with every row of `x` and `dy`; `row_backward` first writes all
    // of it.
    #[allow(unsafe_code)]
    let (out, ()) = unsafe { filled(xs.len(), rows) }; // [T, D]
    tensor(out, shape)
}

#[inline(always)]
fn row_backward(x: &[f32], gamma: &[f32], dy: &[f32], eps: f32, out: &mut [f32]) {
    let n = x.len() as f32;
    let mean = add_up(x, |v| v) / n;
    let var = add_up(x, |v| (v - mean) * (v - mean)) / n;
    let inv = 1.0 / (var + eps).sqrt();
    for ((o, gamma), dy) in out.iter_mut().zip(gamma).zip(dy) {
        *o = gamma * dy;
    }
    let mean_g = add_up(out, |v| v) / n;
    let mut sums = [0f32; LANES];
    for (g, x) in out.chunks(LANES).zip(x.chunks(LANES)) {
        for ((s, g), x) in sums.iter_mut().zip(g).zip(x) {
            *s += g * (x - mean);
        }
    }
    let mean_gh = sums.iter().sum::<f32>() * inv / n;
    for (o, x) in out.iter_mut().zip(x) {
        *o = (*o - mean_g - (x - mean) * inv * mean_gh) * inv;
    }
}
