//! What the tables of a comparison are made of: their rows by rank, numbers with their deviation, Markdown.

use super::grid::{Grid, Rank};
use super::results::{Group, Spread};

/// The ranks of a grid: numbers falling, then names.
pub fn ranks<'r>(groups: &[Group<'r>]) -> Vec<&'r Rank> {
    let mut ranks: Vec<&Rank> = Vec::new();
    for group in groups {
        if !ranks.contains(&group.rank) {
            ranks.push(group.rank);
        }
    }
    ranks.sort_by_key(|rank| match rank {
        Rank::Same(rank) => (0, std::cmp::Reverse(*rank)),
        Rank::Named(_) => (1, std::cmp::Reverse(0)),
    });
    ranks
}

/// The table of a value that some groups have, under `what` is said of it: a row for each variant that has any, rank by rank, a column
/// for each partition. `None`: no group has one.
pub fn by_variant(
    grid: &Grid,
    groups: &[Group<'_>],
    what: &str,
    cell: impl Fn(&Group<'_>) -> Option<String>,
) -> Option<String> {
    let mut head = vec!["rank".to_string(), "strategy".to_string()];
    head.extend(grid.columns.iter().map(|column| column.title()));
    let mut rows = vec![head];
    for rank in ranks(groups) {
        for (variant, given) in grid.variants.iter().enumerate() {
            let of = |column: usize| {
                let group = groups.iter().find(|g| (g.rank, g.variant, g.column) == (rank, variant, column))?;
                cell(group)
            };
            let cells: Vec<Option<String>> = (0..grid.columns.len()).map(of).collect();
            if cells.iter().any(Option::is_some) {
                let cells = cells.into_iter().map(|cell| cell.unwrap_or("–".into()));
                rows.push([rank.to_string(), given.label()].into_iter().chain(cells).collect());
            }
        }
    }
    (rows.len() > 1).then(|| format!("{what}\n\n{}", markdown(&rows)))
}

/// A spread of shares in percent or points.
pub fn hundredfold(spread: Spread) -> Spread {
    Spread { mean: 100.0 * spread.mean, deviation: spread.deviation.map(|deviation| 100.0 * deviation) }
}

/// `92.1 ± 0.4`, with so many digits after the point.
pub fn digits(spread: Spread, n: usize) -> String {
    match spread.deviation {
        Some(deviation) => format!("{:.n$} ± {deviation:.n$}", spread.mean),
        None => format!("{:.n$}", spread.mean),
    }
}

/// Rows as a Markdown table, padded so that it reads well as text.
pub fn markdown(rows: &[Vec<String>]) -> String {
    const LEFT: usize = 2;
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0).max(3);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
            0..LEFT => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        format!("| {} |", cells.collect::<Vec<_>>().join(" | "))
    };
    let rule = widths.iter().enumerate().map(|(column, &width)| match column {
        0..LEFT => "-".repeat(width),
        _ => format!("{}:", "-".repeat(width - 1)),
    });
    let rule = format!("| {} |", rule.collect::<Vec<_>>().join(" | "));
    let lines: Vec<String> = rows.iter().map(line).collect();
    [&lines[..1], &[rule], &lines[1..]].concat().join("\n")
}
