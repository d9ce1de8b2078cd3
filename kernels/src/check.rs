//! Every operation on small awkward shapes, with its reference in plain tensor operations: what tells whether a device
//! computes right. The tests of this crate run it on their device, `bonfire doctor` on every device there is.
//!
//! Shapes are few, because GPUs compile and tune kernels for each: an empty client, lengths of one, ranks that fill no
//! register, rows that belong to nobody, fewer key heads than query heads.

mod cases;
pub mod devices;
pub mod exact;

use burn::tensor::{Device, Tensor, TensorData};

/// Largest [`difference`] between an operation and its reference: another order of summation, no more.
pub const ALLOWED: f64 = 1e-4;

/// Which way a case is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By the operation.
    Operation,
    /// By plain tensor operations.
    Reference,
}

/// One tensor of a case's outcome: a result or a gradient.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// What it is: `result`, `gradient of A 0`.
    pub name: String,
    /// Its numbers, row-major.
    pub values: Vec<f32>,
}

/// What a case gives, or why the device gave nothing.
pub type Outcome = Result<Vec<Part>, String>;

/// One operation on one shape.
pub struct Case {
    /// The operation.
    pub operation: &'static str,
    /// What is awkward about the shape.
    pub shape: &'static str,
    /// Whether it belongs to the short form.
    pub short: bool,
    /// Whether training uses the operation; else it is only there to tell where a fault lies.
    pub used: bool,
    run: fn(&Device, Way) -> Outcome,
}

impl Case {
    /// Computes the case on `device` (without autodiff).
    ///
    /// # Errors
    /// The device failed, in words.
    ///
    /// # Panics
    /// Where the backend panics.
    pub fn outcome(&self, device: &Device, way: Way) -> Outcome {
        (self.run)(device, way)
    }
}

/// All cases.
pub fn cases() -> Vec<Case> {
    cases::all()
}

/// The largest difference between two lists of parts and the part it is in: see [`difference`]. Infinite where the parts
/// are not the same.
pub fn largest(found: &[Part], expected: &[Part]) -> (f64, String) {
    let named = |parts: &[Part]| parts.iter().map(|part| part.name.clone()).collect::<Vec<_>>();
    if named(found) != named(expected) {
        return (f64::INFINITY, "parts".into());
    }
    let each = found.iter().zip(expected).map(|(f, e)| (difference(&f.values, &e.values), f.name.clone()));
    each.fold((0.0, String::new()), |most, one| if most.1.is_empty() || one.0 > most.0 { one } else { most })
}

/// The largest difference of two lists of numbers: absolute below 1, above relative to the expected number. What is not
/// a number is infinitely far off, and so are lists of different lengths.
pub fn difference(found: &[f32], expected: &[f32]) -> f64 {
    if found.len() != expected.len() {
        return f64::INFINITY;
    }
    let off = |(f, e): (&f32, &f32)| {
        let off = f64::from((f - e).abs()) / f64::from(e.abs()).max(1.0);
        if off.is_finite() { off } else { f64::INFINITY }
    };
    found.iter().zip(expected).map(off).fold(0.0, f64::max)
}

/// Numbers in -1..1 that depend on `seed` alone.
pub fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// A tensor of [`numbers`] on `device`.
pub fn tensor<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(numbers(shape.iter().product(), seed), shape), device)
}

/// The numbers of a tensor, under a name.
///
/// # Errors
/// The device failed, in words.
pub fn part<const D: usize>(name: impl Into<String>, tensor: Tensor<D>) -> Result<Part, String> {
    let data = tensor.try_into_data().map_err(|error| format!("the device failed: {error}"))?;
    let values = data.try_to_vec().map_err(|error| format!("the device gave something else than f32: {error:?}"))?;
    Ok(Part { name: name.into(), values })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_count_relative_above_one() {
        assert_eq!(difference(&[1.0, 2.0], &[1.0, 2.5]), 0.2);
        assert_eq!(difference(&[0.25], &[0.0]), 0.25);
        assert_eq!(difference(&[0.0], &[0.0]), 0.0);
        assert!(difference(&[f32::NAN], &[1.0]).is_infinite() && difference(&[1.0], &[f32::INFINITY]).is_infinite());
        assert!(difference(&[1.0], &[1.0, 2.0]).is_infinite());
    }

    #[test]
    fn the_part_that_is_off_is_named() {
        let part = |name: &str, value| Part { name: name.into(), values: vec![value] };
        let expected = [part("result", 1.0), part("gradient of x", 0.5)];
        let (off, name) = largest(&[part("result", 1.0), part("gradient of x", 0.0)], &expected);
        assert_eq!((off, name.as_str()), (0.5, "gradient of x"));
        assert!(largest(&expected[..1], &expected).0.is_infinite());
    }
}
