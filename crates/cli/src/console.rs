//! Writing to the terminal. A closed pipe (`bonfire train | head`) must not stop a run, so write errors are dropped.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use indicatif::MultiProgress;

/// The progress bars at the bottom of the terminal, which lines must go above.
static BARS: Mutex<Option<MultiProgress>> = Mutex::new(None);

/// Whether only the result is printed.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Says whether only the result is printed.
pub fn set_quiet(quiet: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
}

/// Whether only the result is printed.
pub fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Whether progress is drawn: somebody watches and wants to see it.
pub fn draws_bars() -> bool {
    !is_quiet() && io::stderr().is_terminal()
}

/// Says which bars are drawn, if any.
pub fn set_bars(bars: Option<MultiProgress>) {
    *BARS.lock().unwrap_or_else(PoisonError::into_inner) = bars;
}

/// Prints above the bars; whether there are any.
fn above_bars(print: impl FnOnce(bool)) {
    match &*BARS.lock().unwrap_or_else(PoisonError::into_inner) {
        Some(bars) => bars.suspend(|| print(true)),
        None => print(false),
    }
}

/// Prints a line on stdout.
pub fn say(line: impl Display) {
    above_bars(|_| {
        let mut out = io::stdout().lock();
        // Flushed, so that a program reading a pipe sees each round when it ends.
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    });
}

/// Prints a line on stderr: what is worth knowing and is not a result.
pub fn note(line: impl Display) {
    above_bars(|_| drop(writeln!(io::stderr().lock(), "note: {line}")));
}

/// Like [`note`], after a key whose echo (`^C`) stands on the line already.
pub fn note_after_key(line: impl Display) {
    above_bars(|bars| {
        let mut err = io::stderr().lock();
        // Bars are cleared with the echo on them.
        let fresh = if bars || !err.is_terminal() { "" } else { "\n" };
        let _ = writeln!(err, "{fresh}note: {line}");
    });
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
    let height = |value: f64| match high > low {
        true => BARS[(((value - low) / (high - low)) * 7.0).round() as usize],
        false => BARS[3],
    };
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
    fn the_sparkline_spans_its_values() {
        assert_eq!(sparkline(&[0.0, 0.5, 1.0], 10), "▁▅█");
        assert_eq!(sparkline(&[0.3], 10), "▄");
        assert_eq!(sparkline(&[], 10), "");
        let long: Vec<f64> = (0..100).map(f64::from).collect();
        let line: Vec<char> = sparkline(&long, 20).chars().collect();
        assert_eq!((line.len(), line[0], line[19]), (20, '▁', '█'));
    }
}
