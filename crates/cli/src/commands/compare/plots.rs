//! The three pictures of a comparison: accuracy against rounds, against uploaded bytes, and against rank.

use anyhow::Result;
use bonfire_experiment::compare::{Grid, Group, Rank, Spread};
use bonfire_experiment::config::TaskKind;
use bonfire_experiment::format::bytes;

use super::figure::{self, Axis, Dot, Figure, Line, Panel, Scale};

const ROUNDS: &str = "accuracy-rounds.svg";
const BYTES: &str = "accuracy-bytes.svg";
const RANK: &str = "accuracy-rank.svg";

/// Names of the pictures of `groups`.
pub fn names(groups: &[Group<'_>]) -> Vec<&'static str> {
    let by_rank = (numbers(groups).len() > 1).then_some(RANK);
    [ROUNDS, BYTES].into_iter().chain(by_rank).collect()
}

/// Draws the pictures, each with its name.
///
/// # Errors
/// None that a user can cause.
pub fn draw(grid: &Grid, groups: &[Group<'_>]) -> Result<Vec<(&'static str, String)>> {
    let one = |name| {
        let figure = match name {
            ROUNDS => curves(grid, groups, rounds_axis(), |round, _| round as f64),
            BYTES => curves(grid, groups, bytes_axis(), |_, bytes| bytes),
            _ => by_rank(grid, groups),
        };
        Ok((name, figure::draw(&figure)?))
    };
    names(groups).into_iter().map(one).collect()
}

fn rounds_axis() -> Axis {
    Axis { words: "round", scale: Scale::Linear, show: |round| format!("{round:.0}") }
}

fn bytes_axis() -> Axis {
    Axis {
        words: "uploaded by all clients so far (logarithmic)",
        scale: Scale::Log,
        show: |count| bytes(count.round() as u64),
    }
}

/// Different ranks that are numbers, falling.
fn numbers(groups: &[Group<'_>]) -> Vec<usize> {
    let number = |group: &Group<'_>| match group.rank {
        Rank::Same(rank) => Some(*rank),
        Rank::Named(_) => None,
    };
    let mut numbers: Vec<usize> = groups.iter().filter_map(number).collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    numbers.dedup();
    numbers
}

/// A row of panels for every rank, a column for every partition; `x` of round and bytes uploaded so far.
fn curves(grid: &Grid, groups: &[Group<'_>], x: Axis, place: fn(usize, f64) -> f64) -> Figure {
    let mut ranks: Vec<&Rank> = Vec::new();
    groups.iter().for_each(|g| {
        if !ranks.contains(&g.rank) {
            ranks.push(g.rank)
        }
    });
    ranks.sort_by_key(|rank| std::cmp::Reverse(if let Rank::Same(n) = rank { *n } else { 0 }));
    let scale = x.scale;
    let line = |group: &Group<'_>| {
        let points = group.curve().into_iter().map(|(round, bytes, spread)| dot(place(round, bytes), spread));
        // A logarithmic axis has no place for a start without uploads.
        Line { series: group.variant, points: points.filter(|dot| dot.x > 0.0 || scale == Scale::Linear).collect() }
    };
    let panel = |rank: &Rank, column: usize| Panel {
        title: format!("{}, rank {rank}", grid.columns[column].title()),
        lines: groups.iter().filter(|g| g.rank == rank && g.column == column).map(line).collect(),
    };
    let row = |rank: &&Rank| (0..grid.columns.len()).map(|column| panel(rank, column)).collect();
    figure_of(grid, "test accuracy", x, ranks.iter().map(row).collect())
}

/// Final accuracy against the rank, a panel for every partition.
fn by_rank(grid: &Grid, groups: &[Group<'_>]) -> Figure {
    let point = |group: &Group<'_>| match group.rank {
        Rank::Same(rank) => {
            Some(dot(*rank as f64, group.spread(|run| run.final_f1.or(run.final_accuracy).or(run.final_pearson))?))
        }
        Rank::Named(_) => None,
    };
    let line = |series: usize, column: usize| {
        let mine = groups.iter().filter(|g| g.variant == series && g.column == column);
        let mut points: Vec<Dot> = mine.filter_map(point).collect();
        points.sort_by(|a, b| a.x.total_cmp(&b.x));
        Line { series, points }
    };
    let panel = |column: usize| Panel {
        title: grid.columns[column].title(),
        lines: (0..grid.variants.len()).map(|series| line(series, column)).collect(),
    };
    let x = Axis { words: "rank", scale: Scale::Listed, show: |rank| format!("{rank:.0}") };
    figure_of(grid, "final test accuracy", x, vec![(0..grid.columns.len()).map(panel).collect()])
}

fn figure_of(grid: &Grid, what: &str, x: Axis, rows: Vec<Vec<Panel>>) -> Figure {
    let seeds = grid.seeds.len();
    let over = if seeds > 1 { format!(", mean ± deviation over {seeds} seeds") } else { String::new() };
    let names = grid.variants.iter().map(|variant| variant.label()).collect();
    let y = match grid.base.config.model.task {
        TaskKind::Classification => "accuracy, %",
        TaskKind::MultiLabel => "texts with all labels right, %",
        TaskKind::TokenClassification => "F1 of spans, %",
        TaskKind::Regression => "Pearson's correlation, ×100",
        TaskKind::CausalLm => "next tokens right, %",
    };
    Figure { title: format!("{}: {what}{over}", grid.name()), x, y, percent: true, names, rows }
}

fn dot(x: f64, spread: Spread) -> Dot {
    Dot { x, y: spread.mean * 100.0, deviation: spread.deviation.unwrap_or(0.0) * 100.0 }
}
