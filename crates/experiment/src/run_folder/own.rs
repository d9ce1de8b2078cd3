//! Opening what is in a run folder, which somebody else may have packed: plain files and folders alone, never through a link.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Refuses anything but plain files and folders at `path` and below it; that nothing is there is fine.
///
/// # Errors
/// What is no plain file and no folder, by its path.
pub fn check(path: &Path) -> Result<()> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other.with_context(|| format!("cannot read {}", path.display()))?,
    };
    if found.is_dir() {
        let entries = fs::read_dir(path).with_context(|| format!("cannot read the folder {}", path.display()))?;
        for entry in entries {
            check(&entry.with_context(|| format!("cannot read the folder {}", path.display()))?.path())?;
        }
        return Ok(());
    }
    match odd(&found) {
        Some(what) => {
            bail!("{} {what}, which no run makes; put a copy of the file in its place, or remove it", path.display())
        }
        None => Ok(()),
    }
}

/// What something is that is no plain file; `None`: it is one.
fn odd(found: &Metadata) -> Option<&'static str> {
    match () {
        () if found.is_symlink() => Some("is a link"),
        () if !found.is_file() => Some("is no plain file"),
        () => None,
    }
}

/// Opens a plain file to be read.
///
/// # Errors
/// As the system says; a link, a folder, a pipe, a device.
pub fn read(path: &Path) -> io::Result<File> {
    open(path, OpenOptions::new().read(true), &fs::symlink_metadata(path)?)
}

/// Opens a plain file to be written as `options` say, and makes it if there is none.
///
/// # Errors
/// As [`read`].
pub fn write(path: &Path, options: &OpenOptions) -> io::Result<File> {
    match fs::symlink_metadata(path) {
        Ok(found) => open(path, options, &found),
        // Where something comes in between, a link above all, the system refuses.
        Err(error) if error.kind() == ErrorKind::NotFound => options.clone().create_new(true).open(path),
        Err(error) => Err(error),
    }
}

fn open(path: &Path, options: &OpenOptions, found: &Metadata) -> io::Result<File> {
    if let Some(what) = odd(found) {
        return Err(io::Error::new(ErrorKind::InvalidInput, format!("it {what}")));
    }
    let file = options.open(path)?;
    // A link may have come in between.
    if is_same(&file.metadata()?, found) {
        Ok(file)
    } else {
        Err(io::Error::other("it was replaced while it was opened"))
    }
}

/// Makes a folder, and says if there is something else of its name.
///
/// # Errors
/// As the system says; a link or a file of that name.
pub fn folder(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            if fs::symlink_metadata(path)?.is_dir() {
                Ok(())
            } else {
                Err(io::Error::new(ErrorKind::InvalidInput, "a link or a file is in the way"))
            }
        }
        other => other,
    }
}

/// Whether `path` is still the file that is open as `file`: not renamed, deleted, or replaced.
pub fn is_still(file: &File, path: &Path) -> bool {
    let found = file.metadata().and_then(|open| Ok((open, fs::symlink_metadata(path)?)));
    found.is_ok_and(|(open, found)| is_same(&open, &found))
}

#[cfg(unix)]
fn is_same(a: &Metadata, b: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// Here an open file can be neither deleted nor replaced.
#[cfg(not(unix))]
fn is_same(_: &Metadata, b: &Metadata) -> bool {
    b.is_file()
}

#[cfg(all(test, unix))]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_pipes_and_devices_are_not_opened() {
        let room = tempfile::tempdir().expect("a folder");
        let at = |name: &str| room.path().join(name);
        fs::write(at("victim"), "mine").expect("written");
        symlink(at("victim"), at("link")).expect("linked");
        symlink("nowhere", at("dangling")).expect("linked");
        symlink(room.path(), at("folder")).expect("linked");
        let mut append = OpenOptions::new();
        append.append(true);
        for name in ["link", "dangling", "folder"] {
            assert_eq!(read(&at(name)).expect_err(name).to_string(), "it is a link");
            assert_eq!(write(&at(name), &append).expect_err(name).to_string(), "it is a link");
            let error = check(&at(name)).expect_err(name).to_string();
            assert!(error.contains(name) && error.contains("is a link"), "{error}");
        }
        assert!(folder(&at("folder")).is_err() && folder(&at("link")).is_err());
        for odd in ["/dev/zero", "/dev"] {
            assert!(read(Path::new(odd)).is_err(), "{odd}");
        }
        assert!(check(Path::new("/dev/zero")).is_err());
        assert!(check(room.path()).is_err(), "links below are found");
        check(&at("nothing")).expect("nothing is fine");
        let mut file = write(&at("rows"), &append).expect("made");
        file.write_all(b"1").expect("written");
        write(&at("rows"), &append).expect("opened").write_all(b"2").expect("written");
        assert_eq!(fs::read_to_string(at("rows")).expect("there"), "12");
        assert_eq!(fs::read_to_string(at("victim")).expect("there"), "mine");
        folder(&at("new")).expect("made");
        folder(&at("new")).expect("there");
    }

    #[test]
    fn a_file_that_was_deleted_or_replaced_is_noticed() {
        let room = tempfile::tempdir().expect("a folder");
        let path = room.path().join("rows");
        let file = File::create(&path).expect("made");
        assert!(is_still(&file, &path));
        fs::remove_file(&path).expect("removed");
        assert!(!is_still(&file, &path));
        let _other = File::create(&path).expect("made");
        assert!(!is_still(&file, &path));
    }
}
