//! GELU on the CPU: the exact one, by the error function, forward and backward from one exponential.

use burn::backend::TensorMetadata;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::micro::vectorised;
use super::{ELEMENTS_A_TASK, dense, filled, tensor, values};

/// `e^x` for `x ≤ 0` to 2 ulp, without branches so that loops over it vectorise.
#[inline(always)]
pub(crate) fn exp_of_negative(x: f32) -> f32 {
    // x = n·ln 2 + r with |r| ≤ ln 2 / 2; adding 1.5·2²³ rounds to the integer n and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // Not `max`, which would turn a NaN into a number.
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts keeps r exact.
    let r = (x - n * 0.693_359_4) + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4f32;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let value = p * r * r + r + 1.0;
    value * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}

/// Φ(x) and the density φ(x). Φ by Abramowitz and Stegun 7.1.26 (absolute error below 1.5e-7), whose exponential
/// is the density's.
#[inline(always)]
fn normal(x: f32) -> (f32, f32) {
    let density = exp_of_negative(-0.5 * x * x);
    let t = 1.0 / (1.0 + 0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2 * x.abs());
    let p = t * (0.254_829_6 + t * (-0.284_496_74 + t * (1.421_413_7 + t * (-1.453_152 + t * 1.061_405_4))));
    let tail = 0.5 * p * density;
    let below = if x < 0.0 { tail } else { 1.0 - tail };
    (below, density * 0.398_942_3)
}

#[inline(always)]
pub(super) fn value(x: f32) -> f32 {
    x * normal(x).0
}

#[inline(always)]
pub(super) fn slope(x: f32) -> f32 {
    let (below, density) = normal(x);
    below + x * density
}

/// See [`crate::backends::Kernels::gelu_elements`].
pub(super) fn forward(x: &FlexTensor) -> FlexTensor {
    let x = dense(x.clone());
    let xs = values(&x);
    let elements = |out: &mut [f32]| {
        out.par_chunks_mut(ELEMENTS_A_TASK).zip(xs.par_chunks(ELEMENTS_A_TASK)).for_each(|(out, x)| {
            vectorised(|| out.iter_mut().zip(x).for_each(|(o, &x)| *o = value(x)));
        });
    };
    // SAFETY: as many are written as `x` has.
    #[allow(unsafe_code)]
    let (out, ()) = unsafe { filled(xs.len(), elements) }; // [T, D]
    tensor(out, x.shape())
}

/// See [`crate::backends::Kernels::gelu_elements_backward`]; in place where `dy` is nobody else's.
pub(super) fn backward(x: &FlexTensor, dy: FlexTensor) -> FlexTensor {
    let (x, mut dy) = (dense(x.clone()), dense(dy));
    let count = dy.shape().num_elements();
    let out = &mut dy.storage_mut::<f32>()[..count];
    out.par_chunks_mut(ELEMENTS_A_TASK).zip(values(&x).par_chunks(ELEMENTS_A_TASK)).for_each(|(out, x)| {
        vectorised(|| out.iter_mut().zip(x).for_each(|(o, &x)| *o *= slope(x)));
    });
    dy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_formulas_hold() {
        for i in -8700..=0 {
            let x = i as f32 / 100.0;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp_of_negative(x)) - exact).abs() <= 3e-7 * exact, "exp({x})");
        }
        assert_eq!(exp_of_negative(0.0), 1.0);
        assert!(exp_of_negative(f32::NEG_INFINITY) < 1e-37 && value(f32::NAN).is_nan());
        // Φ by summing the density in f64.
        let (mut below, mut at) = (0.5f64, 0.0f64);
        let density = |x: f64| (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
        while at < 6.0 {
            let step = 1e-3;
            below += step / 6.0 * (density(at) + 4.0 * density(at + step / 2.0) + density(at + step));
            at += step;
            let x = at as f32;
            assert!((f64::from(value(x)) - at * below).abs() < 2e-6, "gelu({x})");
            assert!((f64::from(value(-x)) + at * (1.0 - below)).abs() < 2e-6, "gelu(-{x})");
            assert!((f64::from(slope(x)) - (below + at * density(at))).abs() < 1e-6, "slope({x})");
        }
    }
}
