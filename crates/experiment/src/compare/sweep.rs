//! Trains the cells of a grid side by side: those that share a backbone and an objective have their clients in the same forward
//! and backward passes. At given rounds all cells pause and the worse half is dropped.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use bonfire_engine::{Gang, Seat};
use bonfire_federation::EvaluateOn;
use tracing::dispatcher::{self, Dispatch};

use super::grid::Grid;
use super::halving::{self, Criterion, Dropped};
use super::outputs::Outputs;
use super::results::Outcome;
use super::session::Session;
use super::together::{Together, groups};
use crate::interrupt::Interrupt;
use crate::log::RunLog;
use crate::run_folder::Lock;
use crate::user_error::UserError;
use crate::watch::Watch;

/// How a sweep goes about it.
#[derive(Clone, Debug, Default)]
pub struct Sweep {
    /// Rounds after which the worse half of the settings is dropped, rising.
    pub halving: Vec<usize>,
    /// Cells that train at a time, at most; `None`: as many as a pass holds clients.
    pub side_by_side: Option<usize>,
}

/// What happens in a sweep.
pub enum Event<'e> {
    /// The cells that are left are about to train, in these groups, one after the other.
    Begins(&'e [Together]),
    /// A cell has ended a round.
    Round {
        /// The cell.
        cell: usize,
        /// The round, from 1.
        round: usize,
    },
    /// A cell has ended.
    Ended {
        /// The cell.
        cell: usize,
    },
    /// The worse half was dropped.
    Halved {
        /// After this round.
        round: usize,
        /// By what.
        criterion: Criterion,
        /// The worst first.
        dropped: &'e [Dropped],
    },
}

/// Hears what happens, and how the cells stand then.
pub type Listener<'l> = dyn FnMut(&Outputs<'_>, Event<'_>) + 'l;

/// Refuses a sweep that cannot be made of the grid.
///
/// # Errors
/// Rounds to halve at that nothing can be halved at.
pub fn check(grid: &Grid, sweep: &Sweep) -> Result<(), UserError> {
    halving::check(grid, &sweep.halving)
}

impl Sweep {
    /// What works and will hardly be what the user wants.
    pub fn notice(&self, grid: &Grid) -> Option<String> {
        let on_test = grid.base.config.evaluate.on == EvaluateOn::Test && !self.halving.is_empty();
        on_test.then(|| {
            "settings are chosen by the test split, so what is left looks a little too good on it; data.split = { validation = 0.1 } and \
             evaluate.on = \"validation\" choose without it"
                .to_string()
        })
    }
}

/// Trains the cells that are waiting, and writes what is known after each. `watch` hears of what is read and fetched before.
///
/// # Errors
/// A device, data or a model that cannot be used, a folder that cannot be written. Failed training is an outcome: see
/// [`check`](super::check).
pub fn train(
    outputs: &mut Outputs<'_>,
    sweep: &Sweep,
    interrupt: impl FnOnce() -> Result<Arc<Interrupt>>,
    watch: &mut dyn Watch,
    on: &mut Listener<'_>,
) -> Result<()> {
    let mut rungs: VecDeque<usize> = sweep.halving.iter().copied().collect();
    // What an earlier call has decided is decided again, from the same rows.
    halve(outputs, &mut rungs, &mut |_, _| ())?;
    let waiting = outputs.waiting();
    if waiting.is_empty() {
        return outputs.write();
    }
    let session = Session::prepare(outputs.grid(), &waiting, interrupt, watch)?;
    session.refuse_other_texts(outputs)?;
    let out = outputs.out();
    std::fs::create_dir_all(out).with_context(|| format!("cannot make the folder {}", out.display()))?;
    let _lock = Lock::take(out)?;
    let mut all = groups(outputs.grid(), &waiting);
    for group in &mut all {
        group.at_a_time = at_a_time(&session, group, sweep.side_by_side);
    }
    on(outputs, Event::Begins(&all));
    loop {
        let until = rungs.front().copied();
        for group in &all {
            let mut cells = VecDeque::new();
            for &cell in &group.cells {
                let waits = *outputs.outcome(cell) == Outcome::Missing;
                if waits && !until.map_or(Ok(false), |round| halving::has_reached(outputs, cell, round))? {
                    cells.push_back(cell);
                }
            }
            run_group(&session, outputs, group, cells, until, on)?;
        }
        if session.interrupted() || until.is_none() {
            return outputs.write();
        }
        let left = rungs.len();
        halve(outputs, &mut rungs, on)?;
        if rungs.len() == left {
            return outputs.write();
        }
    }
}

