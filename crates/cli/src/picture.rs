//! What all pictures share: an SVG drawn in memory, and colours that keep apart.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

/// Where a picture, or a part of it, is drawn.
pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// What drawing gives.
pub type PaintResult = Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// Paints a picture of `size` pixels on white and returns it as SVG; `what` is drawn, for a message.
///
/// # Errors
/// None that a user can cause: the drawing happens in memory.
pub fn svg(what: &str, size: (u32, u32), paint: impl FnOnce(&Area<'_>) -> PaintResult) -> Result<String> {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
    let painted = area.fill(&WHITE).and_then(|()| paint(&area)).and_then(|()| area.present());
    painted.map_err(|error| anyhow!("cannot draw {what}: {error}"))?;
    drop(area);
    Ok(svg)
}

/// The colour of a series: twelve that keep apart, then again.
pub fn colour(series: usize) -> RGBColor {
    const COLOURS: [RGBColor; 12] = [
        RGBColor(31, 119, 180),
        RGBColor(230, 126, 34),
        RGBColor(39, 144, 96),
        RGBColor(142, 68, 173),
        RGBColor(192, 57, 43),
        RGBColor(90, 90, 90),
        RGBColor(23, 170, 190),
        RGBColor(214, 90, 160),
        RGBColor(150, 140, 20),
        RGBColor(120, 72, 40),
        RGBColor(60, 60, 150),
        RGBColor(110, 180, 60),
    ];
    COLOURS[series % COLOURS.len()]
}
