//! Timing. Burn hands work to a device and returns, so every reading waits for the device before the clock stops.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use burn::tensor::Device;
use serde::Serialize;

/// Readings of the same work, in seconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Seconds {
    /// The shortest: least disturbed by what else the machine does.
    pub best: f64,
    /// The middle one.
    pub median: f64,
    /// All of them, in the order they were taken.
    pub readings: Vec<f64>,
}

impl Seconds {
    /// Sums up at least one reading.
    pub fn of(readings: Vec<f64>) -> Seconds {
        let mut sorted = readings.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            0 => (sorted[middle - 1] + sorted[middle]) / 2.0,
            _ => sorted[middle],
        };
        Seconds { best: sorted[0], median, readings }
    }
}

/// Waits until `device` has done all it was given.
///
/// # Errors
/// The device failed.
pub fn wait(device: &Device) -> Result<()> {
    device.sync().map_err(|error| anyhow!("the device failed: {error}"))
}

/// Seconds that `work` takes on `device`, and what it gives.
///
/// # Errors
/// The work or the device failed.
pub fn reading<T>(device: &Device, work: &mut dyn FnMut() -> Result<T>) -> Result<(f64, T)> {
    wait(device)?;
    let start = Instant::now();
    let made = work()?;
    wait(device)?;
    Ok((start.elapsed().as_secs_f64().max(1e-9), made))
}

/// Short pieces of work are repeated until a reading takes about this long.
const READING: Duration = Duration::from_millis(60);

/// Readings of one run of each of `works`, which are short: every reading is over many runs, and the works take turns,
/// so that a disturbance hits all alike.
///
/// # Errors
/// The device failed.
pub fn in_turns(device: &Device, works: &[&dyn Fn()], repeats: usize) -> Result<Vec<Seconds>> {
    let many = |work: &dyn Fn(), runs: usize| -> Result<f64> {
        let mut all = || -> Result<()> {
            (0..runs).for_each(|_| work());
            Ok(())
        };
        Ok(reading(device, &mut all)?.0 / runs as f64)
    };
    let mut runs = Vec::new();
    for work in works {
        // The first run compiles and tunes kernels; the second says how long one takes.
        many(work, 1)?;
        let one = many(work, 1)?;
        runs.push(((READING.as_secs_f64() / one).ceil() as usize).clamp(1, 1000));
    }
    let mut readings = vec![Vec::new(); works.len()];
    for _ in 0..repeats {
        for ((work, &runs), readings) in works.iter().zip(&runs).zip(&mut readings) {
            readings.push(many(work, runs)?);
        }
    }
    Ok(readings.into_iter().map(Seconds::of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_and_the_middle() {
        let seconds = Seconds::of(vec![3.0, 1.0, 2.0]);
        assert_eq!((seconds.best, seconds.median), (1.0, 2.0));
        assert_eq!(Seconds::of(vec![4.0, 1.0]).median, 2.5);
    }

    #[cfg(feature = "flex")]
    #[test]
    fn every_work_gets_its_readings() {
        let counts = [const { std::cell::Cell::new(0) }; 2];
        let works = [0, 1].map(|i| {
            let count = &counts[i];
            move || count.set(count.get() + 1)
        });
        let found = in_turns(&Device::flex(), &[&works[0], &works[1]], 2).expect("the CPU works");
        assert!(found.iter().all(|seconds| seconds.readings.len() == 2 && seconds.best > 0.0));
        assert!(counts.iter().all(|count| count.get() >= 4));
    }
}
