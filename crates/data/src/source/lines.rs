//! On which line of a file a row begins, where what reads the rows knows bytes alone.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, Read};
use std::rc::Rc;

use super::quotes::Quotes;

/// Counts the lines of what is read through it, and remembers where those begin that have something on them.
pub(super) struct Counted<R> {
    inner: R,
    lines: Lines,
}

/// What a [`Counted`] has seen.
#[derive(Clone, Default)]
pub(super) struct Lines(Rc<RefCell<Seen>>);

#[derive(Default)]
struct Seen {
    /// Bytes so far.
    bytes: u64,
    /// Whole lines so far.
    whole: u64,
    /// Whether the line that is being read has something on it.
    begun: bool,
    /// Beginnings of lines that are not blank, with their numbers from 1.
    begins: VecDeque<(u64, u64)>,
    /// Where the line that is being read begins.
    line_at: u64,
    /// Where quotes are read as such.
    quotes: Option<Quotes>,
    /// Whether all is read.
    ended: bool,
}

/// Reads `inner` with its lines counted, and its quotes followed where they are read as such.
pub(super) fn counted<R: Read>(inner: R, quotes: Option<Quotes>) -> (Counted<R>, Lines) {
    let lines = Lines(Rc::new(RefCell::new(Seen { quotes, ..Seen::default() })));
    (Counted { inner, lines: lines.clone() }, lines)
}

impl Lines {
    /// The line, from 1, of the first row that begins at the byte `at` or after it. Rows are asked for in their order.
    pub fn at(&self, at: u64) -> u64 {
        let mut seen = self.0.borrow_mut();
        while seen.begins.front().is_some_and(|(begin, _)| *begin < at) {
            seen.begins.pop_front();
        }
        seen.begins.front().map_or(seen.whole + 1, |(_, line)| *line)
    }

    /// The line on which a quoted cell begins that the end of the file leaves open.
    pub fn never_closed(&self) -> Option<u64> {
        let seen = self.0.borrow();
        seen.quotes.as_ref().filter(|_| seen.ended)?.open()
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let mut seen = self.lines.0.borrow_mut();
        let seen = &mut *seen;
        seen.ended |= read == 0 && !buffer.is_empty();
        for &byte in &buffer[..read] {
            seen.bytes += 1;
            let of_mark = seen.bytes <= 3 && [0xef, 0xbb, 0xbf].contains(&byte);
            if let Some(quotes) = seen.quotes.as_mut().filter(|_| !of_mark) {
                quotes.see(byte, seen.whole + 1);
            }
            match byte {
                b'\n' => {
                    seen.whole += 1;
                    seen.begun = false;
                    seen.line_at = seen.bytes;
                }
                b'\r' => {}
                _ if !seen.begun => {
                    seen.begun = true;
                    let begin = (seen.line_at, seen.whole + 1);
                    seen.begins.push_back(begin);
                }
                _ => {}
            }
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_on_the_line_that_they_begin_on() {
        // Of bytes 0 to 2 `a` and both ends of its line; a blank line; `b`, which goes on on the next; `c`.
        let text = "a\r\n\r\nb\nb\n\nc";
        for most in [1, 3, 64] {
            let (mut reader, lines) = counted(text.as_bytes(), None);
            let mut buffer = vec![0; most];
            while reader.read(&mut buffer).expect("read") > 0 {}
            // Where lines end in two characters, a row may be said to begin between them.
            assert_eq!([0, 2, 7, 9].map(|at| lines.at(at)), [1, 3, 4, 6]);
            assert_eq!(lines.at(99), 6);
        }
    }
}
