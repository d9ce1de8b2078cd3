//! The run folder: written as the run goes, readable whenever the run ends.
//! Rows are appended and flushed round by round; whole files are written beside and renamed.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bonfire_federation::{ClientMetrics, RoundMetrics, Summary};
use serde::Serialize;

use crate::clock;
use crate::mistake::Mistake;

/// The configuration of the run, all defaults written out.
pub const CONFIG: &str = "config.toml";
/// The global adapter in PEFT layout.
pub const ADAPTER: &str = "adapter";
/// In place of an adapter the fine-tuned model in Hugging Face layout, where every weight trained.
pub const MODEL: &str = "model";

/// Where clients keep a part of the model for themselves: their own adapters in PEFT layout, a folder a client.
pub const CLIENTS: &str = "clients";

/// The folder of a client's own adapter.
pub fn client_folder(run: &Path, client: usize) -> PathBuf {
    run.join(CLIENTS).join(format!("{client:04}"))
}

/// An open run folder.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    metrics: File,
    clients: File,
}

/// Where a run will be written.
///
/// # Errors
/// `out` exists and is not an empty folder.
pub fn choose(out: Option<&Path>, name: &str) -> Result<PathBuf> {
    match out {
        Some(path) => {
            refuse_occupied(path)?;
            Ok(path.to_path_buf())
        }
        None => Ok(free_name(Path::new("runs"), &format!("{name}-{}", clock::stamp()))),
    }
}

/// Refuses a path that holds something already.
///
/// # Errors
/// A [`Mistake`] naming the path.
pub fn refuse_occupied(path: &Path) -> Result<()> {
    let occupied = match fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => path.exists(),
    };
    match occupied {
        true => Err(Mistake::new(format!("{} exists and is not an empty folder", path.display()))
            .help("name another folder with --out, or remove this one first")
            .into()),
        false => Ok(()),
    }
}

/// `stem` below `parent`, numbered when two runs start in the same second.
fn free_name(parent: &Path, stem: &str) -> PathBuf {
    let first = parent.join(stem);
    let numbered = (2..).map(|n| parent.join(format!("{stem}-{n}")));
    std::iter::once(first).chain(numbered).find(|path| !path.exists()).expect("the numbers do not end")
}

impl RunFolder {
    /// Makes the folder and its first files.
    ///
    /// # Errors
    /// The system refuses a folder or a file.
    pub fn create(path: &Path, config: &str) -> Result<RunFolder> {
        fs::create_dir_all(path).with_context(|| format!("cannot make the run folder {}", path.display()))?;
        replace(&path.join(CONFIG), config.as_bytes())?;
        let append = |name: &str| -> Result<File> {
            let path = path.join(name);
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(&path)
                .with_context(|| format!("cannot write {}", path.display()))
        };
        Ok(RunFolder { metrics: append("metrics.jsonl")?, clients: append("clients.jsonl")?, path: path.to_path_buf() })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the adapter goes.
    pub fn adapter(&self) -> PathBuf {
        self.path.join(ADAPTER)
    }

    /// Where the fine-tuned model goes.
    pub fn model(&self) -> PathBuf {
        self.path.join(MODEL)
    }

    /// Appends a round's rows.
    ///
    /// # Errors
    /// The system refuses the write, such as on a full disk.
    pub fn append(&mut self, metrics: &RoundMetrics, clients: &[ClientMetrics]) -> Result<()> {
        append_rows(&mut self.clients, clients).context("cannot write clients.jsonl")?;
        append_rows(&mut self.metrics, std::slice::from_ref(metrics)).context("cannot write metrics.jsonl")
    }

    /// Replaces `summary.json`.
    ///
    /// # Errors
    /// The system refuses the write.
    pub fn write_summary(&self, summary: &Summary) -> Result<()> {
        let text = serde_json::to_string_pretty(summary).context("cannot write summary.json")?;
        replace(&self.path.join("summary.json"), format!("{text}\n").as_bytes())
    }
}

/// Appends JSON lines in one write, so that a killed run leaves whole lines.
fn append_rows<T: Serialize>(file: &mut File, rows: &[T]) -> Result<()> {
    let mut text = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut text, row)?;
        text.push(b'\n');
    }
    file.write_all(&text)?;
    Ok(file.flush()?)
}

/// Writes a file beside `path` and renames it over: readers see the old or the new one, never a part.
///
/// # Errors
/// The system refuses the write or the renaming.
pub fn replace(path: &Path, contents: &[u8]) -> Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".tmp");
    fs::write(&beside, contents)
        .and_then(|()| fs::rename(&beside, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_occupied_folder_is_refused_and_an_empty_one_taken() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(choose(Some(folder.path()), "a").is_ok());
        let file = folder.path().join("x");
        fs::write(&file, "x").expect("written");
        assert!(choose(Some(folder.path()), "a").is_err());
        assert!(choose(Some(&file), "a").is_err());
        assert!(choose(Some(&folder.path().join("new/deep")), "a").is_ok());
    }

    #[test]
    fn names_in_the_same_second_are_numbered() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("a")).expect("made");
        fs::create_dir(folder.path().join("a-2")).expect("made");
        assert_eq!(free_name(folder.path(), "a"), folder.path().join("a-3"));
    }

    #[test]
    fn replacing_leaves_nothing_beside() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("summary.json");
        replace(&path, b"1").expect("written");
        replace(&path, b"2").expect("written");
        assert_eq!(fs::read(&path).expect("read"), b"2");
        assert_eq!(fs::read_dir(folder.path()).expect("read").count(), 1);
    }
}
