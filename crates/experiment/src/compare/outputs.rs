//! How the cells stand, and the files that say so: rewritten after every cell, so that they can be read at any time.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bonfire_federation::RoundMetrics;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::attacked::{self, Attacked};
use super::folder::{State, state};
use super::gain::{self, Gain};
use super::grid::Grid;
use super::personalised;
use super::results::{Group, Measured, Outcome, Spread};
use super::table;
use crate::format::count_of;
use crate::log::note;
use crate::run_folder::{METRICS, read, replace};

/// The numbers of a comparison.
const COMPARISON: &str = "compare.json";
/// Its table.
const TABLE: &str = "table.md";

/// The outcomes of a grid's cells and where they are written.
pub struct Outputs<'g> {
    out: PathBuf,
    grid: &'g Grid,
    command: String,
    draw: Draw,
    outcomes: Vec<Outcome>,
}

/// Draws the pictures of a comparison as they are now: names of files and SVG texts.
pub type Draw = fn(&Grid, &[Group<'_>]) -> Result<Vec<(&'static str, String)>>;

/// The fields of an earlier `compare.json` that are read here.
#[derive(Deserialize)]
struct Earlier {
    cells: Vec<EarlierCell>,
}

#[derive(Deserialize)]
struct EarlierCell {
    run: String,
    error: Option<String>,
}

/// A cell in `compare.json`.
#[derive(Serialize)]
struct Row<'r> {
    variant: &'r str,
    label: String,
    strategy: &'r str,
    rank: &'r super::grid::Rank,
    alpha: Option<f64>,
    partition: &'r str,
    seed: u64,
    run: String,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    dropped_after: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'r str>,
    #[serde(flatten)]
    measured: Option<&'r Measured>,
}

impl<'g> Outputs<'g> {
    /// Looks at what `out` holds already. With `only_missing`, cells that failed before are left as they are. `command` is what the
    /// files say they were made by; `draw` draws their pictures.
    ///
    /// # Errors
    /// A cell's folder holds a run of another configuration.
    pub fn open(out: &Path, grid: &'g Grid, only_missing: bool, command: String, draw: Draw) -> Result<Outputs<'g>> {
        let failed = if only_missing { failed_before(out)? } else { HashMap::new() };
        let mut outputs = Outputs { out: out.to_path_buf(), grid, command, draw, outcomes: Vec::new() };
        for cell in &grid.cells {
            let (path, config) = (outputs.folder(&cell.folder), &cell.loaded.config);
            outputs.outcomes.push(match state(&path, &config.to_toml(), config.train.rounds)? {
                State::Complete => Outcome::Done(Box::new(Measured::read(&path)?)),
                State::Absent | State::Cut => match failed.get(&run_of(&cell.folder)) {
                    Some(message) => Outcome::Failed(message.clone()),
                    None => Outcome::Missing,
                },
            });
        }
        Ok(outputs)
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.out.join(run_of(name))
    }

    /// The cells to run, in order.
    pub fn waiting(&self) -> Vec<usize> {
        (0..self.outcomes.len()).filter(|&cell| self.outcomes[cell] == Outcome::Missing).collect()
    }

    /// How many cells are not complete and did not fail.
    pub fn waiting_now(&self) -> usize {
        self.waiting().len()
    }

    /// How many cells there are.
    pub fn cells(&self) -> usize {
        self.outcomes.len()
    }

    /// What is compared.
    pub fn grid(&self) -> &'g Grid {
        self.grid
    }

    /// How a cell stands.
    pub fn outcome(&self, cell: usize) -> &Outcome {
        &self.outcomes[cell]
    }

    /// Where everything is written.
    pub fn out(&self) -> &Path {
        &self.out
    }

    /// The folder of a cell's run.
    pub fn folder_of(&self, cell: usize) -> PathBuf {
        self.folder(&self.grid.cells[cell].folder)
    }

    /// What a cell's run has written of its rounds; nothing where there is no run.
    ///
    /// # Errors
    /// Rows that cannot be read.
    pub fn rows_of(&self, cell: usize) -> Result<Vec<RoundMetrics>> {
        let path = self.folder_of(cell).join(METRICS);
        let mut rows = Vec::new();
        if path.is_file() {
            read::rows(&path, |row| rows.push(row))?;
        }
        Ok(rows)
    }

    /// Takes note of a cell's outcome and writes everything.
    ///
    /// # Errors
    /// The system refuses a write.
    pub fn record(&mut self, cell: usize, outcome: Outcome) -> Result<()> {
        self.outcomes[cell] = outcome;
        self.write()
    }

    /// A cell that is not complete is left as it is after `round`: others are better.
    ///
    /// # Errors
    /// Its run folder is not as a run leaves it.
    pub fn drop_cell(&mut self, cell: usize, round: usize) -> Result<()> {
        if self.outcomes[cell] == Outcome::Missing {
            let measured = Box::new(Measured::read(&self.folder_of(cell))?);
            self.outcomes[cell] = Outcome::Dropped { after: round, measured };
        }
        Ok(())
    }

