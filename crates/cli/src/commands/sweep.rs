//! `bonfire sweep`: every combination of settings, trained side by side.

mod args;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use bonfire_experiment::UserError;
use bonfire_experiment::compare::sweep::{self, Event, Sweep};
use bonfire_experiment::compare::{APART, Criterion, Dropped, Grid, Outcome, Outputs, Swept, Together};
use bonfire_experiment::format::count_of;
use bonfire_experiment::log::note;

use super::compare::{command, finish, line, plots};
use crate::common::Common;
use crate::console::{draws_bars, say};
use crate::interrupt::CtrlC;
use crate::progress::{CellBar, Silence, Waiting};
pub use args::SweepArgs;

/// Runs the command.
///
/// # Errors
/// As `compare`'s; values of `--set` or rounds of `--halving` that cannot be swept.
pub fn run(args: &SweepArgs, common: &Common) -> Result<()> {
    let strategies = args.strategies.as_ref().map(|given| given.0.clone());
    let Swept { variants, sets } = Swept::new(args.config.as_deref(), &common.sets, strategies)?;
    let asked = args.axes.asked(variants);
    if asked.variants.len().max(1) * asked.seeds.len().max(1) * asked.ranks.len().max(1) * asked.alphas.len().max(1)
        == 1
    {
        return Err(UserError::new("nothing to sweep: one setting, one seed")
            .help("give lists, such as --set train.lr_a=1e-4,1e-3 or --seeds 0,1; one run is `bonfire train`'s")
            .into());
    }
    let grid = Grid::new(args.config.as_deref(), &sets, common.device.as_ref(), &asked)?;
    let how = Sweep { halving: args.halving.clone(), side_by_side: args.side_by_side };
    sweep::check(&grid, &how)?;
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from("sweep").join(grid.name()));
    let mut outputs = Outputs::open(&out, &grid, args.only_missing, command(), plots::draw)?;
    if !common.quiet {
        grid.notices.iter().for_each(note);
        say(grid.describe(outputs.waiting().len()));
        how.notice(&grid).iter().for_each(note);
    }
    follow(&mut outputs, &how, common.quiet)?;
    finish(&outputs, common.quiet)
}

/// Trains the cells that wait, and says how it goes.
///
/// # Errors
/// As `compare`'s.
pub fn follow(outputs: &mut Outputs<'_>, how: &Sweep, quiet: bool) -> Result<()> {
    let mut seen = Seen::new(outputs, quiet);
    let interrupt = || CtrlC::install(None).map(|ctrl_c| Arc::clone(&ctrl_c.interrupt));
    sweep::train(outputs, how, interrupt, &mut Waiting::default(), &mut |outputs, event| seen.hear(outputs, event))
}

/// What is seen while cells train.
struct Seen {
    quiet: bool,
    /// The rounds that each cell has done, as far as this call has seen.
    rounds: BTreeMap<usize, usize>,
    /// Cells that were waiting and are not any more.
    ended: usize,
    waiting: usize,
    bar: Option<CellBar>,
    silence: Silence,
}

impl Seen {
    fn new(outputs: &Outputs<'_>, quiet: bool) -> Seen {
        let log_every = outputs.grid().base.config.train.log_every;
        let silence = if quiet { Silence::for_ever() } else { Silence::new(log_every) };
        let bar = draws_bars().then(CellBar::new);
        Seen { quiet, rounds: BTreeMap::new(), ended: 0, waiting: outputs.waiting().len(), bar, silence }
    }

    fn hear(&mut self, outputs: &Outputs<'_>, event: Event<'_>) {
        match event {
            Event::Begins(groups) if !self.quiet => groups_in_words(outputs.grid(), groups).into_iter().for_each(say),
            Event::Begins(_) => {}
            Event::Round { cell, round } => {
                self.rounds.insert(cell, round);
                self.tell();
            }
            Event::Ended { cell } => {
                self.ended += 1;
                if !self.quiet {
                    // Its rounds' training, also of the parts that another call did.
                    let took = match outputs.outcome(cell) {
                        Outcome::Done(measured) => Duration::from_secs_f64(measured.train_seconds),
                        _ => Duration::ZERO,
                    };
                    say(format!("{} {}", outputs.head_of(cell), line(outputs.outcome(cell), took)));
                }
            }
            Event::Halved { round, criterion, dropped } => {
                self.ended += dropped.iter().map(|setting| setting.cells.len()).sum::<usize>();
                if !self.quiet {
                    say(halved(outputs, round, criterion, dropped));
                }
            }
        }
    }

    fn tell(&mut self) {
        if self.bar.is_none() && !self.silence.ends() {
            return;
        }
        let (least, most) = (self.rounds.values().min().unwrap_or(&0), self.rounds.values().max().unwrap_or(&0));
        let rounds = if least == most { format!("{most}") } else { format!("{least} to {most}") };
        let words = format!(
            "{} of {} have ended; {} seen at round {rounds}",
            self.ended,
            count_of(self.waiting, "cell"),
            self.rounds.len()
        );
        match &self.bar {
            Some(bar) => bar.set(words),
            None => say(words),
        }
    }
}

/// Which cells share their passes, a line a group.
fn groups_in_words(grid: &Grid, groups: &[Together]) -> Vec<String> {
    let labels = |group: &Together| {
        let mut names: Vec<String> =
            group.cells.iter().map(|&cell| grid.variants[grid.cells[cell].variant].label()).collect();
        names.dedup();
        let mut seen: Vec<String> = Vec::new();
        names.into_iter().for_each(|name| {
            if !seen.contains(&name) {
                seen.push(name);
            }
        });
        const SHOWN: usize = 4;
        let more = seen.len().saturating_sub(SHOWN);
        let list = seen.into_iter().take(SHOWN).collect::<Vec<_>>().join(", ");
        if more > 0 { format!("{list} and {more} more") } else { list }
    };
    let words = |group: &Together| {
        let cells = count_of(group.cells.len(), "cell");
        match (group.alone, group.at_a_time) {
            (Some(why), _) => format!("{cells} by themselves, one after another ({}): {why}", labels(group)),
            (None, _) if group.cells.len() == 1 => {
                format!("{cells} ({}) shares its passes with no other", labels(group))
            }
            (None, 1) => format!("{cells}, one after another"),
            (None, n) if n == group.cells.len() => format!("{cells} share every pass"),
            (None, n) => format!("{cells} share their passes, {n} at a time"),
        }
    };
    let sharing = groups.iter().filter(|group| group.alone.is_none()).count();
    groups.iter().map(words).chain((sharing > 1).then(|| APART.to_string())).collect()
}

/// What was dropped, and how it was.
fn halved(outputs: &Outputs<'_>, round: usize, criterion: Criterion, dropped: &[Dropped]) -> String {
    let one = |setting: &Dropped| {
        let name = outputs.setting_of(setting.cells[0]);
        format!("{name} ({})", criterion.shown(setting.score))
    };
    let list: Vec<String> = dropped.iter().map(one).collect();
    let list = if list.is_empty() { "nothing".into() } else { list.join(", ") };
    format!("after round {round} dropped by {}: {list}", criterion.words())
}
