//! Layer norm with the residual sum before it in one launch, root mean square norm, and the gradients of both: one workgroup
//! a row. Gains and shifts are frozen, so the gradients are those of the rows alone.

#![allow(unsafe_code)] // launches without bounds checks: the kernels check for themselves

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::tensor::CubeTensor;

use super::product::UNITS;
use super::tensors::{elem, empty, groups};

/// Units that add up a row's partial sums, before all units read what these have come to.
pub(super) const TEAM: usize = 16;

/// `sum = x + residual` and its layer norm, `gamma · (sum − mean) / σ + beta` row by row.
///
/// # Shapes
/// `x`, `residual` `[T, D]`, `gamma`, `beta` `[D]` -> the norm and the sum, each `[T, D]` of `x`'s type.
pub(crate) fn add_norm(
    x: CubeTensor,
    residual: CubeTensor,
    gamma: CubeTensor,
    beta: CubeTensor,
    eps: f64,
) -> (CubeTensor, CubeTensor) {
    let shape = check(&x, &residual, &gamma);
    assert_eq!(beta.meta.shape(), gamma.meta.shape(), "one shift a column");
    let [out, sum] = [0, 1].map(|_| empty(&x, shape, x.dtype)); // [T, D] each
    if shape[0] * shape[1] > 0 {
        let types = [elem(&x), elem(&residual), elem(&gamma), elem(&beta)];
        // SAFETY: the kernel reads and writes inside the shapes checked above.
        unsafe {
            add_norm_kernel::launch_unchecked(
                &out.client,
                groups(shape[0]),
                CubeDim::new_1d(UNITS),
                x.into_tensor_arg(),
                residual.into_tensor_arg(),
                gamma.into_tensor_arg(),
                beta.into_tensor_arg(),
                out.clone().into_tensor_arg(),
                sum.clone().into_tensor_arg(),
                eps as f32,
                types,
            );
        }
    }
    (out, sum)
}

#[cube(launch_unchecked)]
fn add_norm_kernel<E: Float, S: Float, G: Float, B: Float>(
    x: &Tensor<E>,
    residual: &Tensor<S>,
    gamma: &Tensor<G>,
    beta: &Tensor<B>,
    out: &mut Tensor<E>,
    sum: &mut Tensor<E>,
    eps: f32,
    #[define(E, S, G, B)] _types: [ElemType; 4],
) {
    let row = CUBE_POS;
    if row < x.shape(0) {
        let width = x.shape(1);
        let base = row * width;
        let mut scratch = Shared::<[f32]>::new_slice(comptime!(UNITS as usize + TEAM));
        for i in range_stepped(UNIT_POS as usize, width, UNITS as usize) {
            let value = f32::cast_from(x[row * x.stride(0) + i * x.stride(1)]);
            let other = f32::cast_from(residual[row * residual.stride(0) + i * residual.stride(1)]);
            sum[base + i] = E::cast_from(value + other);
        }
        let (mean, inverse) = moments::<E>(&*sum, base, 1, &mut scratch, width, eps);
        for i in range_stepped(UNIT_POS as usize, width, UNITS as usize) {
            let hat = (f32::cast_from(sum[base + i]) - mean) * inverse;
            let scale = f32::cast_from(gamma[i * gamma.stride(0)]);
            out[base + i] = E::cast_from(hat * scale + f32::cast_from(beta[i * beta.stride(0)]));
        }
    }
}

/// Gradient of layer norm for its input; the formula stands at [`Kernels::add_norm_backward`](crate::backends::Kernels::add_norm_backward).
///
/// # Shapes
/// `x`, `dy` `[T, D]`, `gamma` `[D]` -> `[T, D]` of `dy`'s type.
pub(crate) fn add_norm_backward(x: CubeTensor, gamma: CubeTensor, dy: CubeTensor, eps: f64) -> CubeTensor {
    let shape = check(&x, &dy, &gamma);
    let dx = empty(&dy, shape, dy.dtype); // [T, D]
    if shape[0] * shape[1] > 0 {
        let types = [elem(&x), elem(&gamma), elem(&dy)];
        // SAFETY: the kernel reads and writes inside the shapes checked above.
        unsafe {
            backward_kernel::launch_unchecked(
                &dx.client,
                groups(shape[0]),
                CubeDim::new_1d(UNITS),
                x.into_tensor_arg(),
                gamma.into_tensor_arg(),
                dy.into_tensor_arg(),
                dx.clone().into_tensor_arg(),
                eps as f32,
                types,
            );
        }
    }
    dx
}