    /// Takes note of an outcome, and writes nothing.
    #[cfg(test)]
    pub(super) fn set(&mut self, cell: usize, outcome: Outcome) {
        self.outcomes[cell] = outcome;
    }

    /// `[ 7/96] fedit        r1 α 0.01 s2 `.
    pub fn head_of(&self, cell: usize) -> String {
        let (count, name) = (self.outcomes.len().to_string(), self.name_of(cell));
        format!("[{:>w$}/{count}] {name} ", cell + 1, w = count.len())
    }

    /// What a cell is, in a column: its strategy and its place in the grid.
    pub fn name_of(&self, cell: usize) -> String {
        let grid = self.grid;
        let labels = grid.variants.iter().map(|variant| variant.label().chars().count());
        let (width, label) = (labels.max().unwrap_or(0), grid.variants[grid.cells[cell].variant].label());
        format!("{label:<width$}  {}", self.place_of(cell))
    }

    /// What a cell has in common with those of other seeds: `fedit r1`, with the partition where there are several.
    pub fn setting_of(&self, cell: usize) -> String {
        let cell = &self.grid.cells[cell];
        let columns = &self.grid.columns;
        let column = if columns.len() > 1 { format!(" {}", columns[cell.column].title()) } else { String::new() };
        format!("{} r{}{column}", self.grid.variants[cell.variant].label(), cell.rank)
    }

    /// `r1 α 0.01 s2`.
    fn place_of(&self, cell: usize) -> String {
        let cell = &self.grid.cells[cell];
        format!("r{} {} s{}", cell.rank, self.grid.columns[cell.column].title(), cell.seed)
    }

    /// One line for each cell that failed.
    pub fn failures(&self) -> Vec<String> {
        let line = |(cell, outcome): (usize, &Outcome)| match outcome {
            Outcome::Failed(what) => {
                let label = self.grid.variants[self.grid.cells[cell].variant].label();
                Some(format!("{label} {}: {what}", self.place_of(cell)))
            }
            _ => None,
        };
        self.outcomes.iter().enumerate().filter_map(line).collect()
    }

    /// The table.
    pub fn table(&self) -> String {
        let groups = self.groups();
        let gains = gain::table(self.grid, &groups).map(|table| format!("\n\n{table}"));
        let attacked = attacked::tables(self.grid, &groups).map(|table| format!("\n\n{table}"));
        let personalised = personalised::table(self.grid, &groups).map(|table| format!("\n\n{table}"));
        let more = attacked.chain(personalised).collect::<String>();
        table::table(self.grid, &groups) + &gains.unwrap_or_default() + &more
    }

    /// What is known of each variant, rank and partition.
    pub fn groups(&self) -> Vec<Group<'_>> {
        Group::all(self.grid, &self.outcomes)
    }

    /// Writes `compare.json`, the table and the pictures as things are now.
    ///
    /// # Errors
    /// The system refuses a write.
    pub fn write(&self) -> Result<()> {
        fs::create_dir_all(&self.out).with_context(|| format!("cannot make the folder {}", self.out.display()))?;
        self.keep_earlier()?;
        let groups = self.groups();
        let text = serde_json::to_string_pretty(&self.everything(&groups)).context("cannot write compare.json")?;
        replace(&self.out.join(COMPARISON), format!("{text}\n").as_bytes())?;
        let page = table::page(self.grid, &groups, &self.command, &self.failures());
        replace(&self.out.join(TABLE), page.as_bytes())?;
        for (name, svg) in (self.draw)(self.grid, &groups)? {
            replace(&self.out.join(name), svg.as_bytes())?;
        }
        Ok(())
    }

    /// Keeps the table and the numbers of an earlier comparison in the folder that has cells which are not of this grid, under the
    /// next free number.
    fn keep_earlier(&self) -> Result<()> {
        let path = self.out.join(COMPARISON);
        let Some(earlier) = read::optional(&path)? else { return Ok(()) };
        // What is no comparison of this version is replaced, as ever.
        let Ok(earlier) = serde_json::from_str::<Earlier>(&earlier) else { return Ok(()) };
        let own: HashSet<String> = self.grid.cells.iter().map(|cell| run_of(&cell.folder)).collect();
        let others = earlier.cells.iter().filter(|cell| !own.contains(&cell.run)).count();
        if others == 0 {
            return Ok(());
        }
        let numbered = |number: usize| ["compare", "table"].map(|name| format!("{name}-{number}"));
        let free = |number: &usize| {
            let [numbers, table] = numbered(*number);
            !self.out.join(format!("{numbers}.json")).exists() && !self.out.join(format!("{table}.md")).exists()
        };
        let [numbers, table] = numbered((1..).find(free).expect("numbers do not end"));
        for (from, to) in [(COMPARISON, format!("{numbers}.json")), (TABLE, format!("{table}.md"))] {
            let from = self.out.join(from);
            if from.exists() {
                let to = self.out.join(to);
                fs::rename(&from, &to)
                    .with_context(|| format!("cannot keep {} as {}", from.display(), to.display()))?;
            }
        }
        note(format!(
            "{} had a comparison with {} that {} not of this one: it is kept as {numbers}.json and {table}.md",
            self.out.display(),
            count_of(others, "cell"),
            if others == 1 { "is" } else { "are" }
        ));
        Ok(())
    }

    fn everything(&self, groups: &[Group<'_>]) -> serde_json::Value {
        let grid = self.grid;
        json!({
            "name": grid.name(),
            "bonfire": env!("CARGO_PKG_VERSION"),
            "command": self.command,
            "seeds": grid.seeds,
            "cells": (0..grid.cells.len()).map(|cell| self.row(cell)).collect::<Vec<_>>(),
            "groups": groups.iter().map(|group| group_row(grid, groups, group)).collect::<Vec<_>>(),
        })
    }

    fn row(&self, index: usize) -> Row<'_> {
        let (cell, outcome) = (&self.grid.cells[index], &self.outcomes[index]);
        let (variant, column) = (&self.grid.variants[cell.variant], &self.grid.columns[cell.column]);
        let (status, error, measured) = match outcome {
            Outcome::Missing => ("missing", None, None),
            Outcome::Failed(what) => ("failed", Some(what.as_str()), None),
            Outcome::Done(measured) => ("done", None, Some(&**measured)),
            Outcome::Dropped { measured, .. } => ("dropped", None, Some(&**measured)),
        };
        let dropped_after = if let Outcome::Dropped { after, .. } = outcome { Some(*after) } else { None };
        Row {
            variant: &variant.text,
            label: variant.label(),
            strategy: &variant.strategy,
            rank: &cell.rank,
            alpha: column.alpha,
            partition: &column.words,
            seed: cell.seed,
            run: run_of(&cell.folder),
            status,
            dropped_after,
            error,
            measured,
        }
    }
}

