//! The dashboard's tables: clients, slots, bytes and memory, and the last lines said.

use bonfire_experiment::format::{bytes, percent};
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Cell, Paragraph, Row, Scrollbar, ScrollbarOrientation, ScrollbarState, Table};

use super::state::{ClientRow, State};
use super::view::{View, framed};

/// From least to most.
const SHADES: [char; 5] = [' ', '░', '▒', '▓', '█'];

/// A row a client, from row `view.first` on, which is brought back to where there are rows.
pub fn clients(frame: &mut Frame, area: Rect, state: &State, view: &mut View) {
    let seen = &state.seen;
    let visible = usize::from(area.height.saturating_sub(3));
    let first = view.first.min(seen.len().saturating_sub(visible));
    (view.first, view.page) = (first, visible.max(1));
    let last = (first + visible).min(seen.len());
    let title = match seen.len() {
        0 => "clients".to_owned(),
        all => format!("clients {} to {last} of {all}", first + 1),
    };
    let right = |text: String| Cell::from(Text::from(text).alignment(Alignment::Right));
    let header = ["client", "round", "examples", "steps", "loss", "upload", "slots", "accuracy"];
    let widths = [6, 5, 8, 5, 7, 7, 5, 8].map(Constraint::Length);
    let rows = seen.iter().skip(first).take(visible).map(|(client, row)| Row::new(cells(*client, row).map(right)));
    let table = Table::new(rows, widths)
        .header(Row::new(header.map(|name| right(name.to_owned()))).fg(Color::Cyan))
        .block(framed(&title));
    frame.render_widget(table, area);
    if seen.len() > visible {
        let mut place = ScrollbarState::new(seen.len() - visible).position(first);
        frame.render_stateful_widget(Scrollbar::new(ScrollbarOrientation::VerticalRight), area, &mut place);
    }
}

fn cells(client: usize, row: &ClientRow) -> [String; 8] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    [
        client.to_string(),
        row.round.to_string(),
        row.examples.to_string(),
        row.steps.to_string(),
        format!("{:.4}", row.loss),
        bytes(row.upload),
        or_dash(row.slots.map(|slots| slots.to_string())),
        or_dash(row.accuracy.map(percent)),
    ]
}

/// How often slots of each target were chosen, round by round.
pub fn slots(frame: &mut Frame, area: Rect, state: &State) {
    if state.chosen.is_empty() {
        let text = if state.rounds.is_empty() {
            "no round has ended yet"
        } else {
            "every client uploads all its slots: nobody chooses"
        };
        return frame.render_widget(Paragraph::new(text).block(framed("slots chosen")), area);
    }
    let (height, width) =
        (usize::from(area.height.saturating_sub(3)).max(1), usize::from(area.width.saturating_sub(2)));
    let (rows, blocks) = heat_rows(state, height, width);
    let label = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    // Two characters a round make a square.
    let room = (width / blocks).saturating_sub(label + 2).max(1);
    let columns = state.chosen.len().min(room);
    let wide = if 2 * columns <= room { 2 } else { 1 };
    let map: Vec<(&str, Vec<f64>)> =
        rows.iter().map(|(name, counts)| (name.as_str(), thinned(counts, columns))).collect();
    let most = map.iter().flat_map(|(_, counts)| counts).fold(0.0, |most: f64, count| most.max(*count));
    let high = map.len().div_ceil(blocks);
    let row = |y: usize| {
        let spans = map.iter().skip(y).step_by(high);
        spans.flat_map(|(name, counts)| heat_spans(name, label, counts, most, wide)).collect::<Line>()
    };
    let mut lines: Vec<Line> = (0..high).map(row).collect();
    let (from, to) = (state.chosen[0].0, state.chosen[state.chosen.len() - 1].0);
    lines.push(Line::from(format!("{:label$} rounds {from} to {to}", "")).fg(Color::DarkGray));
    let title = format!("slots chosen, by target and round (█ {most:.0})");
    frame.render_widget(Paragraph::new(lines).block(framed(&title)), area);
}

