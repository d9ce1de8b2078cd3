//! The checkpoints of a run folder: `checkpoints/round-000012.bonfire`, the newest `save.keep` of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use bonfire_federation::Checkpoint;
use bonfire_models::files;

use crate::log::note;
use crate::run_folder::{CHECKPOINTS, Lengths, own, read};
use crate::summary::Totals;
use crate::user_error::UserError;

const ENDING: &str = ".bonfire";

/// What a run folder keeps beside the run's state.
#[derive(Clone, Debug, PartialEq)]
pub struct Notes {
    /// The resolved configuration, as TOML.
    pub config: String,
    /// Sums over the rounds.
    pub totals: Totals,
    /// How far the files of rows reach.
    pub lengths: Lengths,
    /// Version of the program that wrote it.
    pub version: String,
}

impl Notes {
    /// As a checkpoint keeps them.
    pub fn to_map(&self) -> BTreeMap<String, String> {
        let totals = toml::to_string(&self.totals).expect("numbers and lists of numbers");
        let pairs = [
            ("config", self.config.clone()),
            ("tally", totals),
            ("metrics_bytes", self.lengths.metrics.to_string()),
            ("clients_bytes", self.lengths.clients.to_string()),
            ("version", self.version.clone()),
        ];
        pairs.into_iter().map(|(key, value)| (key.to_string(), value)).collect()
    }

    /// From what a checkpoint kept.
    ///
    /// # Errors
    /// Something is missing or unreadable, which is named.
    fn from_map(map: &BTreeMap<String, String>) -> Result<Notes> {
        let get = |key: &str| map.get(key).with_context(|| format!("holds no {key}"));
        let number = |key: &str| get(key)?.parse().with_context(|| format!("holds a {key} that is no number"));
        Ok(Notes {
            config: get("config")?.clone(),
            totals: toml::from_str(get("tally")?).context("holds a tally that cannot be read")?,
            lengths: Lengths { metrics: number("metrics_bytes")?, clients: number("clients_bytes")? },
            version: get("version")?.clone(),
        })
    }
}

/// A checkpoint that can be used.
#[derive(Debug)]
pub struct Save {
    /// Its file.
    pub path: PathBuf,
    /// The run's state.
    pub checkpoint: Checkpoint,
    /// What was kept with it.
    pub notes: Notes,
}

/// Writes the checkpoint of `round`; when it is on the disk, all go but the newest `keep`.
///
/// # Errors
/// The system refuses a write; the checkpoints that were there are as they were.
pub fn write(run: &Path, round: usize, bytes: &[u8], keep: usize) -> Result<()> {
    let folder = run.join(CHECKPOINTS);
    own::folder(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    // It may hold the secret that privacy's noise is drawn from.
    let path = folder.join(format!("round-{round:06}{ENDING}"));
    files::replace_secret(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    let all = list(run)?;
    // One of a later round is of before the run was taken up again, and cannot be read or is not wanted.
    let (later, earlier): (Vec<_>, Vec<_>) = all.into_iter().partition(|(r, _)| *r > round);
    for (_, path) in later.into_iter().chain(earlier.into_iter().skip(keep)) {
        // The new one is safe: an old one that stays is no reason to stop.
        if let Err(error) = fs::remove_file(&path) {
            note(format!("the old checkpoint {} stays: {error}", path.display()));
        }
    }
    Ok(())
}

/// The checkpoints of a run folder, newest first.
fn list(run: &Path) -> Result<Vec<(usize, PathBuf)>> {
    let folder = run.join(CHECKPOINTS);
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(|| format!("cannot read the folder {}", folder.display()))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read the folder {}", folder.display()))?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let round = name.strip_prefix("round-").and_then(|rest| rest.strip_suffix(ENDING));
        found.extend(round.and_then(|r| r.parse().ok()).map(|round: usize| (round, path)));
    }
    found.sort_by(|a, b| b.cmp(a));
    Ok(found)
}

/// Removes the checkpoints of later rounds than `round`, whose rows are about to go.
///
/// # Errors
/// One cannot be removed.
pub fn forget_after(run: &Path, round: usize) -> Result<()> {
    let mut later = list(run)?.into_iter().filter(|(r, _)| *r > round);
    later.try_for_each(|(_, path)| fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display())))
}

