//! `bonfire compare`: strategies side by side on the same data, partitions and seeds. A cell is one strategy variant at one
//! rank, partition and seed, and leaves an ordinary run folder; what is there already is not run again, and what was cut is gone on with.

mod args;
mod figure;
mod folder;
mod gain;
pub mod grid;
mod outputs;
mod plots;
mod results;
mod session;
mod table;
#[cfg(test)]
mod untrusted;
pub mod variant;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};

pub use args::CompareArgs;

use crate::args::Common;
use crate::console::{bytes, note, percent, say, seconds};
use crate::interrupt::Interrupt;
use crate::run_folder::Lock;
use grid::{Asked, Grid};
use outputs::Outputs;
use results::Outcome;
use session::Session;

/// Runs the command.
///
/// # Errors
/// A cell whose configuration cannot be, data or a model that cannot be used, a folder that holds another run, a disk that
/// cannot be written; and, after all others ran, cells whose training failed.
pub fn run(args: &CompareArgs, common: &Common) -> Result<()> {
    let grid = grid(args, common)?;
    let mut board = board(args, &grid)?;
    let waiting = board.waiting();
    if !common.quiet {
        grid.notices.iter().for_each(note);
        say(grid.describe(waiting.len()));
    }
    carry_out(&grid, &mut board, &waiting, common.quiet, Interrupt::install)?;
    finish(&board, common.quiet)
}

/// The command for another front end: nothing is printed, `interrupt` ends it.
///
/// # Errors
/// As [`run`].
pub fn quietly_run(args: &CompareArgs, common: &Common, interrupt: Arc<Interrupt>) -> Result<()> {
    let grid = grid(args, common)?;
    let mut board = board(args, &grid)?;
    let waiting = board.waiting();
    carry_out(&grid, &mut board, &waiting, true, || Ok(interrupt))?;
    failures(&board)
}

fn grid(args: &CompareArgs, common: &Common) -> Result<Grid> {
    let asked = Asked { variants: args.variants(), seeds: &args.seeds, ranks: &args.ranks, alphas: &args.alphas };
    Grid::new(args.config.as_deref(), common, &asked)
}

fn board<'g>(args: &CompareArgs, grid: &'g Grid) -> Result<Outputs<'g>> {
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from("compare").join(grid.name()));
    Outputs::open(&out, grid, args.only_missing)
}

/// Trains the cells that are waiting and writes what came of it.
fn carry_out(
    grid: &Grid,
    board: &mut Outputs<'_>,
    waiting: &[usize],
    quiet: bool,
    interrupt: impl FnOnce() -> Result<Arc<Interrupt>>,
) -> Result<()> {
    if !waiting.is_empty() {
        let workplace = Session::prepare(grid, waiting, interrupt)?;
        let out = board.out();
        fs::create_dir_all(out).with_context(|| format!("cannot make the folder {}", out.display()))?;
        // A cell that another process has finished in the meantime has no round left.
        let _lock = Lock::take(out)?;
        train(&workplace, waiting, board, quiet)?;
    }
    board.write()
}

/// Trains the cells one after another, and writes what is known after each.
fn train(workplace: &Session<'_>, waiting: &[usize], board: &mut Outputs<'_>, quiet: bool) -> Result<()> {
    let start = Instant::now();
    for (done, &cell) in waiting.iter().enumerate() {
        if workplace.interrupted() {
            break;
        }
        let clock = Instant::now();
        let outcome = workplace.train(cell, &board.folder_of(cell))?;
        let line = match &outcome {
            Outcome::Missing => break,
            Outcome::Failed(what) => format!("failed: {what}"),
            Outcome::Done(measured) => format!(
                "{:>6}  upload {:>7}  {}",
                measured.final_accuracy.map_or("-".to_string(), percent),
                bytes(measured.upload_bytes),
                seconds(clock.elapsed().as_secs_f64()),
            ),
        };
        board.record(cell, outcome)?;
        if !quiet {
            let left = waiting.len() - done - 1;
            let rest = start.elapsed().as_secs_f64() / (done + 1) as f64 * left as f64;
            let rest = if left > 0 { format!("  ({} left)", seconds(rest)) } else { String::new() };
            say(format!("{} {line}{rest}", board.head_of(cell)));
        }
    }
    Ok(())
}

/// The table, what is missing, and an error if cells failed.
fn finish(board: &Outputs<'_>, quiet: bool) -> Result<()> {
    if !quiet {
        say("");
    }
    say(board.table());
    if !quiet {
        say(format!("\nwritten to {}: {}", board.out().display(), board.files().join(", ")));
    }
    let (missing, cells) = (board.waiting_now(), board.cells());
    if missing > 0 {
        note(format!("{missing} of {cells} cells are not complete; the same command goes on with them"));
    }
    failures(board)
}

/// An error if cells failed.
fn failures(board: &Outputs<'_>) -> Result<()> {
    let cells = board.cells();
    match board.failures() {
        failures if failures.is_empty() => Ok(()),
        failures => {
            let (count, list) = (failures.len(), failures.join("\n  "));
            Err(anyhow!("{count} of {cells} cells failed\n  {list}"))
        }
    }
}