fn heat_spans(name: &str, label: usize, counts: &[f64], most: f64, wide: usize) -> [Span<'static>; 2] {
    let shade = |count: &f64| {
        let step = (count / most.max(1.0) * (SHADES.len() - 1) as f64).ceil() as usize;
        SHADES[step.min(SHADES.len() - 1)]
    };
    let cells: String = counts.iter().flat_map(|count| std::iter::repeat_n(shade(count), wide)).collect();
    [Span::from(format!("{name:>label$} ")), Span::styled(format!("{cells} "), Style::new().fg(Color::Yellow))]
}

/// Characters that a row's rounds should have at least.
const LEAST: usize = 12;

/// A row a target with its counts over rounds, in as many blocks side by side as there is room for; where that is not
/// enough, a row a layer, and else a row for a few of them.
fn heat_rows(state: &State, height: usize, width: usize) -> (Vec<(String, Vec<f64>)>, usize) {
    let targets = &state.about.targets;
    let count = |target: usize| state.chosen.iter().map(move |(_, counts)| f64::from(counts[target]));
    let blocks = targets.len().div_ceil(height).max(1);
    let label = targets.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    if blocks == 1 || width / blocks >= label + LEAST {
        let rows = targets.iter().enumerate().map(|(t, (name, _))| (name.clone(), count(t).collect()));
        return (rows.collect(), blocks);
    }
    let layers = targets.iter().map(|(_, layer)| layer + 1).max().unwrap_or(1);
    let each = layers.div_ceil(height);
    let sums = |row: usize| {
        let (from, to) = (row * each, ((row + 1) * each).min(layers));
        let inside = |t: &usize| (from..to).contains(&targets[*t].1);
        let mut sums = vec![0.0; state.chosen.len()];
        for target in (0..targets.len()).filter(inside) {
            sums.iter_mut().zip(count(target)).for_each(|(sum, count)| *sum += count);
        }
        let name = if each == 1 { format!("layer {from}") } else { format!("layers {from}-{}", to - 1) };
        (name, sums)
    };
    ((0..layers.div_ceil(each)).map(sums).collect(), 1)
}

/// The values in `columns` groups of neighbours, each by its mean.
fn thinned(values: &[f64], columns: usize) -> Vec<f64> {
    let n = values.len();
    let group = |column: usize| {
        let (from, to) = (column * n / columns, ((column + 1) * n / columns).min(n));
        values[from..to].iter().sum::<f64>() / (to - from).max(1) as f64
    };
    (0..columns).map(group).collect()
}

/// What was uploaded, and what memory is in use.
pub fn traffic(frame: &mut Frame, area: Rect, state: &State) {
    let row =
        |label: &str, value: String| Line::from(vec![Span::from(format!("{label:<12}")).fg(Color::Cyan), value.into()]);
    let last = state.rounds.last();
    let mut lines = vec![
        row("this round", last.map_or("-".to_owned(), |metrics| bytes(metrics.upload_bytes))),
        row("all rounds", bytes(state.uploaded)),
    ];
    if let Some(plain) = state.plain.filter(|plain| *plain > 0 && state.uploaded > 0) {
        lines.push(row("plain LoRA", bytes(plain)));
        lines.push(row("", bonfire_experiment::summary::ratio(state.uploaded, plain).unwrap_or_default() + " that"));
    }
    if let Some(epsilon) = last.and_then(|metrics| metrics.epsilon) {
        lines.push(row("privacy", format!("ε {epsilon:.2}")));
    }
    lines.push(Line::default());
    let of = |used: u64, all: Option<u64>| match all {
        Some(all) => format!("{} of {}", bytes(used), bytes(all)),
        None => bytes(used),
    };
    // Where the device does not count, it is the process's own memory that trains.
    let (host, device) = (state.process_memory, state.device_memory);
    lines.extend(host.map(|used| row("process", of(used, state.about.memory.filter(|_| device.is_none())))));
    lines.extend(device.map(|used| row("device", of(used, state.about.memory))));
    frame.render_widget(Paragraph::new(lines).block(framed("uploaded, memory")), area);
}

/// The last lines said, as many as there is room for.
pub fn log(frame: &mut Frame, area: Rect, state: &State) {
    let room = usize::from(area.height.saturating_sub(2));
    let lines = state.lines.iter().skip(state.lines.len().saturating_sub(room));
    let text: Vec<Line> = lines.map(|line| Line::from(line.as_str())).collect();
    frame.render_widget(Paragraph::new(text).block(framed("log")), area);
}
