//! What a device can do at most: a large square product in every precision it computes in, and memory read and written.
//! What a step reaches is only worth saying beside these.

use anyhow::Result;
use bonfire_experiment::device::Opened;
use bonfire_experiment::format::table::{aligned, milliseconds, row, three};
use bonfire_kernels::{product, runs_on_cpu};
use bonfire_models::Precision;
use burn::tensor::{Device, Distribution, Tensor};
use serde::Serialize;

use super::args::BenchArgs;
use super::stopwatch::{Seconds, in_turns};

/// Rows and columns of the largest product.
const MOST: usize = 8192;
/// Sides grow fourfold as long as the next product is not expected to take longer than this. No faster steps than that:
/// a GPU tunes kernels for each.
const LONGEST: f64 = 0.5;

/// The ceilings.
#[derive(Clone, Debug, Serialize)]
pub struct CeilingReport {
    /// The product in each precision.
    pub products: Vec<Square>,
    /// Bytes of the tensor that is read, and of the one that is written.
    pub copied_bytes: u64,
    /// Bytes read and written a second by adding a number to every entry.
    pub bytes_per_second: f64,
    /// Seconds of it.
    pub seconds: Seconds,
}

/// A product of two square matrices.
#[derive(Clone, Debug, Serialize)]
pub struct Square {
    /// What it is computed in.
    pub precision: Precision,
    /// Rows and columns.
    pub side: usize,
    /// Seconds of one product.
    pub seconds: Seconds,
    /// Its rate by the best reading.
    pub flops_per_second: f64,
}

/// Measures on a device without autodiff.
///
/// # Errors
/// The device failed.
pub fn measure(args: &BenchArgs, opened: &Opened) -> Result<CeilingReport> {
    let device = &opened.device;
    // A software rasteriser gets little work, a GPU enough to fill it.
    let (entries, side): (usize, usize) = match (runs_on_cpu(device), opened.software) {
        (false, false) => (1 << 26, 2048),
        (true, _) => (1 << 24, 256),
        (_, true) => (1 << 22, 128),
    };
    let offered = [Precision::F32, Precision::Tf32, Precision::Bf16].into_iter().filter(|p| p.runs_on(device));
    let products = offered.map(|p| square(p, side, args.repeats, device)).collect::<Result<_>>()?;
    let long = Tensor::<1>::random([entries], Distribution::Uniform(-1.0, 1.0), device);
    let seconds = in_turns(device, &[&|| drop(long.clone() + 1.0)], args.repeats)?.remove(0);
    let copied_bytes = 4 * entries as u64;
    Ok(CeilingReport { products, copied_bytes, bytes_per_second: 2.0 * copied_bytes as f64 / seconds.best, seconds })
}

/// The largest product that does not take long, of at least `side`.
fn square(precision: Precision, mut side: usize, repeats: usize, device: &Device) -> Result<Square> {
    loop {
        // Of random numbers: products of zeros can run faster than real ones.
        let random = || {
            let numbers = Tensor::<2>::random([side, side], Distribution::Uniform(-1.0, 1.0), device);
            precision.dtype().map_or(numbers.clone(), |dtype| numbers.cast(dtype))
        };
        let (x, y) = (random(), random());
        let once = || drop(product(x.clone(), y.clone(), precision.arithmetic()));
        let one = in_turns(device, &[&once], 1)?.remove(0);
        if 4 * side <= MOST && 64.0 * one.best <= LONGEST {
            side *= 4;
            continue;
        }
        let seconds = in_turns(device, &[&once], repeats)?.remove(0);
        let flops_per_second = 2.0 * (side as f64).powi(3) / seconds.best;
        return Ok(Square { precision, side, seconds, flops_per_second });
    }
}

impl CeilingReport {
    /// The table.
    pub fn table(&self) -> String {
        let mut rows = vec![row(["ceiling", "ms", "median ms", ""])];
        for p in &self.products {
            let (name, n) = (p.precision.name(), p.side);
            rows.push(row([
                &format!("product in {name}, [{n}, {n}] x [{n}, {n}]"),
                &milliseconds(p.seconds.best),
                &milliseconds(p.seconds.median),
                &format!("{} GFLOP/s", three(p.flops_per_second / 1e9)),
            ]));
        }
        rows.push(row([
            &format!("{} read and written", bonfire_experiment::format::bytes(self.copied_bytes)),
            &milliseconds(self.seconds.best),
            &milliseconds(self.seconds.median),
            &format!("{} GB/s", three(self.bytes_per_second / 1e9)),
        ]));
        aligned(&rows)
    }
}
