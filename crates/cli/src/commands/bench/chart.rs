//! The picture of a benchmark: one panel a part, as bars or as lines, below each other in one SVG.

use anyhow::Result;
use bonfire_experiment::format::table::{three, whole};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::picture::{Area, PaintResult, colour, svg};

const WIDTH: u32 = 960;
/// Room on the left for the names of bars.
const NAMES: u32 = 300;
/// A bar and the gap after a group of bars.
const BAR: u32 = 18;
const GAP: u32 = 10;
/// Title, legend, axis and margins.
const AROUND: u32 = 116;
const LINES_HEIGHT: u32 = 360;

/// A titled figure.
pub struct Panel {
    title: String,
    body: Body,
}

enum Body {
    Bars(Bars),
    Lines(Lines),
}

/// Horizontal bars: a group a label, a colour a series.
pub struct Bars {
    /// Names of the groups.
    pub labels: Vec<String>,
    /// Name and one value a label; a value may be missing.
    pub series: Vec<(String, Vec<Option<f64>>)>,
    /// What the values count.
    pub unit: &'static str,
    /// A vertical line with its words.
    pub mark: Option<(f64, String)>,
}

/// Lines over a logarithmic axis.
pub struct Lines {
    /// Name and points.
    pub series: Vec<(String, Vec<(f64, f64)>)>,
    /// What stands on the horizontal axis.
    pub x: &'static str,
    /// What stands on the vertical axis.
    pub y: &'static str,
}

impl Panel {
    /// A panel of bars.
    pub fn bars(title: impl Into<String>, bars: Bars) -> Panel {
        Panel { title: title.into(), body: Body::Bars(bars) }
    }

    /// A panel of lines.
    pub fn lines(title: impl Into<String>, lines: Lines) -> Panel {
        Panel { title: title.into(), body: Body::Lines(lines) }
    }

    fn height(&self) -> u32 {
        match &self.body {
            Body::Bars(bars) => AROUND + bars.labels.len() as u32 * (bars.series.len() as u32 * BAR + GAP),
            Body::Lines(_) => LINES_HEIGHT,
        }
    }
}

/// Draws the panels under a caption.
///
/// # Errors
/// None that a user can cause: the drawing happens in memory.
pub fn draw(caption: &str, panels: &[Panel]) -> Result<String> {
    const TOP: u32 = 44;
    let height = TOP + panels.iter().map(Panel::height).sum::<u32>() + 12;
    svg("the benchmark", (WIDTH, height), |area| {
        area.draw_text(caption, &("sans-serif", 14).into_text_style(area).color(&BLACK.mix(0.7)), (16, 16))?;
        let mut y = TOP;
        for panel in panels {
            paint_panel(&area.clone().shrink((0, y), (WIDTH, panel.height())), panel)?;
            y += panel.height();
        }
        Ok(())
    })
}

fn paint_panel(area: &Area<'_>, panel: &Panel) -> PaintResult {
    area.draw_text(&panel.title, &("sans-serif", 18).into_text_style(area), (16, 8))?;
    match &panel.body {
        Body::Bars(bars) => {
            legend(area, bars.series.iter().map(|(name, _)| name.as_str()))?;
            paint_bars(area, bars)
        }
        Body::Lines(lines) => {
            legend(area, lines.series.iter().map(|(name, _)| name.as_str()))?;
            paint_lines(area, lines)
        }
    }
}

/// Coloured squares with names, in a row under the title.
fn legend<'n>(area: &Area<'_>, names: impl Iterator<Item = &'n str>) -> PaintResult {
    let style = ("sans-serif", 12).into_text_style(area);
    let mut x = 16;
    for (i, name) in names.enumerate() {
        area.draw(&Rectangle::new([(x, 35), (x + 10, 45)], colour(i).filled()))?;
        area.draw_text(name, &style, (x + 15, 34))?;
        x += 15 + area.estimate_text_size(name, &style)?.0 as i32 + 24;
    }
    Ok(())
}

/// The axes of a panel of bars: values to the right, groups downwards, one unit each.
type BarChart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

fn paint_bars(area: &Area<'_>, bars: &Bars) -> PaintResult {
    let values = bars.series.iter().flat_map(|(_, values)| values.iter().flatten().copied());
    let longest = values.chain(bars.mark.iter().map(|(value, _)| *value)).fold(0.0, f64::max);
    let groups = bars.labels.len() as f64;
    let mut chart = ChartBuilder::on(area)
        .margin_top(66)
        .margin_right(70)
        .x_label_area_size(38)
        .y_label_area_size(NAMES)
        .build_cartesian_2d(0.0..longest.max(1e-9) * 1.08, groups..0.0)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc(bars.unit)
        .y_labels(0)
        .x_label_formatter(&|value| tick(*value))
        .label_style(("sans-serif", 12))
        .draw()?;
    if let Some((value, words)) = &bars.mark {
        // Behind the bars, so that their figures stay readable.
        let line = [(*value, 0.0), (*value, groups)];
        chart.draw_series([PathElement::new(line.to_vec(), RED.mix(0.6).stroke_width(1))])?;
        let (x, y) = chart.backend_coord(&(*value, 0.0));
        write(area, words, (x, y - 8), HPos::Center, &RED)?;
    }
    paint_series(area, &mut chart, bars)?;
    for (group, name) in bars.labels.iter().enumerate() {
        let (x, y) = chart.backend_coord(&(0.0, group as f64 + 0.5));
        write(area, name, (x - 8, y), HPos::Right, &BLACK)?;
    }
    Ok(())
}

