//! What a run says of itself. Notes, warnings, errors and rounds are `tracing` events; one layer here writes each to
//! `run.log` in the run folder and hands it to the console, which shows it to whoever watches.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use bonfire_federation::RoundMetrics;
use clap::ValueEnum;
use serde::Serialize;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use crate::run_folder::own;
use crate::{clock, console};

/// The log's name in a run folder.
pub const FILE: &str = "run.log";

/// How what is printed looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    #[default]
    Text,
    /// One JSON object a line, without bars and colour
    Json,
}

/// Target of a round's event; a person sees a line of `progress` instead.
pub const ROUND: &str = "bonfire::round";

/// The same where nobody is to see rounds: for the file alone.
pub const UNSEEN: &str = "bonfire::unseen";

/// The field whose value is a JSON object, the fields of which become the event's.
const ROW: &str = "row";

/// Lines kept for a file that is not known yet.
const KEPT: usize = 1000;

/// Where lines for the file go.
static PLACE: Mutex<Place> = Mutex::new(Place::Later(Vec::new()));

enum Place {
    /// The run folder is not known yet.
    Later(Vec<String>),
    File(File),
    /// The file cannot be written any more, which has been said.
    Lost,
}

/// Starts listening, once, before anything is said.
pub fn init(format: LogFormat, quiet: bool) {
    console::set_up(format, quiet);
    let listening = tracing_subscriber::registry().with(Listener);
    tracing::subscriber::set_global_default(listening).expect("this is the only place that sets it");
}

/// From here on everything also goes to the log in `folder`, after what is there already; what was said before comes first.
///
/// # Errors
/// The file cannot be written.
pub fn to_file(folder: &Path) -> Result<()> {
    let path = folder.join(FILE);
    let opened = own::write(&path, OpenOptions::new().append(true));
    let mut file = opened.with_context(|| format!("cannot write {}", path.display()))?;
    let mut place = PLACE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Place::Later(lines) = &*place {
        file.write_all(lines.concat().as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    *place = Place::File(file);
    Ok(())
}

/// The run of the present file is over: what is said from here on waits for the next one.
pub fn leave_file() {
    *PLACE.lock().unwrap_or_else(PoisonError::into_inner) = Place::Later(Vec::new());
}

/// A round has ended; `seen` says whether its line is shown on the console.
pub fn round(metrics: &RoundMetrics, rounds: usize, seen: bool) {
    let row = json(metrics);
    let number = metrics.round;
    if seen {
        tracing::info!(target: ROUND, row, "round {number} of {rounds}")
    } else {
        tracing::info!(target: UNSEEN, row, "round {number} of {rounds}")
    }
}

fn json(row: &impl Serialize) -> String {
    serde_json::to_string(row).expect("rows are plain numbers, text and lists")
}

/// An event in words.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    time: String,
    level: Level,
    /// What happened.
    pub message: String,
    fields: Map<String, Value>,
}

impl Entry {
    /// Something said now without fields.
    pub fn new(level: Level, message: String) -> Entry {
        Entry { time: clock::now(), level, message, fields: Map::new() }
    }

    /// The same with the fields of `row`.
    pub fn with(mut self, row: &impl Serialize) -> Entry {
        self.add_row(&json(row));
        self
    }

    /// How grave it is.
    pub fn level(&self) -> Level {
        self.level
    }

    fn of(event: &Event<'_>) -> Entry {
        let mut entry = Entry::new(*event.metadata().level(), String::new());
        event.record(&mut entry);
        entry
    }

    fn add(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            (ROW, Value::String(row)) => self.add_row(&row),
            (name, value) => drop(self.fields.insert(name.to_owned(), value)),
        }
    }

    fn add_row(&mut self, row: &str) {
        match serde_json::from_str(row) {
            Ok(Value::Object(fields)) => self.fields.extend(fields),
            _ => drop(self.fields.insert(ROW.to_owned(), row.into())),
        }
    }

    /// A line of the log: `2026-11-23T04:30:00.120Z INFO  round 1 of 5 round=1 phase=B …`.
    fn text(&self) -> String {
        let mut line = format!("{} {:<5} {}", self.time, self.level, self.message.replace('\n', "\\n"));
        for (name, value) in &self.fields {
            let plain = value.as_str().filter(|text| !text.contains(|c: char| c.is_whitespace() || "\"=".contains(c)));
            let written = match plain {
                Some(text) => write!(line, " {name}={text}"),
                None => write!(line, " {name}={value}"),
            };
            written.expect("text can be written");
        }
        // The file is looked at in terminals too.
        let mut line = console::harmless(&line).into_owned();
        line.push('\n');
        line
    }

    /// One JSON object on one line: `time`, `level`, `message`, then the fields.
    pub fn json(&self) -> String {
        let level = self.level.as_str().to_lowercase();
        let mut line = format!(r#"{{"time":"{}","level":"{level}","message":{}"#, self.time, quoted(&self.message));
        // A field must not hide one of these.
        let others = self.fields.iter().filter(|(name, _)| !["time", "level", "message"].contains(&name.as_str()));
        for (name, value) in others {
            write!(line, ",{}:{value}", quoted(name)).expect("text can be written");
        }
        line + "}"
    }
}

fn quoted(text: &str) -> Value {
    Value::from(text)
}

impl Visit for Entry {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}").into());
    }
}

