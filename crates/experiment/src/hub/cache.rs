//! A repository's folder in the cache, as the Hub's own clients lay it out: `refs/main` names a commit, `snapshots/COMMIT` has a
//! link for each file, `blobs` what the links point to, named by the Hub's tag.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use bonfire_models::files;

use super::settings;
use crate::log::note;
use crate::repo_name::{Kind, RepoName, is_plain};

/// How the name of a blob ends that is not whole.
const UNFINISHED: &str = ".incomplete";

/// Where one repository lies.
pub struct Repository {
    /// The whole cache.
    pub cache: PathBuf,
    name: String,
}

impl Repository {
    /// The place of `name`; nothing is made.
    pub fn of(name: &RepoName, kind: Kind) -> Repository {
        Repository { cache: settings::cache(), name: name.folder(kind) }
    }

    fn folder(&self) -> PathBuf {
        self.cache.join(&self.name)
    }

    /// The folder of a commit.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder().join("snapshots").join(commit)
    }

    /// The files of a revision, as far as they are here.
    pub fn cached(&self, revision: &str) -> Option<PathBuf> {
        let points_to = fs::read_to_string(self.folder().join("refs").join(revision)).ok();
        // A commit needs no reference.
        let commit = points_to.as_deref().map_or(revision, str::trim);
        let snapshot = self.snapshot(commit);
        (is_plain(commit) && snapshot.is_dir()).then_some(snapshot)
    }

    /// Lets `revision` point to `commit`.
    ///
    /// # Errors
    /// The system refuses it.
    pub fn point(&self, revision: &str, commit: &str) -> io::Result<()> {
        // A commit needs no reference.
        if revision == commit {
            return Ok(());
        }
        let file = self.folder().join("refs").join(revision);
        file.parent().map_or(Ok(()), fs::create_dir_all)?;
        files::replace(&file, commit.as_bytes())
    }

    /// What `tag`, a plain name, stands for.
    pub fn blob(&self, tag: &str) -> PathBuf {
        self.folder().join("blobs").join(tag)
    }

    /// Where the blob is written until it is whole.
    pub fn unfinished(&self, tag: &str) -> PathBuf {
        self.folder().join("blobs").join(format!("{tag}{UNFINISHED}"))
    }

    /// Gives the blob its name in the commit.
    ///
    /// # Errors
    /// The system refuses it.
    pub fn link(&self, tag: &str, commit: &str, name: &str) -> io::Result<PathBuf> {
        let (blob, file) = (self.blob(tag), self.snapshot(commit).join(name));
        file.parent().map_or(Ok(()), fs::create_dir_all)?;
        // What cannot be read there, such as a link to nothing, gives way.
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // A file in a folder lies so much deeper.
        let up = "../".repeat(2 + name.matches('/').count());
        link(&Path::new(&up).join("blobs").join(tag), &file).or_else(|_| fs::rename(&blob, &file))?;
        Ok(file)
    }

    /// Waits until no other process fetches `tag`. Where the file system knows no locks nobody is waited for.
    ///
    /// # Errors
    /// The system refuses a folder or file.
    pub fn lock(&self, tag: &str) -> io::Result<File> {
        let folder = self.cache.join(".locks").join(&self.name);
        fs::create_dir_all(&folder)?;
        let file = File::options().write(true).create(true).truncate(false).open(folder.join(format!("{tag}.lock")))?;
        let mut said = false;
        while let Err(TryLockError::WouldBlock) = file.try_lock() {
            if !said {
                note("another process is fetching the same file; waiting for it");
                said = true;
            }
            sleep(Duration::from_millis(100));
        }
        Ok(file)
    }
}

#[cfg(unix)]
fn link(to: &Path, at: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(to, at)
}

/// Links need a right that few users have; then the file lies in the commit itself.
#[cfg(windows)]
fn link(to: &Path, at: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(to, at)
}
