//! The run folder: written as the run goes, readable whenever the run ends.
//! Rows are appended and flushed round by round; whole files are written beside and renamed.

mod lock;
mod names;
pub(crate) mod own;
pub mod read;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bonfire_federation::{ClientMetrics, RoundMetrics, Summary};
use bonfire_models::files;
use serde::Serialize;

use crate::clock;
use crate::user_error::UserError;
pub use lock::Lock;
use names::LOCK;
pub use names::{
    ADAPTER, BEST_ADAPTER, BEST_CLIENTS, BEST_MODEL, CHECKPOINTS, CLASSES, CLIENTS, CONFIG, CSV, LABELS, LOG, METRICS,
    MLFLOW, MODEL, PARTITION, ROWS_OF_CLIENTS, SUMMARY, TENSORBOARD, TRACKIO, WANDB,
};

/// What a run's configuration begins with: the directory from which its relative paths hold.
const BEGAN_IN: &str = "# Relative paths hold from ";

/// The text of a run's [`CONFIG`]: `config` after a line that says from where relative paths hold, which is the current directory
/// unless `before`, the file as it was, says otherwise.
pub fn config_text(config: &str, before: Option<&str>) -> String {
    match before.and_then(began_in).or_else(|| std::env::current_dir().ok()) {
        Some(folder) if !folder.to_string_lossy().contains(char::is_control) => {
            format!("{BEGAN_IN}{}\n{config}", folder.display())
        }
        _ => config.to_string(),
    }
}

/// Where the run began whose [`CONFIG`] this is.
pub fn began_in(config: &str) -> Option<PathBuf> {
    let folder = PathBuf::from(config.lines().next()?.strip_prefix(BEGAN_IN)?);
    folder.is_absolute().then_some(folder)
}

/// The folder of a client's own adapter.
pub fn client_folder(run: &Path, clients: &str, client: usize) -> PathBuf {
    run.join(clients).join(format!("{client:04}"))
}

/// An open run folder. No other process can open it for writing while this one has it.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    metrics: File,
    clients: File,
    lock: Lock,
}

/// Bytes of the files that rows are appended to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// Of `metrics.jsonl`.
    pub metrics: u64,
    /// Of `clients.jsonl`.
    pub clients: u64,
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
/// A [`UserError`] naming the path.
pub fn refuse_occupied(path: &Path) -> Result<()> {
    if holds_something(path) {
        Err(UserError::new(format!("{} exists and is not an empty folder", path.display()))
            .help("name another folder with --out, or remove this one first")
            .into())
    } else {
        Ok(())
    }
}

/// Whether there is anything at `path` but an empty folder. What a process that was killed leaves before it has written its
/// first file does not count.
pub fn holds_something(path: &Path) -> bool {
    let counts = |entry: std::io::Result<fs::DirEntry>| {
        entry.is_ok_and(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name != LOCK && !files::is_left_over(&name)
        })
    };
    match fs::read_dir(path) {
        Ok(mut entries) => entries.any(counts),
        Err(_) => path.exists(),
    }
}

/// `stem` below `parent`, numbered when two runs start in the same second.
fn free_name(parent: &Path, stem: &str) -> PathBuf {
    let first = parent.join(stem);
    let numbered = (2..).map(|n| parent.join(format!("{stem}-{n}")));
    std::iter::once(first).chain(numbered).find(|path| !path.exists()).expect("the numbers do not end")
}

/// Removes what a run leaves from `path`, and the folder where nothing else is in it; what the system refuses stays.
pub fn clear(path: &Path) {
    for own in names::ALL.into_iter().map(|name| path.join(name)) {
        let _ = if own.is_dir() { fs::remove_dir_all(own) } else { fs::remove_file(own) };
    }
    let _ = fs::remove_dir(path);
}

impl RunFolder {
    /// Makes the folder and its first files.
    ///
    /// # Errors
    /// The folder holds something, another process is writing it, or the system refuses a folder or a file.
    pub fn create(path: &Path, config: &str) -> Result<RunFolder> {
        fs::create_dir_all(path).with_context(|| format!("cannot make the run folder {}", path.display()))?;
        let lock = Lock::take(path)?;
        refuse_occupied(path)?;
        replace(&path.join(CONFIG), config_text(config, None).as_bytes())?;
        RunFolder::with(path, lock)
    }

    /// Opens the folder of a run that goes on, whose lock is `lock`.
    ///
    /// # Errors
    /// The system refuses a file.
    pub fn with(path: &Path, lock: Lock) -> Result<RunFolder> {
        let append = |name: &str| -> Result<File> {
            let path = path.join(name);
            let opened = own::write(&path, OpenOptions::new().append(true));
            opened.with_context(|| format!("cannot write {}", path.display()))
        };
        // The lock says that nobody is writing there.
        read::sweep(path);
        let (metrics, clients) = (append(METRICS)?, append(ROWS_OF_CLIENTS)?);
        Ok(RunFolder { metrics, clients, path: path.to_path_buf(), lock })
    }

