//! Which files of a folder hold which split.
//!
//! A split has its usual names, in one file (`train.jsonl`), in numbered parts (`train-00000-of-00002.parquet`) or in a folder
//! of its own (`train/0000.parquet`), in the folder itself or in the one folder below it that has any.

use std::fs;
use std::path::{Path, PathBuf};

use super::place::listed;
use super::read::Reading;
use super::records::{Format, KINDS};
use crate::DataError;

/// The files of each split; no file where there is none.
#[derive(Debug, Default)]
pub(super) struct Splits {
    pub train: Vec<PathBuf>,
    pub validation: Vec<PathBuf>,
    pub test: Vec<PathBuf>,
    /// Where a file with the labels' names may lie.
    pub folders: Vec<PathBuf>,
}

/// A split with what its files are called.
const NAMES: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "val", "dev", "devel", "eval", "validation_matched", "dev_matched"]),
    ("test", &["test", "testing", "test_matched"]),
];

/// The split that a file or folder of this name belongs to.
fn split_of(name: &str) -> Option<&'static str> {
    NAMES.iter().find(|(_, names)| names.iter().any(|of| name.eq_ignore_ascii_case(of))).map(|(split, _)| *split)
}

/// How a file says which split it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SplitFile {
    /// By its own name.
    ByName,
    /// By that of its folder.
    ByFolder,
}

/// Whether a file of this name, in a folder of that name, holds rows of a split, and by which of both.
pub fn split_of_file(name: &str, folder: &str) -> Option<SplitFile> {
    let (_, stem) = Format::of(name)?;
    match (split_of(parted(stem).0), split_of(folder)) {
        (Some(_), _) => Some(SplitFile::ByName),
        (None, Some(_)) if holds_rows(name) => Some(SplitFile::ByFolder),
        _ => None,
    }
}

impl Splits {
    /// Finds the files that `path`, a folder or a file, stands for.
    pub fn find(path: &Path, reading: &Reading, notes: &mut Vec<String>) -> Result<Splits, DataError> {
        let mut found = match (path.is_dir(), path.is_file()) {
            (true, _) => Splits::of_folder(path, notes)?,
            (_, true) => {
                // Before anything is asked of what is to be in it.
                if Format::of_file(path).is_none() {
                    return Err(DataError::NotRows { path: path.to_path_buf(), kinds: KINDS });
                }
                Splits { train: vec![path.to_path_buf()], folders: vec![folder_of(path)], ..Splits::default() }
            }
            _ => return Err(DataError::FolderMissing { path: path.to_path_buf() }),
        };
        let root = if path.is_dir() { path.to_path_buf() } else { folder_of(path) };
        for (name, key) in [("train", &reading.train), ("validation", &reading.validation), ("test", &reading.test)] {
            if let Some(named) = key {
                let files = named_files(&root, found.folders.last().unwrap_or(&root), name, named)?;
                *found.split(name) = files;
            }
        }
        Ok(found)
    }

    fn split(&mut self, name: &str) -> &mut Vec<PathBuf> {
        match name {
            "train" => &mut self.train,
            "validation" => &mut self.validation,
            _ => &mut self.test,
        }
    }

    fn of_folder(path: &Path, notes: &mut Vec<String>) -> Result<Splits, DataError> {
        let own = Splits::directly_in(path)?;
        if !own.is_empty() {
            return Ok(own);
        }
        let mut below = Vec::new();
        for (name, folder) in entries(path)?.into_iter().filter(|(_, path)| path.is_dir()) {
            let inner = Splits::directly_in(&folder)?;
            if !inner.is_empty() {
                below.push((name, inner));
            }
        }
        match below.len() {
            0 => Splits::only_file(path, notes),
            1 => {
                let (name, mut inner) = below.remove(0);
                if name != "data" {
                    notes.push(format!("{}: reading its folder {name}", path.display()));
                }
                inner.folders.insert(0, path.to_path_buf());
                Ok(inner)
            }
            _ => Err(DataError::Configurations {
                folder: path.to_path_buf(),
                names: listed(below.iter().map(|(name, _)| name.as_str())),
                first: below[0].0.clone(),
            }),
        }
    }

    /// A folder with one file of rows, whatever that is called.
    fn only_file(path: &Path, notes: &mut Vec<String>) -> Result<Splits, DataError> {
        let mut splits = Splits { folders: vec![path.to_path_buf()], ..Splits::default() };
        let rows: Vec<_> =
            entries(path)?.into_iter().filter(|(name, path)| path.is_file() && holds_rows(name)).collect();
        if let [(name, file)] = rows.as_slice() {
            notes.push(format!("{}: {name} is the only file of rows and holds the training rows", path.display()));
            splits.train.push(file.clone());
        }
        Ok(splits)
    }

    /// What lies in the folder itself, and in folders that are called like a split.
    fn directly_in(folder: &Path) -> Result<Splits, DataError> {
        let mut splits = Splits { folders: vec![folder.to_path_buf()], ..Splits::default() };
        // What each split's first file is called without its part's number.
        let mut set: Vec<(&str, String)> = Vec::new();
        for (name, path) in entries(folder)? {
            let is_folder = path.is_dir();
            let (stem, part) = match (is_folder, Format::of(&name)) {
                (true, _) => (name.as_str(), None),
                (false, Some((_, stem))) => parted(stem),
                (false, None) => continue,
            };
            let Some(split) = split_of(stem) else { continue };
            let mut inner = Vec::new();
            if is_folder {
                inner = files_in(&path)?;
                if inner.is_empty() {
                    continue;
                }
            }
            let called = match part {
                Some((_, of)) => format!("{}-…-of-{of:05}", stem),
                None => name.clone(),
            };
            match set.iter().find(|(of, _)| *of == split) {
                Some((_, first)) if *first != called => {
                    return Err(DataError::FileAmbiguous {
                        folder: folder.to_path_buf(),
                        first: first.clone(),
                        second: called,
                        split,
                    });
                }
                Some(_) => {}
                None => set.push((split, called)),
            }
            let files = splits.split(split);
            if is_folder {
                files.extend(inner)
            } else {
                files.push(path)
            }
            let count = files.len();
            if let Some((number, _)) = part
                && number + 1 != count
            {
                return Err(part_missing(folder, &name, count - 1));
            }
        }
        splits.check_parts(folder)?;
        Ok(splits)
    }

