//! Curves with their spread: panels in rows and columns under one title and legend, in one SVG. A series is told apart
//! by colour, dash and marker, so that it can be without colour too.

use anyhow::Result;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::picture::{Area, PaintResult, colour, svg};

/// A picture.
pub struct Figure {
    /// What stands on top.
    pub title: String,
    /// The horizontal axis, the same in all panels.
    pub x: Axis,
    /// What stands on the vertical axis.
    pub y: &'static str,
    /// Whether that is a share in percent, of 0 to 100; else any number.
    pub percent: bool,
    /// Names of the series, for the legend.
    pub names: Vec<String>,
    /// Rows of panels.
    pub rows: Vec<Vec<Panel>>,
}

/// A horizontal axis.
pub struct Axis {
    /// Its name, with the unit.
    pub words: &'static str,
    /// How values lie on it.
    pub scale: Scale,
    /// How a value is written.
    pub show: fn(f64) -> String,
}

/// How values lie on an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Evenly.
    Linear,
    /// By their logarithm, at 1, 2 and 5 times powers of ten.
    Log,
    /// By their logarithm, at the values themselves.
    Listed,
}

/// One pair of axes.
pub struct Panel {
    /// What stands above it.
    pub title: String,
    /// The lines.
    pub lines: Vec<Line>,
}

/// A series in a panel.
pub struct Line {
    /// Place in [`Figure::names`].
    pub series: usize,
    /// The points, x rising.
    pub points: Vec<Dot>,
}

/// A mean and its deviation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dot {
    /// Where it stands.
    pub x: f64,
    /// The mean.
    pub y: f64,
    /// The deviation.
    pub deviation: f64,
}

const PANEL: (u32, u32) = (400, 320);
const ALONE: u32 = 640;
const TITLE: u32 = 40;
const LEGEND_ROW: u32 = 22;
/// Fewest pixels between two markers of a line.
const APART: i32 = 26;

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<Ticked, RangedCoordf64>>;

/// An even axis with ticks where we want them.
struct Ticked {
    axis: RangedCoordf64,
    ticks: Vec<f64>,
}

impl Ranged for Ticked {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        self.axis.map(value, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.axis.range()
    }
}

/// Draws the figure.
///
/// # Errors
/// None that a user can cause: the drawing happens in memory.
pub fn draw(figure: &Figure) -> Result<String> {
    let columns = figure.rows.iter().map(Vec::len).max().unwrap_or(1) as u32;
    let panel = if columns == 1 { (ALONE, PANEL.1 + 50) } else { PANEL };
    let width = columns * panel.0;
    let legend = legend_places(figure, width);
    let top = TITLE + LEGEND_ROW * (legend.last().map_or(0, |place| place.1) + 1) + 8;
    let height = top + figure.rows.len() as u32 * panel.1;
    svg("the comparison", (width, height), |area| {
        area.draw_text(&figure.title, &("sans-serif", 18).into_text_style(area), (16, 12))?;
        for (series, (name, &(x, row))) in figure.names.iter().zip(&legend).enumerate() {
            paint_key(area, series, name, (x as i32, (TITLE + row * LEGEND_ROW) as i32 + 10))?;
        }
        let frame = Frame::around(figure);
        for (r, row) in figure.rows.iter().enumerate() {
            for (c, one) in row.iter().enumerate() {
                let corner = (c as u32 * panel.0, top + r as u32 * panel.1);
                paint_panel(&area.clone().shrink(corner, panel), figure, &frame, one)?;
            }
        }
        Ok(())
    })
}

/// Where each name of the legend stands: pixels from the left, and row.
fn legend_places(figure: &Figure, width: u32) -> Vec<(u32, u32)> {
    let (mut x, mut row) = (16, 0);
    let mut places = Vec::new();
    for name in &figure.names {
        let room = 64 + 7 * name.chars().count() as u32;
        if x > 16 && x + room > width {
            (x, row) = (16, row + 1);
        }
        places.push((x, row));
        x += room;
    }
    places
}