/// Means and deviations of a group, in `compare.json`.
fn group_row(grid: &Grid, groups: &[Group<'_>], group: &Group<'_>) -> serde_json::Value {
    let (variant, column) = (&grid.variants[group.variant], &grid.columns[group.column]);
    let count = |of: fn(&Measured) -> u64| group.spread(|run| Some(of(run) as f64));
    let mut row = json!({
        "variant": variant.text,
        "label": variant.label(),
        "strategy": variant.strategy,
        "rank": group.rank,
        "alpha": column.alpha,
        "partition": column.words,
        "runs": group.measured().count(),
        "failed": group.failed(),
        "final_accuracy": group.spread(|run| run.final_accuracy),
        "best_accuracy": group.spread(|run| run.best_accuracy),
        "upload_params": count(|run| run.upload_params),
        "upload_bytes": count(|run| run.upload_bytes),
        "download_params": count(|run| run.download_params),
        "download_bytes": count(|run| run.download_bytes),
        "train_seconds": group.spread(|run| Some(run.train_seconds)),
        "tokens_trained": count(|run| run.tokens_trained),
    });
    let sometimes = [
        ("simulated_seconds", group.spread(|run| run.simulated_seconds)),
        ("watt_hours", group.spread(|run| run.watt_hours)),
        ("personal_accuracy", group.spread(|run| run.personal_accuracy)),
        ("personalised_accuracy", group.spread(|run| run.personalised.map(|found| found.after.mean))),
        ("personalised_worst_decile", group.spread(|run| run.personalised.map(|found| found.after.worst_decile))),
        ("personalised_gain", group.spread(|run| run.personalised.map(|found| found.gain))),
        ("final_pearson", group.spread(|run| run.final_pearson)),
        ("final_spearman", group.spread(|run| run.final_spearman)),
        ("final_f1", group.spread(|run| run.final_f1)),
        ("final_attack_success", group.spread(|run| run.final_attack_success)),
        ("final_perplexity", group.spread(|run| run.final_perplexity)),
        ("final_exact_match", group.spread(|run| run.final_exact_match)),
    ];
    if let Some((after, measured)) = group.dropped() {
        row["dropped_after"] = json!(after);
        row["accuracy_when_dropped"] = json!(Spread::of(measured.iter().filter_map(|run| run.final_accuracy)));
    }
    if let Some(gain) = Gain::of(grid, groups, group) {
        row["gain"] = json!(gain);
    }
    if let Some(attacked) = Attacked::of(grid, groups, group) {
        row["attacked"] = json!(attacked);
    }
    for (name, spread) in sometimes {
        if let Some(spread) = spread {
            row[name] = json!(spread);
        }
    }
    row
}

/// A cell's folder relative to the comparison's.
fn run_of(folder: &str) -> String {
    format!("runs/{folder}")
}

/// Messages of the cells that failed in an earlier call, by folder.
fn failed_before(out: &Path) -> Result<HashMap<String, String>> {
    let path = out.join(COMPARISON);
    let Some(text) = read::optional(&path)? else { return Ok(HashMap::new()) };
    let earlier: Earlier = serde_json::from_str(&text)
        .with_context(|| format!("{} is not as `bonfire compare` leaves it", path.display()))?;
    Ok(earlier.cells.into_iter().filter_map(|cell| Some((cell.run, cell.error?))).collect())
}
