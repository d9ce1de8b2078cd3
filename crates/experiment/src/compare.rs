//! Strategies side by side on the same data, partitions and seeds. A cell is one strategy variant at one rank, partition and
//! seed, and leaves an ordinary run folder; what is there already is not run again, and what was cut is gone on with.

mod attacked;
mod axes;
mod cells;
mod folder;
mod gain;
mod grid;
mod halving;
mod outputs;
mod personalised;
mod results;
mod session;
pub mod sweep;
mod table;
mod together;
#[cfg(test)]
mod untrusted;
mod variant;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::interrupt::Interrupt;
use crate::log::RunLog;
use crate::run_folder::Lock;
use crate::watch::Watch;
pub use axes::Swept;
pub use grid::{Asked, Cell, Column, Grid, Rank};
pub use halving::{Criterion, Dropped};
pub use outputs::{Draw, Outputs};
pub use results::{Group, Measured, Outcome, Point, Spread};
use session::Session;
pub use together::{APART, Together};
pub use variant::{DEFAULT_STRATEGIES, Variant, Variants, our_forms};

/// Trains the cells that are waiting one after another, and writes what is known after each. `watch` follows each of the runs,
/// `on_cell` hears of each that ended, and how long it took; `log` is that of the cell that runs.
///
/// # Errors
/// A device, data or a model that cannot be used, a folder that cannot be written. Failed training is an outcome: see
/// [`check`].
pub fn train(
    outputs: &mut Outputs<'_>,
    log: &RunLog,
    interrupt: impl FnOnce() -> Result<Arc<Interrupt>>,
    watch: &mut dyn Watch,
    on_cell: &mut dyn FnMut(&Outputs<'_>, usize, Duration),
) -> Result<()> {
    let waiting = outputs.waiting();
    if !waiting.is_empty() {
        let session = Session::prepare(outputs.grid(), &waiting, interrupt, watch)?;
        session.refuse_other_texts(outputs)?;
        let out = outputs.out();
        std::fs::create_dir_all(out).with_context(|| format!("cannot make the folder {}", out.display()))?;
        // A cell that another process has finished in the meantime has no round left.
        let _lock = Lock::take(out)?;
        for &cell in &waiting {
            if session.interrupted() {
                break;
            }
            let clock = Instant::now();
            let outcome = session.train(cell, &outputs.folder_of(cell), log, watch, (Vec::new(), None))?;
            if outcome == Outcome::Missing {
                break;
            }
            outputs.record(cell, outcome)?;
            on_cell(outputs, cell, clock.elapsed());
        }
    }
    outputs.write()
}

/// An error if cells failed.
///
/// # Errors
/// As said, with a line a cell.
pub fn check(outputs: &Outputs<'_>) -> Result<()> {
    match outputs.failures() {
        failures if failures.is_empty() => Ok(()),
        failures => {
            let (count, cells, list) = (failures.len(), outputs.cells(), failures.join("\n  "));
            Err(anyhow!("{count} of {cells} cells failed\n  {list}"))
        }
    }
}
