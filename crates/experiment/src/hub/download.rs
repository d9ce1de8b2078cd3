//! One file of a commit: asked about, fetched beside, checked while it comes, and only then named.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use sha2::{Digest, Sha256};

use super::cache::Repository;
use super::web::{Answer, Follow, LEAST, Trouble, Web};
use crate::repo_name::{is_file_path, is_plain, shown};
use crate::watch::Watch;

/// What the Hub says of a file before it sends it.
struct Told {
    /// A plain name for its contents.
    tag: String,
    /// `None`: the answer with the contents says it.
    size: Option<u64>,
}

impl Told {
    /// The SHA-256 that the contents must have: the tag of what the Hub keeps as a large file.
    fn sha256(&self) -> Option<&str> {
        let hex = self.tag.len() == 64 && self.tag.bytes().all(|b| b.is_ascii_hexdigit());
        hex.then_some(self.tag.as_str())
    }
}

/// Fetches `name`, which `path` is the address of below the endpoint, into the commit's folder; `watch` hears how far it is.
///
/// # Errors
/// No answer, one that is not believed, a connection that breaks, a disk that cannot be written. What is not whole gets no
/// name; what a checksum vouches for is gone on with the next time.
pub fn fetch(
    web: &Web,
    at: &Repository,
    commit: &str,
    name: &str,
    path: &str,
    watch: &mut dyn Watch,
) -> Result<PathBuf, Trouble> {
    if !is_file_path(name) {
        return Err(Trouble::Refused(format!("{} is no plain name of a file", shown(name))));
    }
    let told = ask(web, commit, path)?;
    let disk = |what: &Path| format!("cannot write {}", what.display());
    let blob = at.blob(&told.tag);
    let folder = blob.parent().unwrap_or(&at.cache);
    fs::create_dir_all(folder).with_context(|| disk(folder)).map_err(Trouble::Disk)?;
    let _lock = at.lock(&told.tag).with_context(|| disk(&at.cache)).map_err(Trouble::Disk)?;
    // Another process, or another name of the same contents, may have brought it.
    if !fs::metadata(&blob).is_ok_and(|file| file.is_file() && told.size.is_none_or(|size| size == file.len())) {
        let unfinished = at.unfinished(&told.tag);
        let brought = bring(web, &told, path, &unfinished, &mut |done, size| watch.fetching(name, done, size));
        watch.fetched();
        brought?;
        fs::rename(&unfinished, &blob).with_context(|| disk(&blob)).map_err(Trouble::Disk)?;
    }
    at.link(&told.tag, commit, name).with_context(|| disk(&at.snapshot(commit))).map_err(Trouble::Disk)
}

/// What a file is called by its contents, and how large it is.
fn ask(web: &Web, commit: &str, path: &str) -> Result<Told, Trouble> {
    let answer = web.ask(true, path, 0, Follow::Own)?;
    if let Some(other) = answer.header("x-repo-commit")?.filter(|other| *other != commit) {
        return Err(Trouble::Refused(format!("the answer is of commit {}, not of {commit}", shown(other))));
    }
    let tag = match answer.header("x-linked-etag")? {
        Some(tag) => tag,
        None => answer.header("etag")?.ok_or_else(|| Trouble::Refused("the answer has no etag".into()))?,
    };
    let plain = tag.trim().trim_start_matches("W/").trim_matches('"');
    if !is_plain(plain) {
        return Err(Trouble::Refused(format!("its etag is {}, which cannot name a file", shown(tag))));
    }
    // The length of a redirect is not the file's.
    let own = |answer: &Answer| {
        if answer.response.status().is_redirection() { Ok(None) } else { answer.number("content-length") }
    };
    let size = match answer.number("x-linked-size")? {
        Some(size) => Some(size),
        None => own(&answer)?,
    };
    Ok(Told { tag: plain.to_owned(), size })
}