/// A piece of the line with its marker, and the name.
fn paint_key(area: &Area<'_>, series: usize, name: &str, (x, y): (i32, i32)) -> PaintResult {
    let line: Vec<(i32, i32)> = (0..=34).map(|dx| (x + dx, y)).collect();
    for piece in dashes(&line, series) {
        area.draw(&PathElement::new(piece, colour(series).stroke_width(2)))?;
    }
    paint_marker(area, series, (x + 17, y))?;
    let style = ("sans-serif", 13).into_text_style(area).pos(Pos::new(HPos::Left, VPos::Center));
    area.draw_text(name, &style, (x + 40, y))
}

/// The span of the axes, shared by all panels so that they can be compared.
struct Frame {
    /// On the axis: logarithms where its scale is one.
    x: (f64, f64),
    ticks: Vec<f64>,
    y: (f64, f64),
}

impl Frame {
    fn around(figure: &Figure) -> Frame {
        let dots = || figure.rows.iter().flatten().flat_map(|panel| &panel.lines).flat_map(|line| &line.points);
        let span = |values: &mut dyn Iterator<Item = f64>| {
            values.fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)))
        };
        let (left, right) = span(&mut dots().map(|dot| dot.x));
        let (low, high) = span(&mut dots().flat_map(|dot| [dot.y - dot.deviation, dot.y + dot.deviation]));
        // Without a point there is nothing to frame; a single one needs room around it.
        let (left, right) = if left > right { (1.0, 2.0) } else { (left, right) };
        let (low, high) = if low > high { (0.0, 100.0) } else { (low, high) };
        let listed = dots().map(|dot| dot.x).collect();
        let y = if figure.percent {
            let (low, high) = (((low - 2.0) / 5.0).floor() * 5.0, ((high + 2.0) / 5.0).ceil() * 5.0);
            (low.max(0.0), high.min(100.0))
        } else {
            let room = (0.05 * (high - low)).max(1e-3 * high.abs().max(1.0));
            (low - room, high + room)
        };
        let scale = figure.x.scale;
        let (a, b) = (scale.place(left), scale.place(right));
        let margin = if b > a { 0.03 * (b - a) } else { 0.3 };
        let ticks = scale.ticks(left, right, listed).into_iter().map(|tick| scale.place(tick)).collect();
        Frame { x: (a - margin, b + margin), ticks, y }
    }
}

impl Scale {
    /// Where a value stands on the axis.
    fn place(self, value: f64) -> f64 {
        match self {
            Scale::Linear => value,
            Scale::Log | Scale::Listed => value.log10(),
        }
    }

    /// The value that stands there.
    fn value(self, place: f64) -> f64 {
        match self {
            Scale::Linear => place,
            Scale::Log | Scale::Listed => 10f64.powf(place),
        }
    }

    /// Values to write on an axis from `low` to `high`.
    fn ticks(self, low: f64, high: f64, mut listed: Vec<f64>) -> Vec<f64> {
        const MOST: usize = 6;
        if self == Scale::Listed {
            listed.sort_by(f64::total_cmp);
            listed.dedup();
            return listed;
        }
        if self == Scale::Log {
            for factors in [&[1.0, 2.0, 5.0][..], &[1.0]] {
                let powers = low.log10().floor() as i32..=high.log10().ceil() as i32;
                let all = powers.flat_map(|p| factors.iter().map(move |f| f * 10f64.powi(p)));
                let ticks: Vec<f64> = all.filter(|t| (low..=high).contains(t)).collect();
                if (2..=MOST).contains(&ticks.len()) {
                    return ticks;
                }
            }
        }
        even_ticks(low, high, MOST)
    }
}

/// At most `most` multiples of 1, 2 or 5 times a power of ten, from `low` to `high`.
fn even_ticks(low: f64, high: f64, most: usize) -> Vec<f64> {
    if high <= low {
        return vec![low];
    }
    let power = 10f64.powf(((high - low) / most as f64).log10().floor());
    let fits = |step: &f64| ((high / step).floor() - (low / step).ceil()) < most as f64;
    let step = [1.0, 2.0, 5.0, 10.0, 20.0].map(|f| f * power).into_iter().find(fits).unwrap_or(high - low);
    ((low / step).ceil() as i64..=(high / step).floor() as i64).map(|n| n as f64 * step).collect()
}

