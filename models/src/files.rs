//! Writing files so that a reader finds the old one or the new one, never a part.

use std::collections::hash_map::RandomState;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Replaces the file at `path`: readers see the old or the new one, never a part, also after a power cut. What could not be
/// written leaves nothing behind. A link at `path` is replaced, not followed.
///
/// # Errors
/// The system refuses a write or the renaming, such as on a full disk; the old file is as it was.
pub fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    replace_by(File::options().write(true).create_new(true), path, contents)
}

/// The same for what nobody but the user may read, from the first byte on.
///
/// # Errors
/// As there.
pub fn replace_secret(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut options = File::options();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    replace_by(options.write(true).create_new(true), path, contents)
}

fn replace_by(options: &OpenOptions, path: &Path, contents: &[u8]) -> io::Result<()> {
    let beside = beside(path);
    let written = options
        .open(&beside)
        .and_then(|mut file| file.write_all(contents).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&beside, path));
    if written.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::AlreadyExists) {
        // The first error is the one worth telling.
        let _ = fs::remove_file(&beside);
    }
    written.and_then(|()| sync_folder(path))
}

/// Where a file is written before it takes its place: a name that nobody can foresee, so that nobody can put a link there.
fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    // The system's randomness, as hash maps use it.
    name.push(format!(".{:016x}{TEMPORARY}", RandomState::new().build_hasher().finish()));
    path.with_file_name(name)
}

/// How the names of files end that are not whole yet: a program that was killed may leave one.
pub const TEMPORARY: &str = ".tmp";

/// Whether a file of this name is what a killed program may leave beside what it was writing.
pub fn is_left_over(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(TEMPORARY)
}

/// Removes what killed programs left in `folder`, which nobody else may be writing to. What cannot be removed stays.
pub fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if is_left_over(&entry.file_name().to_string_lossy()) {
            // A link goes, not what it points to; a folder stays.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Brings a renaming to disk. Systems that cannot do this to a folder do it by themselves.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacing_leaves_nothing_beside() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("summary.json");
        replace(&path, b"1").expect("written");
        replace(&path, b"2").expect("written");
        assert_eq!(fs::read(&path).expect("read"), b"2");
        assert_eq!(fs::read_dir(folder.path()).expect("read").count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_replaced_and_what_is_left_over_is_swept() {
        let folder = tempfile::tempdir().expect("a folder");
        let (victim, path) = (folder.path().join("victim"), folder.path().join("summary.json"));
        fs::write(&victim, "mine").expect("written");
        for link in [&path, &folder.path().join(".summary.json.tmp")] {
            std::os::unix::fs::symlink(&victim, link).expect("linked");
        }
        replace(&path, b"1").expect("written");
        sweep(folder.path());
        assert_eq!(fs::read(&victim).expect("read"), b"mine");
        let mut names: Vec<_> = fs::read_dir(folder.path()).expect("read").flatten().map(|e| e.file_name()).collect();
        names.sort();
        assert_eq!(names, ["summary.json", "victim"]);
        assert_ne!(beside(&path), beside(&path));
    }

    #[test]
    fn what_cannot_be_written_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("taken");
        fs::create_dir(&path).expect("made");
        fs::write(path.join("x"), "x").expect("written");
        // A folder that is not empty cannot be renamed over.
        replace(&path, b"1").expect_err("a folder is in the way");
        assert_eq!(fs::read_dir(folder.path()).expect("read").count(), 1);
        assert!(path.join("x").exists());
    }
}
