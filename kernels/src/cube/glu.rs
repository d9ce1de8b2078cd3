//! Gated linear units and rotary positions, one launch each way: memory is read once and written once, and what is between is
//! f32.

#![allow(unsafe_code)] // launches without bounds checks: the kernels check for themselves

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::tensor::CubeTensor;

use super::gelu::{EACH, below, elementwise, gelu_slope, visited};
use super::product::UNITS;
use super::tensors::{elem, empty, owned};
use crate::options::Bend;

/// `√(2/π)`.
const ROOT: f32 = 0.797_884_6;
const CUBE: f32 = 0.044_715;

const SILU: u32 = 0;
const GELU: u32 = 1;
const GELU_TANH: u32 = 2;

fn number(bend: Bend) -> u32 {
    match bend {
        Bend::Silu => SILU,
        Bend::Gelu => GELU,
        Bend::GeluTanh => GELU_TANH,
    }
}

/// See [`crate::glu`].
///
/// # Shapes
/// `wide` `[T, 2·I]` -> `[T, I]` of its type.
pub(super) fn glu(wide: &CubeTensor, bend: Bend) -> CubeTensor {
    let [tokens, width] = [wide.meta.shape()[0], wide.meta.shape()[1] / 2];
    let out = empty(wide, [tokens, width], wide.dtype); // [T, I]
    if tokens * width > 0 {
        // SAFETY: the kernel writes inside the result's shape, and reads two columns of `wide` for each of its.
        unsafe {
            glu_kernel::launch_unchecked(
                &out.client,
                elementwise(tokens * width),
                CubeDim::new_1d(UNITS),
                wide.clone().into_tensor_arg(),
                out.clone().into_tensor_arg(),
                number(bend),
                elem(wide),
            );
        }
    }
    out
}

/// The gradient of [`glu`].
///
/// # Shapes
/// `wide` `[T, 2·I]`, `dy` `[T, I]` -> `[T, 2·I]` of `dy`'s type.
pub(super) fn glu_backward(wide: &CubeTensor, dy: CubeTensor, bend: Bend) -> CubeTensor {
    let [tokens, width] = [wide.meta.shape()[0], wide.meta.shape()[1] / 2];
    assert_eq!(dy.meta.shape().as_slice(), [tokens, width], "a gradient for each gate");
    let out = empty(&dy, [tokens, 2 * width], dy.dtype); // [T, 2·I]
    if tokens * width > 0 {
        let types = [elem(wide), elem(&dy)];
        // SAFETY: as in `glu`.
        unsafe {
            glu_backward_kernel::launch_unchecked(
                &out.client,
                elementwise(tokens * width),
                CubeDim::new_1d(UNITS),
                wide.clone().into_tensor_arg(),
                dy.into_tensor_arg(),
                out.clone().into_tensor_arg(),
                number(bend),
                types,
            );
        }
    }
    out
}

/// See [`crate::rotate`]; in place where nothing else holds `x`.
///
/// # Shapes
/// `x` `[T, N]`, `cos`, `sin` `[T, w/2]` -> `[T, N]`.
pub(super) fn turn(x: CubeTensor, cos: CubeTensor, sin: CubeTensor, heads: usize, back: bool) -> CubeTensor {
    let x = owned(x);
    let [tokens, half] = [cos.meta.shape()[0], cos.meta.shape()[1]];
    assert!(x.meta.shape()[0] == tokens && sin.meta.shape() == cos.meta.shape(), "angles of every token");
    assert!(heads * 2 * half <= x.meta.shape()[1], "heads of the row");
    let pairs = tokens * heads * half;
    if pairs > 0 {
        let types = [elem(&x), elem(&cos), elem(&sin)];
        // SAFETY: the kernel reads and writes the pairs of features counted above, which are there.
        unsafe {
            turn_kernel::launch_unchecked(
                &x.client,
                elementwise(pairs),
                CubeDim::new_1d(UNITS),
                x.clone().into_tensor_arg(),
                cos.into_tensor_arg(),
                sin.into_tensor_arg(),
                heads,
                if back { -1.0f32 } else { 1.0f32 },
                types,
            );
        }
    }
    x
}

