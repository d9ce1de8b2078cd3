//! `bonfire new`: a folder to begin with, of a configuration, rows to look at and replace, and what to do next.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bonfire_data::{Dataset, Example, corpus};
use bonfire_experiment::UserError;
use bonfire_experiment::run_folder::holds_something;
use clap::Args;

use super::export::publish::publish;
use crate::console::say;

const CONFIG: &str = include_str!("new/federation.toml");
const README: &str = include_str!("new/README.md");

/// Intents of the built-in corpus that the sample rows have: few enough to be read, and to be learnt in a minute.
const LABELS: usize = 6;

/// Options of `new`.
#[derive(Debug, Args)]
pub struct NewArgs {
    /// The folder to make; it must not be there, or be empty
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

/// Runs the command. The folder is there with all its files, or not at all.
///
/// # Errors
/// A folder that holds something, a place that cannot be written.
pub fn run(args: &NewArgs) -> Result<()> {
    let folder = &args.folder;
    if folder.file_name().is_none() {
        let what = format!("{} names no new folder", folder.display());
        return Err(UserError::new(what).help("give it a name: bonfire new my-federation").into());
    }
    if holds_something(folder) {
        let what = format!("{} exists and is not an empty folder", folder.display());
        return Err(UserError::new(what).help("name a folder that is not there yet").into());
    }
    let name = run_name(folder);
    publish(folder, |folder| fill(folder, &name))?;
    say(format!("made {}: federation.toml, data/train.jsonl, data/test.jsonl, README.md", folder.display()));
    say(format!("next: cd {} && bonfire train federation.toml", folder.display()));
    Ok(())
}

/// What runs are called: as the folder, of whose name only what a run's may have.
fn run_name(folder: &Path) -> String {
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let kept = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let name: String = name.chars().map(kept).collect();
    match name.trim_start_matches('.') {
        "" => "federation".to_owned(),
        name => name.to_owned(),
    }
}

/// Writes all files into `folder`, which is there and empty; runs are called `name`.
fn fill(folder: &Path, name: &str) -> Result<()> {
    let Dataset { labels, train, test, .. } = corpus::dataset();
    fs::create_dir(folder.join("data")).with_context(|| format!("cannot write {}", folder.display()))?;
    for (name, contents) in [
        ("federation.toml", CONFIG.replace("name = \"federation\"", &format!("name = \"{name}\""))),
        ("README.md", README.replace("runs/federation-TIME", &format!("runs/{name}-TIME"))),
        ("data/train.jsonl", rows(&train, &labels)),
        ("data/test.jsonl", rows(&test, &labels)),
    ] {
        let path = folder.join(name);
        fs::write(&path, contents).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The rows of the first [`LABELS`] labels, a JSON object a line.
fn rows(examples: &[Example], labels: &[String]) -> String {
    let kept = examples.iter().filter(|example| example.label < LABELS);
    kept.map(|example| {
        let row =
            serde_json::json!({ "text": example.text(), "label": labels[example.label], "branch": example.group });
        format!("{row}\n")
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    #[test]
    fn every_command_of_its_pages_is_one() {
        let commands: Vec<&str> = README
            .lines()
            .chain(CONFIG.lines())
            .filter_map(|line| {
                let line = line.trim_start_matches(['#', ' ']);
                line.starts_with("bonfire ").then(|| line.split("   ").next().unwrap_or(line).trim())
            })
            .collect();
        assert!(commands.len() > 6, "{commands:?}");
        for line in commands {
            // A shell takes the quotes away.
            let words = line.split(' ').map(|word| word.replace('\'', ""));
            Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn a_folder_is_whole_or_not_there() {
        let room = tempfile::tempdir().expect("a folder");
        let make = |name: &str| run(&NewArgs { folder: room.path().join(name) });
        make("below/mine").expect("made");
        let mut found: Vec<String> = walk(&room.path().join("below"));
        found.sort();
        assert_eq!(found, ["README.md", "federation.toml", "test.jsonl", "train.jsonl"]);

        let config = fs::read_to_string(room.path().join("below/mine/federation.toml")).expect("there");
        assert!(config.contains("\nname = \"mine\"\n"), "{config}");
        let readme = fs::read_to_string(room.path().join("below/mine/README.md")).expect("there");
        assert!(readme.contains("runs/mine-TIME") && !readme.contains("federation-TIME"), "{readme}");
        assert_eq!(run_name(Path::new("..x y/ä")), "ä");
        assert_eq!(run_name(Path::new("a/.meine Daten")), "meine-Daten");

        // What is there stays as it is.
        for name in ["below/mine", "file"] {
            fs::write(room.path().join("file"), "mine").expect("written");
            let error = make(name).expect_err("taken");
            assert!(error.to_string().ends_with("exists and is not an empty folder"), "{error}");
        }
        assert_eq!(fs::read_to_string(room.path().join("file")).expect("there"), "mine");
        let error = run(&NewArgs { folder: "..".into() }).expect_err("no name");
        assert!(error.to_string().contains("names no new folder"), "{error}");

        fs::create_dir(room.path().join("empty")).expect("made");
        make("empty").expect("made");
        assert!(room.path().join("empty/data/train.jsonl").is_file());
        let beside = fs::read_dir(room.path()).expect("a folder").count();
        assert_eq!(beside, 3, "nothing temporary is left");
    }

    /// Names of the files below `folder`.
    fn walk(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
        entries
            .flat_map(|entry| match entry.path() {
                path if path.is_dir() => walk(&path),
                _ => vec![entry.file_name().to_string_lossy().into_owned()],
            })
            .collect()
    }

    #[test]
    fn it_is_a_command() {
        let cli = Cli::try_parse_from(["bonfire", "new", "mine"]).expect("valid");
        assert!(matches!(cli.command, Command::New(NewArgs { folder }) if folder == Path::new("mine")));
    }
}
