//! A checkpoint's file: its head, its checksum, and the tensors of its payload.

use std::borrow::Cow;

use bonfire_models::Matrix;
use safetensors::tensor::{Dtype, View};
use sha2::{Digest, Sha256};

use super::CheckpointError;

const MAGIC: &[u8; 8] = b"BONFIRE\0";
/// Raised whenever an older program could not read what a newer one writes, or would misread it.
pub(super) const VERSION: u32 = 1;
/// Bytes before the payload.
const HEAD: usize = 8 + 4 + 8 + 32;

/// What is on its way into the file: a matrix, or an upload as it crosses.
pub(super) enum Stored<'m> {
    Matrix([usize; 2], &'m Matrix),
    Message([usize; 1], Vec<u8>),
}

impl View for Stored<'_> {
    fn dtype(&self) -> Dtype {
        match self {
            Stored::Matrix(..) => Dtype::F32,
            Stored::Message(..) => Dtype::U8,
        }
    }
    fn shape(&self) -> &[usize] {
        match self {
            Stored::Matrix(shape, _) => shape,
            Stored::Message(shape, _) => shape,
        }
    }
    fn data(&self) -> Cow<'_, [u8]> {
        match self {
            Stored::Matrix(_, matrix) => Cow::Owned(matrix.data.iter().flat_map(|v| v.to_le_bytes()).collect()),
            Stored::Message(_, bytes) => Cow::Borrowed(bytes),
        }
    }
    fn data_len(&self) -> usize {
        match self {
            Stored::Matrix(_, matrix) => 4 * matrix.data.len(),
            Stored::Message(_, bytes) => bytes.len(),
        }
    }
}

/// The payload with its head.
pub(super) fn sealed(payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + payload.len());
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((payload.len() as u64).to_le_bytes());
    bytes.extend(Sha256::digest(payload));
    bytes.extend(payload);
    bytes
}

/// The payload of `bytes`, if it is all there and as it was written.
pub(super) fn opened(bytes: &[u8]) -> Result<&[u8], CheckpointError> {
    if bytes.len() < MAGIC.len() || !bytes.starts_with(MAGIC) {
        return Err(CheckpointError::Foreign);
    }
    let found = bytes.len() as u64;
    let Some((head, payload)) = bytes.split_at_checked(HEAD) else {
        return Err(CheckpointError::Length { found, expected: HEAD as u64 });
    };
    let version = u32::from_le_bytes(head[8..12].try_into().expect("four bytes"));
    if version != VERSION {
        return Err(CheckpointError::Version(version));
    }
    let length = u64::from_le_bytes(head[12..20].try_into().expect("eight bytes"));
    if length != payload.len() as u64 {
        return Err(CheckpointError::Length { found, expected: length.saturating_add(HEAD as u64) });
    }
    if Sha256::digest(payload)[..] == head[20..] { Ok(payload) } else { Err(CheckpointError::Damaged) }
}
