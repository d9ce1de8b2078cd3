//! What the tables of a comparison are made of: their rows by rank, numbers with their deviation, Markdown.

use super::grid::Rank;
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
