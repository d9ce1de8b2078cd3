//! Numbers in fewer bits.
//!
//! | coding | bytes of `n` numbers | |
//! |---|---|---|
//! | `f32` | 4n | as they are |
//! | `bf16`, `f16` | 2n | the nearest, ties to even |
//! | `int8` | 2⌈n/64⌉ + n | for every 64 a scale s in bf16, at least their largest size / 127; then each as a whole number q from −127 to 127: q·s |
//! | `int4` | 2⌈n/64⌉ + ⌈n/2⌉ | the same with 7; q + 8 in four bits, the lower half of a byte first |
//!
//! All scales come first, then all numbers. Little-endian.

use bonfire_models::Matrix;
use half::{bf16, f16};
use rand::{Rng, RngExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Numbers that share a scale.
const BLOCK: usize = 64;

/// How numbers cross.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Coding {
    /// As they are.
    #[default]
    F32,
    /// 8 bits of exponent, 7 of fraction.
    Bf16,
    /// 5 bits of exponent, 10 of fraction: nothing above 65,504.
    F16,
    /// Whole numbers of 8 bits with a scale for every 64.
    Int8,
    /// Whole numbers of 4 bits with a scale for every 64.
    Int4,
}

impl Coding {
    /// Bytes of so many numbers.
    pub(super) fn len(self, numbers: usize) -> usize {
        match self {
            Coding::F32 => 4 * numbers,
            Coding::Bf16 | Coding::F16 => 2 * numbers,
            Coding::Int8 => 2 * numbers.div_ceil(BLOCK) + numbers,
            Coding::Int4 => 2 * numbers.div_ceil(BLOCK) + numbers.div_ceil(2),
        }
    }

    /// The largest whole number.
    fn most(self) -> f32 {
        if self == Coding::Int8 { 127.0 } else { 7.0 }
    }

    /// Appends `numbers` to `bytes` and leaves in their place what is read back. Whole numbers are rounded by chance where there
    /// is an `rng`, else to the nearest.
    pub(super) fn write<R: Rng>(self, numbers: &mut [f32], mut rng: Option<&mut R>, bytes: &mut Vec<u8>) {
        bytes.reserve(self.len(numbers.len()));
        match self {
            Coding::F32 => numbers.iter().for_each(|v| bytes.extend(v.to_le_bytes())),
            Coding::Bf16 => numbers.iter_mut().for_each(|v| {
                let short = bf16::from_f32(*v);
                bytes.extend(short.to_le_bytes());
                *v = short.to_f32();
            }),
            Coding::F16 => numbers.iter_mut().for_each(|v| {
                let short = f16::from_f32(*v);
                bytes.extend(short.to_le_bytes());
                *v = short.to_f32();
            }),
            Coding::Int8 | Coding::Int4 => {
                let scales: Vec<bf16> = numbers.chunks(BLOCK).map(|block| self.scale(block)).collect();
                scales.iter().for_each(|scale| bytes.extend(scale.to_le_bytes()));
                let most = self.most();
                let mut quantised = |v: f32, scale: f32| {
                    if scale == 0.0 {
                        return 0.0;
                    }
                    let exact = v / scale;
                    let whole = match &mut rng {
                        Some(rng) => (exact + rng.random::<f32>()).floor(),
                        None => exact.round_ties_even(),
                    };
                    whole.clamp(-most, most)
                };
                let mut half = None;
                for (block, scale) in numbers.chunks_mut(BLOCK).zip(&scales) {
                    let scale = scale.to_f32();
                    for v in block {
                        let q = quantised(*v, scale);
                        *v = q * scale;
                        match (self, half.take()) {
                            (Coding::Int8, _) => bytes.push(q as i8 as u8),
                            (_, None) => half = Some((q as i8 + 8) as u8),
                            (_, Some(low)) => bytes.push(low | ((q as i8 + 8) as u8) << 4),
                        }
                    }
                }
                bytes.extend(half);
            }
        }
    }

    /// The scale of a block: no number is beyond the largest whole one.
    fn scale(self, block: &[f32]) -> bf16 {
        let largest = block.iter().fold(0.0f32, |most, v| most.max(v.abs()));
        let exact = largest / self.most();
        let near = bf16::from_f32(exact);
        if near.to_f32() >= exact { near } else { bf16::from_bits(near.to_bits() + 1) }
    }

    /// Reads so many numbers off the front of `bytes`.
    ///
    /// # Errors
    /// There are fewer.
    pub(super) fn read(self, bytes: &mut &[u8], numbers: usize) -> Result<Vec<f32>, String> {
        let (own, rest) = bytes.split_at_checked(self.len(numbers)).ok_or("it is cut short")?;
        *bytes = rest;
        let pairs = |bytes: &[u8]| bytes.chunks_exact(2).map(|b| [b[0], b[1]]).collect::<Vec<_>>();
        Ok(match self {
            Coding::F32 => own.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            Coding::Bf16 => pairs(own).into_iter().map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
            Coding::F16 => pairs(own).into_iter().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
            Coding::Int8 | Coding::Int4 => {
                let (scales, codes) = own.split_at(2 * numbers.div_ceil(BLOCK));
                let scales: Vec<f32> = pairs(scales).into_iter().map(|b| bf16::from_le_bytes(b).to_f32()).collect();
                let whole = |at: usize| match self {
                    Coding::Int8 => f32::from(codes[at] as i8),
                    _ => f32::from((codes[at / 2] >> (4 * (at % 2)) & 15) as i8 - 8),
                };
                (0..numbers).map(|at| whole(at) * scales[at / BLOCK]).collect()
            }
        })
    }

    /// The matrix as it is read back, each row coded by itself and rounded to the nearest.
    pub(super) fn rounded(self, matrix: &Matrix) -> Matrix {
        let mut rounded = matrix.clone();
        self.write_rows(&mut rounded, &mut Vec::new());
        rounded
    }

    /// Appends a matrix to `bytes`, each row coded by itself and rounded to the nearest, and leaves in it what is read back.
    pub(super) fn write_rows(self, matrix: &mut Matrix, bytes: &mut Vec<u8>) {
        for row in matrix.data.chunks_mut(matrix.cols.max(1)) {
            self.write(row, None::<&mut rand_chacha::ChaCha8Rng>, bytes);
        }
    }
}

/// The first bytes of `bytes`, taken off it.
pub(super) fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], String> {
    let (first, rest) = bytes.split_first_chunk::<N>().ok_or("it is cut short")?;
    *bytes = rest;
    Ok(*first)
}