    /// Bytes written to the files of rows so far; they are on the disk when this returns.
    ///
    /// # Errors
    /// The system cannot say.
    pub fn lengths(&self) -> Result<Lengths> {
        let length = |file: &File, name| -> Result<u64> {
            file.sync_data().and_then(|()| Ok(file.metadata()?.len())).with_context(|| self.cannot_write(name))
        };
        Ok(Lengths { metrics: length(&self.metrics, METRICS)?, clients: length(&self.clients, ROWS_OF_CLIENTS)? })
    }

    /// Takes back the rows after `lengths`: those of rounds that a run will do again.
    ///
    /// # Errors
    /// A file is shorter than that, or the system refuses.
    pub fn cut(&self, lengths: Lengths) -> Result<()> {
        let pairs = [(&self.metrics, METRICS, lengths.metrics), (&self.clients, ROWS_OF_CLIENTS, lengths.clients)];
        for (file, name, length) in pairs {
            let found = file.metadata().with_context(|| self.cannot_write(name))?.len();
            let path = self.path.join(name);
            anyhow::ensure!(
                found >= length,
                "{} has {found} bytes, but had {length} when the run was saved: rows are missing",
                path.display()
            );
            file.set_len(length).with_context(|| self.cannot_write(name))?;
        }
        Ok(())
    }

    /// The rounds that `metrics.jsonl` tells of.
    ///
    /// # Errors
    /// The file cannot be read, or a line of it, which is named.
    pub fn rounds(&self) -> Result<Vec<RoundMetrics>> {
        let path = self.path.join(METRICS);
        let mut all = Vec::new();
        let cut = read::rows(&path, |row| all.push(row))?;
        anyhow::ensure!(!cut, "the last line of {} is cut", path.display());
        Ok(all)
    }

    /// Whether the folder is still the one that this run writes: it may have been renamed, deleted or replaced, by another
    /// process or by hand.
    ///
    /// # Errors
    /// What is not there any more.
    pub fn check_there(&self) -> Result<()> {
        let open = [(&self.metrics, METRICS), (&self.clients, ROWS_OF_CLIENTS), (self.lock.file(), LOCK)];
        let gone =
            open.into_iter().find(|(file, name)| !own::is_still(file, &self.path.join(name))).map(|(_, name)| name);
        // It is not kept open, but nothing goes on without it.
        let gone = gone.or_else(|| fs::symlink_metadata(self.path.join(CONFIG)).is_err().then_some(CONFIG));
        match gone {
            None => Ok(()),
            Some(name) => anyhow::bail!(
                "{} was deleted, renamed or replaced while the run went on",
                self.path.join(name).display()
            ),
        }
    }

    fn cannot_write(&self, name: &str) -> String {
        format!("cannot write {}", self.path.join(name).display())
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the adapter goes.
    pub fn adapter(&self) -> PathBuf {
        self.path.join(ADAPTER)
    }

    /// Where the adapter of the best round goes.
    pub fn best_adapter(&self) -> PathBuf {
        self.path.join(BEST_ADAPTER)
    }

    /// Where the model of the best round goes.
    pub fn best_model(&self) -> PathBuf {
        self.path.join(BEST_MODEL)
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
        append_rows(&mut self.clients, clients).with_context(|| self.cannot_write(ROWS_OF_CLIENTS))?;
        append_rows(&mut self.metrics, std::slice::from_ref(metrics)).with_context(|| self.cannot_write(METRICS))
    }

    /// Replaces `summary.json`.
    ///
    /// # Errors
    /// The system refuses the write.
    pub fn write_summary(&self, summary: &Summary) -> Result<()> {
        let text = serde_json::to_string_pretty(summary).context("cannot write summary.json")?;
        replace(&self.path.join(SUMMARY), format!("{text}\n").as_bytes())
    }
}

/// Appends JSON lines in one write. A kill in its middle, or a full disk, can leave a line that is cut; who reads them knows.
fn append_rows<T: Serialize>(file: &mut File, rows: &[T]) -> Result<()> {
    let mut text = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut text, row)?;
        text.push(b'\n');
    }
    file.write_all(&text)?;
    Ok(file.flush()?)
}

/// Replaces a file as a whole: readers see the old or the new one, never a part.
///
/// # Errors
/// The system refuses the write or the renaming.
pub fn replace(path: &Path, contents: &[u8]) -> Result<()> {
    files::replace(path, contents).with_context(|| format!("cannot write {}", path.display()))
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
    fn a_runs_configuration_says_where_it_began() {
        let here = std::env::current_dir().expect("a directory");
        let first = config_text("name = \"a\"\n", None);
        assert_eq!(began_in(&first), Some(here));
        assert!(first.ends_with("\nname = \"a\"\n"), "{first}");
        let moved = first.replace(&first.lines().next().expect("a line")[BEGAN_IN.len()..], "/elsewhere");
        let again = config_text("name = \"b\"\n", Some(&moved));
        assert_eq!(began_in(&again), Some(PathBuf::from("/elsewhere")));
        assert_eq!(began_in("name = \"a\""), None);
    }

    #[test]
    fn names_in_the_same_second_are_numbered() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("a")).expect("made");
        fs::create_dir(folder.path().join("a-2")).expect("made");
        assert_eq!(free_name(folder.path(), "a"), folder.path().join("a-3"));
    }
}