/// The activation of a gate.
#[cube]
fn bent(x: f32, #[comptime] bend: u32) -> f32 {
    if comptime!(bend == SILU) {
        x / (1.0f32 + (-x).exp())
    } else if comptime!(bend == GELU) {
        x * below(x)
    } else {
        x * 0.5f32 * (1.0f32 + tanh(ROOT * (x + CUBE * x * x * x)))
    }
}

/// Its derivative.
#[cube]
fn slope(x: f32, #[comptime] bend: u32) -> f32 {
    if comptime!(bend == SILU) {
        let s = 1.0f32 / (1.0f32 + (-x).exp());
        s * (1.0f32 + x * (1.0f32 - s))
    } else if comptime!(bend == GELU) {
        gelu_slope(x)
    } else {
        let t = tanh(ROOT * (x + CUBE * x * x * x));
        0.5f32 * (1.0f32 + t) + 0.5f32 * x * (1.0f32 - t * t) * ROOT * (1.0f32 + 3.0f32 * CUBE * x * x)
    }
}

/// `tanh(x)`, from an exponential that does not overflow.
#[cube]
fn tanh(x: f32) -> f32 {
    let e = (-2.0f32 * x.abs()).exp();
    let size = (1.0f32 - e) / (1.0f32 + e);
    select(x < 0.0f32, -size, size)
}

#[cube(launch_unchecked)]
fn glu_kernel<E: Float>(wide: &Tensor<E>, out: &mut Tensor<E>, #[comptime] bend: u32, #[define(E)] _type: ElemType) {
    let (rows, cols) = (out.shape(0), out.shape(1));
    #[unroll]
    for i in 0..EACH {
        let index = visited(i);
        let (row, col) = (index / cols, index % cols);
        if row < rows {
            let at = row * wide.stride(0);
            let gate = f32::cast_from(wide[at + col * wide.stride(1)]);
            let up = f32::cast_from(wide[at + (cols + col) * wide.stride(1)]);
            let to = row * out.stride(0) + col * out.stride(1);
            out[to] = E::cast_from(bent(gate, bend) * up);
        }
    }
}

#[cube(launch_unchecked)]
fn glu_backward_kernel<E: Float, G: Float>(
    wide: &Tensor<E>,
    dy: &Tensor<G>,
    out: &mut Tensor<G>,
    #[comptime] bend: u32,
    #[define(E, G)] _types: [ElemType; 2],
) {
    let (rows, cols) = (dy.shape(0), dy.shape(1));
    #[unroll]
    for i in 0..EACH {
        let index = visited(i);
        let (row, col) = (index / cols, index % cols);
        if row < rows {
            let at = row * wide.stride(0);
            let gate = f32::cast_from(wide[at + col * wide.stride(1)]);
            let up = f32::cast_from(wide[at + (cols + col) * wide.stride(1)]);
            let gradient = f32::cast_from(dy[row * dy.stride(0) + col * dy.stride(1)]);
            let to = row * out.stride(0);
            let to_gate = to + col * out.stride(1);
            let to_up = to + (cols + col) * out.stride(1);
            out[to_gate] = G::cast_from(up * slope(gate, bend) * gradient);
            out[to_up] = G::cast_from(bent(gate, bend) * gradient);
        }
    }
}

/// One unit a pair of features.
#[cube(launch_unchecked)]
fn turn_kernel<E: Float, C: Float, S: Float>(
    x: &mut Tensor<E>,
    cos: &Tensor<C>,
    sin: &Tensor<S>,
    heads: usize,
    sign: f32,
    #[define(E, C, S)] _types: [ElemType; 3],
) {
    let (rows, half) = (cos.shape(0), cos.shape(1));
    let pairs = heads * half;
    #[unroll]
    for i in 0..EACH {
        let index = visited(i);
        let (row, pair) = (index / pairs, index % pairs);
        if row < rows {
            let (head, feature) = (pair / half, pair % half);
            let at = row * x.stride(0) + (head * 2 * half + feature) * x.stride(1);
            let other = at + half * x.stride(1);
            let c = f32::cast_from(cos[row * cos.stride(0) + feature * cos.stride(1)]);
            let s = sign * f32::cast_from(sin[row * sin.stride(0) + feature * sin.stride(1)]);
            let a = f32::cast_from(x[at]);
            let b = f32::cast_from(x[other]);
            x[at] = E::cast_from(a * c - b * s);
            x[other] = E::cast_from(b * c + a * s);
        }
    }
}