/// Brings the contents into `file`, going on with what is there where a checksum will tell whether it was right.
fn bring(web: &Web, told: &Told, path: &str, file: &Path, on_bytes: &mut dyn FnMut(u64, u64)) -> Result<(), Trouble> {
    let disk = |error: std::io::Error| {
        Trouble::Disk(anyhow::Error::new(error).context(format!("cannot write {}", file.display())))
    };
    let there = fs::symlink_metadata(file).ok().filter(|there| there.is_file()).map_or(0, |there| there.len());
    let fits = told.sha256().is_some() && told.size.is_some_and(|size| there <= size);
    let mut from = if fits { there } else { 0 };
    let whole = fits && told.size == Some(there) && there > 0;
    if from == 0 {
        // A link there would be followed.
        let gone = fs::remove_file(file);
        gone.or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) }).map_err(disk)?;
    }
    let mut hash = Sha256::new();
    if from > 0 {
        add(&mut hash, file).map_err(disk)?;
    }
    let mut out = File::options().append(true).create(true).open(file).map_err(disk)?;
    if !whole {
        let answer = match web.ask(false, path, from, Follow::All) {
            // What is there is not of this file.
            Err(Trouble::Status(416)) if from > 0 => web.ask(false, path, 0, Follow::All)?,
            other => other?,
        };
        let (begins, size) = span(&answer, told.size)?;
        if begins != from {
            if begins != 0 {
                return Err(Trouble::Refused(format!(
                    "bytes from {from} on were asked for, bytes from {begins} on came"
                )));
            }
            (from, hash) = (0, Sha256::new());
            out.set_len(0).map_err(disk)?;
        }
        let mut pour = Pour { from, size, patience: web.patience, on_bytes, file };
        let poured = pour.run(answer.response.into_body().into_reader(), &mut out, &mut hash);
        if matches!(poured, Err(Trouble::Refused(_))) || (poured.is_err() && told.sha256().is_none()) {
            let _ = fs::remove_file(file);
        }
        poured?;
    }
    let found = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    match told.sha256() {
        Some(right) if !right.eq_ignore_ascii_case(&found) => {
            let _ = fs::remove_file(file);
            Err(Trouble::Refused(format!("it came with the SHA-256 {found}, the Hub tells of {right}; try again")))
        }
        _ => out.sync_all().map_err(disk),
    }
}

/// Adds what is there already to the checksum.
fn add(hash: &mut Sha256, file: &Path) -> std::io::Result<()> {
    let (mut file, mut part) = (File::open(file)?, vec![0; 1 << 16]);
    loop {
        match file.read(&mut part)? {
            0 => return Ok(()),
            got => hash.update(&part[..got]),
        }
    }
}

/// Where the bytes of an answer begin in the file, and how large the file is.
fn span(answer: &Answer, told: Option<u64>) -> Result<(u64, u64), Trouble> {
    let length = answer.number("content-length")?;
    let (begins, size): (u64, Option<u64>) = match answer.header("content-range")? {
        None => (0, length.or(told)),
        Some(range) => {
            let odd = || Trouble::Refused(format!("its content-range is {}", shown(range)));
            let (span, size) = range.strip_prefix("bytes ").and_then(|rest| rest.split_once('/')).ok_or_else(odd)?;
            let begins = span.split_once('-').and_then(|(first, _)| first.parse().ok()).ok_or_else(odd)?;
            (begins, Some(size.parse().map_err(|_| odd())?))
        }
    };
    let size = size.ok_or_else(|| Trouble::Refused("the answer does not say how large it is".into()))?;
    if let Some(told) = told.filter(|told| *told != size) {
        return Err(Trouble::Refused(format!("the Hub tells of {told} bytes, and then of {size}")));
    }
    match length.filter(|length| begins.checked_add(*length) != Some(size)) {
        Some(length) => {
            Err(Trouble::Refused(format!("{length} bytes from {begins} on are not the rest of {size} bytes")))
        }
        None => Ok((begins, size)),
    }
}

/// Contents on their way to the disk.
struct Pour<'f> {
    from: u64,
    size: u64,
    patience: Duration,
    /// Hears how many bytes are there, and how many there will be.
    on_bytes: &'f mut dyn FnMut(u64, u64),
    file: &'f Path,
}

impl Pour<'_> {
    /// Takes bytes until the announced size is there: no more, and none that come too slowly.
    fn run(&mut self, mut body: impl Read, out: &mut File, hash: &mut Sha256) -> Result<(), Trouble> {
        let mut buffer = vec![0; 1 << 16];
        let (mut at, mut since, mut lately) = (self.from, Instant::now(), 0);
        (self.on_bytes)(at, self.size);
        loop {
            let left = self.size - at;
            // One byte more than there should be shows that there is more.
            let most = usize::try_from(left.saturating_add(1)).unwrap_or(usize::MAX).min(buffer.len());
            let got = match body.read(&mut buffer[..most]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other.map_err(|error| self.broken(at, &error.to_string()))?,
            };
            if got as u64 > left {
                return Err(Trouble::Refused(format!("more than the {} bytes came that it has", self.size)));
            }
            if got == 0 {
                break;
            }
            out.write_all(&buffer[..got]).map_err(|error| {
                Trouble::Disk(anyhow!(error).context(format!("cannot write {}", self.file.display())))
            })?;
            hash.update(&buffer[..got]);
            at += got as u64;
            (self.on_bytes)(at, self.size);
            lately += got as u64;
            if since.elapsed() >= self.patience {
                if lately < LEAST && at < self.size {
                    let words = format!("{lately} bytes in {} s are too slow", since.elapsed().as_secs());
                    return Err(self.broken(at, &words));
                }
                (since, lately) = (Instant::now(), 0);
            }
        }
        if at == self.size { Ok(()) } else { Err(self.broken(at, "the connection ended")) }
    }

    fn broken(&self, at: u64, why: &str) -> Trouble {
        Trouble::Broken(format!("it came with {at} of {} bytes ({why}); try again", self.size))
    }
}
