//! Writing to the terminal. What is printed holds names and texts of others, so nothing in it can steer the terminal. A closed pipe (`bonfire train | head`) must not stop a run, so write errors are dropped.

use std::borrow::Cow;
use std::fmt::Display;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::MultiProgress;
use serde::Serialize;
use tracing::Level;

use crate::log::{self, Entry, LogFormat};
use crate::tui::Outputs;

/// What lies on the terminal besides lines.
#[derive(Default)]
pub enum Screen {
    /// Nothing.
    #[default]
    Plain,
    /// Progress bars at the bottom, which lines must go above.
    Bars(MultiProgress),
    /// The dashboard, which shows lines itself.
    Dashboard(Outputs),
}

static SCREEN: Mutex<Screen> = Mutex::new(Screen::Plain);

/// Whether only the result is printed.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Whether everything printed is a JSON object a line.
static JSON: AtomicBool = AtomicBool::new(false);

/// Says how to print.
pub fn set_up(format: LogFormat, quiet: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
    JSON.store(format == LogFormat::Json, Ordering::Relaxed);
}

/// Whether only the result is printed.
pub fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Whether everything printed is a JSON object a line.
pub fn is_json() -> bool {
    JSON.load(Ordering::Relaxed)
}

/// Whether progress is drawn: somebody watches and wants to see it.
pub fn draws_bars() -> bool {
    !is_quiet() && !is_json() && io::stderr().is_terminal()
}

/// Says what lies on the terminal.
pub fn set_screen(screen: Screen) {
    *self::screen() = screen;
}

fn screen() -> MutexGuard<'static, Screen> {
    SCREEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prints lines where whoever watches sees them.
fn print(lines: &str, mut to: impl Write) {
    let lines = &*harmless(lines);
    // Flushed, so that a program reading a pipe sees each line when it comes.
    let mut write = || drop(writeln!(to, "{lines}").and_then(|()| to.flush()));
    match &*screen() {
        Screen::Plain => write(),
        Screen::Bars(bars) => bars.suspend(write),
        Screen::Dashboard(board) => board.log(lines),
    }
}

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

/// Prints on stderr the block that ends the program. Above bars or on the dashboard it would be lost with them.
pub fn complain(block: &str) {
    let _ = writeln!(io::stderr(), "{}", harmless(block));
}

/// Prints a line on stdout.
pub fn say(line: impl Display) {
    let line = line.to_string();
    if !is_json() {
        print(&line, io::stdout());
    } else if !line.is_empty() {
        // (An empty line parts what people read.)
        print(&Entry::new(Level::INFO, line.trim_end().to_owned()).json(), io::stdout());
    }
}

/// Prints on stdout what people read as `text` and programs as the fields of `row`, with `message` to tell what it is.
pub fn say_row(message: &str, row: &impl Serialize, text: impl Display) {
    if is_json() {
        print(&Entry::new(Level::INFO, message.to_owned()).with(row).json(), io::stdout())
    } else {
        say(text)
    }
}

/// Prints on stdout what was asked for in a form of its own, such as with `--json`.
pub fn put(text: impl Display) {
    print(&text.to_string(), io::stdout());
}

/// Says on stderr and in the log what is worth knowing and is not a result.
pub fn note(line: impl Display) {
    tracing::info!("{line}");
}

/// Like [`note`], after a key whose echo (`^C`) stands on the line already.
pub fn note_after_key(line: impl Display) {
    // Bars are cleared with the echo on them, and the dashboard's terminal echoes nothing.
    if matches!(*screen(), Screen::Plain) && !is_json() && io::stderr().is_terminal() {
        let _ = writeln!(io::stderr());
    }
    note(line);
}

/// Shows an event that came from `target` of the program.
pub fn show(entry: &Entry, target: &str) {
    let round = target == log::ROUND;
    if target == log::UNSEEN || entry.level() == Level::DEBUG {
        return;
    }
    if is_json() {
        return if round { print(&entry.json(), io::stdout()) } else { print(&entry.json(), io::stderr()) };
    }
    // A round's line and the block that ends a run are printed by those who make them.
    if round || target == crate::user_error::TARGET {
        return;
    }
    let word = match entry.level() {
        Level::ERROR => "error",
        Level::WARN => "warning",
        _ => "note",
    };
    print(&format!("{word}: {}", entry.message), io::stderr());
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

/// A share of one as a percentage with one decimal.
pub fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        let shown: Vec<String> = [0, 999, 1000, 1234, 9_960, 49_400, 999_499, 999_600, 960_000_000].map(bytes).into();
        assert_eq!(shown, ["0 B", "999 B", "1.0 kB", "1.2 kB", "10 kB", "49 kB", "999 kB", "1.0 MB", "960 MB"]);
        assert_eq!([950.0, 1234.0, 45_600.0, 2_000_000.0].map(short), ["950", "1.2k", "46k", "2.0M"]);
        assert_eq!([0.04, 59.4, 65.0, 7380.0].map(seconds), ["0.0 s", "59.4 s", "1 min 05 s", "2 h 03 min"]);
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
            let mut printed = Vec::new();
            print(text, &mut printed);
            assert_eq!(String::from_utf8(printed).expect("text"), format!("{shown}\n"));
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
}