    /// Refuses splits whose last parts are not there.
    fn check_parts(&self, folder: &Path) -> Result<(), DataError> {
        for files in [&self.train, &self.validation, &self.test] {
            let Some(name) = files.last().and_then(|path| path.file_name()?.to_str()) else { continue };
            let Some((_, stem)) = Format::of(name) else { continue };
            if let (_, Some((number, of))) = parted(stem)
                && number + 1 < of
            {
                return Err(part_missing(folder, name, number + 1));
            }
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.train.is_empty() && self.validation.is_empty() && self.test.is_empty()
    }
}

/// Whether a file's name is one of rows: labels have names of their own.
fn holds_rows(name: &str) -> bool {
    const OTHERS: [&str; 7] = ["labels", "dataset_infos", "dataset_info", "state", "config", "readme", "requirements"];
    Format::of(name).is_some_and(|(_, stem)| !OTHERS.iter().any(|other| stem.eq_ignore_ascii_case(other)))
}

/// `train-00000-of-00002` as `train` and its number and count; older files have a checksum behind.
fn parted(stem: &str) -> (&str, Option<(usize, usize)>) {
    let parts = || {
        let (rest, of) = stem.rsplit_once("-of-")?;
        let (name, number) = rest.rsplit_once('-')?;
        let of = of.split_once('-').map_or(of, |(of, _)| of);
        Some((name, (number.parse().ok()?, of.parse().ok()?)))
    };
    parts().map_or((stem, None), |(name, part)| (name, Some(part)))
}

/// What to say of the part of this number, of which another is called `name`.
fn part_missing(folder: &Path, name: &str, number: usize) -> DataError {
    let stem = Format::of(name).map_or(name, |(_, stem)| stem);
    let (split, _) = parted(stem);
    let of = stem.rsplit_once("-of-").map_or("", |(_, of)| of);
    let of = of.split_once('-').map_or(of, |(of, _)| of);
    // With leading zeros where its count has them.
    let width = if of.starts_with('0') { of.len() } else { 1 };
    DataError::PartMissing { folder: folder.to_path_buf(), name: format!("{split}-{number:0width$}-of-{of}") }
}

/// By what files of a folder are sorted: by name, and parts by their numbers, which may have no leading zeros.
fn order(name: &str) -> (&str, usize) {
    match Format::of(name).map(|(_, stem)| parted(stem)) {
        // With the dash, other files stand where their names have them.
        Some((stem, Some((number, _)))) => (&name[..=stem.len()], number),
        _ => (name, 0),
    }
}

/// Everything in a folder by name, parts by number, hidden files left out.
fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>, DataError> {
    let unreadable = |source| DataError::Read { path: folder.to_path_buf(), source };
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            all.push((name, entry.path()));
        }
    }
    all.sort_by(|(a, _), (b, _)| (order(a), a).cmp(&(order(b), b)));
    Ok(all)
}

/// The files of rows in a folder, by name.
fn files_in(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let files = entries(folder)?.into_iter().filter(|(name, path)| path.is_file() && holds_rows(name));
    Ok(files.map(|(_, path)| path).collect())
}

/// What lies in a folder, in words.
pub(super) fn contents(folder: &Path) -> String {
    let all = entries(folder).unwrap_or_default();
    let names: Vec<String> =
        all.into_iter().map(|(name, path)| if path.is_dir() { format!("{name}/") } else { name }).collect();
    if names.is_empty() { "nothing".to_owned() } else { listed(names.iter().map(String::as_str)) }
}

/// The files that a user named for a split: a file or folder relative to `root`, or how the files of a split there begin.
fn named_files(root: &Path, inner: &Path, split: &'static str, named: &str) -> Result<Vec<PathBuf>, DataError> {
    for folder in [root, inner] {
        let path = folder.join(named);
        if path.is_file() {
            return Ok(vec![path]);
        }
        if path.is_dir() {
            let files = files_in(&path)?;
            if !files.is_empty() {
                return Ok(files);
            }
        }
        let is_named = |name: &str| Format::of(name).is_some_and(|(_, stem)| parted(stem).0 == named);
        let files: Vec<_> =
            entries(folder)?.into_iter().filter(|(name, path)| path.is_file() && is_named(name)).collect();
        if !files.is_empty() {
            return Ok(files.into_iter().map(|(_, path)| path).collect());
        }
    }
    Err(DataError::SplitNamed { split, named: named.to_owned(), folder: inner.to_path_buf(), there: contents(inner) })
}

fn folder_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// What to say where no file of a split is there.
pub(super) fn missing(folder: &Path, inner: &Path, split: &'static str) -> DataError {
    if folder.is_file() {
        return DataError::FileAlone { path: folder.to_path_buf(), split };
    }
    DataError::FileMissing { folder: folder.to_path_buf(), split, kinds: KINDS, there: contents(inner) }
}
