//! Aligned tables for a terminal.

/// Columns padded to their widest cell: the first to the left, the others to the right.
pub fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_string()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A row of cells.
pub fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(String::from).to_vec()
}

/// A number with three digits that count.
pub fn three(value: f64) -> String {
    match value.abs() {
        v if v >= 99.95 => format!("{value:.0}"),
        v if v >= 9.995 => format!("{value:.1}"),
        v if v >= 0.9995 => format!("{value:.2}"),
        v if v >= 0.001 => format!("{value:.3}"),
        0.0 => "0".into(),
        _ => format!("{value:.1e}"),
    }
}

/// A count without a fraction, thousands apart: `12 345`.
pub fn whole(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// Seconds as milliseconds.
pub fn milliseconds(seconds: f64) -> String {
    three(seconds * 1e3)
}

/// A size in bytes, or that it is not known.
pub fn size(bytes: Option<u64>) -> String {
    bytes.map_or("not known".into(), super::bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let text = aligned(&[row(["name", "ms"]), row(["a", "10.0"]), row(["longer", "1"])]);
        assert_eq!(text, "name      ms\na       10.0\nlonger     1");
    }

    #[test]
    fn numbers_keep_three_digits() {
        let shown = [123.4, 12.34, 1.234, 0.1234, 0.000_12, 0.0].map(three);
        assert_eq!(shown, ["123", "12.3", "1.23", "0.123", "1.2e-4", "0"]);
        assert_eq!([0.4, 999.0, 12_345.6, 1e6].map(whole), ["0", "999", "12 346", "1 000 000"]);
    }
}
