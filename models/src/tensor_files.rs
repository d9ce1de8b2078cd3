//! A checkpoint's tensors one by one, without its files in memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Cursor, Read, Seek, SeekFrom};

use safetensors::Dtype;
use safetensors::tensor::Metadata;

use crate::{ModelError, ModelSource};

trait ReadSeek: Read + Seek {}
impl<T: Read + Seek> ReadSeek for T {}

/// Where a tensor lies, and what it is.
#[derive(Clone, Debug)]
pub(super) struct Place {
    file: usize,
    /// From the file's start.
    at: u64,
    bytes: usize,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
}

/// Open safetensors files.
pub(super) struct SourceTensors {
    /// What to call them in errors.
    pub name: String,
    files: Vec<(Box<dyn ReadSeek>, String)>,
    pub places: BTreeMap<String, Place>,
}

/// A header that is longer is not one.
const LONGEST_HEADER: u64 = 100_000_000;

impl SourceTensors {
    /// Opens the weights of `source` and reads what is where.
    pub fn open(source: &ModelSource) -> Result<SourceTensors, ModelError> {
        let mut all = SourceTensors { name: String::new(), files: Vec::new(), places: BTreeMap::new() };
        for name in source.weight_files()? {
            let (mut file, shown): (Box<dyn ReadSeek>, String) = match source {
                ModelSource::Folder(folder) => {
                    let path = folder.join(&name);
                    let file = File::open(&path).map_err(|source| ModelError::Read { path: path.clone(), source })?;
                    (Box::new(file), path.display().to_string())
                }
                _ => {
                    let (bytes, shown) = source.file(&name)?;
                    (Box::new(Cursor::new(bytes)), shown)
                }
            };
            let bad = |problem: String| ModelError::Safetensors { file: shown.clone(), problem };
            let (start, header) = header(file.as_mut()).map_err(bad)?;
            for (name, info) in header.tensors() {
                let (from, to) = info.data_offsets;
                let place = Place {
                    file: all.files.len(),
                    at: start + from as u64,
                    bytes: to - from,
                    dtype: info.dtype,
                    shape: info.shape.clone(),
                };
                all.places.insert(name, place);
            }
            all.name.clone_from(&shown);
            all.files.push((file, shown));
        }
        Ok(all)
    }

    /// A tensor's bytes.
    pub fn read(&mut self, place: &Place) -> Result<Vec<u8>, ModelError> {
        let (file, shown) = &mut self.files[place.file];
        let mut bytes = vec![0; place.bytes];
        file.seek(SeekFrom::Start(place.at))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|e| ModelError::Safetensors { file: shown.clone(), problem: e.to_string() })?;
        Ok(bytes)
    }
}

/// A file's header and where its data begin.
fn header(file: &mut dyn ReadSeek) -> Result<(u64, Metadata), String> {
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(|e| e.to_string())?;
    let n = u64::from_le_bytes(length);
    if n > LONGEST_HEADER {
        return Err("its header has no sensible length".into());
    }
    let mut bytes = vec![0; n as usize];
    file.read_exact(&mut bytes).map_err(|e| e.to_string())?;
    let header = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    Ok((8 + n, header))
}
