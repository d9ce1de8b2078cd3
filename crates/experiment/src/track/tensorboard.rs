//! A run's event file for TensorBoard, `RUN/tensorboard/events.out.tfevents.<time>.bonfire`.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bonfire_federation::{ClientMetrics, RoundMetrics};

use super::events::{Event, Histogram, Summary, VERSION, Value, record};
use super::moments::Moments;
use super::scalars::COLUMNS;
use crate::run_folder::{TENSORBOARD, own};

/// What our files begin and end with.
const BEGINS: &str = "events.out.tfevents.";
const ENDS: &str = ".bonfire";
/// Buckets of clients' accuracies.
const BUCKETS: usize = 20;

/// An open event file.
#[derive(Debug)]
pub struct TensorBoard {
    path: PathBuf,
    file: File,
    moments: Moments,
}

impl TensorBoard {
    /// Makes a new file, in place of those of an earlier start, for a run that has the rounds `past`.
    ///
    /// # Errors
    /// The system refuses a folder or file.
    pub fn create(run: &Path, past: &[RoundMetrics]) -> Result<TensorBoard> {
        let folder = run.join(TENSORBOARD);
        let failed = || format!("cannot write {}", folder.display());
        own::folder(&folder).with_context(failed)?;
        for entry in fs::read_dir(&folder).with_context(failed)? {
            let entry = entry.with_context(failed)?;
            let name = entry.file_name();
            if name.to_string_lossy().starts_with(BEGINS) && name.to_string_lossy().ends_with(ENDS) {
                fs::remove_file(entry.path()).with_context(failed)?;
            }
        }
        let moments = Moments::after(past);
        let opened = moments.opened;
        // Fractions keep apart two starts in one second.
        let path = folder.join(format!("{BEGINS}{opened:017.6}{ENDS}"));
        let file = own::write(&path, OpenOptions::new().append(true)).with_context(failed)?;
        let mut tensorboard = TensorBoard { path, file, moments };
        let first = Event { wall_time: opened, file_version: Some(VERSION.into()), ..Event::default() };
        tensorboard.write(&record(&first))?;
        Ok(tensorboard)
    }

    /// Adds the scalars of a round and, where clients were judged, their accuracies.
    ///
    /// # Errors
    /// The system refuses the write.
    pub fn round(&mut self, metrics: &RoundMetrics, scalars: &[Option<f64>], clients: &[ClientMetrics]) -> Result<()> {
        let wall_time = self.moments.next();
        let scalar = |(column, value): (&super::scalars::Column, &Option<f64>)| {
            value.map(|v| Value { tag: column.tag.into(), simple_value: Some(v as f32), histo: None })
        };
        let mut values: Vec<Value> = COLUMNS.iter().zip(scalars).filter_map(scalar).collect();
        let accuracies: Vec<f64> = clients.iter().filter_map(|client| client.test_accuracy).collect();
        values.extend(histogram(&accuracies).map(|histo| Value {
            tag: "clients/accuracy".into(),
            simple_value: None,
            histo: Some(histo),
        }));
        let summary = Some(Summary { value: values });
        self.write(&record(&Event { wall_time, step: metrics.round as i64, file_version: None, summary }))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.file.write_all(bytes).and_then(|()| self.file.flush());
        written.with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// Accuracies in equal buckets from 0 to 1; `None` of none.
fn histogram(values: &[f64]) -> Option<Histogram> {
    let mut bucket = vec![0.0; BUCKETS];
    values.iter().for_each(|v| bucket[((v * BUCKETS as f64) as usize).min(BUCKETS - 1)] += 1.0);
    (!values.is_empty()).then(|| Histogram {
        min: values.iter().copied().fold(f64::INFINITY, f64::min),
        max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        num: values.len() as f64,
        sum: values.iter().sum(),
        sum_squares: values.iter().map(|v| v * v).sum(),
        bucket_limit: (1..=BUCKETS).map(|i| i as f64 / BUCKETS as f64).collect(),
        bucket,
    })
}
