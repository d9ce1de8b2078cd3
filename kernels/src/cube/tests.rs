//! Every kernel against plain loops on the host, in f64. They need a CubeCL device: without `BONFIRE_TEST_DEVICE=wgpu`
//! (or `cuda`) they say SKIPPED and pass.
#![allow(clippy::unwrap_used)]

mod adamw;
mod attention;
mod lowrank;
mod norm;
mod scores;

use std::ops::Range;

use burn::backend::TensorMetadata;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{Device, TensorData};
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeDevice};

use crate::Segments;

/// The device to test on, its free memory full of NaN so that what a kernel forgets to write shows.
fn device() -> Option<CubeDevice> {
    crate::runtime::prepare();
    let device = match std::env::var("BONFIRE_TEST_DEVICE").as_deref() {
        #[cfg(feature = "wgpu")]
        Ok("wgpu") => Device::wgpu(burn::tensor::DeviceKind::DefaultDevice),
        #[cfg(feature = "cuda")]
        Ok("cuda") => Device::cuda(0),
        _ => {
            println!("SKIPPED: set BONFIRE_TEST_DEVICE to wgpu or cuda, whichever is compiled in");
            return None;
        }
    };
    let burn::backend::DispatchDevice::Cube(device) = device.as_dispatch().clone() else {
        panic!("a CubeCL device");
    };
    let dirty: Vec<_> = (4..19).map(|n| upload(&vec![f32::NAN; 1 << n], &[1 << n], &device)).collect();
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

fn upload(values: &[f32], shape: &[usize], device: &CubeDevice) -> CubeTensor {
    CubeBackend::float_from_data(TensorData::new(values.to_vec(), shape.to_vec()), device)
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
