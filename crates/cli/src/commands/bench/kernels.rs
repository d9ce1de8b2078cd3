//! Each operation of its own against the same composed of Burn's: time, and whether the results agree.

mod cases;

use anyhow::Result;
use bonfire_experiment::format::table::{aligned, milliseconds, row, three};
use burn::tensor::{Device, Distribution, Tensor};
use serde::Serialize;

use self::cases::{Case, cases, numbers};
use super::args::BenchArgs;
use super::chart::{Bars, Panel};
use super::stopwatch::{Seconds, in_turns};
use super::work::Work;

/// Results may differ by so much of their largest entry: another order of summation, no more.
const ALLOWED: f64 = 1e-3;

/// All operations.
#[derive(Clone, Debug, Serialize)]
pub struct KernelsReport {
    /// One an operation.
    pub rows: Vec<KernelRow>,
}

/// One operation.
#[derive(Clone, Debug, Serialize)]
pub struct KernelRow {
    /// The operation.
    pub name: &'static str,
    /// What it is held against.
    pub reference: &'static str,
    /// The shapes of its inputs.
    pub shape: String,
    /// Forward alone.
    pub forward: Pair,
    /// Forward and backward; absent for what has no gradient.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub both: Option<Pair>,
    /// Largest absolute difference of results and gradients.
    pub largest_difference: f64,
    /// The same relative to the largest entry of the reference.
    pub relative_difference: f64,
    /// Whether the results agree.
    pub agrees: bool,
}

/// Times of the operation and of its reference.
#[derive(Clone, Debug, Serialize)]
pub struct Pair {
    /// The operation.
    pub ours: Seconds,
    /// The reference.
    pub composed: Seconds,
    /// Time of the reference over that of the operation, by the best readings.
    pub ratio: f64,
}

/// Measures on `device`, which has no autodiff.
///
/// # Errors
/// The device failed. A result that disagrees is no error here: see [`KernelsReport::wrong`].
pub fn measure(args: &BenchArgs, work: &Work, device: &Device) -> Result<KernelsReport> {
    device.seed(args.seed);
    let rows = cases(args, work, device).iter().map(|case| one(case, args.repeats, device)).collect::<Result<_>>()?;
    Ok(KernelsReport { rows })
}

fn one(case: &Case, repeats: usize, device: &Device) -> Result<KernelRow> {
    let (ours, composed) = (&*case.ours, &*case.composed);
    let shape = ours().dims();
    let weights = Tensor::<2>::random(shape, Distribution::Uniform(-1.0, 1.0), &ours().device());
    let (largest, relative) = differences(case, &weights)?;
    let pair = |ours: &dyn Fn(), composed: &dyn Fn()| -> Result<Pair> {
        let [ours, composed]: [Seconds; 2] =
            in_turns(device, &[ours, composed], repeats)?.try_into().expect("two works, two readings");
        Ok(Pair { ratio: composed.best / ours.best, ours, composed })
    };
    let forward = pair(&|| drop(ours()), &|| drop(composed()))?;
    let both = |make: &dyn Fn() -> Tensor<2>| drop((make() * weights.clone()).sum().backward());
    let has_gradient = !case.leaves.is_empty();
    let both = has_gradient.then(|| pair(&|| both(ours), &|| both(composed))).transpose()?;
    Ok(KernelRow {
        name: case.name,
        reference: case.reference,
        shape: case.shape.clone(),
        forward,
        both,
        largest_difference: largest,
        relative_difference: relative,
        agrees: relative <= ALLOWED,
    })
}

/// Largest difference of results and gradients: absolute, and relative to the largest entry of the same tensor.
fn differences(case: &Case, weights: &Tensor<2>) -> Result<(f64, f64)> {
    let mut sides = Vec::new();
    for make in [&case.ours, &case.composed] {
        let result = make();
        let mut tensors = vec![numbers(result.clone())?];
        if !case.leaves.is_empty() {
            let grads = (result * weights.clone()).sum().backward();
            for leaf in &case.leaves {
                tensors.push(leaf.gradient(&grads)?);
            }
        }
        sides.push(tensors);
    }
    let found = sides[0].iter().zip(&sides[1]).map(|(ours, reference)| difference(ours, reference));
    Ok(found.fold((0.0, 0.0), |(a, r), (absolute, relative)| (f64::max(a, absolute), f64::max(r, relative))))
}

/// Absolute and relative difference; what is not a number is infinitely far off.
fn difference(ours: &[f32], reference: &[f32]) -> (f64, f64) {
    let off = |(a, b): (&f32, &f32)| {
        let distance = f64::from(a - b).abs();
        if distance.is_finite() { distance } else { f64::INFINITY }
    };
    let same_size = ours.len() == reference.len();
    let absolute = if same_size { ours.iter().zip(reference).map(off).fold(0.0, f64::max) } else { f64::INFINITY };
    let largest = reference.iter().map(|v| f64::from(v.abs())).fold(0.0, f64::max);
    (absolute, if absolute == 0.0 { 0.0 } else { absolute / largest.max(f64::MIN_POSITIVE) })
}

impl KernelsReport {
    /// The operations whose results are wrong.
    pub fn wrong(&self) -> Vec<&'static str> {
        self.rows.iter().filter(|r| !r.agrees).map(|r| r.name).collect()
    }

    /// The table.
    pub fn table(&self) -> String {
        let mut rows = vec![row([
            "operation",
            "shape",
            "ms",
            "composed",
            "ratio",
            "ms +grad",
            "composed",
            "ratio",
            "difference",
            "",
        ])];
        for r in &self.rows {
            let times = |pair: &Pair| {
                [milliseconds(pair.ours.best), milliseconds(pair.composed.best), format!("{:.2}x", pair.ratio)]
            };
            let [forward, composed, ratio] = times(&r.forward);
            let [both, both_composed, both_ratio] = r.both.as_ref().map_or(["-", "-", "-"].map(String::from), times);
            let verdict = if r.agrees { "" } else { "WRONG" };
            let off = three(r.largest_difference);
            rows.push(row([
                r.name,
                &r.shape,
                &forward,
                &composed,
                &ratio,
                &both,
                &both_composed,
                &both_ratio,
                &off,
                verdict,
            ]));
        }
        aligned(&rows)
    }

    /// The picture of several devices' reports.
    pub fn panel(reports: &[(&str, &KernelsReport)]) -> Option<Panel> {
        let (_, first) = reports.first()?;
        let labels = first.rows.iter().map(|r| r.name.to_string()).collect();
        let series = reports.iter().map(|(device, report)| {
            let ratio = |r: &KernelRow| Some(r.both.as_ref().unwrap_or(&r.forward).ratio);
            (device.to_string(), report.rows.iter().map(ratio).collect())
        });
        Some(Panel::bars(
            "Operations, forward and backward, against Burn's composed",
            Bars {
                labels,
                series: series.collect(),
                unit: "time composed / time of the operation",
                mark: Some((1.0, "equal".into())),
            },
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_number_is_wrong() {
        assert_eq!(difference(&[1.0, 2.0], &[1.0, 2.5]), (0.5, 0.2));
        assert_eq!(difference(&[0.0], &[0.0]), (0.0, 0.0));
        assert!(difference(&[f32::NAN], &[1.0]).1 > ALLOWED);
        assert!(difference(&[1.0], &[1.0, 2.0]).1 > ALLOWED);
        assert!(difference(&[1e-9], &[0.0]).1 > ALLOWED);
    }
}
