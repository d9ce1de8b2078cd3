//! The label distribution as an SVG: one bar a client, one colour a label.

use anyhow::Result;
use plotters::prelude::*;

use crate::picture::{Area, PaintResult, svg};

const WIDTH: u32 = 900;

/// Height of a client's bar: comfortable for a few, thin for many.
fn bar(clients: usize) -> u32 {
    (1400 / clients.max(1) as u32).clamp(2, 22)
}

/// Draws `counts[client][label]` as stacked bars.
///
/// # Errors
/// None that a user can cause: the drawing happens in memory.
pub fn draw(title: &str, labels: &[String], counts: &[Vec<usize>]) -> Result<String> {
    let height = 90 + bar(counts.len()) * counts.len().max(3) as u32;
    svg("the partition", (WIDTH, height), |area| paint(area, title, labels, counts))
}

fn paint(area: &Area<'_>, title: &str, labels: &[String], counts: &[Vec<usize>]) -> PaintResult {
    let longest = counts.iter().map(|row| row.iter().sum::<usize>()).max().unwrap_or(0).max(1);
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(34)
        .y_label_area_size(48)
        // Client 0 on top, as in the table.
        .build_cartesian_2d(0..longest, (counts.len() as f64)..0.0)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc(if labels.is_empty() { "training texts" } else { "training texts, one colour a label" })
        .y_desc("client")
        .y_labels(0)
        .label_style(("sans-serif", 12))
        .draw()?;
    for (client, row) in counts.iter().enumerate() {
        chart.draw_series(bars(client, row, labels.len()))?;
    }
    let style = ("sans-serif", 12).into_text_style(area);
    let place = |client: usize| chart.backend_coord(&(0, client as f64 + 0.5));
    // Numbers need 12 pixels each.
    let every = 12u32.div_ceil(bar(counts.len())) as usize;
    for client in (0..counts.len()).step_by(every) {
        let (x, y) = place(client);
        area.draw_text(&client.to_string(), &style, (x - 20, y - 6))?;
    }
    Ok(())
}

/// The pieces of one client's bar.
fn bars(client: usize, row: &[usize], labels: usize) -> Vec<Rectangle<(usize, f64)>> {
    let (top, bottom) = (client as f64 + 0.1, client as f64 + 0.9);
    let mut start = 0;
    let mut pieces = Vec::new();
    for (label, &count) in row.iter().enumerate().filter(|(_, count)| **count > 0) {
        pieces.push(Rectangle::new([(start, top), (start + count, bottom)], colour(label, labels).filled()));
        start += count;
    }
    pieces
}

/// A colour for a label: steps of the golden angle around the wheel, so that neighbours differ, in four shades.
fn colour(label: usize, labels: usize) -> HSLColor {
    let shade = [0.42, 0.55, 0.66, 0.76][label % 4];
    let hue = if labels <= 12 { label as f64 / labels.max(1) as f64 } else { (label as f64 * 0.618_034).fract() };
    HSLColor(hue, 0.6, shade)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_drawn() {
        let labels: Vec<String> = ["a", "b"].map(String::from).into();
        let svg = draw("two clients", &labels, &[vec![3, 1], vec![0, 5]]).expect("drawn");
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        // Three pieces and the background.
        assert_eq!(svg.matches("<rect").count(), 4);
        assert!(svg.contains("two clients"));
    }
}
