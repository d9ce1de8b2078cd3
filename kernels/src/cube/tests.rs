//! Every kernel against plain loops on the host, in f64. They need a CubeCL device: without `BONFIRE_TEST_DEVICE=wgpu`
//! (or `cuda`) they say SKIPPED and pass.
#![allow(clippy::unwrap_used)]

mod attention;
mod decoder;
mod dense;
mod dropout;
mod gather;
mod gelu;
mod loss;
mod lowrank;
mod matrix_units;
mod norm;
mod optimizer;
mod rows;
mod scores;
#[cfg(feature = "wgpu")]
mod uniform;

use std::collections::HashSet;
use std::ops::Range;

use burn::backend::TensorMetadata;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{Shape, TensorData};
use burn_cubecl::cubecl::zspace::metadata::Metadata;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeDevice};

use crate::Segments;

/// Tests that together launch every kernel there is.
const EVERY_KERNEL: [fn(); 19] = [
    lowrank::tokens_down_to_slots,
    lowrank::slots_up_to_features,
    lowrank::slots_up_around_gelu,
    lowrank::gradients_of_factors,
    attention::full,
    attention::causal,
    norm::sum_and_norm,
    norm::gradient,
    scores::norms_of_both_factors,
    optimizer::one_step,
    optimizer::norms_are_clipped,
    gather::some_clients_in_any_order,
    decoder::norms,
    decoder::gated_units,
    decoder::turned_heads,
    loss::losses_and_slopes,
    gelu::forward,
    gelu::gradient,
    dropout::elements,
];

/// The device to test on, its free memory full of NaN so that what a kernel forgets to write shows.
fn device() -> Option<CubeDevice> {
    let asked = crate::check::devices::asked_for();
    let Some(burn::backend::DispatchDevice::Cube(device)) = asked.map(|device| device.as_dispatch().clone()) else {
        println!("SKIPPED: set BONFIRE_TEST_DEVICE to wgpu, vulkan or cuda, whichever is compiled in");
        return None;
    };
    let dirty: Vec<_> = (4..19).map(|n| to_device(&vec![f32::NAN; 1 << n], &[1 << n], &device)).collect();
    drop(dirty);
    Some(device)
}

/// Random numbers that depend on the seed alone.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 20
    }

    fn below(&mut self, n: usize) -> usize {
        self.bits() as usize % n
    }

    /// Numbers in -1..1.
    fn numbers(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| (self.bits() % (1 << 24)) as f32 / (1u64 << 23) as f32 - 1.0).collect()
    }

    /// Runs of up to `most` rows, among them empty ones and single rows.
    fn segments(&mut self, count: usize, most: usize) -> Segments {
        Segments::from_lengths((0..count).map(|i| match i % 4 {
            1 => 0,
            2 => 1,
            _ => 1 + self.below(most),
        }))
    }
}

fn to_device(values: &[f32], shape: &[usize], device: &CubeDevice) -> CubeTensor {
    CubeBackend::float_from_data(TensorData::new(values.to_vec(), shape.to_vec()), device)
}

/// How numbers of a shape come to lie on a device.
type Put = fn(&[f32], &[usize], &CubeDevice) -> CubeTensor;

/// The layouts that every kernel must take.
const LAYOUTS: [Put; 2] = [to_device, pitched];

/// The numbers with more room on every axis but the first than they take, full of NaN: rows as CUDA pads them, stacks as
/// parts of larger ones.
fn pitched(values: &[f32], shape: &[usize], device: &CubeDevice) -> CubeTensor {
    // Numbers of a single axis have room between them.
    let last = if shape.len() == 1 { 3 } else { 1 };
    let strides: Vec<usize> =
        (1..=shape.len()).map(|axis| shape[axis..].iter().map(|n| n + 3).product::<usize>() * last).collect();
    let mut room = vec![f32::NAN; shape[0] * strides[0]];
    for (i, &value) in values.iter().enumerate() {
        room[place(i, shape, &strides)] = value;
    }
    let mut tensor = to_device(&room, &[room.len()], device);
    tensor.meta = Box::new(Metadata::new(Shape::from(shape.to_vec()), strides));
    assert!(shape[0] < 2 || values.is_empty() || !tensor.is_contiguous(), "rows further apart than they are wide");
    tensor
}

/// Where element `i` of a shape lies.
fn place(mut i: usize, shape: &[usize], strides: &[usize]) -> usize {
    let mut at = 0;
    for (size, stride) in shape.iter().zip(strides).rev() {
        at += i % size * stride;
        i /= size;
    }
    at
}

/// Fails where something was written into the room between a tensor's numbers.
fn nothing_between(tensor: &CubeTensor) {
    let (shape, strides) = (tensor.meta.shape().to_vec(), tensor.meta.strides().to_vec());
    let taken: HashSet<usize> = (0..shape.iter().product()).map(|i| place(i, &shape, &strides)).collect();
    let mut whole = tensor.clone();
    whole.meta = Box::new(Metadata::new(Shape::from([shape[0] * strides[0]]), [1usize]));
    for (at, value) in values(whole).into_iter().enumerate() {
        assert!(taken.contains(&at) || value.is_nan(), "{value} at {at}, between rows");
    }
}

fn values(tensor: CubeTensor) -> Vec<f32> {
    burn_cubecl::ops::into_data_sync(tensor).try_to_vec().unwrap()
}

fn dims(tensor: &CubeTensor) -> Vec<usize> {
    tensor.shape().to_vec()
}

/// The same numbers with the last two axes exchanged, in memory.
fn transposed(values: &[f32], [stack, rows, cols]: [usize; 3]) -> Vec<f32> {
    let mut out = Vec::with_capacity(values.len());
    for s in 0..stack {
        for c in 0..cols {
            out.extend((0..rows).map(|r| values[(s * rows + r) * cols + c]));
        }
    }
    out
}

fn close(what: &str, found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (&f, &e)) in found.iter().zip(expected).enumerate() {
        assert!((f as f64 - e).abs() <= 2e-5 * e.abs().max(1.0), "{what}[{i}]: {f}, reference {e}");
    }
}

/// Columns `cols` of a row of `width` numbers.
fn columns<'a>(values: &'a [f32], width: usize, row: usize, cols: &Range<usize>) -> &'a [f32] {
    &values[row * width + cols.start..row * width + cols.end]
}

/// Which memory a tensor lies in; where that is, is settled only when the device comes to it.
fn identity(tensor: &CubeTensor) -> String {
    let memory = format!("{:?}", tensor.handle.memory);
    memory.split_once("location").expect("memory has an identity and a location").0.to_string()
}
