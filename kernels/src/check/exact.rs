//! Operations against loops in f64 on the host, forward and gradients, in every format a device computes in: small
//! awkward shapes, and those of real models. `bonfire self-test` runs them on a user's device, this crate's tests the small
//! ones.
//!
//! Inputs are exact in the format they are given in, so what differs is the device's arithmetic alone. In f32 they use all
//! of their bits: a product that drops some on the way, as TF32 does, is seen.

mod attention;
mod clip;
mod decoder;
mod linear;
mod losses;
mod optimizer;
mod pointwise;
mod threads;

use burn::tensor::{Device, FloatDType, Gradients, Tensor, TensorData};

use super::numbers;
use crate::runs_on_cpu;

/// What activations and frozen weights are held in; adapters and sums are f32 either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// 32 bits.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
}

impl Format {
    /// f32, and the first of bfloat16 and half precision that `device` computes in.
    pub fn all(device: &Device) -> Vec<Format> {
        let runs = |format: &Format| {
            let dtype = format.dtype().unwrap_or(FloatDType::F32);
            !runs_on_cpu(device) && device.clone().inner().supports_dtype(dtype)
        };
        std::iter::once(Format::F32).chain([Format::Bf16, Format::F16].into_iter().find(runs)).collect()
    }

    /// The name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Format::F32 => "f32",
            Format::Bf16 => "bf16",
            Format::F16 => "f16",
        }
    }

    /// Largest [`Off::off`] of an operation: sums in f32 in another order, and a few roundings of what is stored. Most has
    /// attention's backward, which reads its rounded result: 2e-3 was seen in half precision. bfloat16 keeps 8 bits, half
    /// precision 11.
    pub fn allowed(self) -> f64 {
        match self {
            Format::F32 => 2e-5,
            Format::Bf16 => 2.4e-2,
            Format::F16 => 3e-3,
        }
    }

    fn dtype(self) -> Option<FloatDType> {
        match self {
            Format::F32 => None,
            Format::Bf16 => Some(FloatDType::BF16),
            Format::F16 => Some(FloatDType::F16),
        }
    }

    /// Numbers in -1..1, exact in this format.
    fn numbers(self, n: usize, seed: u64) -> Vec<f32> {
        let mut found = numbers(n, seed);
        if self != Format::F32 {
            found.iter_mut().for_each(|v| *v = (*v * 64.0).round() / 64.0);
        }
        found
    }

    /// The tensor in this format.
    fn put<const D: usize>(self, values: &[f32], shape: [usize; D], device: &Device) -> Tensor<D> {
        let tensor = Tensor::from_data(TensorData::new(values.to_vec(), shape), device);
        self.dtype().map_or(tensor.clone(), |dtype| tensor.cast(dtype))
    }
}

/// How far one tensor is off.
#[derive(Clone, Debug, PartialEq)]
pub struct Off {
    /// What it is: `result`, `gradient of A 0`.
    pub name: String,
    /// Of the row that is furthest off, the length of the difference over that of what is expected (at least the mean
    /// length of all rows). Infinite where something is not a number.
    pub off: f64,
}

/// What computes a case.
type Run = Box<dyn Fn(&Device, Format) -> Result<Vec<Off>, String> + Send + Sync>;

/// One operation on one shape.
pub struct Exact {
    /// The operation.
    pub operation: &'static str,
    /// The shape.
    pub shape: String,
    /// Whether it is computed in half the bits too; what belongs to clients is f32 alone.
    pub rounded: bool,
    run: Run,
}

impl Exact {
    /// How far the results on `device` (without autodiff) are off, one a tensor. Free memory is filled with numbers that are
    /// none before, so that what a kernel forgets to write shows.
    ///
    /// # Errors
    /// The device failed, in words.
    ///
    /// # Panics
    /// Where the backend panics.
    pub fn measure(&self, device: &Device, format: Format) -> Result<Vec<Off>, String> {
        spoil(device);
        (self.run)(device, format)
    }
}

/// Leaves freed memory of many sizes full of NaN.
fn spoil(device: &Device) {
    let spoilt = |n: usize| Tensor::<1>::from_data(TensorData::new(vec![f32::NAN; 1 << n], [1 << n]), device);
    drop((4..22).map(spoilt).collect::<Vec<_>>());
}

/// Small shapes: empty clients, single rows, ranks that fill no register, widths below and above a workgroup's. `seed` draws
/// their numbers.
pub fn small(seed: u64) -> Vec<Exact> {
    let mut cases = linear::small(seed);
    cases.extend(attention::small(seed));
    cases.extend(pointwise::small(seed));
    cases.extend(decoder::small(seed));
    cases.extend(losses::small(seed));
    cases.extend(optimizer::small(seed));
    cases.extend(clip::small(seed));
    cases
}

