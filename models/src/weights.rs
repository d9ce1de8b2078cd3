//! A checkpoint's tensors by name, each asked for once: what is missing, misshapen or left over is an error.

use std::collections::BTreeSet;

use half::{bf16, f16};
use safetensors::Dtype;

use crate::tensor_files::TensorFiles;
use crate::{Matrix, ModelError, ModelSource};

/// Opened files (one, or the shards of a model) and the names not asked for yet.
pub(crate) struct Weights<'a> {
    files: TensorFiles<'a>,
    left: BTreeSet<String>,
}

impl<'a> Weights<'a> {
    /// Opens a file's bytes; `file` is its name in errors.
    pub fn open(bytes: &'a [u8], file: &str) -> Result<Self, ModelError> {
        Ok(Self::over(TensorFiles::of_bytes(bytes, file)?))
    }

    /// Opens the files of a model, of which no more is in memory than the tensor that is read.
    pub fn open_source(source: &ModelSource) -> Result<Weights<'static>, ModelError> {
        Ok(Weights::over(TensorFiles::open(source)?))
    }

    fn over(files: TensorFiles<'a>) -> Self {
        let left = files.places.keys().cloned().collect();
        Weights { files, left }
    }

    /// The file a tensor lies in, or the first.
    pub fn file_of(&self, name: &str) -> &str {
        self.files.file_of(name)
    }

    /// Whether a tensor of this name is there.
    pub fn has(&self, name: &str) -> bool {
        self.left.contains(name)
    }

    /// Leaves the tensor `name` aside as if it were not there.
    pub fn drop(&mut self, name: &str) {
        self.left.remove(name);
    }

    /// The tensor `name` in f32, which must have shape `expected`; errors end with the hint.
    pub fn take_with(&mut self, name: &str, expected: &[usize], hint: &'static str) -> Result<Vec<f32>, ModelError> {
        self.left.remove(name);
        let (file, name_) = (self.file_of(name).to_string(), name.to_string());
        let Some(place) = self.files.places.get(name).cloned() else {
            return Err(ModelError::MissingTensor { file, name: name_, expected: expected.to_vec(), hint });
        };
        if place.shape != expected {
            let found = place.shape;
            return Err(ModelError::TensorShape { file, name: name_, found, expected: expected.to_vec(), hint });
        }
        let bytes = self.files.read(&place)?;
        floats(place.dtype, &bytes).ok_or_else(|| ModelError::TensorType {
            file,
            name: name_,
            dtype: format!("{:?}", place.dtype),
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

    /// The names that nobody asked for.
    pub fn surplus(&self) -> impl Iterator<Item = &str> {
        self.left.iter().map(String::as_str)
    }
}

pub(crate) fn floats(dtype: Dtype, data: &[u8]) -> Option<Vec<f32>> {
    let pair = |c: &[u8]| [c[0], c[1]];
    let eight = |c: &[u8]| [c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]];
    Some(match dtype {
        Dtype::F64 => data.chunks_exact(8).map(|c| f64::from_le_bytes(eight(c)) as f32).collect(),
        Dtype::F32 => data.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect(),
        Dtype::F16 => data.chunks_exact(2).map(|c| f16::from_le_bytes(pair(c)).to_f32()).collect(),
        Dtype::BF16 => data.chunks_exact(2).map(|c| bf16::from_le_bytes(pair(c)).to_f32()).collect(),
        _ => return None,
    })
}
