//! Words and tags in columns, a word a line, with blank lines between sentences: CoNLL-2003, WNUT and their like.

use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;

use super::open::open;
use super::place::{At, Place};
use super::record::Each;
use crate::{Cell, DataError};

/// What such a line holds.
const LINE: &str = "a word and its tag, with white space or a tab between them, such as \"Rome B-LOC\", and a blank line after every sentence";

/// Words that no sentence has: so many without a blank line are a file in which sentences are not told apart.
const NO_SENTENCE: usize = 2000;

/// Hands every sentence to `each` as a record of lists, the columns called `1`, `2` and so on; its place is that of its first word.
/// Lines that begin with `-DOCSTART-` are left aside, and comments (`# key = value`, `# id …`) before a sentence.
pub(super) fn read(file: &Arc<Path>, each: Each) -> Result<(), DataError> {
    let mut from = open(file)?;
    let mut bytes = Vec::new();
    let mut columns: Vec<Vec<Cell>> = Vec::new();
    let mut first = Place { file: file.clone(), at: At::Line(1) };
    let mut end = |columns: &mut Vec<Vec<Cell>>, first: &Place| {
        let named = columns.drain(..).enumerate().map(|(at, cells)| ((at + 1).to_string(), Cell::List(cells)));
        let record: Vec<_> = named.collect();
        if record.is_empty() { Ok(()) } else { each(first.clone(), record) }
    };
    for line in 1.. {
        bytes.clear();
        let read = from.read_until(b'\n', &mut bytes);
        if read.map_err(|source| DataError::Read { path: file.to_path_buf(), source })? == 0 {
            break;
        }
        let text = std::str::from_utf8(&bytes);
        let text = text.map_err(|_| DataError::NotUtf8 { path: file.to_path_buf(), line })?;
        let text = if line == 1 { text.trim_start_matches('\u{feff}') } else { text };
        let text = text.trim_end_matches(['\n', '\r']);
        let place = Place { file: file.clone(), at: At::Line(line) };
        if text.trim().is_empty() || text.starts_with("-DOCSTART-") {
            end(&mut columns, &first)?;
            continue;
        }
        if columns.is_empty() && is_comment(text) {
            continue;
        }
        let cells: Vec<&str> = if text.contains('\t') {
            text.split('\t').map(str::trim).collect()
        } else {
            text.split_whitespace().collect()
        };
        if cells.len() < 2 {
            return Err(place.bad(format!("one column alone, {:?}", cells[0]), LINE));
        }
        if columns.is_empty() {
            (first, columns) = (place, vec![Vec::new(); cells.len()]);
        } else if columns.len() != cells.len() {
            let problem = format!("{} columns, and {} in the line before", cells.len(), columns.len());
            return Err(place.bad(problem, LINE));
        }
        if columns[0].len() == NO_SENTENCE {
            return Err(
                first.bad(format!("{NO_SENTENCE} words without a blank line, which would be one sentence"), LINE)
            );
        }
        columns.iter_mut().zip(cells).for_each(|(column, cell)| column.push(Cell::from(cell)));
    }
    end(&mut columns, &first)
}

/// Whether a line before a sentence says something of it (CoNLL-U, MultiCoNER); a word may be `#` too.
fn is_comment(line: &str) -> bool {
    line.starts_with("# ") && (line.contains(" = ") || line.starts_with("# id "))
}
