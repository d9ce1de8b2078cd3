//! The tensors of safetensors and GGUF files, read one at a time: no file is ever in memory as a whole.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::Metadata;

use crate::gguf::backbone::{Header, Packed, Placed};
use crate::{ModelError, ModelSource};

trait ReadSeek: Read + Seek {}
impl<T: Read + Seek> ReadSeek for T {}

/// Where a tensor lies, and what it is.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    file: usize,
    /// From the file's start.
    at: u64,
    bytes: usize,
    /// What [`TensorFiles::read`] gives.
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// In GGUF files: how the numbers are stored, which are given as f32.
    packed: Option<Packed>,
}

/// Open safetensors files; each tensor lies in one of them.
pub(crate) struct TensorFiles<'f> {
    files: Vec<(Box<dyn ReadSeek + 'f>, String)>,
    /// Where every tensor lies, by its [present name](present_name).
    pub places: BTreeMap<String, Place>,
}

/// A tensor's name as a file gives it, cut to what can be read.
pub(crate) fn shown_name(name: &str) -> String {
    const MOST: usize = 200;
    match name.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", &name[..at]),
        None => name.to_string(),
    }
}

/// A header that is longer is not one.
const LONGEST_HEADER: u64 = 100_000_000;

/// How Git LFS begins the text that stands for a file it has not fetched.
const POINTER: &[u8] = b"version https://git-lfs";

impl<'f> TensorFiles<'f> {
    /// Opens the weights of `source` and reads what is where.
    pub fn open(source: &ModelSource) -> Result<TensorFiles<'static>, ModelError> {
        if let ModelSource::Gguf { file, .. } = source {
            return Self::open_gguf(file, source);
        }
        let mut all = TensorFiles { files: Vec::new(), places: BTreeMap::new() };
        for name in source.weight_files()? {
            match source {
                ModelSource::Folder(folder) => {
                    let path = folder.join(&name);
                    let file = File::open(&path).map_err(|source| ModelError::Read { path: path.clone(), source })?;
                    all.add(Box::new(file), path.display().to_string())?;
                }
                _ => {
                    let (bytes, shown) = source.file(&name)?;
                    all.add(Box::new(Cursor::new(bytes)), shown)?;
                }
            }
        }
        Ok(all)
    }

    fn open_gguf(path: &Path, source: &ModelSource) -> Result<TensorFiles<'static>, ModelError> {
        let unreadable = |source| ModelError::Read { path: path.to_path_buf(), source };
        let (file, shown) = (File::open(path).map_err(unreadable)?, path.display().to_string());
        let length = file.metadata().map_err(unreadable)?.len();
        let mut all = TensorFiles { files: Vec::new(), places: BTreeMap::new() };
        for Placed { name, shape, at, bytes, packed } in Header::read(path)?.places(&source.info()?)? {
            if at.checked_add(bytes as u64).is_none_or(|end| end > length) {
                let problem = format!("it ends before the numbers of `{}`; fetch or copy it again", shown_name(&name));
                return Err(ModelError::Config { file: shown, problem });
            }
            let place = Place { file: 0, at, bytes, dtype: Dtype::F32, shape, packed: Some(packed) };
            all.places.insert(name, place);
        }
        all.files.push((Box::new(file), shown));
        Ok(all)
    }

    /// Opens one file's bytes; `name` is what errors call it.
    pub fn of_bytes(bytes: &'f [u8], name: &str) -> Result<TensorFiles<'f>, ModelError> {
        let mut all = TensorFiles { files: Vec::new(), places: BTreeMap::new() };
        all.add(Box::new(Cursor::new(bytes)), name.to_string())?;
        Ok(all)
    }

    fn add(&mut self, mut file: Box<dyn ReadSeek + 'f>, shown_as: String) -> Result<(), ModelError> {
        if begins_with(file.as_mut(), POINTER) {
            return Err(pointer(shown_as));
        }
        let bad = |problem: String| ModelError::Safetensors { file: shown_as.clone(), problem };
        let (start, header) = header(file.as_mut()).map_err(bad)?;
        for (name, info) in header.tensors() {
            let (from, to) = info.data_offsets;
            let place = Place {
                file: self.files.len(),
                at: start + from as u64,
                bytes: to - from,
                dtype: info.dtype,
                shape: info.shape.clone(),
                packed: None,
            };
            let name = present_name(name);
            if self.places.insert(name.clone(), place).is_some() {
                return Err(bad(format!("tensor `{}` is there twice, or in another shard too", shown_name(&name))));
            }
        }
        self.files.push((file, shown_as));
        Ok(())
    }

    /// The file a tensor lies in, or the first.
    pub fn file_of(&self, name: &str) -> &str {
        self.places.get(name).map_or(&self.files[0].1, |place| &self.files[place.file].1)
    }

    /// A tensor's bytes.
    pub fn read(&mut self, place: &Place) -> Result<Vec<u8>, ModelError> {
        let (file, shown) = &mut self.files[place.file];
        let mut bytes = vec![0; place.bytes];
        file.seek(SeekFrom::Start(place.at))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|e| ModelError::Safetensors { file: shown.clone(), problem: e.to_string() })?;
        Ok(match &place.packed {
            Some(packed) => packed.unpack(&bytes, &place.shape).into_iter().flat_map(f32::to_le_bytes).collect(),
            None => bytes,
        })
    }
}

