//! How numbers and names are written for people, and made harmless where they end on a terminal.

pub mod table;

use std::borrow::Cow;
use std::fmt::Write as _;

/// Whether a character steers a terminal, or makes text be read in another order than it is written in: control characters
/// but for the end of a line and the tabulator, and the marks that override the direction.
fn steers(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `text` with every character that steers a terminal spelled out: `\u001b`, as JSON and TOML do, so that what was either
/// stays what it is.
pub fn harmless(text: &str) -> Cow<'_, str> {
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if steers(c) { write!(out, "\\u{:04x}", u32::from(c)).expect("text can be written") } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// A name that somebody gave, as part of a line: [`harmless`], and without ends of lines.
pub fn one_line(name: &str) -> String {
    harmless(name).replace('\n', "\\n").replace('\t', " ")
}

/// `1 234 567` bytes as `1.2 MB`; powers of ten, as networks count.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = count as f64;
    let mut unit = 0;
    // 999.5 and more would be printed as 1000.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    match (unit, value) {
        (0, _) => format!("{count} B"),
        (_, v) if v < 9.95 => format!("{v:.1} {}", UNITS[unit]),
        (_, v) => format!("{v:.0} {}", UNITS[unit]),
    }
}

/// A count in thousands or millions: `12.3k`, `4.5M`.
pub fn short(count: f64) -> String {
    match count {
        c if c >= 999_500.0 => format!("{:.1}M", c / 1e6),
        c if c >= 9_999.5 => format!("{:.0}k", c / 1e3),
        c if c >= 999.5 => format!("{:.1}k", c / 1e3),
        c => format!("{c:.0}"),
    }
}

/// Seconds as a person says them: `3.2 s`, `4 min 05 s`, `2 h 03 min`.
pub fn seconds(value: f64) -> String {
    let whole = value.round() as u64;
    match whole {
        0..60 => format!("{value:.1} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// Watt hours as a person says them: `340 Wh`, `1.2 kWh`.
pub fn energy(watt_hours: f64) -> String {
    match watt_hours {
        wh if wh >= 999.5 => format!("{:.1} kWh", wh / 1e3),
        wh if wh >= 9.95 => format!("{wh:.0} Wh"),
        wh => format!("{wh:.2} Wh"),
    }
}

/// A share of one as a percentage with one decimal.
pub fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

/// `1 cell`, `12 cells`.
pub fn count_of(n: usize, one: &str) -> String {
    format!("{n} {one}{}", if n == 1 { "" } else { "s" })
}

/// Values as a row of eight heights, the lowest of them at the bottom and the highest at the top.
pub fn sparkline(values: &[f64], width: usize) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(l, h), &v| (l.min(v), h.max(v)));
    let height =
        |value: f64| if high > low { BARS[(((value - low) / (high - low)) * 7.0).round() as usize] } else { BARS[3] };
    thinned(values, width).into_iter().map(height).collect()
}

/// At most `width` of the values, evenly spaced, the first and the last among them.
fn thinned(values: &[f64], width: usize) -> Vec<f64> {
    match values.len() {
        n if n <= width || width < 2 => values.to_vec(),
        n => (0..width).map(|i| values[i * (n - 1) / (width - 1)]).collect(),
    }
}

/// A word of a command line, quoted where a shell needs it.
pub fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_.,:=/+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        let shown: Vec<String> = [0, 999, 1000, 1234, 9_960, 49_400, 999_499, 999_600, 960_000_000].map(bytes).into();
        assert_eq!(shown, ["0 B", "999 B", "1.0 kB", "1.2 kB", "10 kB", "49 kB", "999 kB", "1.0 MB", "960 MB"]);
        assert_eq!([950.0, 1234.0, 45_600.0, 2_000_000.0].map(short), ["950", "1.2k", "46k", "2.0M"]);
        assert_eq!([0.04, 59.4, 65.0, 7380.0].map(seconds), ["0.0 s", "59.4 s", "1 min 05 s", "2 h 03 min"]);
        assert_eq!([0.0421, 42.1, 4_210.0].map(energy), ["0.04 Wh", "42 Wh", "4.2 kWh"]);
        assert_eq!(percent(0.8073), "80.7%");
    }

    #[test]
    fn nothing_steers_the_terminal() {
        for (text, shown) in [
            ("\u{1b}]0;title\u{7}", "\\u001b]0;title\\u0007"),
            ("\u{1b}[2Jgone", "\\u001b[2Jgone"),
            ("\u{1b}]8;;http://x\u{1b}\\link", "\\u001b]8;;http://x\\u001b\\link"),
            ("a\u{9b}2Jb\u{9d}0;x\u{9c}", "a\\u009b2Jb\\u009d0;x\\u009c"),
            ("over\rwritten\u{8}\u{7f}", "over\\u000dwritten\\u0008\\u007f"),
            ("abc\u{202e}txt.exe\u{2066}", "abc\\u202etxt.exe\\u2066"),
        ] {
            assert_eq!(harmless(text), shown);
        }
        for fine in ["a\tb\nc", "\u{5e9}\u{5dc}\u{5d5}\u{5dd} 中文 ü ▁▅█ 👩\u{200d}🔬", "\\u001b"] {
            assert!(matches!(harmless(fine), Cow::Borrowed(_)), "{fine}");
        }
        assert_eq!(one_line("a\nb\tc\u{1b}"), "a\\nb c\\u001b");
    }

    #[test]
    fn what_is_made_harmless_in_json_stays_the_same_json() {
        let text = "\u{9b}2J \u{202e} \u{1b}";
        let shown = harmless(&serde_json::to_string(text).expect("JSON")).into_owned();
        assert!(!shown.contains(steers), "{shown}");
        assert_eq!(serde_json::from_str::<String>(&shown).expect("JSON"), text);
    }

    #[test]
    fn the_sparkline_spans_its_values() {
        assert_eq!(sparkline(&[0.0, 0.5, 1.0], 10), "▁▅█");
        assert_eq!(sparkline(&[0.3], 10), "▄");
        assert_eq!(sparkline(&[], 10), "");
        let long: Vec<f64> = (0..100).map(f64::from).collect();
        let line: Vec<char> = sparkline(&long, 20).chars().collect();
        assert_eq!((line.len(), line[0], line[19]), (20, '▁', '█'));
    }

    #[test]
    fn words_are_quoted_where_a_shell_needs_it() {
        let words = ["--ranks", "a=1,2", "", "x y", "it's", "{ a = 1 }"].map(shell_word);
        assert_eq!(words, ["--ranks", "a=1,2", "''", "'x y'", "'it'\\''s'", "'{ a = 1 }'"]);
    }
}
