//! `bonfire compare`: strategies side by side, as a table and as pictures.

mod args;
mod cells;
pub(crate) mod figure;
pub(super) mod plots;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use bonfire_experiment::RunLog;
use bonfire_experiment::compare::{self, Grid, Outcome, Outputs};
use bonfire_experiment::format::{bytes, percent, seconds, shell_word};
use bonfire_experiment::log::note;

use crate::common::Common;
use crate::console::say;
use crate::interrupt::{CtrlC, end_unfinished};
pub use args::{Axes, CompareArgs};
use cells::Cells;

/// Runs the command.
///
/// # Errors
/// A cell whose configuration cannot be, data or a model that cannot be used, a folder that holds another run, a disk that
/// cannot be written; and, after all others ran, cells whose training failed.
pub fn run(args: &CompareArgs, common: &Common, log: &RunLog) -> Result<()> {
    let asked = args.axes.asked(args.variants());
    let grid = Grid::new(args.config.as_deref(), &common.sets, common.device.as_ref(), &asked)?;
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from("compare").join(grid.name()));
    let mut outputs = Outputs::open(&out, &grid, args.only_missing, command(), plots::draw)?;
    let waiting = outputs.waiting().len();
    if !common.quiet {
        grid.notices.iter().for_each(note);
        say(grid.describe(waiting));
    }
    let start = Instant::now();
    // Of each cell that is to run, its name and rounds.
    let cells = outputs.waiting().into_iter();
    let cells = cells.map(|cell| (outputs.name_of(cell), grid.cells[cell].loaded.config.train.rounds)).collect();
    let log_every = grid.base.config.train.log_every;
    let at = Rc::new(Cell::new(0));
    let mut watch = Cells::new(cells, Rc::clone(&at), common.quiet, log_every);
    let mut on_cell = |outputs: &Outputs<'_>, cell: usize, took: Duration| {
        at.set(at.get() + 1);
        let done = at.get();
        if !common.quiet {
            let left = waiting - done;
            let rest = start.elapsed().as_secs_f64() / done as f64 * left as f64;
            let rest = if left > 0 { format!("  ({} left)", seconds(rest)) } else { String::new() };
            say(format!("{} {}{rest}", outputs.head_of(cell), line(outputs.outcome(cell), took)));
        }
    };
    let interrupt = || CtrlC::install(None).map(|ctrl_c| Arc::clone(&ctrl_c.interrupt));
    compare::train(&mut outputs, log, interrupt, &mut watch, &mut on_cell)?;
    drop(watch);
    finish(&outputs, common.quiet)
}

/// How a cell ended.
pub(super) fn line(outcome: &Outcome, took: Duration) -> String {
    match outcome {
        Outcome::Missing => "not complete".to_string(),
        Outcome::Failed(what) => format!("failed: {what}"),
        Outcome::Dropped { after, .. } => format!("dropped after round {after}"),
        Outcome::Done(measured) => format!(
            "{:>6}  upload {:>7}  {}",
            measured
                .final_f1
                .or(measured.final_accuracy)
                .map(percent)
                .or(measured.final_pearson.map(|r| format!("{r:.3}")))
                .unwrap_or("-".into()),
            bytes(measured.upload_bytes),
            seconds(took.as_secs_f64()),
        ),
    }
}

/// The table, what is missing, and an error if cells failed.
pub(super) fn finish(outputs: &Outputs<'_>, quiet: bool) -> Result<()> {
    if !quiet {
        say("");
    }
    say(outputs.table());
    if !quiet {
        let pictures = plots::names(&outputs.groups());
        let files: Vec<&str> = ["compare.json", "table.md"].into_iter().chain(pictures).collect();
        say(format!("\nwritten to {}: {}", outputs.out().display(), files.join(", ")));
    }
    let (missing, cells) = (outputs.waiting().len(), outputs.cells());
    if missing > 0 {
        note(format!("{missing} of {cells} cells are not complete; the same command goes on with them"));
    }
    compare::check(outputs)?;
    if missing > 0 { end_unfinished() } else { Ok(()) }
}

/// The command as the user typed it, quoted where a shell needs it.
pub(super) fn command() -> String {
    let words = std::env::args().skip(1).map(|word| shell_word(&word));
    std::iter::once("bonfire".to_string()).chain(words).collect::<Vec<_>>().join(" ")
}
