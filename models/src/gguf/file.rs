//! The GGUF container, version 3, as far as adapters need it: text and f32 values, f32 matrices.
//!
//! ```text
//! "GGUF"  version u32  tensors u64  values u64
//! value:   key, type u32, what the type says                  text: length u64, UTF-8
//! tensor:  name, dimensions u32, each u64 (fastest first), type u32, offset u64 into the data
//! zeros up to a multiple of 32, then each tensor's data, each at a multiple of 32
//! ```
//! All numbers are little-endian.

/// Where data begin.
const ALIGNMENT: usize = 32;
const MAGIC: &[u8] = b"GGUF";
const VERSION: u32 = 3;
/// Type numbers of values.
const FLOAT: u32 = 6;
const TEXT: u32 = 8;
/// Type number of f32 tensors.
const F32: u32 = 0;

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Float(f32),
    Text(String),
}

/// A matrix, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub name: String,
    pub shape: [usize; 2],
    pub data: Vec<f32>,
}

/// A whole file.
#[derive(Clone, Debug, PartialEq)]
pub struct File {
    pub values: Vec<(String, Value)>,
    pub tensors: Vec<Tensor>,
}

impl File {
    /// The value of a key.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.values.iter().find(|(k, _)| k == key).map(|(_, value)| value)
    }

    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(VERSION.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.values.len() as u64).to_le_bytes());
        for (key, value) in &self.values {
            put_text(&mut out, key);
            match value {
                Value::Float(number) => {
                    out.extend(FLOAT.to_le_bytes());
                    out.extend(number.to_le_bytes());
                }
                Value::Text(text) => {
                    out.extend(TEXT.to_le_bytes());
                    put_text(&mut out, text);
                }
            }
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            put_text(&mut out, &tensor.name);
            out.extend(2u32.to_le_bytes());
            tensor.shape.iter().rev().for_each(|n| out.extend((*n as u64).to_le_bytes()));
            out.extend(F32.to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            offset += (4 * tensor.data.len()).next_multiple_of(ALIGNMENT);
        }
        for tensor in &self.tensors {
            out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
            tensor.data.iter().for_each(|v| out.extend(v.to_le_bytes()));
        }
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        out
    }

    /// Reads a file's bytes.
    ///
    /// # Errors
    /// Bytes that are not such a file, or end early.
    pub fn parse(bytes: &[u8]) -> Result<File, String> {
        let mut at = Cursor { bytes, at: 0 };
        if at.take(4)? != MAGIC || at.u32()? != VERSION {
            return Err(format!("not a GGUF file of version {VERSION}"));
        }
        let (tensors, values) = (at.u64()?, at.u64()?);
        let values = (0..values).map(|_| at.value()).collect::<Result<_, _>>()?;
        let heads = (0..tensors).map(|_| at.tensor()).collect::<Result<Vec<_>, _>>()?;
        let data = at.at.next_multiple_of(ALIGNMENT);
        let tensors = heads.into_iter().map(|(name, shape, offset)| {
            let start = data.checked_add(offset).ok_or_else(early)?;
            let len = shape[0].checked_mul(shape[1]).and_then(|n| n.checked_mul(4)).ok_or_else(early)?;
            let end = start.checked_add(len).ok_or_else(early)?;
            let bytes = bytes.get(start..end).ok_or_else(early)?;
            let data = bytes.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
            Ok(Tensor { name, shape, data })
        });
        Ok(File { values, tensors: tensors.collect::<Result<_, String>>()? })
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn early() -> String {
    "the file ends early".into()
}

/// A place in the bytes.
struct Cursor<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Cursor<'b> {
    fn take(&mut self, n: usize) -> Result<&'b [u8], String> {
        let end = self.at.checked_add(n).ok_or_else(early)?;
        let taken = self.bytes.get(self.at..end).ok_or_else(early)?;
        self.at = end;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into().expect("four bytes")))
    }

    fn u64(&mut self) -> Result<usize, String> {
        let number = u64::from_le_bytes(self.take(8)?.try_into().expect("eight bytes"));
        usize::try_from(number).map_err(|_| early())
    }

    fn text(&mut self) -> Result<String, String> {
        let n = self.u64()?;
        String::from_utf8(self.take(n)?.to_vec()).map_err(|_| "a name in it is not UTF-8".into())
    }

    fn value(&mut self) -> Result<(String, Value), String> {
        let key = self.text()?;
        let value = match self.u32()? {
            FLOAT => Value::Float(f32::from_bits(self.u32()?)),
            TEXT => Value::Text(self.text()?),
            other => return Err(format!("`{key}` is of a kind that cannot be read ({other})")),
        };
        Ok((key, value))
    }

    /// Name, shape and offset.
    fn tensor(&mut self) -> Result<(String, [usize; 2], usize), String> {
        let name = self.text()?;
        if self.u32()? != 2 {
            return Err(format!("`{name}` is not a matrix"));
        }
        let (cols, rows) = (self.u64()?, self.u64()?);
        if self.u32()? != F32 {
            return Err(format!("`{name}` is not in f32"));
        }
        Ok((name, [rows, cols], self.u64()?))
    }
}
