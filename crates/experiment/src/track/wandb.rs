//! A run for Weights & Biases as its own offline mode leaves one, `RUN/wandb/offline-run-<time>-<id>/run-<id>.wandb`: `wandb sync`
//! uploads it, afterwards or, with `wandb beta sync --live`, while the run goes. Neither wandb nor a network is needed to write it.

mod records;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bonfire_federation::RoundMetrics;
use prost::Message;

use super::moments::Moments;
use super::scalars::COLUMNS;
use super::{new_id, run_name, variable};
use crate::clock;
use crate::config::RunConfig;
use crate::log::note;
use crate::run_folder::{WANDB, own, replace};
use records::{Exit, FILE_HEAD, Header, History, Item, Record, Run, Step, Timestamp, Update, VersionInfo, framed};

/// How the folders of offline runs are called.
const OFFLINE: &str = "offline-run-";
/// The project, unless WANDB_PROJECT says otherwise.
const PROJECT: &str = "bonfire";
/// The oldest wandb that reads such a file, as wandb itself writes it.
const OLDEST: &str = "0.70.0";
/// wandb's own exit code of a run that was stopped by hand.
const STOPPED: i32 = 255;

/// An open transaction log.
#[derive(Debug)]
pub struct Wandb {
    path: PathBuf,
    file: File,
    /// Bytes in it.
    length: u64,
    /// Records in it.
    count: i64,
    moments: Moments,
}

impl Wandb {
    /// Begins the log of the run in `folder` with its settings; the same run's, if it has one: then in place of what it held,
    /// for rounds that follow again from the first of `past`.
    ///
    /// # Errors
    /// The system refuses a folder or file.
    pub fn create(folder: &Path, config: &RunConfig, past: &[RoundMetrics]) -> Result<Wandb> {
        let all = folder.join(WANDB);
        let failed = || format!("cannot write {}", all.display());
        own::folder(&all).with_context(failed)?;
        let (name, id) = match kept(&all).with_context(failed)? {
            Some(kept) => kept,
            None => {
                let id = new_id();
                (format!("{OFFLINE}{}-{id}", clock::stamp().replace('-', "_")), id)
            }
        };
        let own_folder = all.join(name);
        own::folder(&own_folder).with_context(failed)?;
        let path = own_folder.join(format!("run-{id}.wandb"));
        // wandb's mark that all of it is uploaded.
        let mark = own_folder.join(format!("run-{id}.wandb.synced"));
        if mark.exists() {
            fs::remove_file(mark).with_context(failed)?;
        }
        replace(&path, &FILE_HEAD)?;
        let file = own::write(&path, OpenOptions::new().append(true));
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        let mut wandb = Wandb { path, file, length: FILE_HEAD.len() as u64, count: 0, moments: Moments::after(past) };
        wandb.write(Record { header: Some(header()), ..Record::default() })?;
        let began = wandb.moments.began;
        let run = Run {
            run_id: id,
            entity: variable("WANDB_ENTITY").unwrap_or_default(),
            project: variable("WANDB_PROJECT").unwrap_or_else(|| PROJECT.to_owned()),
            config: Some(Update { update: settings(config) }),
            display_name: variable("WANDB_NAME").unwrap_or_else(|| run_name(folder, config)),
            start_time: Some(Timestamp { seconds: began as i64, nanos: (began.fract() * 1e9) as i32 }),
        };
        wandb.write(Record { run: Some(run), ..Record::default() })?;
        Ok(wandb)
    }

    /// Adds a round.
    ///
    /// # Errors
    /// The system refuses the write.
    pub fn round(&mut self, metrics: &RoundMetrics, scalars: &[Option<f64>]) -> Result<()> {
        let now = self.moments.next();
        let numbers = COLUMNS.iter().zip(scalars).filter_map(|(column, value)| Some((column.tag, (*value)?)));
        let own = [("_step", metrics.round as f64), ("_timestamp", now), ("_runtime", now - self.moments.began)];
        let numbers = numbers.chain(own).filter(|(_, value)| value.is_finite());
        let items: Vec<Item> = numbers
            .map(|(key, value)| Item { key: key.to_owned(), value_json: serde_json::json!(value).to_string() })
            .collect();
        self.write(Record { summary: Some(Update { update: items.clone() }), ..Record::default() })?;
        let history = History { item: items, step: Some(Step { num: metrics.round as i64 }) };
        self.write(Record { history: Some(history), ..Record::default() })
    }

    /// Says how the run ended: as a whole, or to be gone on with.
    pub fn finish(&mut self, whole: bool) {
        let runtime = (self.moments.next() - self.moments.began) as i32;
        let exit = Exit { exit_code: if whole { 0 } else { STOPPED }, runtime };
        if let Err(error) = self.write(Record { exit: Some(exit), ..Record::default() }) {
            note(format!("track.wandb: {error:#}; the run's end is missing there"));
        }
    }

    /// Writes a record in one go, so that whoever uploads it meanwhile finds it whole.
    fn write(&mut self, record: Record) -> Result<()> {
        self.count += 1;
        let bytes = framed(self.length, &Record { num: self.count, ..record }.encode_to_vec());
        let written = self.file.write_all(&bytes).and_then(|()| self.file.flush());
        self.length += bytes.len() as u64;
        written.with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// The folder of the run below `all`, and its id.
fn kept(all: &Path) -> std::io::Result<Option<(String, String)>> {
    for entry in fs::read_dir(all)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some((_, id)) = name.strip_prefix(OFFLINE).and_then(|rest| rest.split_once('-')) {
            let id = id.to_owned();
            return Ok(Some((name, id)));
        }
    }
    Ok(None)
}

fn header() -> Header {
    let producer = concat!("bonfire-", env!("CARGO_PKG_VERSION")).to_owned();
    Header { version_info: Some(VersionInfo { producer, min_consumer: OLDEST.to_owned() }) }
}

/// All settings, a section to an item.
fn settings(config: &RunConfig) -> Vec<Item> {
    let sections: serde_json::Map<String, serde_json::Value> =
        toml::from_str(&config.to_toml()).expect("what was written can be read");
    sections.into_iter().map(|(key, value)| Item { key, value_json: value.to_string() }).collect()
}

#[cfg(test)]
mod tests;
