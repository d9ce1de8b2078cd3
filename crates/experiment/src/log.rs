//! What a run says of itself. Notes, warnings, errors and rounds are `tracing` events whose targets begin with `bonfire`; a run
//! writes those of its thread into `run.log` in its folder, and hands them on to whoever listened before.

use std::collections::BTreeSet;
use std::fmt::{self, Display, Write as _};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use bonfire_federation::RoundMetrics;
use serde::Serialize;
use serde_json::{Map, Value};
use tracing::dispatcher::{self, Dispatch};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use crate::run_folder::{LOG, own};
use crate::{clock, format};

/// Target of a round's event, whose field `row` is the round's row of `metrics.jsonl` as a JSON object.
pub const ROUND: &str = "bonfire::round";

/// Target of a note that is as true the second time, of another device's model as of the first's: whoever listens hears it once.
const ONCE: &str = "bonfire::once";

/// The field whose value is a JSON object, the fields of which become the event's.
const ROW: &str = "row";

/// Lines kept for a file that is not known yet.
const KEPT: usize = 1000;

/// Says what is worth knowing and is not a result.
pub fn note(line: impl Display) {
    tracing::info!("{line}");
}

/// [`note`] what is said again on another device, or by another site of this process.
pub fn note_once(line: impl Display) {
    tracing::info!(target: ONCE, "{line}");
}

/// A round of `rounds` has ended.
pub(crate) fn round(metrics: &RoundMetrics, rounds: usize) {
    let (row, number) = (json(metrics), metrics.round);
    tracing::info!(target: ROUND, row, "round {number} of {rounds}")
}

/// The untrained model was evaluated.
pub(crate) fn before(metrics: &RoundMetrics) {
    let row = json(metrics);
    tracing::info!(target: ROUND, row, "the untrained model")
}

/// The log of a run. Copies are the same log.
#[derive(Clone, Debug, Default)]
pub struct RunLog(Arc<Mutex<Place>>);

#[derive(Debug)]
enum Place {
    /// The run folder is not known yet.
    Later(Vec<String>),
    File(File),
    /// The file cannot be written any more, and why, until that is said.
    Lost(Option<String>),
}

impl Default for Place {
    fn default() -> Place {
        Place::Later(Vec::new())
    }
}

impl RunLog {
    fn place(&self) -> MutexGuard<'_, Place> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on everything goes to `run.log` in `folder`, after what is there already; what was said before comes first.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn open(&self, folder: &Path) -> Result<()> {
        let path = folder.join(LOG);
        let opened = own::write(&path, OpenOptions::new().append(true));
        let mut file = opened.with_context(|| format!("cannot write {}", path.display()))?;
        let mut place = self.place();
        if let Place::Later(lines) = &*place {
            file.write_all(lines.concat().as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
        }
        *place = Place::File(file);
        Ok(())
    }

    /// The run of the present file is over: what is said from here on waits for the next file.
    pub fn close(&self) {
        *self.place() = Place::default();
    }

    /// Writes a line to the file, or keeps it for later.
    pub fn write(&self, entry: &Entry) {
        let mut place = self.place();
        match &mut *place {
            Place::Later(lines) if lines.len() < KEPT => lines.push(entry.text()),
            Place::Later(_) | Place::Lost(_) => {}
            // In one write, so that lines of threads do not mix.
            Place::File(file) => {
                if let Err(error) = file.write_all(entry.text().as_bytes()) {
                    *place = Place::Lost(Some(format!("{LOG} cannot be written any more: {error}")));
                }
            }
        }
    }

    /// Why the file cannot be written any more: once, so that it is said once.
    pub fn newly_lost(&self) -> Option<String> {
        match &mut *self.place() {
            Place::Lost(why) => why.take(),
            _ => None,
        }
    }

    /// Does `work` and writes down what is said on this thread meanwhile. Whoever listened before still hears it.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        let log = self.clone();
        let next = dispatcher::get_default(Dispatch::clone);
        let done = dispatcher::with_default(&listener(move |entry, _| log.write(entry), next), work);
        if let Some(why) = self.newly_lost() {
            tracing::warn!("{why}");
        }
        done
    }
}

/// Calls `hear` with everything that Bonfire says in this process and the target of the event, except on threads that
/// listen themselves. Does nothing where somebody listens already.
pub fn listen(hear: impl Fn(&Entry, &str) + Send + Sync + 'static) {
    // An application that has its own subscriber keeps it.
    let _ = dispatcher::set_global_default(listener(hear, Dispatch::none()));
}

fn listener(hear: impl Fn(&Entry, &str) + Send + Sync + 'static, next: Dispatch) -> Dispatch {
    Dispatch::new(tracing_subscriber::registry().with(Listener { hear: Box::new(hear), said: Mutex::default(), next }))
}

/// Takes what was said and the target of the event.
type Hear = Box<dyn Fn(&Entry, &str) + Send + Sync>;

/// Hears what Bonfire says; what other libraries say is handed on.
struct Listener {
    hear: Hear,
    /// What is to be said once and was.
    said: Mutex<BTreeSet<String>>,
    next: Dispatch,
}

impl Listener {
    fn is_ours(metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("bonfire") && *metadata.level() <= Level::DEBUG
    }

    fn is_new(&self, message: &str) -> bool {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).insert(message.to_owned())
    }
}

impl<S: Subscriber> Layer<S> for Listener {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        Listener::is_ours(metadata) || self.next.enabled(metadata)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        if Listener::is_ours(metadata) {
            let entry = Entry::of(event);
            if metadata.target() != ONCE || self.is_new(&entry.message) {
                (self.hear)(&entry, metadata.target());
            }
        }
        if self.next.enabled(metadata) {
            self.next.event(event);
        }
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
        let mut line = format::harmless(&line).into_owned();
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

    #[test]
    fn threads_keep_their_own_logs_and_whoever_listened_hears_all() {
        let all = RunLog::default();
        let hears = |log: &RunLog, name: &str| {
            let room = tempfile::tempdir().expect("a folder");
            log.during(|| {
                note(format!("before {name}"));
                (0..2).for_each(|_| note_once("the same of both"));
                log.open(room.path()).expect("writable");
                tracing::info!(target: "elsewhere", "not ours");
                note(format!("after {name}"));
            });
            std::fs::read_to_string(room.path().join(LOG)).expect("written")
        };
        let outer = {
            let all = all.clone();
            listener(move |entry, _| all.write(entry), Dispatch::none())
        };
        let texts = std::thread::scope(|scope| {
            let run = |name: &'static str| {
                let outer = &outer;
                scope.spawn(move || dispatcher::with_default(outer, || hears(&RunLog::default(), name)))
            };
            [run("a"), run("b")].map(|thread| thread.join().expect("no panic"))
        });
        for (text, name) in texts.iter().zip(["a", "b"]) {
            let lines: Vec<&str> = text.lines().map(|line| &line[31..]).collect();
            assert_eq!(lines, [&format!("before {name}"), "the same of both", &format!("after {name}")], "{text}");
        }
        let Place::Later(heard) = &*all.place() else { panic!("no file") };
        assert_eq!(heard.len(), 5, "{heard:?}");
    }
}
