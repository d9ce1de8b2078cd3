//! Whole models as Hugging Face stores them: every tensor by name, and `model.safetensors` from them.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};

use crate::{HeadTensor, Matrix, ModelError};

/// How a checkpoint stores what we keep as a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// A bias or a norm's gain: `[1, n]` here, `[n]` there.
    AsVector,
    /// A table of embeddings.
    AsIs,
    /// A linear's weight: `[in, out]` here, `[out, in]` there.
    Transposed,
}

/// A tensor of a model on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedWeight {
    /// Its name in a checkpoint, e.g. `roberta.encoder.layer.0.attention.self.query.weight`.
    pub name: String,
    /// How checkpoints store it.
    pub stored: Stored,
    /// Its values in our orientation.
    pub value: Matrix,
}

impl From<&HeadTensor> for NamedWeight {
    fn from(tensor: &HeadTensor) -> Self {
        let stored = if tensor.name.ends_with(".bias") { Stored::AsVector } else { Stored::Transposed };
        NamedWeight { name: tensor.name.clone(), stored, value: tensor.value.clone() }
    }
}

/// Writes the tensors as safetensors to `path`, which is replaced as a whole. A checkpoint that loads again holds the
/// weights, the pooler and the head.
///
/// # Errors
/// The file cannot be written.
pub fn write<'w>(path: &Path, weights: impl IntoIterator<Item = &'w NamedWeight>) -> Result<(), ModelError> {
    let part = |w: &NamedWeight| {
        let Matrix { rows, cols, .. } = w.value;
        let shape = match w.stored {
            Stored::AsVector => vec![cols],
            Stored::AsIs => vec![rows, cols],
            Stored::Transposed => vec![cols, rows],
        };
        let bytes = match w.stored {
            Stored::Transposed => bytes(&w.value.transposed()),
            _ => bytes(&w.value),
        };
        (w.name.clone(), shape, bytes)
    };
    replace(path, &serialise(weights.into_iter().map(part).collect()))
}

/// The numbers, little-endian.
fn bytes(m: &Matrix) -> Vec<u8> {
    m.data.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A safetensors file of f32 tensors: name, shape, bytes.
pub(crate) fn serialise(parts: Vec<(String, Vec<usize>, Vec<u8>)>) -> Vec<u8> {
    let views = parts.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).expect("as many bytes as the shape says");
        (name.as_str(), view)
    });
    let about = [("format".to_string(), "pt".to_string())].into();
    safetensors::serialize(views, Some(about)).expect("names are unique")
}

/// Writes a file beside `path`, brings it to disk and moves it over `path`.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), ModelError> {
    let bad = |source| ModelError::Write { path: path.to_path_buf(), source };
    let beside = path.with_extension("tmp");
    let mut file = File::create(&beside).map_err(bad)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(bad)?;
    fs::rename(&beside, path).map_err(bad)
}