/// Hears what this program says; what libraries say is not for its users.
struct Listener;

impl<S: Subscriber> Layer<S> for Listener {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.target().starts_with("bonfire") && *metadata.level() <= Level::DEBUG
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let entry = Entry::of(event);
        if let Err(error) = keep(&entry) {
            let lost = format!("{FILE} cannot be written any more: {error}");
            console::show(&Entry::new(Level::WARN, lost), module_path!());
        }
        console::show(&entry, event.metadata().target());
    }
}

/// Writes a line to the file, or keeps it for later. An error comes once: then nothing more is written.
fn keep(entry: &Entry) -> std::io::Result<()> {
    let mut place = PLACE.lock().unwrap_or_else(PoisonError::into_inner);
    match &mut *place {
        Place::Later(lines) if lines.len() < KEPT => lines.push(entry.text()),
        Place::Later(_) | Place::Lost => {}
        // In one write, so that lines of threads do not mix.
        Place::File(file) => match file.write_all(entry.text().as_bytes()) {
            Ok(()) => {}
            Err(error) => {
                *place = Place::Lost;
                return Err(error);
            }
        },
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry() -> Entry {
        let row = json!({"round": 3, "phase": "B", "why": "disk full", "level": "x"});
        let mut entry = Entry::new(Level::WARN, "two\nlines".into()).with(&row);
        entry.time = "2026-01-02T03:04:05.678Z".into();
        entry
    }

    #[test]
    fn a_line_of_the_log_has_time_level_message_and_fields() {
        let expected =
            "2026-01-02T03:04:05.678Z WARN  two\\nlines round=3 phase=B why=\"disk full\" level=x\n".to_string();
        let mut fields: Vec<&str> = expected.trim().split(' ').collect();
        let text = entry().text();
        let mut found: Vec<&str> = text.trim().split(' ').collect();
        // The order of a JSON object's fields depends on how serde_json is built.
        fields.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, fields);
        assert!(text.starts_with("2026-01-02T03:04:05.678Z WARN  two\\nlines ") && text.lines().count() == 1);
    }

    #[test]
    fn the_log_does_not_steer_a_terminal() {
        let mut entry = Entry::new(Level::INFO, "a \u{1b}[2J\rb".into());
        entry.time = "t".into();
        assert_eq!(entry.text(), "t INFO  a \\u001b[2J\\u000db\n");
    }

    #[test]
    fn json_is_one_line_and_fields_do_not_hide_what_every_line_has() {
        let line = entry().json();
        assert_eq!(line.lines().count(), 1);
        let value: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!((value["level"].as_str(), value["message"].as_str()), (Some("warn"), Some("two\nlines")));
        assert_eq!((value["round"].as_u64(), value["why"].as_str()), (Some(3), Some("disk full")));
    }
}