/// The name a tensor has today: norms of checkpoints converted from TensorFlow (BERT's own) are called `gamma` and `beta`.
fn present_name(name: String) -> String {
    let renamed = |old: &str, new: &str| name.strip_suffix(old).map(|module| format!("{module}{new}"));
    renamed("LayerNorm.gamma", "LayerNorm.weight")
        .or_else(|| renamed("LayerNorm.beta", "LayerNorm.bias"))
        .unwrap_or(name)
}

fn begins_with(file: &mut dyn ReadSeek, text: &[u8]) -> bool {
    let mut start = vec![0; text.len()];
    let read = file.read_exact(&mut start);
    let begins = read.is_ok() && start == text;
    // What cannot be read again is told by whoever reads next.
    let _ = file.seek(SeekFrom::Start(0));
    begins
}

/// Whether bytes are a text that Git LFS leaves in a file's place.
pub(crate) fn is_pointer(bytes: &[u8]) -> bool {
    bytes.starts_with(POINTER)
}

/// What is said of such a file.
pub(crate) fn pointer(file: String) -> ModelError {
    let problem = "is a Git LFS pointer, not the file itself; run `git lfs pull` in its folder".into();
    ModelError::Config { file, problem }
}

/// A file's header and where its data begin.
fn header(file: &mut dyn ReadSeek) -> Result<(u64, Metadata), String> {
    let length = file.seek(SeekFrom::End(0)).and_then(|end| file.seek(SeekFrom::Start(0)).map(|_| end));
    let length = length.map_err(|e| e.to_string())?;
    let mut size = [0; 8];
    file.read_exact(&mut size).map_err(|_| "it ends before its header".to_string())?;
    let n = u64::from_le_bytes(size);
    if n > LONGEST_HEADER.min(length.saturating_sub(8)) {
        return Err("its header has no sensible length".into());
    }
    let mut bytes = vec![0; n as usize];
    file.read_exact(&mut bytes).map_err(|e| e.to_string())?;
    // Checks that tensors lie one after the other and are as long as their shapes say.
    let header: Metadata = serde_json::from_slice(&bytes).map_err(|e| format!("its header: {e}"))?;
    let (held, told) = (length - 8 - n, header.data_len() as u64);
    if held == told {
        Ok((8 + n, header))
    } else {
        Err(format!("it holds {held} bytes of tensors, its header tells of {told}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_2018_are_read_by_todays() {
        let present = |name: &str| present_name(name.to_string());
        assert_eq!(present("bert.embeddings.LayerNorm.gamma"), "bert.embeddings.LayerNorm.weight");
        assert_eq!(present("bert.embeddings.LayerNorm.beta"), "bert.embeddings.LayerNorm.bias");
        assert_eq!(present("bert.layer.gamma"), "bert.layer.gamma");
    }
}