#[cube(launch_unchecked)]
fn backward_kernel<E: Float, W: Float, G: Float>(
    x: &Tensor<E>,
    gamma: &Tensor<W>,
    dy: &Tensor<G>,
    dx: &mut Tensor<G>,
    eps: f32,
    #[define(E, W, G)] _types: [ElemType; 3],
) {
    let row = CUBE_POS;
    if row < x.shape(0) {
        let width = x.shape(1);
        let (at_x, at_dy) = (row * x.stride(0), row * dy.stride(0));
        let mut scratch = Shared::<[f32]>::new_slice(comptime!(UNITS as usize + TEAM));
        let (mean, inverse) = moments::<E>(x, at_x, x.stride(1), &mut scratch, width, eps);
        let mut sum_g = 0f32;
        let mut sum_gh = 0f32;
        for i in range_stepped(UNIT_POS as usize, width, UNITS as usize) {
            let g = f32::cast_from(gamma[i * gamma.stride(0)]) * f32::cast_from(dy[at_dy + i * dy.stride(1)]);
            sum_g += g;
            sum_gh += g * (f32::cast_from(x[at_x + i * x.stride(1)]) - mean) * inverse;
        }
        let mean_g = total(sum_g, &mut scratch) / f32::cast_from(width as u32);
        let mean_gh = total(sum_gh, &mut scratch) / f32::cast_from(width as u32);
        for i in range_stepped(UNIT_POS as usize, width, UNITS as usize) {
            let g = f32::cast_from(gamma[i * gamma.stride(0)]) * f32::cast_from(dy[at_dy + i * dy.stride(1)]);
            let hat = (f32::cast_from(x[at_x + i * x.stride(1)]) - mean) * inverse;
            dx[row * width + i] = G::cast_from((g - mean_g - hat * mean_gh) * inverse);
        }
    }
}

/// Rows over their root mean square, times `gamma + offset`; see [`crate::rms_norm`].
///
/// # Shapes
/// `x` `[T, D]`, `gamma` `[D]` -> `[T, D]` of `x`'s type.
pub(crate) fn rms(x: &CubeTensor, gamma: CubeTensor, offset: f64, eps: f64) -> CubeTensor {
    let shape = check(x, x, &gamma);
    let out = empty(x, shape, x.dtype); // [T, D]
    if shape[0] * shape[1] > 0 {
        let types = [elem(x), elem(&gamma)];
        // SAFETY: the kernel reads and writes inside the shapes checked above.
        unsafe {
            rms_kernel::launch_unchecked(
                &out.client,
                groups(shape[0]),
                CubeDim::new_1d(UNITS),
                x.clone().into_tensor_arg(),
                gamma.into_tensor_arg(),
                out.clone().into_tensor_arg(),
                offset as f32,
                eps as f32,
                types,
            );
        }
    }
    out
}

#[cube(launch_unchecked)]
fn rms_kernel<E: Float, G: Float>(
    x: &Tensor<E>,
    gamma: &Tensor<G>,
    out: &mut Tensor<E>,
    offset: f32,
    eps: f32,
    #[define(E, G)] _types: [ElemType; 2],
) {
    let row = CUBE_POS;
    if row < x.shape(0) {
        let width = x.shape(1);
        let at = row * x.stride(0);
        let mut scratch = Shared::<[f32]>::new_slice(comptime!(UNITS as usize + TEAM));
        let inverse = root::<E>(x, at, x.stride(1), &mut scratch, width, eps);
        for i in range_stepped(UNIT_POS as usize, width, UNITS as usize) {
            let scale = f32::cast_from(gamma[i * gamma.stride(0)]) + offset;
            out[row * width + i] = E::cast_from(f32::cast_from(x[at + i * x.stride(1)]) * inverse * scale);
        }
    }
}

/// Gradient of [`rms`] for its input, with the `residual` gradient added where there is one; the formula stands at
/// [`Kernels::rms_backward`](crate::backends::Kernels::rms_backward).
///
/// # Shapes
/// `x`, `dy` `[T, D]`, `gamma` `[D]` -> `[T, D]` of `dy`'s type.
pub(crate) fn rms_backward(
    x: &CubeTensor,
    gamma: CubeTensor,
    dy: CubeTensor,
    residual: Option<CubeTensor>,
    offset: f64,
    eps: f64,
) -> CubeTensor {
    let shape = check(x, &dy, &gamma);
    if let Some(residual) = &residual {
        check(x, residual, &gamma);
    }
    let dx = empty(&dy, shape, dy.dtype); // [T, D]
    if shape[0] * shape[1] > 0 {
        let types = [elem(x), elem(&gamma), elem(&dy), elem(residual.as_ref().unwrap_or(&dy))];
        // SAFETY: the kernel reads and writes inside the shapes checked above.
        unsafe {
            rms_backward_kernel::launch_unchecked(
                &dx.client,
                groups(shape[0]),
                CubeDim::new_1d(UNITS),
                x.clone().into_tensor_arg(),
                gamma.into_tensor_arg(),
                dy.into_tensor_arg(),
                residual.into_iter().map(CubeTensor::into_tensor_arg).collect(),
                dx.clone().into_tensor_arg(),
                offset as f32,
                eps as f32,
                types,
            );
        }
    }
    dx
}