/// Drops the worse half after every rung that all cells have reached.
fn halve(outputs: &mut Outputs<'_>, rungs: &mut VecDeque<usize>, on: &mut Listener<'_>) -> Result<()> {
    while let Some(&round) = rungs.front() {
        for cell in 0..outputs.cells() {
            if !halving::has_reached(outputs, cell, round)? {
                return Ok(());
            }
        }
        rungs.pop_front();
        let criterion = Criterion::of(outputs.grid());
        let dropped = halving::worse(outputs, criterion, round)?;
        for &cell in dropped.iter().flat_map(|setting| &setting.cells) {
            outputs.drop_cell(cell, round)?;
        }
        outputs.write()?;
        on(outputs, Event::Halved { round, criterion, dropped: &dropped });
    }
    Ok(())
}

/// How many cells of a group train at a time: a pass has a client of each at least.
fn at_a_time(session: &Session<'_>, group: &Together, asked: Option<usize>) -> usize {
    if group.alone.is_some() {
        return 1;
    }
    // The one whose clients are the largest.
    let rank = |cell: &&usize| session.grid().cells[**cell].loaded.config.adapter.rank;
    let largest = group.cells.iter().max_by_key(rank).expect("a group has cells");
    // What cannot be made says so when it is to train.
    let holds = session.run(*largest).map_or(1, |run| run.pass_holds());
    holds.min(asked.unwrap_or(usize::MAX)).clamp(1, group.cells.len())
}

/// What a cell's thread tells.
enum Told {
    Round { cell: usize, round: usize },
    Ended { cell: usize, outcome: Result<Outcome> },
}

/// Trains `cells` of a group, so many at a time, up to the round `until` or to their end.
fn run_group(
    session: &Session<'_>,
    outputs: &mut Outputs<'_>,
    group: &Together,
    cells: VecDeque<usize>,
    until: Option<usize>,
    on: &mut Listener<'_>,
) -> Result<()> {
    let Some(&first) = cells.front() else { return Ok(()) };
    let workers = group.at_a_time.min(cells.len());
    let gangs: Vec<Arc<Gang>> = if workers > 1 { session.gangs(first)? } else { Vec::new() };
    let take_seats = || gangs.iter().map(Gang::seat).collect::<Vec<Seat>>();
    let folders: Vec<_> = (0..outputs.cells()).map(|cell| outputs.folder_of(cell)).collect();
    let listener = dispatcher::get_default(Dispatch::clone);
    // Places for all that begin are taken before the first of them steps.
    let mut cells = cells;
    let begin: Vec<(usize, Vec<Seat>)> = cells.drain(..workers).map(|cell| (cell, take_seats())).collect();
    let cells = Mutex::new(cells);
    let (tell, told) = channel();
    let mut failed = None;
    thread::scope(|scope| {
        for (cell, seats) in begin {
            let (tell, cells, folders, listener) = (tell.clone(), &cells, &folders, &listener);
            let take_seats = &take_seats;
            scope.spawn(move || {
                let mut next = Some((cell, seats));
                while let Some((cell, seats)) = next.take().filter(|_| !session.interrupted()) {
                    let mut watch = Telling { cell, tell: &tell };
                    let (log, folder) = (RunLog::default(), &folders[cell]);
                    let run = || log.during(|| session.train(cell, folder, &log, &mut watch, (seats, until)));
                    let outcome = dispatcher::with_default(listener, run);
                    // Nobody listens any more where a file could not be written.
                    let _ = tell.send(Told::Ended { cell, outcome });
                    let waiting = cells.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    next = waiting.map(|cell| (cell, take_seats()));
                }
            });
        }
        drop(tell);
        for told in told {
            match told {
                Told::Round { cell, round } => on(outputs, Event::Round { cell, round }),
                Told::Ended { cell, outcome } => {
                    let ended = outcome.and_then(|outcome| {
                        let is_over = outcome != Outcome::Missing;
                        outputs.record(cell, outcome).map(|()| is_over)
                    });
                    match ended {
                        Ok(true) => on(outputs, Event::Ended { cell }),
                        Ok(false) => {}
                        Err(error) => {
                            session.give_up();
                            failed.get_or_insert(error);
                        }
                    }
                }
            }
        }
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Hands on what a cell's run reports.
struct Telling<'t> {
    cell: usize,
    tell: &'t Sender<Told>,
}

impl Watch for Telling<'_> {
    fn round_ended(
        &mut self,
        metrics: &bonfire_federation::RoundMetrics,
        _: &[bonfire_federation::ClientMetrics],
        _: u64,
    ) -> ControlFlow<()> {
        match self.tell.send(Told::Round { cell: self.cell, round: metrics.round }) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }
}
