//! What the person at the terminal wants to see, and the frame around each part of it.

use ratatui::style::{Color, Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::Block;

/// What of a narrow terminal's panels is seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Panel {
    /// The table of clients.
    #[default]
    Clients,
    /// Which slots are chosen.
    Slots,
    /// Bytes and memory.
    Traffic,
    /// The last lines said.
    Log,
}

/// All of them, in their order.
pub const PANELS: [Panel; 4] = [Panel::Clients, Panel::Slots, Panel::Traffic, Panel::Log];

/// What the person at the terminal wants to see.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The first row of the table of clients.
    pub first: usize,
    /// How many rows of it there was room for.
    pub page: usize,
    /// Which panel a narrow terminal shows.
    pub panel: Panel,
    /// Whether the keys are explained.
    pub help: bool,
}

impl View {
    /// Shows the next panel.
    pub fn next_panel(&mut self) {
        self.turn(1);
    }

    /// Shows the panel before.
    pub fn previous_panel(&mut self) {
        self.turn(PANELS.len() - 1);
    }

    fn turn(&mut self, by: usize) {
        let at = PANELS.iter().position(|panel| *panel == self.panel).unwrap_or(0);
        self.panel = PANELS[(at + by) % PANELS.len()];
    }
}

/// A panel's frame.
pub fn framed(title: &str) -> Block<'_> {
    Block::bordered()
        .border_style(Style::new().fg(Color::DarkGray))
        .title(Line::from(format!(" {title} ")).bold().fg(Color::Reset))
}
