//! What finished comparisons have measured.

use std::path::{Path, PathBuf};

use anyhow::Result;
use bonfire_experiment::UserError;
use bonfire_experiment::run_folder::{CONFIG, read};
use serde::Deserialize;
use serde_json::Value;
use toml::Table;

/// `compare.json`, as far as it is read here.
#[derive(Deserialize)]
struct Comparison {
    cells: Vec<Cell>,
}

#[derive(Deserialize)]
struct Cell {
    variant: String,
    rank: Value,
    partition: String,
    seed: u64,
    status: String,
    run: String,
    final_accuracy: Option<f64>,
    #[serde(default)]
    upload_bytes: u64,
    #[serde(default)]
    download_bytes: u64,
    #[serde(default)]
    curve: Vec<Point>,
}

/// An evaluation of a run.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Point {
    pub round: usize,
    pub accuracy: f64,
}

/// A finished run.
#[derive(Clone, Debug)]
pub struct Run {
    /// The strategy with its keys, as it was given.
    pub variant: String,
    /// As JSON has it.
    pub rank: Value,
    pub seed: u64,
    pub accuracy: f64,
    pub upload_bytes: u64,
    pub download_bytes: u64,
    pub curve: Vec<Point>,
    /// What was run, where its folder is still there.
    pub config: Option<Table>,
}

/// The finished runs of these comparisons on rows dealt out by `partition`.
///
/// # Errors
/// A file that is not as `bonfire compare` leaves it, or without any such run.
pub fn read(files: &[PathBuf], partition: &str) -> Result<Vec<Run>> {
    let mut runs: Vec<Run> = Vec::new();
    for file in files {
        let file = if file.is_dir() { file.join("compare.json") } else { file.clone() };
        let found = of_file(&file, partition)?;
        // The same run in two files is one run.
        for run in found {
            if !runs.iter().any(|r| (&r.variant, &r.rank, r.seed) == (&run.variant, &run.rank, run.seed)) {
                runs.push(run);
            }
        }
    }
    Ok(runs)
}

fn of_file(file: &Path, partition: &str) -> Result<Vec<Run>> {
    let comparison: Comparison = read::json(file)?;
    let (mut runs, mut others) = (Vec::new(), Vec::new());
    for cell in comparison.cells.into_iter().filter(|cell| cell.status == "done") {
        let Some(accuracy) = cell.final_accuracy else { continue };
        if cell.partition != partition {
            others.push(cell.partition);
            continue;
        }
        let Cell { variant, rank, seed, upload_bytes, download_bytes, curve, run, .. } = cell;
        let folder = file.parent().unwrap_or(Path::new(".")).join(run);
        let config = read::text(&folder.join(CONFIG)).ok().and_then(|text| text.parse().ok());
        runs.push(Run { variant, rank, seed, accuracy, upload_bytes, download_bytes, curve, config });
    }
    if runs.is_empty() {
        let why = match others.first() {
            Some(other) => format!("its rows are dealt out as {other}, and the configuration's as {partition}"),
            None => "none of its runs is done".to_string(),
        };
        return Err(UserError::new(format!("{}: nothing to go by: {why}", file.display()))
            .help("give the compare.json of a comparison of the same configuration")
            .into());
    }
    Ok(runs)
}
