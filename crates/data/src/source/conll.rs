//! Words and tags in columns, a word a line, with blank lines between sentences: CoNLL-2003, WNUT and their like.

use std::path::Path;
use std::sync::Arc;

use super::place::{At, Place};
use super::record::Each;
use super::text_lines::each_line;
use crate::{Cell, DataError};

/// What such a line holds.
const LINE: &str = "a word and its tag, with white space or a tab between them, such as \"Rome B-LOC\", and a blank line after every sentence";

/// Words that no sentence has: so many without a blank line are a file in which sentences are not told apart.
const NO_SENTENCE: usize = 2000;

/// Hands every sentence to `each` as a record of lists, the columns called `1`, `2` and so on; its place is that of its first word.
/// Lines that begin with `-DOCSTART-` are left aside, and comments (`# key = value`, `# id …`) before a sentence. Words may be `alone`
/// where no tags are asked for.
pub(super) fn read(file: &Arc<Path>, alone: bool, each: Each) -> Result<(), DataError> {
    let mut columns: Vec<Vec<Cell>> = Vec::new();
    let mut first = Place { file: file.clone(), at: At::Line(1) };
    let mut end = |columns: &mut Vec<Vec<Cell>>, first: &Place| {
        let named = columns.drain(..).enumerate().map(|(at, cells)| ((at + 1).to_string(), Cell::List(cells)));
        let record: Vec<_> = named.collect();
        if record.is_empty() { Ok(()) } else { each(first.clone(), record) }
    };
    each_line(file, &mut |line, text| {
        let place = Place { file: file.clone(), at: At::Line(line) };
        if is_end(text) {
            end(&mut columns, &first)?;
            return Ok(true);
        }
        if columns.is_empty() && is_comment(text) {
            return Ok(true);
        }
        let cells = cells(text);
        if cells.len() < 2 && !alone {
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
        Ok(true)
    })?;
    end(&mut columns, &first)
}

/// Whether a text file without a header is of words in columns: every line has one word, or as many as the others of its block and
/// what may be a tag at its end. Else its lines are sentences.
pub(super) fn is_in_columns(file: &Path) -> Result<bool, DataError> {
    let (mut alone, mut tagged, mut begun) = (true, true, None);
    each_line(file, &mut |_, text| {
        if is_end(text) {
            begun = None;
            return Ok(true);
        }
        if begun.is_none() && is_comment(text) {
            return Ok(true);
        }
        let cells = cells(text);
        alone &= cells.len() == 1;
        tagged &= cells.len() > 1 && is_tag(cells[cells.len() - 1]) && *begun.get_or_insert(cells.len()) == cells.len();
        Ok(alone || tagged)
    })?;
    Ok(alone || tagged)
}

/// Whether a sentence ends on this line, which says nothing itself.
fn is_end(line: &str) -> bool {
    line.trim().is_empty() || line.starts_with("-DOCSTART-")
}

/// What stands in the columns of a line.
fn cells(line: &str) -> Vec<&str> {
    if line.contains('\t') { line.split('\t').map(str::trim).collect() } else { line.split_whitespace().collect() }
}

/// Whether this is a tag of spans as they are usually written.
fn is_tag(cell: &str) -> bool {
    let of_span = |(begin, name): (&str, &str)| matches!(begin, "B" | "I" | "E" | "S" | "L" | "U") && !name.is_empty();
    cell == "O" || cell.split_once('-').is_some_and(of_span)
}

/// Whether a line before a sentence says something of it (CoNLL-U, MultiCoNER); a word may be `#` too.
fn is_comment(line: &str) -> bool {
    line.starts_with("# ") && (line.contains(" = ") || line.starts_with("# id "))
}