fn paint_panel<'b>(area: &Area<'b>, figure: &Figure, frame: &Frame, panel: &Panel) -> PaintResult {
    let style = ("sans-serif", 15).into_text_style(area).pos(Pos::new(HPos::Center, VPos::Top));
    let middle = (area.dim_in_pixel().0 as i32 + 48) / 2;
    area.draw_text(&panel.title, &style, (middle, 4))?;
    let x = Ticked { axis: (frame.x.0..frame.x.1).into(), ticks: frame.ticks.clone() };
    let mut chart = ChartBuilder::on(area)
        .margin_top(26)
        .margin_right(18)
        .margin_left(8)
        .margin_bottom(16)
        .x_label_area_size(44)
        .y_label_area_size(52)
        .build_cartesian_2d(x, frame.y.0..frame.y.1)?;
    let Axis { words, scale, show } = &figure.x;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc(*words)
        .y_desc(figure.y)
        .x_labels(frame.ticks.len())
        .x_label_formatter(&|place| show(scale.value(*place)))
        .y_labels(8)
        .y_label_formatter(&|value| if figure.percent { format!("{value:.0}") } else { format!("{value:.2}") })
        .label_style(("sans-serif", 12))
        .axis_desc_style(("sans-serif", 13))
        .draw()?;
    for line in &panel.lines {
        paint_band(&mut chart, frame, *scale, line)?;
    }
    for line in &panel.lines {
        paint_line(area, &chart, *scale, line)?;
    }
    Ok(())
}

/// One deviation to both sides of the mean.
fn paint_band(chart: &mut Chart<'_, '_>, frame: &Frame, scale: Scale, line: &Line) -> PaintResult {
    if line.points.iter().all(|dot| dot.deviation == 0.0) {
        return Ok(());
    }
    let edge = |side: f64| {
        let at = move |dot: &Dot| (scale.place(dot.x), (dot.y + side * dot.deviation).clamp(frame.y.0, frame.y.1));
        line.points.iter().map(at)
    };
    let outline: Vec<(f64, f64)> = edge(1.0).chain(edge(-1.0).collect::<Vec<_>>().into_iter().rev()).collect();
    chart.draw_series([Polygon::new(outline, colour(line.series).mix(0.12))]).map(|_| ())
}

/// The mean and its markers, drawn in pixels.
fn paint_line(area: &Area<'_>, chart: &Chart<'_, '_>, scale: Scale, line: &Line) -> PaintResult {
    let (left, top) = area.get_base_pixel();
    let pixel = |dot: &Dot| {
        let (x, y) = chart.backend_coord(&(scale.place(dot.x), dot.y));
        (x - left, y - top)
    };
    let points: Vec<(i32, i32)> = line.points.iter().map(pixel).collect();
    for piece in dashes(&points, line.series) {
        area.draw(&PathElement::new(piece, colour(line.series).stroke_width(2)))?;
    }
    // From the right: where a line ends is what a reader looks for.
    let mut next = i32::MAX;
    for &(x, y) in points.iter().rev() {
        if next.saturating_sub(x) >= APART {
            paint_marker(area, line.series, (x, y))?;
            next = x;
        }
    }
    Ok(())
}

/// The pieces that a series' dash leaves of a path.
fn dashes(path: &[(i32, i32)], series: usize) -> Vec<Vec<(i32, i32)>> {
    /// Pixels drawn and left out, in turn.
    const PATTERNS: [&[f64]; 4] = [&[], &[8.0, 4.0], &[2.0, 3.0], &[11.0, 3.0, 2.0, 3.0]];
    let pattern = PATTERNS[series % PATTERNS.len()];
    if pattern.is_empty() {
        return vec![path.to_vec()];
    }
    let (mut pieces, mut piece, mut turn, mut left) = (Vec::new(), Vec::new(), 0, pattern[0]);
    for pair in path.windows(2) {
        let [(ax, ay), (bx, by)] = [pair[0], pair[1]].map(|(x, y)| (f64::from(x), f64::from(y)));
        let length = (bx - ax).hypot(by - ay);
        let at = |t: f64| ((ax + (bx - ax) * t / length).round() as i32, (ay + (by - ay) * t / length).round() as i32);
        let mut gone = 0.0;
        while gone < length {
            let step = left.min(length - gone);
            if turn % 2 == 0 {
                piece.extend([at(gone), at(gone + step)]);
            }
            (gone, left) = (gone + step, left - step);
            if left <= 0.0 {
                pieces.extend((!piece.is_empty()).then(|| std::mem::take(&mut piece)));
                turn = (turn + 1) % pattern.len();
                left = pattern[turn];
            }
        }
    }
    pieces.extend((!piece.is_empty()).then_some(piece));
    pieces
}

