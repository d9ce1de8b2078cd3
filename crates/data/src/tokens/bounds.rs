//! How much of a text is looked at, and how many texts at once: memory follows the length that is asked for, not the file.

/// Bytes of a text that are read for each token wanted of it: in no language in use does a token stand for nearly as many, on
/// average over a whole text.
const BYTES_A_TOKEN: usize = 256;
/// And so many in any case.
const BYTES: usize = 16 << 10;
/// Texts, and bytes of them, that are with the library at once.
const ROWS_AT_ONCE: usize = 4096;
const BYTES_AT_ONCE: usize = 2 << 20;

/// How many bytes of a text are read where `tokens` of it are wanted.
pub(crate) fn bytes_for(tokens: usize) -> usize {
    tokens.saturating_mul(BYTES_A_TOKEN).saturating_add(BYTES)
}

/// At most the first `longest` bytes of a text, at a border between characters.
pub(crate) fn beginning(text: &str, longest: usize) -> &str {
    &text[..text.floor_char_boundary(longest)]
}

/// At most the last `longest` bytes of a text, at a border between characters.
pub(crate) fn end(text: &str, longest: usize) -> &str {
    &text[text.ceil_char_boundary(text.len().saturating_sub(longest))..]
}

/// Consecutive parts of `rows` that may be with the library at once; `bytes` says how long each row is.
pub(crate) fn parts<T>(mut rows: &[T], bytes: impl Fn(&T) -> usize) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let mut sum = 0;
        let fits = |row: &T| {
            sum += bytes(row);
            sum <= BYTES_AT_ONCE
        };
        let fitting = rows.iter().take(ROWS_AT_ONCE).map(fits).take_while(|fits| *fits).count();
        let (part, rest) = rows.split_at(fitting.max(1).min(rows.len()));
        rows = rest;
        (!part.is_empty()).then_some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_hold_every_row_once_and_no_more_than_they_may() {
        let sizes: Vec<usize> = (0..20_000).map(|i| if i % 977 == 0 { BYTES_AT_ONCE + i } else { i % 1500 }).collect();
        let found: Vec<&[usize]> = parts(&sizes, |size| *size).collect();
        assert_eq!(found.concat(), sizes);
        let fine = |part: &&[usize]| part.len() == 1 || part.iter().sum::<usize>() <= BYTES_AT_ONCE;
        assert!(found.iter().all(fine) && found.iter().all(|part| part.len() <= ROWS_AT_ONCE));
        assert_eq!(parts(&[0usize; 0], |size| *size).count(), 0);
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!((beginning("aéb", 2), beginning("aéb", 3), beginning("aéb", 9)), ("a", "aé", "aéb"));
        assert_eq!((end("aéb", 2), end("aéb", 3), end("aéb", 0)), ("b", "éb", ""));
    }
}
