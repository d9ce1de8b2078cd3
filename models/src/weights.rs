//! A checkpoint's tensors by name, each asked for once: what is missing, misshapen or left over is an error.

use std::collections::{BTreeMap, BTreeSet};

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};

use crate::{Matrix, ModelError};

/// Opened safetensors files (one, or the shards of a model) and the names not asked for yet.
pub(crate) struct Weights<'a> {
    files: Vec<(String, SafeTensors<'a>)>,
    /// In which file a tensor lies.
    place: BTreeMap<String, usize>,
    left: BTreeSet<String>,
}

impl<'a> Weights<'a> {
    /// Opens a file's bytes; `file` is its name in errors.
    pub fn open(bytes: &'a [u8], file: &str) -> Result<Self, ModelError> {
        Self::open_all([(bytes, file)])
    }

    /// Opens files that together hold a model; each tensor lies in one of them.
    pub fn open_all<'f>(files: impl IntoIterator<Item = (&'a [u8], &'f str)>) -> Result<Self, ModelError> {
        let (mut opened, mut place) = (Vec::new(), BTreeMap::new());
        for (bytes, file) in files {
            let bad = |problem: String| ModelError::Safetensors { file: file.to_string(), problem };
            let tensors = SafeTensors::deserialize(bytes).map_err(|e| bad(e.to_string()))?;
            for name in tensors.names() {
                if place.insert(name.to_string(), opened.len()).is_some() {
                    return Err(bad(format!("tensor `{}` is in another shard too", shown(name))));
                }
            }
            opened.push((file.to_string(), tensors));
        }
        let left = place.keys().cloned().collect();
        Ok(Weights { files: opened, place, left })
    }

    /// The file a tensor lies in, or the first.
    pub fn file_of(&self, name: &str) -> &str {
        &self.files[self.place.get(name).copied().unwrap_or(0)].0
    }

    /// Whether a tensor of this name is there.
    pub fn has(&self, name: &str) -> bool {
        self.left.contains(name)
    }

    /// The tensor `name` in f32, which must have shape `expected`.
    pub fn take(&mut self, name: &str, expected: &[usize]) -> Result<Vec<f32>, ModelError> {
        self.take_with(name, expected, "")
    }

    /// Like [`Self::take`], with a hint for the error about another shape.
    pub fn take_with(&mut self, name: &str, expected: &[usize], hint: &'static str) -> Result<Vec<f32>, ModelError> {
        self.left.remove(name);
        let (file, name_) = (self.file_of(name).to_string(), name.to_string());
        let view = self.place.get(name).and_then(|&at| self.files[at].1.tensor(name).ok());
        let Some(view) = view else {
            return Err(ModelError::MissingTensor { file, name: name_, expected: expected.to_vec() });
        };
        if view.shape() != expected {
            let found = view.shape().to_vec();
            return Err(ModelError::TensorShape { file, name: name_, found, expected: expected.to_vec(), hint });
        }
        floats(view.dtype(), view.data()).ok_or_else(|| ModelError::TensorType {
            file,
            name: name_,
            dtype: format!("{:?}", view.dtype()),
        })
    }

    /// A linear's weight, `[out, in]` in the file, as `[in, out]`.
    pub fn take_linear(&mut self, name: &str, d_in: usize, d_out: usize) -> Result<Matrix, ModelError> {
        self.take_linear_with(name, d_in, d_out, "")
    }

    /// Like [`Self::take_linear`], with a hint for the error about another shape.
    pub fn take_linear_with(
        &mut self,
        name: &str,
        d_in: usize,
        d_out: usize,
        hint: &'static str,
    ) -> Result<Matrix, ModelError> {
        let data = self.take_with(name, &[d_out, d_in], hint)?;
        Ok(Matrix::new(d_out, d_in, data).transposed())
    }

    /// Refuses numbers of the tensor `name` that are none: a model that has one learns nothing, and its loss does not say why.
    pub fn refuse_not_finite(&self, name: &str, numbers: &[f32]) -> Result<(), ModelError> {
        match numbers.iter().position(|number| !number.is_finite()) {
            None => Ok(()),
            Some(at) => {
                let number = if numbers[at].is_nan() { "NaN" } else { "infinity" };
                Err(ModelError::NotFinite { file: self.file_of(name).to_string(), name: name.to_string(), number })
            }
        }
    }

    /// The first name that nobody asked for and `ignored` does not excuse.
    pub fn surplus(&self, ignored: impl Fn(&str) -> bool) -> Option<&str> {
        self.left.iter().map(String::as_str).find(|name| !ignored(name))
    }
}

/// A tensor's name as a file gives it, cut to what can be read.
pub(crate) fn shown(name: &str) -> String {
    const MOST: usize = 200;
    match name.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", &name[..at]),
        None => name.to_string(),
    }
}

pub(crate) fn floats(dtype: Dtype, data: &[u8]) -> Option<Vec<f32>> {
    let pair = |c: &[u8]| [c[0], c[1]];
    Some(match dtype {
        Dtype::F32 => data.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect(),
        Dtype::F16 => data.chunks_exact(2).map(|c| f16::from_le_bytes(pair(c)).to_f32()).collect(),
        Dtype::BF16 => data.chunks_exact(2).map(|c| bf16::from_le_bytes(pair(c)).to_f32()).collect(),
        _ => return None,
    })
}
