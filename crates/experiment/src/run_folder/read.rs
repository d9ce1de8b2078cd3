//! Reading what a run left. What is missing or damaged is said with its file and line.

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result};
use bonfire_models::files;
use serde::de::DeserializeOwned;

use super::{names, own};

/// Bytes of a file that is read as a whole, and of a line of one that is not. Those of real runs are a hundredth.
const MOST: u64 = 256 << 20;

/// Refuses a folder in which something that a run writes is a link, a device or a pipe: a run makes files and folders alone,
/// but who packs one to give away may put in anything.
///
/// # Errors
/// The first of these, by its path.
pub fn check(run: &Path) -> Result<()> {
    for name in names::ALL {
        own::check(&run.join(name))?;
    }
    Ok(())
}

/// The bytes of a file of a run.
///
/// # Errors
/// No plain file, one that is far too long, one that cannot be read.
fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    own::read(path)?.take(MOST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST { Err(io::Error::other(format!("it has more than {MOST} bytes"))) } else { Ok(bytes) }
}

/// The text of a file that every run has.
///
/// # Errors
/// A file that cannot be read, with its path.
pub fn text(path: &Path) -> Result<String> {
    plain_text(path).with_context(|| format!("cannot read {}", path.display()))
}

fn plain_text(path: &Path) -> io::Result<String> {
    String::from_utf8(bytes(path)?).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text"))
}

/// The text of a file that a run may lack.
///
/// # Errors
/// A file that is there and cannot be read, with its path.
pub fn optional(path: &Path) -> Result<Option<String>> {
    match plain_text(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// A whole JSON file.
///
/// # Errors
/// A file that cannot be read, or is not as a run leaves it.
pub fn json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    serde_json::from_str(&text(path)?).with_context(|| format!("{} is not as a run leaves it", path.display()))
}

/// Calls `each` with every row of a JSONL file. A last line that was cut, by a run that was killed while it wrote, is left
/// out; whether there was one.
///
/// # Errors
/// A file that cannot be read, a line that is not as a run leaves it.
pub fn rows<T: DeserializeOwned>(path: &Path, mut each: impl FnMut(T)) -> Result<bool> {
    let unreadable = || format!("cannot read {}", path.display());
    let mut file = BufReader::new(own::read(path).with_context(unreadable)?);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let got = file.by_ref().take(MOST).read_until(b'\n', &mut line).with_context(unreadable)?;
        if got == 0 {
            break;
        }
        match serde_json::from_slice(&line) {
            Ok(row) => each(row),
            Err(_) if line.last() != Some(&b'\n') && (got as u64) < MOST => return Ok(true),
            Err(error) => {
                let place = format!("{}, line {number}, is not as a run leaves it", path.display());
                return Err(error).context(place);
            }
        }
    }
    Ok(false)
}

/// The bytes of a checkpoint, which may be as long as memory allows.
///
/// # Errors
/// No plain file, too little memory, one that cannot be read.
pub fn whole(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = own::read(path)?;
    let length = file.metadata()?.len();
    let mut bytes = Vec::new();
    let room = usize::try_from(length).ok().and_then(|length| bytes.try_reserve_exact(length).ok());
    room.ok_or_else(|| io::Error::other(format!("its {length} bytes do not fit into memory")))?;
    // Not a byte more than there was room for, should it grow.
    file.by_ref().take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Removes what a killed run left half-written.
pub fn sweep(run: &Path) {
    files::sweep(run);
    names::ALL.iter().for_each(|name| sweep_below(&run.join(name)));
}

fn sweep_below(folder: &Path) {
    if !fs::symlink_metadata(folder).is_ok_and(|found| found.is_dir()) {
        return;
    }
    files::sweep(folder);
    fs::read_dir(folder).into_iter().flatten().flatten().for_each(|entry| sweep_below(&entry.path()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(Vec<u32>, bool)> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, text).expect("written");
        let mut found = Vec::new();
        let cut = rows(&path, |row: Vec<u32>| found.extend(row))?;
        Ok((found, cut))
    }

    #[test]
    fn a_cut_last_line_is_left_out_and_any_other_is_named() {
        assert_eq!(read("[1]\n[2]\n").expect("fine"), (vec![1, 2], false));
        assert_eq!(read("[1]\n[2]").expect("fine"), (vec![1, 2], false));
        assert_eq!(read("[1]\n[2").expect("fine"), (vec![1], true));
        assert_eq!(read("").expect("fine"), (vec![], false));
        for text in ["[1]\n[2\n[3]\n", "[1]\nx\n"] {
            let error = read(text).expect_err("damaged").to_string();
            assert!(error.contains("metrics.jsonl, line 2"), "{error}");
        }
    }
}
