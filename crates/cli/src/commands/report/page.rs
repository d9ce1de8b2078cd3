//! The page: one HTML file with its style, scripts and data in it.

use anyhow::{Context, Result};
use serde::Serialize;

use super::run_data::RunData;

macro_rules! asset {
    ($name:literal) => {
        include_str!(concat!("../../../assets/report/", $name))
    };
}

#[derive(Serialize)]
struct Data<'d> {
    runs: &'d [RunData],
}

/// The page about `runs`.
///
/// # Errors
/// None that a user can cause.
pub fn page(runs: &[RunData]) -> Result<String> {
    let data = serde_json::to_string(&Data { runs }).context("cannot write the runs as JSON")?;
    Ok(fill(asset!("page.html"), |name| match name {
        "version" => env!("CARGO_PKG_VERSION").to_string(),
        "style" => asset!("report.css").to_string(),
        "data" => inert(&data),
        "charts" => without_map(asset!("chart.umd.min.js")),
        "matrix" => without_map(asset!("chartjs-chart-matrix.min.js")),
        "base" => asset!("base.js").to_string(),
        "figures" => asset!("figures.js").to_string(),
        "script" => asset!("report.js").to_string(),
        other => unreachable!("the page has no place for {other}"),
    }))
}

/// `page` with every `{{name}}` replaced; what is put in is not looked at again.
fn fill(page: &str, part: impl Fn(&str) -> String) -> String {
    let mut pieces = page.split("{{");
    let mut filled = pieces.next().unwrap_or_default().to_string();
    for piece in pieces {
        let (name, rest) = piece.split_once("}}").expect("every place of the page is closed");
        filled.push_str(&part(name));
        filled.push_str(rest);
    }
    filled
}

/// JSON that cannot end the element it stands in, whatever its texts are.
fn inert(json: &str) -> String {
    // Outside of texts JSON has none of these.
    [('<', "\\u003c"), ('>', "\\u003e"), ('&', "\\u0026"), ('\u{2028}', "\\u2028"), ('\u{2029}', "\\u2029")]
        .into_iter()
        .fold(json.to_string(), |text, (from, to)| text.replace(from, to))
}

/// A library without the line that names its source map, which a browser's tools would look for.
fn without_map(script: &str) -> String {
    script.lines().filter(|line| !line.starts_with("//# sourceMappingURL")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_is_text_whatever_it_says() {
        let page = fill("a{{x}}b{{y}}c", |name| if name == "x" { "{{y}}".into() } else { "2".into() });
        assert_eq!(page, "a{{y}}b2c");
        let text = "</script><script>alert(1)</script>&\u{2028}";
        let json = inert(&serde_json::to_string(text).expect("JSON"));
        assert!(!json.contains(['<', '>', '&', '\u{2028}']), "{json}");
        assert_eq!(serde_json::from_str::<String>(&json).expect("JSON"), text);
    }

    #[test]
    fn the_page_has_every_part_and_no_script_ends_early() {
        let page = page(&[]).expect("a page");
        assert!(!page.contains("{{") || !page.contains("}}}"), "places are filled");
        assert_eq!(page.matches("<script").count(), 6);
        assert_eq!(page.matches("</script").count(), 6);
        assert!(!page.contains("sourceMappingURL"));
        assert!(page.contains("Chart.js v4") && page.contains("chartjs-chart-matrix v3"));
    }
}