/// The shapes of RoBERTa-base with `tokens` tokens of 30 clients at rank 16, and of a decoder's attention. What takes too long
/// in f64 is compared in some rows: the first and last of every client, and some between.
pub fn real(tokens: usize, seed: u64) -> Vec<Exact> {
    let mut cases = linear::real(tokens, seed);
    cases.extend(attention::real(tokens, seed));
    cases.extend(pointwise::real(tokens, seed));
    cases.extend(decoder::real(tokens, seed));
    cases.extend(losses::real(seed));
    cases.extend(optimizer::real(seed));
    cases.extend(clip::real(seed));
    cases
}

/// A tensor's numbers, whatever it holds them in.
fn read<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, String> {
    Ok(super::part("", tensor.cast(FloatDType::F32))?.values)
}

/// The gradients of the sum of `result` weighted by `dy`, which is exact in the result's format.
fn backward<const D: usize>(result: &Tensor<D>, dy: Tensor<D>) -> Gradients {
    (result.clone().cast(FloatDType::F32) * dy.cast(FloatDType::F32)).sum().backward()
}

/// A leaf's gradient.
fn gradient<const D: usize>(name: &str, leaf: &Tensor<D>, grads: &Gradients) -> Result<Vec<f32>, String> {
    leaf.grad(grads).ok_or_else(|| format!("there is no gradient of {name}")).and_then(read)
}

/// Compares rows of `width` numbers of `found` with what is expected of them.
fn compare(name: impl Into<String>, found: &[f32], width: usize, expected: &[(usize, Vec<f64>)]) -> Off {
    let length = |row: &[f64]| row.iter().map(|v| v * v).sum::<f64>().sqrt();
    let mean = expected.iter().map(|(_, row)| length(row)).sum::<f64>() / expected.len().max(1) as f64;
    let off = |(at, row): &(usize, Vec<f64>)| {
        let Some(there) = found.get(at * width..(at + 1) * width) else { return f64::INFINITY };
        let apart: Vec<f64> = there.iter().zip(row).map(|(f, e)| f64::from(*f) - e).collect();
        let off = length(&apart) / length(row).max(mean).max(1e-30);
        if off.is_finite() && row.len() == width { off } else { f64::INFINITY }
    };
    Off { name: name.into(), off: expected.iter().map(off).fold(0.0, f64::max) }
}

/// All of `expected`, cut into rows of `width`.
fn rows(expected: &[f64], width: usize) -> Vec<(usize, Vec<f64>)> {
    expected.chunks(width.max(1)).map(<[f64]>::to_vec).enumerate().collect()
}

/// The sum of products, in f64 and in eight strands, which a compiler can put side by side.
fn dot(x: &[f32], y: &[f32]) -> f64 {
    let (xs, ys) = (x.chunks_exact(8), y.chunks_exact(8));
    let rest: f64 = xs.remainder().iter().zip(ys.remainder()).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
    let mut sums = [0.0; 8];
    for (x, y) in xs.zip(ys) {
        for (sum, (&x, &y)) in sums.iter_mut().zip(x.iter().zip(y)) {
            *sum += f64::from(x) * f64::from(y);
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// Adds `factor · row`.
fn add(to: &mut [f64], factor: f64, row: &[f32]) {
    to.iter_mut().zip(row).for_each(|(to, &v)| *to += factor * f64::from(v));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_row_that_is_furthest_off_counts() {
        let expected = rows(&[3.0, 4.0, 0.0, 0.0, 3.0, 4.0], 2);
        let found = [3.0, 4.0, 0.0, 0.0, 3.0, 4.0];
        assert_eq!(compare("x", &found, 2, &expected).off, 0.0);
        // A row that should be next to nothing is held against the others' length.
        let close = |found: [f32; 6], off: f64| {
            let is = compare("x", &found, 2, &expected).off;
            assert!((is - off).abs() < 1e-9, "{is}");
        };
        close([3.0, 4.5, 0.0, 0.0, 3.0, 4.0], 0.1);
        close([3.0, 4.0, 1.0, 0.0, 3.0, 4.0], 0.3);
        assert!(compare("x", &[f32::NAN, 4.0, 0.0, 0.0, 3.0, 4.0], 2, &expected).off.is_infinite());
        assert!(compare("x", &found[..4], 2, &expected).off.is_infinite());
    }

    #[test]
    fn coarse_numbers_are_exact_in_half_the_bits() {
        for v in Format::Bf16.numbers(1000, 3) {
            assert_eq!(v.to_bits() & 0xffff, 0, "{v}");
        }
        assert!(Format::F32.numbers(1000, 3).iter().any(|v| v.to_bits() & 0xffff != 0));
    }

    #[test]
    fn strands_add_up() {
        let [x, y] = [1, 2].map(|seed| numbers(21, seed));
        let plain: f64 = x.iter().zip(&y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
        assert!((dot(&x, &y) - plain).abs() < 1e-12);
    }
}
