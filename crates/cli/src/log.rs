//! Where what is said goes in the program: into the log of the run, where there is one, and to whoever watches the terminal.

use bonfire_experiment::RunLog;
use bonfire_experiment::log::{Entry, listen};
use tracing::Level;

use crate::common::LogFormat;
use crate::console;

/// Starts listening, once, before anything is said. The program runs one thing at a time, so what any of its threads says goes
/// to `log`.
pub fn init(format: LogFormat, quiet: bool, log: &RunLog) {
    console::set_up(format == LogFormat::Json, quiet);
    let log = log.clone();
    listen(move |entry, target| {
        log.write(entry);
        if let Some(lost) = log.newly_lost() {
            console::show(&Entry::new(Level::WARN, lost), module_path!());
        }
        console::show(entry, target);
    });
}