/// The bars of all series, each with its figure.
fn paint_series<'b>(area: &Area<'b>, chart: &mut BarChart<'_, 'b>, bars: &Bars) -> PaintResult {
    let pixels = f64::from(bars.series.len() as u32 * BAR + GAP);
    for (s, (_, values)) in bars.series.iter().enumerate() {
        let start = (f64::from(GAP) / 2.0 + f64::from(s as u32 * BAR)) / pixels;
        let thick = f64::from(BAR - 3) / pixels;
        for (group, value) in values.iter().enumerate() {
            let Some(value) = *value else { continue };
            let (top, bottom) = (group as f64 + start, group as f64 + start + thick);
            chart.draw_series([Rectangle::new([(0.0, top), (value, bottom)], colour(s).filled())])?;
            let (x, y) = chart.backend_coord(&(value, (top + bottom) / 2.0));
            write(area, &figure(value), (x + 5, y), HPos::Left, &BLACK)?;
        }
    }
    Ok(())
}

/// A number as it stands at an axis, without zeros at its end.
fn tick(value: f64) -> String {
    if value.abs() >= 1000.0 { whole(value) } else { ((value * 1e6).round() / 1e6).to_string() }
}

/// A number as it stands beside a bar.
fn figure(value: f64) -> String {
    if value.abs() >= 1000.0 { whole(value) } else { three(value) }
}

/// Writes beside a place given in the pixels of the whole picture.
fn write(area: &Area<'_>, text: &str, (x, y): (i32, i32), side: HPos, colour: &RGBColor) -> PaintResult {
    let style = ("sans-serif", 12).into_text_style(area).color(colour).pos(Pos::new(side, VPos::Center));
    let (left, top) = area.get_base_pixel();
    area.draw_text(text, &style, (x - left, y - top))
}

fn paint_lines(area: &Area<'_>, lines: &Lines) -> PaintResult {
    let points = || lines.series.iter().flat_map(|(_, points)| points.iter().copied());
    let span = |of: fn((f64, f64)) -> f64| {
        points().map(of).fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)))
    };
    let ((left, right), (_, high)) = (span(|p| p.0), span(|p| p.1));
    // A single point would leave a logarithmic axis without length.
    let right = if right > left { right } else { left * 2.0 };
    let mut chart = ChartBuilder::on(area)
        .margin_top(58)
        .margin_right(40)
        .margin_left(16)
        .x_label_area_size(42)
        .y_label_area_size(64)
        .build_cartesian_2d((left..right).log_scale().base(2.0), 0.0..high.max(1e-9) * 1.1)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc(lines.x)
        .y_desc(lines.y)
        .x_labels(11)
        .x_label_formatter(&|value| format!("{value:.0}"))
        .y_label_formatter(&|value| tick(*value))
        .label_style(("sans-serif", 12))
        .draw()?;
    for (i, (_, points)) in lines.series.iter().enumerate() {
        chart.draw_series([PathElement::new(points.clone(), colour(i).stroke_width(2))])?;
        chart.draw_series(points.iter().map(|&point| Circle::new(point, 3, colour(i).filled())))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_panels_are_drawn() {
        let bars = Bars {
            labels: vec!["first".into(), "second".into()],
            series: vec![("cpu".into(), vec![Some(1.0), Some(2.0)]), ("gpu".into(), vec![Some(3.0), None])],
            unit: "GFLOP/s",
            mark: Some((4.0, "floor".into())),
        };
        let lines = Lines { series: vec![("cpu".into(), vec![(1.0, 1.0), (8.0, 0.5)])], x: "clients", y: "time" };
        let svg = draw("bonfire", &[Panel::bars("A", bars), Panel::lines("B", lines)]).expect("drawn");
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for word in ["GFLOP/s", "second", "gpu", "floor", "clients"] {
            assert!(svg.contains(word), "no {word}");
        }
    }

    #[test]
    fn one_point_is_a_picture_too() {
        let lines = Lines { series: vec![("cpu".into(), vec![(1.0, 0.0)])], x: "clients", y: "time" };
        assert!(draw("bonfire", &[Panel::lines("B", lines)]).is_ok());
    }
}
