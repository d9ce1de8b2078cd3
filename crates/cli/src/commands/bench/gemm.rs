//! The device's own matrix products on the shapes of a step: the rate that the floor under a step is counted with.

use anyhow::Result;
use bonfire_experiment::format::percent;
use bonfire_experiment::format::table::{aligned, milliseconds, row, three};
use bonfire_experiment::job;
use bonfire_kernels::{product, product_kernel};
use bonfire_models::{ModelInfo, Precision, TargetKind};
use burn::tensor::{Device, Distribution, Tensor};
use serde::Serialize;

use super::args::BenchArgs;
use super::chart::{Bars, Panel};
use super::stopwatch::{Seconds, in_turns};

/// Products of every shape of the model, and their rate together.
#[derive(Clone, Debug, Serialize)]
pub struct GemmReport {
    /// Rows of the left side: tokens of a step with all clients in flight.
    pub tokens: usize,
    /// What the products are computed in.
    pub precision: Precision,
    /// What computes them, and in what.
    pub products: &'static str,
    /// One entry a shape and direction.
    pub shapes: Vec<Product>,
    /// FLOPs of all the model's products over the seconds they take: the harmonic mean weighted by FLOPs.
    pub flops_per_second: f64,
    /// The same over what the device is said to do at most, where that was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_fraction: Option<f64>,
}

/// One product.
#[derive(Clone, Debug, Serialize)]
pub struct Product {
    /// Whether it meets the weight as it lies (forward) or transposed (gradient of the activations).
    pub direction: &'static str,
    /// Input features of the linear.
    pub d_in: usize,
    /// Output features of the linear.
    pub d_out: usize,
    /// How many linears of the model have this shape.
    pub count: usize,
    /// The kernel that computes it, as far as it is known.
    pub kernel: String,
    /// Seconds of one product.
    pub seconds: Seconds,
    /// Its rate by the best reading.
    pub flops_per_second: f64,
    /// The same over what the device is said to do at most, where that was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_fraction: Option<f64>,
}

/// `(d_in, d_out, how many)` of the model's linears.
fn shapes(info: &ModelInfo) -> Vec<(usize, usize, usize)> {
    let mut found: Vec<(usize, usize, usize)> = Vec::new();
    for target in info.targets(&TargetKind::all()) {
        match found.iter_mut().find(|(i, o, _)| (*i, *o) == (target.d_in, target.d_out)) {
            Some((_, _, count)) => *count += 1,
            None => found.push((target.d_in, target.d_out, 1)),
        }
    }
    found
}

/// Measures on `device`, which has no autodiff.
///
/// # Errors
/// The device failed.
pub fn measure(info: &ModelInfo, tokens: usize, args: &BenchArgs, device: &Device) -> Result<GemmReport> {
    let (repeats, precision) = (args.repeats, args.precision());
    let of_peak = |rate: f64| args.peak().map(|peak| rate / peak);
    job::check_precision(precision, device)?;
    let random = |shape| {
        let numbers = Tensor::<2>::random(shape, Distribution::Uniform(-1.0, 1.0), device);
        precision.dtype().map_or(numbers.clone(), |dtype| numbers.cast(dtype))
    };
    let (mut products, arithmetic) = (Vec::new(), precision.arithmetic());
    for (d_in, d_out, count) in shapes(info) {
        let (x, dy, w) = (random([tokens, d_in]), random([tokens, d_out]), random([d_in, d_out]));
        let sides = [("forward", x, w.clone()), ("backward", dy, w.transpose())];
        let [forward, backward] =
            sides.each_ref().map(|(_, left, right)| move || drop(product(left.clone(), right.clone(), arithmetic)));
        let seconds = in_turns(device, &[&forward, &backward], repeats)?;
        for ((direction, left, right), seconds) in sides.iter().zip(seconds) {
            let kernel = product_kernel(left, right, arithmetic);
            let flops_per_second = flops(tokens, d_in, d_out) / seconds.best;
            let peak_fraction = of_peak(flops_per_second);
            products.push(Product { direction, d_in, d_out, count, kernel, seconds, flops_per_second, peak_fraction });
        }
    }
    let work: f64 = products.iter().map(|p| p.count as f64 * flops(tokens, p.d_in, p.d_out)).sum();
    let time: f64 = products.iter().map(|p| p.count as f64 * p.seconds.best).sum();
    let (rate, by) = (work / time, precision.products(device));
    let peak_fraction = of_peak(rate);
    Ok(GemmReport { tokens, precision, products: by, shapes: products, flops_per_second: rate, peak_fraction })
}

fn flops(tokens: usize, d_in: usize, d_out: usize) -> f64 {
    2.0 * tokens as f64 * d_in as f64 * d_out as f64
}

impl GemmReport {
    /// The table.
    pub fn table(&self) -> String {
        let mut rows = vec![row(["product", "linears", "ms", "median ms", "GFLOP/s"])];
        rows[0].extend(self.peak_fraction.map(|_| "of the peak".into()));
        for p in &self.shapes {
            let mut cells = row([
                &self.label(p),
                &p.count.to_string(),
                &milliseconds(p.seconds.best),
                &milliseconds(p.seconds.median),
                &three(p.flops_per_second / 1e9),
            ]);
            cells.extend(p.peak_fraction.map(percent));
            rows.push(cells);
        }
        let mut all = row(["all linears, forward and backward", "", "", "", &three(self.flops_per_second / 1e9)]);
        all.extend(self.peak_fraction.map(percent));
        rows.push(all);
        format!("{}\n{}", aligned(&rows), self.by())
    }

    /// What computed the products: the arithmetic, and the kernels where they are known.
    fn by(&self) -> String {
        let mut kernels: Vec<&str> = self.shapes.iter().map(|p| p.kernel.as_str()).collect();
        kernels.sort_unstable();
        kernels.dedup();
        format!("products: {}; {}", self.products, kernels.join(", "))
    }

    fn label(&self, p: &Product) -> String {
        let (t, i, o) = (self.tokens, p.d_in, p.d_out);
        match p.direction {
            "forward" => format!("[{t}, {i}] x [{i}, {o}]"),
            _ => format!("[{t}, {o}] x [{i}, {o}]'"),
        }
    }

    /// The picture of several devices' reports.
    pub fn panel(reports: &[(&str, &GemmReport)]) -> Option<Panel> {
        let (_, first) = reports.first()?;
        let mut labels: Vec<String> = first.shapes.iter().map(|p| first.label(p)).collect();
        labels.push("all linears".into());
        let series = reports.iter().map(|(device, report)| {
            let rates = report.shapes.iter().map(|p| p.flops_per_second).chain([report.flops_per_second]);
            (device.to_string(), rates.map(|rate| Some(rate / 1e9)).collect())
        });
        Some(Panel::bars(
            format!("Matrix products of the device, {}", first.precision.name()),
            Bars { labels, series: series.collect(), unit: "GFLOP/s", mark: None },
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_linear_is_counted_once() {
        assert_eq!(shapes(&ModelInfo::minilm()), [(384, 384, 24), (384, 1536, 6), (1536, 384, 6)]);
    }
}
