//! Lists in cells: as they are, or written into the text of a table's cell.

use std::borrow::Cow;

use super::place::Place;
use crate::{Cell, DataError};

/// The items of the list in a cell. In tables (`loose`) it is text: JSON, as Python writes lists, or items with what `apart` says between
/// them.
pub(super) fn items<'c>(
    place: &Place,
    column: &str,
    cell: &'c Cell,
    loose: bool,
    apart: fn(char) -> bool,
) -> Result<Cow<'c, [Cell]>, DataError> {
    const EXPECTED: &str = "a list, such as [\"EU\", \"rejects\"]";
    match cell {
        Cell::List(items) => Ok(items.into()),
        Cell::Text(text) if loose => {
            let text = text.trim();
            let Some(inside) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) else {
                let items = text.split(apart).map(str::trim).filter(|item| !item.is_empty());
                return Ok(items.map(Cell::from).collect());
            };
            match serde_json::from_str(text) {
                Ok(Cell::List(items)) => Ok(items.into()),
                _ => python(inside).map(Cow::Owned).ok_or_else(|| {
                    place.bad(format!("field {column:?} is a list with a quote that does not end"), EXPECTED)
                }),
            }
        }
        other => Err(place.bad(format!("field {column:?} is {}", other.kind()), EXPECTED)),
    }
}

/// The items of a list as Python writes it, with single or double quotes; those without are numbers or names.
fn python(mut rest: &str) -> Option<Vec<Cell>> {
    let mut items = Vec::new();
    loop {
        rest = rest.trim_start_matches(|c: char| c == ',' || c.is_whitespace());
        let Some(first) = rest.chars().next() else { return Some(items) };
        if !matches!(first, '\'' | '"') {
            let end = rest.find(|c: char| c == ',' || c.is_whitespace()).unwrap_or(rest.len());
            let item = &rest[..end];
            items.push(item.parse().map_or_else(|_| Cell::from(item), Cell::Whole));
            rest = &rest[end..];
            continue;
        }
        let (item, behind) = quoted(&rest[1..], first)?;
        rest = behind;
        items.push(Cell::Text(item));
    }
}

/// A text up to the quote that ends it, and what stands behind that.
fn quoted(mut rest: &str, end: char) -> Option<(String, &str)> {
    let mut item = String::new();
    loop {
        let letter = rest.chars().next()?;
        let (letter, bytes) = match letter {
            _ if letter == end => return Some((item, &rest[1..])),
            '\\' => escaped(rest)?,
            _ => (letter, letter.len_utf8()),
        };
        item.push(letter);
        rest = &rest[bytes..];
    }
}

/// The letter of an escape that the text begins with, as Python writes it, and how many bytes it takes. What is none is a backslash.
fn escaped(text: &str) -> Option<(char, usize)> {
    let letter = match text.chars().nth(1)? {
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        quote @ ('\\' | '\'' | '"') => quote,
        'x' => return Some(of_digits(text, 2)),
        'u' => return Some(of_digits(text, 4)),
        'U' => return Some(of_digits(text, 8)),
        _ => return Some(('\\', 1)),
    };
    Some((letter, 2))
}

/// The letter whose number so many hexadecimal digits behind `\x` or the like say.
fn of_digits(text: &str, digits: usize) -> (char, usize) {
    let all = text.get(2..2 + digits).filter(|all| all.bytes().all(|digit| digit.is_ascii_hexdigit()));
    let letter = all.and_then(|all| u32::from_str_radix(all, 16).ok()).and_then(char::from_u32);
    letter.map_or(('\\', 1), |letter| (letter, 2 + digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_json_python_and_plain_words() {
        let expected: Vec<Cell> = ["EU", "doesn't", "say \"no\"", "a,b"].into_iter().map(Cell::from).collect();
        let place = Place { file: std::path::Path::new("x.csv").into(), at: super::super::At::Line(2) };
        let read = |text: &str| {
            let cell = Cell::from(text);
            items(&place, "tokens", &cell, true, char::is_whitespace).map(Cow::into_owned).map_err(|e| e.to_string())
        };
        assert_eq!(read(r#"["EU", "doesn't", "say \"no\"", "a,b"]"#).as_ref(), Ok(&expected));
        assert_eq!(read(r#"['EU', "doesn't", 'say "no"', 'a,b']"#).as_ref(), Ok(&expected));
        // As numpy prints it.
        assert_eq!(read(r#"['EU' "doesn't" 'say "no"' 'a,b']"#).as_ref(), Ok(&expected));
        assert_eq!(read(r#"EU  doesn't"#), Ok(expected[..2].to_vec()));
        assert_eq!(read("[0 3,12]"), Ok(vec![Cell::Whole(0), Cell::Whole(3), Cell::Whole(12)]));
        assert_eq!((read("[]"), read("")), (Ok(vec![]), Ok(vec![])));
        let escapes = r"['a\rb\n\t', '\\n', '\'\x22', 'Z\xfcrich', '\u20ac', '\U0001F600!', '\d\xg\ud83d']";
        let letters = ["a\rb\n\t", "\\n", "'\"", "Z\u{fc}rich", "\u{20ac}", "\u{1F600}!", "\\d\\xg\\ud83d"];
        assert_eq!(read(escapes), Ok(letters.map(Cell::from).to_vec()));
        assert!(read("['EU").is_ok(), "no list, but a word");
        assert!(read("['EU]").expect_err("open").contains("does not end"));
        let text = Cell::from("EU");
        assert!(items(&place, "tokens", &text, false, char::is_whitespace).is_err(), "text is a list in tables alone");
    }
}
