//! Dropout in one launch: an element is read once and written once, its mask computed between.

#![allow(unsafe_code)] // launches without bounds checks: the kernel checks for itself

use std::sync::OnceLock;

use burn_cubecl::CubeDevice;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::tensor::CubeTensor;

use super::gelu::{EACH, elementwise, visited};
use super::product::UNITS;
use super::tensors::{elem, owned};
use super::tiles::{kept_for, numbers};
use crate::masks::DropMask;

/// The words of a batch's row keys on the device, put there when they are first asked for.
#[derive(Debug, Default)]
pub(crate) struct KeyTable(OnceLock<(CubeDevice, CubeTensor)>);

impl KeyTable {
    fn get(&self, words: &[u32], device: &CubeDevice) -> CubeTensor {
        kept_for(&self.0, device, || numbers(words, device))
    }
}

/// See [`crate::dropout`]; in place where nothing else holds `x`.
pub(super) fn dropped(x: CubeTensor, mask: &DropMask) -> CubeTensor {
    let x = owned(x);
    let count = x.meta.num_elements();
    if count > 0 {
        let keys = mask.keys.table().get(mask.keys.words(), &x.device);
        let element = elem(&x);
        // SAFETY: the kernel reads and writes inside `x`'s shape, and reads the keys of the mask's rows, which the caller has
        // seen to be there.
        unsafe {
            dropout_kernel::launch_unchecked(
                &x.client,
                elementwise(count),
                CubeDim::new_1d(UNITS),
                x.clone().into_tensor_arg(),
                keys.into_buffer_arg(),
                mask.rows.start,
                mask.rows.len(),
                mask.place,
                mask.threshold(),
                mask.scale(),
                element,
            );
        }
    }
    x
}

/// As [`crate::masks::mix`].
#[cube]
fn mix(word: u32) -> u32 {
    let a = (word ^ (word >> 16u32)) * 0x7feb_352du32;
    let b = (a ^ (a >> 15u32)) * 0x846c_a68bu32;
    b ^ (b >> 16u32)
}

#[cube(launch_unchecked)]
fn dropout_kernel<E: Float>(
    x: &mut Tensor<E>,
    keys: &[u32],
    first: usize,
    of: usize,
    place: u32,
    threshold: u32,
    scale: f32,
    #[define(E)] _element: ElemType,
) {
    let (rows, cols) = (x.shape(0), x.shape(1));
    #[unroll]
    for i in 0..EACH {
        let index = visited(i);
        let (row, col) = (index / cols, index % cols);
        if row < rows {
            let here = place + (row / of) as u32;
            let key = 2 * (first + row % of);
            let one = mix(keys[key] ^ mix(here));
            let other = mix(keys[key + 1] + here);
            let drawn = mix(mix((col as u32) ^ one) + other);
            let at = row * x.stride(0) + col * x.stride(1);
            let kept = f32::cast_from(x[at]) * scale;
            x[at] = E::cast_from(select(drawn < threshold, 0.0f32, kept));
        }
    }
}
