//! Two figures that place a device: memory bandwidth and one matrix product. `bonfire bench` measures properly.

use bonfire_experiment::device::Opened;
use bonfire_experiment::format::table::three;
use bonfire_experiment::panics::quietly;
use bonfire_kernels::{Arithmetic, product, product_kernel, runs_on_cpu};
use burn::tensor::{Device, Distribution, Tensor};
use serde::Serialize;

use crate::commands::bench::stopwatch::in_turns;

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Speed {
    /// Bytes read and written a second by adding a number to every entry of a large tensor.
    pub bytes_per_second: f64,
    /// Floating-point operations a second of a product of two square matrices in f32.
    pub flops_per_second: f64,
    /// Rows and columns of the matrices.
    pub size: usize,
    /// The kernel that computed the product.
    pub kernel: String,
}

/// Measures; `None` when the device fails.
pub fn measure(opened: &Opened) -> Option<Speed> {
    // A software rasteriser gets little work, a GPU enough to fill it.
    let (entries, size) = match (runs_on_cpu(&opened.device), opened.software) {
        (false, false) => (1 << 26, 2048),
        (true, _) => (1 << 24, 1024),
        (_, true) => (1 << 22, 256),
    };
    quietly(|| figures(&opened.device, entries, size)).flatten()
}

fn figures(device: &Device, entries: usize, size: usize) -> Option<Speed> {
    let long = Tensor::<1>::ones([entries], device);
    let square = Tensor::<2>::random([size, size], Distribution::Uniform(-1.0, 1.0), device);
    let (add, multiply) =
        (|| drop(long.clone() + 1.0), || drop(product(square.clone(), square.clone(), Arithmetic::F32)));
    let [add, product] = [in_turns(device, &[&add], 3).ok()?, in_turns(device, &[&multiply], 3).ok()?];
    Some(Speed {
        bytes_per_second: 8.0 * entries as f64 / add[0].best,
        flops_per_second: 2.0 * (size as f64).powi(3) / product[0].best,
        size,
        kernel: product_kernel(&square, &square, Arithmetic::F32),
    })
}

impl Speed {
    /// A line each.
    pub fn words(&self) -> String {
        let (bytes, flops, n) = (three(self.bytes_per_second / 1e9), three(self.flops_per_second / 1e9), self.size);
        let kernel = &self.kernel;
        format!(
            "memory bandwidth  {bytes} GB/s\nmatrix products   {flops} GFLOP/s, [{n}, {n}] x [{n}, {n}] in f32\n\
             {:18}by {kernel}",
            ""
        )
    }
}
