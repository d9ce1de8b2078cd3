//! Files that are there as a whole or not at all.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Replaces the file at `path`: readers see the old or the new one, never a part, also after a power cut. What could not be
/// written leaves nothing behind.
///
/// # Errors
/// The system refuses a write or the renaming, such as on a full disk; the old file is as it was.
pub fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let beside = beside(path);
    let written = File::create(&beside)
        .and_then(|mut file| file.write_all(contents).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        // The first error is the one worth telling.
        let _ = fs::remove_file(&beside);
    }
    written.and_then(|()| sync_folder(path))
}

/// Where a file is written before it takes its place.
fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(TEMPORARY);
    path.with_file_name(name)
}

/// How the names of files end that are not whole yet: a program that was killed may leave one.
pub const TEMPORARY: &str = ".tmp";

/// Brings a renaming to disk. Systems that cannot do this to a folder do it by themselves.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match cfg!(unix) {
        true => File::open(folder)?.sync_all(),
        false => Ok(()),
    }
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
