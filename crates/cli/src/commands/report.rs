//! `bonfire report`: run folders as one HTML page that opens from disk and loads nothing.

mod classes;
mod downsample;
mod page;
mod run_data;
mod slots;

use std::path::{Path, PathBuf};

use anyhow::Result;
use bonfire_experiment::run_folder::replace;
use clap::Args;

use crate::common::Common;
use crate::console::say;
use run_data::RunData;

/// Options of `report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Run folders, as left by `train` or `compare`; several are laid over each other
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// Where the page goes
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    pub out: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// A folder that is no run folder, a file in it that is missing or damaged, a disk that cannot be written.
pub fn run(args: &ReportArgs, common: &Common) -> Result<()> {
    common.refuse_sets("report", "leave it out: a report shows what runs were")?;
    let labels = labels(&args.runs.iter().map(|run| run.as_path()).collect::<Vec<_>>());
    let runs = args.runs.iter().zip(labels).map(|(run, label)| RunData::read(run, label));
    let runs = runs.collect::<Result<Vec<_>>>()?;
    replace(&args.out, page::page(&runs)?.as_bytes())?;
    say(format!("wrote {}", args.out.display()));
    Ok(())
}

/// What the runs are called: the names of their folders; where two are alike, the paths as given.
fn labels(runs: &[&Path]) -> Vec<String> {
    let whole: Vec<String> = runs.iter().map(|run| run.display().to_string()).collect();
    let name = |run: &&Path| run.file_name().map(|name| name.to_string_lossy().into_owned());
    let names: Option<Vec<String>> = runs.iter().map(name).collect();
    names.filter(|names| all_differ(names)).unwrap_or(whole)
}

fn all_differ(names: &[String]) -> bool {
    let mut sorted: Vec<&String> = names.iter().collect();
    sorted.sort_unstable();
    sorted.windows(2).all(|pair| pair[0] != pair[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_called_by_their_folders_where_these_differ() {
        let of = |runs: &[&str]| labels(&runs.iter().map(Path::new).collect::<Vec<_>>());
        assert_eq!(of(&["runs/a", "runs/b/"]), ["a", "b"]);
        assert_eq!(of(&["x/a", "y/a"]), ["x/a", "y/a"]);
        assert_eq!(of(&[".", "a"]), [".", "a"]);
    }
}