/// One of six shapes.
fn paint_marker(area: &Area<'_>, series: usize, (x, y): (i32, i32)) -> PaintResult {
    const SIZE: i32 = 4;
    let (full, thick) = (colour(series).filled(), colour(series).stroke_width(2));
    let path = |points: &[(i32, i32)]| points.iter().map(|(dx, dy)| (x + dx * SIZE, y + dy * SIZE)).collect::<Vec<_>>();
    let line = |points: &[(i32, i32)]| area.draw(&PathElement::new(path(points), thick));
    match series % 6 {
        0 => area.draw(&Circle::new((x, y), SIZE, full)),
        1 => area.draw(&Rectangle::new([(x - SIZE, y - SIZE), (x + SIZE, y + SIZE)], full)),
        2 => area.draw(&Polygon::new(path(&[(0, -1), (1, 1), (-1, 1)]), full)),
        3 => area.draw(&Polygon::new(path(&[(0, -1), (1, 0), (0, 1), (-1, 0)]), full)),
        4 => line(&[(-1, -1), (1, 1)]).and_then(|()| line(&[(-1, 1), (1, -1)])),
        _ => line(&[(-1, 0), (1, 0)]).and_then(|()| line(&[(0, -1), (0, 1)])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(even_ticks(1.0, 50.0, 6), [10.0, 20.0, 30.0, 40.0, 50.0]);
        assert_eq!(even_ticks(3.0, 3.0, 6), [3.0]);
        assert_eq!(Scale::Log.ticks(3e5, 4e8, vec![]), [1e6, 1e7, 1e8]);
        assert_eq!(Scale::Log.ticks(3e5, 6e6, vec![]), [5e5, 1e6, 2e6, 5e6]);
        assert_eq!(Scale::Log.ticks(3.1, 3.9, vec![]), [3.2, 3.4, 3.6, 3.8].map(|t: f64| (t / 0.2).round() * 0.2));
        assert_eq!(Scale::Listed.ticks(1.0, 8.0, vec![8.0, 1.0, 8.0]), [1.0, 8.0]);
    }

    #[test]
    fn dashes_cover_a_part_of_the_path() {
        let path: Vec<(i32, i32)> = vec![(0, 0), (60, 0), (120, 0)];
        assert_eq!(dashes(&path, 0), std::slice::from_ref(&path));
        let drawn: i32 = dashes(&path, 1).iter().map(|p| p[p.len() - 1].0 - p[0].0).sum();
        assert_eq!(drawn, 80);
        assert!(dashes(&[(0, 0)], 1).is_empty());
    }

    #[test]
    fn every_part_is_drawn_and_empty_panels_are_too() {
        let dot = |x: f64| Dot { x, y: 50.0, deviation: 2.0 };
        let full = Panel { title: "α 0.5".into(), lines: vec![Line { series: 0, points: vec![dot(1.0), dot(2.0)] }] };
        let empty = Panel { title: "α 0.1".into(), lines: vec![] };
        let x = Axis { words: "round", scale: Scale::Linear, show: |x| format!("{x}") };
        let names = vec!["lora-a2".to_string(), "fedit".to_string()];
        let figure =
            Figure { title: "all".into(), x, y: "accuracy, %", percent: true, names, rows: vec![vec![full, empty]] };
        let svg = draw(&figure).expect("drawn");
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for words in ["α 0.5", "α 0.1", "fedit", "accuracy, %", "round", "<polygon", "opacity=\"0.12\""] {
            assert!(svg.contains(words), "no {words:?}");
        }
    }
}
