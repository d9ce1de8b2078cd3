//! Quotes in tables that take in more than a cell: one that never closes, and two that take in the rows between them.

use std::collections::HashSet;
use std::path::Path;

/// Follows the quotes of a table byte by byte, as they are read.
pub(super) struct Quotes {
    delimiter: u8,
    state: State,
    /// The line on which the last quoted cell begins.
    begins: u64,
}

enum State {
    /// At the beginning of a cell, where a quote opens.
    Start,
    /// In a cell without quotes, or behind its quotes.
    Plain,
    Quoted,
    /// Behind a quote in a quoted cell: another one makes a quote of the text.
    Closing,
}

impl Quotes {
    pub fn new(delimiter: u8) -> Quotes {
        Quotes { delimiter, state: State::Start, begins: 1 }
    }

    /// Takes the next byte, which stands on this line.
    #[inline]
    pub fn see(&mut self, byte: u8, line: u64) {
        self.state = match (&self.state, byte) {
            (State::Start, b'"') => {
                self.begins = line;
                State::Quoted
            }
            (State::Quoted, b'"') => State::Closing,
            (State::Quoted, _) | (State::Closing, b'"') => State::Quoted,
            (_, b'\n' | b'\r') => State::Start,
            (_, byte) if byte == self.delimiter => State::Start,
            _ => State::Plain,
        };
    }

    /// The line on which the cell begins that is being read, if it is a quoted one.
    pub fn open(&self) -> Option<u64> {
        matches!(self.state, State::Quoted).then_some(self.begins)
    }
}

/// Values of a column that are remembered: a column that has more has texts or the like, of which no two are one.
const VALUES: usize = 1000;

/// The longest value that is remembered, in bytes.
const LONGEST: usize = 64;

/// Rows in cells that are remembered until all rows are known.
const WAITING: usize = 10_000;

/// Looks for rows that stand in a quoted cell: its lines that have as many cells as the header, one of them with a value that other
/// rows have in that column. Texts of several lines, commas and all, hardly have one.
pub(super) struct Swallowed {
    delimiter: char,
    /// What stands in each column; nothing of one that has too many values.
    values: Vec<Option<HashSet<String>>>,
    /// Lines whose values no row before has: that of the cell, and the values with their columns.
    waiting: Vec<(u64, Vec<(usize, String)>)>,
    found: Found,
}

#[derive(Default)]
struct Found {
    lines: usize,
    cells: usize,
    first: Option<u64>,
    last: Option<u64>,
}

impl Found {
    /// One more line that looks like a row, in the cell that begins on this line.
    fn add(&mut self, cell: u64) {
        self.lines += 1;
        self.cells += usize::from(self.last != Some(cell));
        self.last = Some(cell);
        self.first = Some(self.first.map_or(cell, |first| first.min(cell)));
    }
}

impl Swallowed {
    pub fn new(delimiter: u8, columns: usize) -> Swallowed {
        let values = (0..columns).map(|_| Some(HashSet::new())).collect();
        Swallowed { delimiter: delimiter.into(), values, waiting: Vec::new(), found: Found::default() }
    }

    /// Takes the next row, which begins on this line.
    pub fn look(&mut self, row: &csv::StringRecord, line: u64) {
        // In one column every line of a text would be a row.
        if self.values.len() < 2 {
            return;
        }
        row.iter().zip(&mut self.values).for_each(|(cell, values)| remember(cell, values));
        if !row.as_slice().contains('\n') {
            return;
        }
        let mut begins = line;
        for (column, cell) in row.iter().enumerate() {
            let ends = cell.matches('\n').count();
            if ends > 0 {
                self.rows_in(cell, column, ends, begins);
            }
            begins += ends as u64;
        }
    }

    /// The lines of a cell that may be rows.
    fn rows_in(&mut self, cell: &str, column: usize, ends: usize, begins: u64) {
        let columns = self.values.len();
        for (at, text) in cell.split('\n').enumerate() {
            let cells = split(text.strip_suffix('\r').unwrap_or(text), self.delimiter);
            // The first and the last line have the cells of the row about them.
            let before = if at == 0 { column } else { 0 };
            let after = if at == ends { columns - 1 - column } else { 0 };
            if cells.len() < 2 || before + cells.len() + after != columns {
                continue;
            }
            let from = usize::from(at == 0);
            let own = cells.len() - from - usize::from(at == ends && after > 0);
            let named = cells.iter().enumerate().skip(from).take(own).map(|(at, cell)| (before + at, *cell));
            self.row(named.filter(|(_, cell)| is_value(cell)).collect(), begins);
        }
    }

    /// A line that has as many cells as a row, with those that may be values.
    fn row(&mut self, cells: Vec<(usize, &str)>, begins: u64) {
        if cells.iter().any(|(column, cell)| is_known(&self.values, *column, cell)) {
            self.found.add(begins);
        } else if self.waiting.len() < WAITING && !cells.is_empty() {
            self.waiting.push((begins, cells.into_iter().map(|(column, cell)| (column, cell.to_owned())).collect()));
        }
    }

    /// What to say of the cells that hold rows, after the last row.
    pub fn note(mut self, file: &Path) -> Option<String> {
        for (begins, cells) in std::mem::take(&mut self.waiting) {
            if cells.iter().any(|(column, cell)| is_known(&self.values, *column, cell)) {
                self.found.add(begins);
            }
        }
        let Found { lines, cells, first, .. } = self.found;
        let line = first?;
        let rows = match lines {
            1 => "1 line that looks like a row of its own; close it if it is".to_owned(),
            _ => format!("{lines} lines that look like rows of their own; close it if they are"),
        };
        let quotes = match cells {
            1 => format!("a quote that begins on line {line} takes in"),
            all => format!("{all} quotes, the first of which begins on line {line}, take in"),
        };
        Some(format!("{}: {quotes} {rows}", file.display()))
    }
}

/// Whether a cell may be one of a few values.
fn is_value(cell: &str) -> bool {
    !cell.is_empty() && cell.len() <= LONGEST && !cell.contains('\n')
}

fn remember(cell: &str, values: &mut Option<HashSet<String>>) {
    let Some(known) = values else { return };
    if !is_value(cell) || known.contains(cell) {
        return;
    }
    known.insert(cell.to_owned());
    if known.len() > VALUES {
        *values = None;
    }
}

fn is_known(values: &[Option<HashSet<String>>], column: usize, cell: &str) -> bool {
    values[column].as_ref().is_some_and(|known| known.contains(cell))
}

/// A line at its delimiters, but for those between quotes.
fn split(line: &str, delimiter: char) -> Vec<&str> {
    let mut quoted = false;
    let apart = |letter: char| {
        quoted ^= letter == '"';
        letter == delimiter && !quoted
    };
    line.split(apart).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_followed_as_the_reader_reads_them() {
        let open = |text: &str| {
            let (mut quotes, mut line) = (Quotes::new(b','), 1);
            for byte in text.bytes() {
                quotes.see(byte, line);
                line += u64::from(byte == b'\n');
            }
            quotes.open()
        };
        for closed in ["a,\"b\"\n", "a,\"b\"\"c\"", "a,b\"c\n", "a,b \"c\n", "\"a\nb\",c\n", "\"a\"b\"\n", "\"\",\"\""]
        {
            assert_eq!(open(closed), None, "{closed:?}");
        }
        for (text, line) in [("a,b\nc,\"d\ne,f\n", 2), ("\"a", 1), ("a\r\n\"b\"\"\r\n", 2), ("\"a\nb\",\"c\nd\n", 2)] {
            assert_eq!(open(text), Some(line), "{text:?}");
        }
    }
}
