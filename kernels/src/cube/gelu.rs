//! GELU and its gradient, one launch each: memory is read once and written once, and what is between is f32.

#![allow(unsafe_code)] // launches without bounds checks: the kernels check for themselves

use std::f32::consts::FRAC_1_SQRT_2;

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::tensor::CubeTensor;

use super::product::UNITS;
use super::tensors::{elem, empty, groups, owned};

/// Elements a unit works on: several loads are on their way at once.
pub(super) const EACH: usize = 4;
/// `1 / √(2π)`.
const DENSITY: f32 = 0.398_942_3;

/// `x · Φ(x)` of every element.
///
/// # Shapes
/// `x` `[T, D]` -> the same, of `x`'s type.
pub(super) fn gelu(x: &CubeTensor) -> CubeTensor {
    let out = empty(x, x.meta.shape().clone(), x.dtype); // [T, D]
    let count = x.meta.num_elements();
    if count > 0 {
        // SAFETY: the kernel reads and writes inside the shape that both have.
        unsafe {
            gelu_kernel::launch_unchecked(
                &out.client,
                elementwise(count),
                CubeDim::new_1d(UNITS),
                x.clone().into_tensor_arg(),
                out.clone().into_tensor_arg(),
                elem(x),
            );
        }
    }
    out
}

/// `dy · (Φ(x) + x·φ(x))`, in place where nothing else holds `dy`.
///
/// # Shapes
/// `x`, `dy` `[T, D]` -> the same, of `dy`'s type.
pub(super) fn gelu_backward(x: &CubeTensor, dy: CubeTensor) -> CubeTensor {
    assert_eq!(x.meta.shape(), dy.meta.shape(), "a gradient an element");
    let dy = owned(dy);
    let count = x.meta.num_elements();
    if count > 0 {
        let types = [elem(x), elem(&dy)];
        // SAFETY: the kernel reads and writes inside the shape that both have.
        unsafe {
            gelu_backward_kernel::launch_unchecked(
                &dy.client,
                elementwise(count),
                CubeDim::new_1d(UNITS),
                x.clone().into_tensor_arg(),
                dy.clone().into_tensor_arg(),
                types,
            );
        }
    }
    dy
}

/// The grid of a kernel that visits `count` elements, each unit [`EACH`] of them by [`visited`].
pub(super) fn elementwise(count: usize) -> CubeCount {
    groups(count.div_ceil(UNITS as usize * EACH))
}

/// Which element this is of those that a unit visits, the `i`-th: neighbouring units visit neighbouring ones.
#[cube]
pub(super) fn visited(#[comptime] i: usize) -> usize {
    CUBE_POS * comptime!(UNITS as usize * EACH) + UNIT_POS as usize + comptime!(i * UNITS as usize)
}

/// Φ(x), the standard normal distribution.
#[cube]
pub(super) fn below(x: f32) -> f32 {
    0.5f32 * (1.0f32 + f32::cast_from(Erf::erf(x * FRAC_1_SQRT_2)))
}

/// The slope of `x·Φ(x)`.
#[cube]
pub(super) fn gelu_slope(x: f32) -> f32 {
    let exponent = -0.5f32 * x * x;
    below(x) + x * DENSITY * exponent.exp()
}

#[cube(launch_unchecked)]
fn gelu_kernel<E: Float>(x: &Tensor<E>, out: &mut Tensor<E>, #[define(E)] _type: ElemType) {
    let (rows, cols) = (x.shape(0), x.shape(1));
    #[unroll]
    for i in 0..EACH {
        let index = visited(i);
        let (row, col) = (index / cols, index % cols);
        if row < rows {
            let value = f32::cast_from(x[row * x.stride(0) + col * x.stride(1)]);
            let at = row * out.stride(0) + col * out.stride(1);
            out[at] = E::cast_from(value * below(value));
        }
    }
}

#[cube(launch_unchecked)]
fn gelu_backward_kernel<E: Float, G: Float>(x: &Tensor<E>, dy: &mut Tensor<G>, #[define(E, G)] _types: [ElemType; 2]) {
    let (rows, cols) = (x.shape(0), x.shape(1));
    #[unroll]
    for i in 0..EACH {
        let index = visited(i);
        let (row, col) = (index / cols, index % cols);
        if row < rows {
            let value = f32::cast_from(x[row * x.stride(0) + col * x.stride(1)]);
            let at = row * dy.stride(0) + col * dy.stride(1);
            let gradient = f32::cast_from(dy[at]);
            dy[at] = G::cast_from(gradient * gelu_slope(value));
        }
    }
}
