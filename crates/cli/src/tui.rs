//! The dashboard of `train --tui`. It has a thread of its own, which copies the state ten times a second at most, draws
//! it and hears keys: training waits for a copy at most, never for a terminal.

mod curves;
mod draw;
mod panels;
mod state;
mod view;

use std::io::{self, IsTerminal, stdout};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, TryLockError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bonfire_experiment::log::note;
use bonfire_experiment::{UserError, memory};
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use ratatui::{DefaultTerminal, Terminal, backend::CrosstermBackend};

use crate::console::{self, Screen};
use crate::interrupt::CtrlC;
pub use state::{About, SharedState, State};
use view::View;

/// Time between two drawings.
const TICK: Duration = Duration::from_millis(100);

/// The dashboard's thread, by name.
const THREAD: &str = "dashboard";

/// Whether the terminal is the dashboard's. Held while drawing.
static DRAWING: Mutex<()> = Mutex::new(());
static OPEN: AtomicBool = AtomicBool::new(false);

/// Refuses to open a dashboard where there is no terminal for it.
///
/// # Errors
/// Standard input or output is a file or a pipe.
pub fn check_terminal() -> Result<(), UserError> {
    let not = |what: &str| {
        UserError::new(format!("--tui needs a terminal, and {what} is none"))
            .help("leave --tui out; --log-format json is made for programs")
    };
    match (stdout().is_terminal(), io::stdin().is_terminal()) {
        (false, _) => Err(not("standard output")),
        (true, false) => Err(not("standard input")),
        (true, true) => Ok(()),
    }
}

impl Screen for SharedState {
    fn show(&self, lines: &str, _: &mut dyn FnMut()) {
        self.log(lines);
    }
}

/// An open dashboard; the terminal is given back when it is dropped.
pub struct Dashboard {
    shared: SharedState,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Dashboard {
    /// Takes the terminal; keys that stop the run go to `ctrl_c`.
    ///
    /// # Errors
    /// The terminal cannot be drawn on.
    pub fn open(state: State, ctrl_c: Arc<CtrlC>) -> Result<Dashboard> {
        let shared = SharedState::new(state);
        let terminal = enter().inspect_err(|_| leave()).context("cannot draw on this terminal")?;
        console::set_close(leave);
        console::set_screen(Some(Box::new(shared.clone())));
        let over = Arc::new(AtomicBool::new(false));
        let (on, until) = (shared.clone(), Arc::clone(&over));
        let work = move || Watcher { shared: on, over: until, ctrl_c, view: View::default() }.watch(terminal);
        let thread = thread::Builder::new().name(THREAD.into()).spawn(work).inspect_err(|_| leave());
        Ok(Dashboard { shared, over, thread: Some(thread.context("cannot start the dashboard's thread")?) })
    }

    /// What it shows.
    pub fn shared(&self) -> &SharedState {
        &self.shared
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // On a terminal that was closed the thread hears nothing and never comes back from listening; it ends with the program.
        let patience = Instant::now() + 10 * TICK;
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) && Instant::now() < patience {
            thread::sleep(TICK / 20);
        }
        leave();
    }
}

fn enter() -> io::Result<DefaultTerminal> {
    OPEN.store(true, Ordering::SeqCst);
    enable_raw_mode()?;
    execute!(stdout(), EnterAlternateScreen)?;
    Terminal::new(CrosstermBackend::new(stdout()))
}

/// Gives the terminal back as it was, if the dashboard has it.
fn leave() {
    // Not while a drawing is under way, unless that is what failed.
    let _still = (thread::current().name() != Some(THREAD)).then(wait_for_drawing);
    if OPEN.swap(false, Ordering::SeqCst) {
        let _ = disable_raw_mode();
        let _ = execute!(stdout(), LeaveAlternateScreen, Show);
        console::set_screen(None);
    }
}

/// The right to draw; given up on after a moment, since a terminal may hang.
fn wait_for_drawing() -> Option<std::sync::MutexGuard<'static, ()>> {
    let start = Instant::now();
    while start.elapsed() < 5 * TICK {
        match DRAWING.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => thread::sleep(TICK / 20),
        }
    }
    None
}

/// What runs on the dashboard's thread.
struct Watcher {
    shared: SharedState,
    over: Arc<AtomicBool>,
    ctrl_c: Arc<CtrlC>,
    view: View,
}

impl Watcher {
    fn watch(mut self, mut terminal: DefaultTerminal) {
        while !self.over.load(Ordering::Relaxed) {
            if let Err(error) = self.turn(&mut terminal) {
                leave();
                note(format!("the dashboard is closed, the run goes on: {error}"));
                return;
            }
        }
    }

    /// Draws, then hears keys until the next drawing is due.
    fn turn(&mut self, terminal: &mut DefaultTerminal) -> io::Result<()> {
        let due = Instant::now() + TICK;
        self.draw(terminal)?;
        while event::poll(due.saturating_duration_since(Instant::now()))? {
            if let Event::Key(key) = event::read()? {
                self.press(key);
            }
            if Instant::now() >= due {
                break;
            }
        }
        Ok(())
    }

    fn draw(&mut self, terminal: &mut DefaultTerminal) -> io::Result<()> {
        let mut state = self.shared.state().clone();
        state.process_memory = memory::resident_bytes();
        state.stopping = self.ctrl_c.interrupt.pressed();
        let Some(_drawing) = wait_for_drawing().filter(|_| OPEN.load(Ordering::SeqCst)) else { return Ok(()) };
        terminal.draw(|frame| draw::draw(frame, &state, &mut self.view)).map(drop)
    }

    fn press(&mut self, key: KeyEvent) {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        let page = self.view.page.max(1);
        match key.code {
            _ if key.kind == KeyEventKind::Release => {}
            // Raw mode keeps the terminal from making a signal of it.
            KeyCode::Char('c') if control => self.ctrl_c.press(),
            KeyCode::Char('q') => self.ctrl_c.press(),
            KeyCode::Char('?') => self.view.help = !self.view.help,
            KeyCode::Esc => self.view.help = false,
            KeyCode::Tab | KeyCode::Right => self.view.next_panel(),
            KeyCode::BackTab | KeyCode::Left => self.view.previous_panel(),
            KeyCode::Up => self.view.first = self.view.first.saturating_sub(1),
            KeyCode::Down => self.view.first = self.view.first.saturating_add(1),
            KeyCode::PageUp => self.view.first = self.view.first.saturating_sub(page),
            KeyCode::PageDown => self.view.first = self.view.first.saturating_add(page),
            KeyCode::Home => self.view.first = 0,
            KeyCode::End => self.view.first = usize::MAX,
            _ => {}
        }
    }
}