/// The newest checkpoint that is whole, and a line for each newer one that is not. `None`: there is none.
///
/// # Errors
/// There are some, and none is whole.
pub fn newest(run: &Path) -> Result<(Option<Save>, Vec<String>)> {
    let all = list(run)?;
    let mut broken = Vec::new();
    for (_, path) in &all {
        match read(path) {
            Ok(save) => return Ok((Some(save), broken)),
            Err(error) => broken.push(format!("{} {error:#}", path.display())),
        }
    }
    if broken.is_empty() {
        Ok((None, broken))
    } else {
        bail!("no checkpoint of {} can be used\n{}", run.display(), broken.join("\n"))
    }
}

/// The checkpoint of a round.
///
/// # Errors
/// There is none, and which there are; or it is not whole.
pub fn of_round(run: &Path, round: usize) -> Result<Save> {
    let all = list(run)?;
    let Some((_, path)) = all.iter().find(|(r, _)| *r == round) else {
        let rounds: Vec<String> = all.iter().rev().map(|(r, _)| r.to_string()).collect();
        let there = if rounds.is_empty() {
            "it has none".to_string()
        } else {
            format!("there are those of {}", rounds.join(", "))
        };
        let what = format!("{} has no checkpoint of round {round}; {there}", run.display());
        return Err(UserError::new(what).help("`save.keep` says how many a run keeps").into());
    };
    read(path).map_err(|error| anyhow!("{} {error:#}", path.display()))
}

/// Reads a checkpoint; errors go on from the file's name.
fn read(path: &Path) -> Result<Save> {
    let bytes = read::whole(path).context("cannot be read")?;
    let checkpoint = Checkpoint::read(&bytes)?;
    let notes = Notes::from_map(&checkpoint.notes)?;
    Ok(Save { path: path.to_path_buf(), checkpoint, notes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_two_are_kept_and_later_ones_go() {
        let room = tempfile::tempdir().expect("a folder");
        let rounds = || list(room.path()).expect("readable").into_iter().map(|(r, _)| r).collect::<Vec<_>>();
        assert!(rounds().is_empty());
        for round in [0, 1, 2, 3] {
            write(room.path(), round, b"x", 2).expect("written");
        }
        assert_eq!(rounds(), [3, 2]);
        write(room.path(), 4, b"x", 3).expect("written");
        assert_eq!(rounds(), [4, 3, 2]);
        write(room.path(), 2, b"y", 2).expect("written");
        assert_eq!(rounds(), [2]);
        let error = of_round(room.path(), 7).expect_err("none").to_string();
        assert!(error.contains("no checkpoint of round 7; there are those of 2"), "{error}");
    }

    #[test]
    fn an_old_checkpoint_that_cannot_be_removed_is_no_reason_to_stop() {
        let room = tempfile::tempdir().expect("a folder");
        // A folder is not removed like a file, whoever asks.
        fs::create_dir_all(room.path().join(CHECKPOINTS).join("round-000000.bonfire/x")).expect("made");
        (1..=4).for_each(|round| write(room.path(), round, b"x", 2).expect("written"));
        let rounds: Vec<usize> = list(room.path()).expect("readable").into_iter().map(|(round, _)| round).collect();
        assert_eq!(rounds, [4, 3, 0]);
    }

    #[test]
    fn notes_come_back_as_they_were() {
        let notes = Notes {
            config: "a = 1\n".into(),
            totals: Totals::default(),
            lengths: Lengths { metrics: 3, clients: 4 },
            version: "1".into(),
        };
        assert_eq!(Notes::from_map(&notes.to_map()).expect("readable"), notes);
        let mut map = notes.to_map();
        map.remove("config");
        assert_eq!(Notes::from_map(&map).expect_err("missing").to_string(), "holds no config");
    }

    #[test]
    fn files_that_cannot_be_used_are_named() {
        let room = tempfile::tempdir().expect("a folder");
        assert!(newest(room.path()).expect("none").0.is_none());
        write(room.path(), 1, b"x", 2).expect("written");
        let error = newest(room.path()).expect_err("broken").to_string();
        assert!(error.contains("round-000001.bonfire is not a checkpoint of bonfire"), "{error}");
    }
}
