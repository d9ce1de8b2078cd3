//! The dashboard's layout: the header, what goes where on wide and narrow terminals, the keys. Everything is drawn from
//! plain data.

use bonfire_experiment::format::{seconds, short};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Clear, Gauge, Padding, Paragraph, Wrap};

use super::curves;
use super::panels;
use super::state::State;
use super::view::{Panel, View, framed};

/// The smallest terminal that everything fits on, columns and rows.
pub const LEAST: (u16, u16) = (60, 20);

/// From here on all panels are seen at once.
const WIDE: (u16, u16) = (100, 30);

/// Draws everything.
pub fn draw(frame: &mut Frame, state: &State, view: &mut View) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        return too_small(frame, area);
    }
    let [top, middle, bottom] =
        Layout::vertical([Constraint::Length(4), Constraint::Min(0), Constraint::Length(1)]).areas(area);
    header(frame, top, state);
    let wide = area.width >= WIDE.0 && area.height >= WIDE.1;
    if wide {
        all_panels(frame, middle, state, view)
    } else {
        one_panel(frame, middle, state, view)
    }
    footer(frame, bottom, state, wide);
    if view.help {
        help(frame, area, wide);
    }
}

fn too_small(frame: &mut Frame, area: Rect) {
    let (width, height) = LEAST;
    let text = format!("The dashboard needs {width}x{height} characters; this is {}x{}.", area.width, area.height);
    frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), area);
}

fn all_panels(frame: &mut Frame, area: Rect, state: &State, view: &mut View) {
    let parts = [Constraint::Percentage(36), Constraint::Min(8), Constraint::Length(area.height / 6 + 2)];
    let [top, middle, bottom] = Layout::vertical(parts).areas(area);
    let [left, centre, right] =
        Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1), Constraint::Length(34)]).areas(top);
    curves::score(frame, left, state);
    curves::loss(frame, centre, state);
    panels::traffic(frame, right, state);
    let [left, right] = Layout::horizontal([Constraint::Length(64), Constraint::Fill(1)]).areas(middle);
    panels::clients(frame, left, state, view);
    panels::slots(frame, right, state);
    panels::log(frame, bottom, state);
}

fn one_panel(frame: &mut Frame, area: Rect, state: &State, view: &mut View) {
    let height = (area.height * 45 / 100).max(7);
    let [top, bottom] = Layout::vertical([Constraint::Length(height), Constraint::Min(0)]).areas(area);
    let [left, right] = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).areas(top);
    curves::score(frame, left, state);
    curves::loss(frame, right, state);
    match view.panel {
        Panel::Clients => panels::clients(frame, bottom, state, view),
        Panel::Slots => panels::slots(frame, bottom, state),
        Panel::Traffic => panels::traffic(frame, bottom, state),
        Panel::Log => panels::log(frame, bottom, state),
    }
}

/// Who runs on what, how far it is, and a bar.
fn header(frame: &mut Frame, area: Rect, state: &State) {
    let rows = [Constraint::Length(1), Constraint::Length(1), Constraint::Length(1), Constraint::Length(1)];
    let [first, second, third, bar] = Layout::vertical(rows).areas(area);
    let about = &state.about;
    let name = Line::from(vec![
        Span::from(about.name.as_str()).bold(),
        Span::from(format!("  {}  ", about.strategy)).fg(Color::Cyan),
        Span::from(about.device.as_str()).fg(Color::DarkGray),
    ]);
    frame.render_widget(name, first);
    let pace = &state.pace;
    let (done, total) = pace.steps();
    let clients = if state.clients == 1 { "client" } else { "clients" };
    let now = format!(
        "round {}/{}  {}  {} {clients}  step {done}/{total}",
        state.round,
        pace.rounds(),
        state.phase,
        state.clients
    );
    frame.render_widget(Line::from(now), second);
    let left = pace.left().map_or(String::new(), |left| format!("{} left  ", seconds(left)));
    let times = format!("{} gone  {left}{} tokens/s", seconds(pace.elapsed()), short(pace.tokens_per_second()));
    frame.render_widget(Line::from(times), third);
    let share = pace.share();
    let gauge = Gauge::default().ratio(share).label(format!("{:.0}%", share * 100.0)).use_unicode(true);
    frame.render_widget(gauge.gauge_style(Style::new().fg(Color::Green).bg(Color::Black)), bar);
}

fn footer(frame: &mut Frame, area: Rect, state: &State, wide: bool) {
    let key = |key: &'static str| Span::from(key).bold();
    let mut spans = vec![key(" q"), " stop  ".into(), key("↑ ↓"), " scroll  ".into()];
    if !wide {
        spans.extend([key("Tab"), " next panel  ".into()]);
    }
    spans.extend([key("?"), " keys".into()]);
    let line = if state.stopping {
        let text = format!(" finishing round {}; press q again to leave at once ", state.round);
        Line::from(Span::styled(text, Style::new().add_modifier(Modifier::REVERSED)))
    } else {
        Line::from(spans)
    };
    frame.render_widget(line, area);
}

fn help(frame: &mut Frame, area: Rect, wide: bool) {
    let mut lines = vec![
        "q, Ctrl-C      finish the round and stop;",
        "               again: leave at once",
        "↑ ↓            scroll the clients by one",
        "PgUp PgDn      by as many as are seen",
        "Home End       to the first, to the last",
        "? Esc          close this",
    ];
    if !wide {
        lines.insert(5, "Tab → ←        another panel");
    }
    let (width, height) = (50, lines.len() as u16 + 2);
    let middle = Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    frame.render_widget(Clear, middle);
    let text: Vec<Line> = lines.into_iter().map(Line::from).collect();
    frame.render_widget(Paragraph::new(text).block(framed("keys").padding(Padding::horizontal(1))), middle);
}

#[cfg(test)]
mod tests;
