//! A cell's run folder as it is found: absent, cut short, complete, or of another run.

use std::path::Path;

use anyhow::{Context, Result};
use bonfire_federation::Summary;
use toml::Table;

use crate::config::{Difference, bring_up_to_date, differences};
use crate::run_folder::{CONFIG, SUMMARY, holds_something, read};
use crate::user_error::UserError;

/// What a cell's folder holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing.
    Absent,
    /// A run of the same configuration that was cut or failed.
    Cut,
    /// A run of the same configuration, all rounds done.
    Complete,
}

/// Looks at the folder of a cell whose configuration is `config`, written out, with `rounds` rounds.
///
/// # Errors
/// The folder holds something else: a run of another configuration, with what differs, no run, or what no run makes.
pub fn state(path: &Path, config: &str, rounds: usize) -> Result<State> {
    // A link in place of the cell, or of all cells, would lead the run elsewhere.
    if [Some(path), path.parent()].into_iter().flatten().any(Path::is_symlink) {
        return Err(foreign(path).into());
    }
    if !holds_something(path) {
        return Ok(State::Absent);
    }
    read::check(path)?;
    let found = read::text(&path.join(CONFIG)).map_err(|_| foreign(path))?;
    let mut old: Table = found.parse().map_err(|_| foreign(path))?;
    let new: Table = config.parse().context("cannot read a configuration that was just written")?;
    bring_up_to_date(&mut old);
    match differences(&old, &new) {
        list if list.is_empty() => {}
        list => return Err(other_run(path, &list).into()),
    }
    let summary = read::text(&path.join(SUMMARY)).ok();
    let summary: Option<Summary> = summary.and_then(|text| serde_json::from_str(&text).ok());
    Ok(if summary.is_some_and(|s| s.rounds == rounds || s.stopped_early) { State::Complete } else { State::Cut })
}

fn foreign(path: &Path) -> UserError {
    UserError::new(format!("{} is in the way: it holds no run of `bonfire compare`", path.display()))
        .help("remove it, or name another folder with --out")
}

fn other_run(path: &Path, differences: &[Difference]) -> UserError {
    const SHOWN: usize = 4;
    let mut list = differences.iter().take(SHOWN).map(Difference::to_string).collect::<Vec<_>>().join("; ");
    if differences.len() > SHOWN {
        list += &format!("; and {} more", differences.len() - SHOWN);
    }
    UserError::new(format!("{} holds a run of another configuration: {list}", path.display())).help(
        "name another folder with --out for the new settings, take the old settings back, or remove the folder to run \
         it again",
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_folder_is_absent_cut_or_of_another_run() {
        let room = tempfile::tempdir().expect("a folder");
        let path = room.path().join("cell");
        let config = "a = 1\n[train]\nrounds = 2\n";
        assert_eq!(state(&path, config, 2).expect("absent"), State::Absent);
        fs::create_dir(&path).expect("made");
        assert_eq!(state(&path, config, 2).expect("empty"), State::Absent);
        fs::write(path.join("notes"), "mine").expect("written");
        assert!(state(&path, config, 2).expect_err("foreign").to_string().contains("is in the way"));
        fs::write(path.join(CONFIG), config).expect("written");
        assert_eq!(state(&path, config, 2).expect("cut"), State::Cut);
        let other = state(&path, "a = 1\nb = true\n[train]\nrounds = 3\n", 3).expect_err("another run").to_string();
        assert!(other.ends_with("b was not set, is true; train.rounds was 2, is 3"), "{other}");
    }
}