#[cube(launch_unchecked)]
fn rms_backward_kernel<E: Float, W: Float, G: Float, R: Float>(
    x: &Tensor<E>,
    gamma: &Tensor<W>,
    dy: &Tensor<G>,
    residual: &Sequence<OwnedTensor<R>>,
    dx: &mut Tensor<G>,
    offset: f32,
    eps: f32,
    #[define(E, W, G, R)] _types: [ElemType; 4],
) {
    let row = CUBE_POS;
    if row < x.shape(0) {
        let width = x.shape(1);
        let (at_x, at_dy) = (row * x.stride(0), row * dy.stride(0));
        let mut scratch = Shared::<[f32]>::new_slice(comptime!(UNITS as usize + TEAM));
        let inverse = root::<E>(x, at_x, x.stride(1), &mut scratch, width, eps);
        let mut sum = 0f32;
        for i in range_stepped(UNIT_POS as usize, width, UNITS as usize) {
            let scale = f32::cast_from(gamma[i * gamma.stride(0)]) + offset;
            let g = scale * f32::cast_from(dy[at_dy + i * dy.stride(1)]);
            sum += g * f32::cast_from(x[at_x + i * x.stride(1)]) * inverse;
        }
        let mean = total(sum, &mut scratch) / f32::cast_from(width as u32);
        for i in range_stepped(UNIT_POS as usize, width, UNITS as usize) {
            let scale = f32::cast_from(gamma[i * gamma.stride(0)]) + offset;
            let g = scale * f32::cast_from(dy[at_dy + i * dy.stride(1)]);
            let hat = f32::cast_from(x[at_x + i * x.stride(1)]) * inverse;
            let mut gradient = (g - hat * mean) * inverse;
            #[unroll]
            for only in 0..residual.len() {
                let at = row * residual[only].stride(0) + i * residual[only].stride(1);
                gradient += f32::cast_from(residual[only][at]);
            }
            dx[row * width + i] = G::cast_from(gradient);
        }
    }
}

/// One over a row's root mean square, to every unit.
#[cube]
fn root<E: Float>(
    x: &Tensor<E>,
    base: usize,
    stride: usize,
    scratch: &mut Shared<[f32]>,
    width: usize,
    eps: f32,
) -> f32 {
    let mut squares = 0f32;
    for i in range_stepped(UNIT_POS as usize, width, UNITS as usize) {
        let value = f32::cast_from(x[base + i * stride]);
        squares += value * value;
    }
    1.0 / (total(squares, scratch) / f32::cast_from(width as u32) + eps).sqrt()
}

/// `[T, D]` of a tensor and its companion.
fn check(x: &CubeTensor, other: &CubeTensor, gamma: &CubeTensor) -> [usize; 2] {
    let shape = [x.meta.shape()[0], x.meta.shape()[1]];
    assert_eq!(other.meta.shape(), x.meta.shape(), "two tensors of one shape");
    assert_eq!(gamma.meta.shape().as_slice(), &shape[1..], "one gain a column");
    shape
}

/// Mean of a row and the inverse of its deviation, to every unit.
#[cube]
fn moments<E: Float>(
    x: &Tensor<E>,
    base: usize,
    stride: usize,
    scratch: &mut Shared<[f32]>,
    width: usize,
    eps: f32,
) -> (f32, f32) {
    let count = f32::cast_from(width as u32);
    let mut sum = 0f32;
    for i in range_stepped(UNIT_POS as usize, width, UNITS as usize) {
        sum += f32::cast_from(x[base + i * stride]);
    }
    let mean = total(sum, scratch) / count;
    let mut squares = 0f32;
    for i in range_stepped(UNIT_POS as usize, width, UNITS as usize) {
        let centred = f32::cast_from(x[base + i * stride]) - mean;
        squares += centred * centred;
    }
    let inverse = 1.0 / (total(squares, scratch) / count + eps).sqrt();
    (mean, inverse)
}

/// Sum over all units of a workgroup, to every unit. A call may follow another without a barrier between: what the
/// first still reads, the second writes only after its own first barrier.
#[cube]
pub(super) fn total(value: f32, scratch: &mut Shared<[f32]>) -> f32 {
    let unit = UNIT_POS as usize;
    scratch[unit] = value;
    sync_cube();
    if unit < TEAM {
        let mut sum = 0f32;
        for i in 0..comptime!(UNITS as usize / TEAM) {
            sum += scratch[i * TEAM + unit];
        }
        scratch[comptime!(UNITS as usize) + unit] = sum;
    }
    sync_cube();
    let mut sum = 0f32;
    for i in 0..TEAM {
        sum += scratch[comptime!(UNITS as usize) + i];
    }
    sum
}
