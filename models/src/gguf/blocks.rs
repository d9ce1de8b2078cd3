//! Numbers as GGUF files pack them: blocks of a few bits a number with scales of their own, as ggml lays them out. What is
//! multiplied with what first is as in gguf-py, so that numbers are the same bit by bit.

use half::{bf16, f16};

/// A packing: its name, numbers a block, bytes a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packing {
    id: u32,
    pub name: &'static str,
    pub numbers: usize,
    pub bytes: usize,
}

const PACKINGS: [Packing; 13] = [
    Packing { id: 0, name: "F32", numbers: 1, bytes: 4 },
    Packing { id: 1, name: "F16", numbers: 1, bytes: 2 },
    Packing { id: 2, name: "Q4_0", numbers: 32, bytes: 18 },
    Packing { id: 3, name: "Q4_1", numbers: 32, bytes: 20 },
    Packing { id: 6, name: "Q5_0", numbers: 32, bytes: 22 },
    Packing { id: 7, name: "Q5_1", numbers: 32, bytes: 24 },
    Packing { id: 8, name: "Q8_0", numbers: 32, bytes: 34 },
    Packing { id: 10, name: "Q2_K", numbers: 256, bytes: 84 },
    Packing { id: 11, name: "Q3_K", numbers: 256, bytes: 110 },
    Packing { id: 12, name: "Q4_K", numbers: 256, bytes: 144 },
    Packing { id: 13, name: "Q5_K", numbers: 256, bytes: 176 },
    Packing { id: 14, name: "Q6_K", numbers: 256, bytes: 210 },
    Packing { id: 30, name: "BF16", numbers: 1, bytes: 2 },
];

impl Packing {
    /// By its number in a file.
    pub fn of(id: u32) -> Option<Packing> {
        PACKINGS.into_iter().find(|packing| packing.id == id)
    }

    /// All that can be read, for messages.
    pub fn names() -> String {
        PACKINGS.map(|packing| packing.name).join(", ")
    }

    /// The numbers of whole blocks.
    pub fn unpack(self, bytes: &[u8]) -> Vec<f32> {
        let mut out = Vec::with_capacity(bytes.len() / self.bytes * self.numbers);
        for block in bytes.chunks_exact(self.bytes) {
            match self.id {
                0 => out.push(f32::from_le_bytes([block[0], block[1], block[2], block[3]])),
                1 => out.push(half(block, 0)),
                30 => out.push(bf16::from_le_bytes([block[0], block[1]]).to_f32()),
                2..=7 => small(self.id, block, &mut out),
                8 => out.extend(block[2..].iter().map(|&q| f32::from(q as i8) * half(block, 0))),
                10 => two_bits(block, &mut out),
                11 => three_bits(block, &mut out),
                12 | 13 => four_or_five_bits(self.id == 13, block, &mut out),
                _ => six_bits(block, &mut out),
            }
        }
        out
    }
}

fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// 32 numbers of four bits, or five with the fifths together: with a scale, or a scale and a minimum.
fn small(id: u32, block: &[u8], out: &mut Vec<f32>) {
    let (has_minimum, has_fifth) = (id == 3 || id == 7, id >= 6);
    let start = if has_minimum { 4 } else { 2 };
    let fifths = if has_fifth {
        u32::from_le_bytes([block[start], block[start + 1], block[start + 2], block[start + 3]])
    } else {
        0
    };
    let bits = &block[start + if has_fifth { 4 } else { 0 }..];
    let middle = if has_fifth { 16.0 } else { 8.0 };
    for i in 0..32 {
        let low = (bits[i % 16] >> (4 * (i / 16))) & 15;
        let q = f32::from(low | (((fifths >> i) & 1) as u8) << 4);
        out.push(if has_minimum { half(block, 0) * q + half(block, 2) } else { half(block, 0) * (q - middle) });
    }
}

/// Two bits of number `i`, of 64 bytes that hold four numbers each, a half after the other.
fn pair(bits: &[u8], i: usize) -> u8 {
    (bits[i / 128 * 32 + i % 32] >> (2 * (i % 128 / 32))) & 3
}

fn two_bits(block: &[u8], out: &mut Vec<f32>) {
    let (scales, bits, d, least) = (&block[..16], &block[16..80], half(block, 80), half(block, 82));
    for i in 0..256 {
        let scale = scales[i / 16];
        out.push(d * f32::from(scale & 15) * f32::from(pair(bits, i)) - least * f32::from(scale >> 4));
    }
}

fn three_bits(block: &[u8], out: &mut Vec<f32>) {
    let (high, bits, scales, d) = (&block[..32], &block[32..96], &block[96..108], half(block, 108));
    for i in 0..256 {
        let k = i / 16;
        let low = (scales[k % 8] >> (4 * (k / 8))) & 15;
        let scale = i32::from(low | (((scales[8 + k % 4] >> (2 * (k / 4))) & 3) << 4)) - 32;
        // The third bit says that nothing is taken off.
        let off = if (high[i % 32] >> (i / 32)) & 1 == 1 { 0 } else { 4 };
        let q = i32::from(pair(bits, i)) - off;
        out.push(d * scale as f32 * q as f32);
    }
}

/// Scale and minimum of the `i`-th 32 numbers, six bits each in twelve bytes.
fn scale_and_least(s: &[u8], i: usize) -> (f32, f32) {
    let (scale, least) = match i {
        0..4 => (s[i] & 63, s[4 + i] & 63),
        _ => ((s[4 + i] & 15) | ((s[i - 4] >> 2) & 48), (s[4 + i] >> 4) | ((s[i] >> 2) & 48)),
    };
    (f32::from(scale), f32::from(least))
}

fn four_or_five_bits(five: bool, block: &[u8], out: &mut Vec<f32>) {
    let (d, least, scales) = (half(block, 0), half(block, 2), &block[4..16]);
    let (fifths, bits) = block[16..].split_at(if five { 32 } else { 0 });
    for i in 0..256 {
        let (k, j) = (i / 32, i % 32);
        let (scale, minimum) = scale_and_least(scales, k);
        let low = (bits[k / 2 * 32 + j] >> (4 * (k % 2))) & 15;
        let fifth = fifths.get(j).map_or(0, |bits| (bits >> k) & 1);
        out.push(d * scale * f32::from(low | (fifth << 4)) - least * minimum);
    }
}

fn six_bits(block: &[u8], out: &mut Vec<f32>) {
    let (bits, high, scales, d) = (&block[..128], &block[128..192], &block[192..208], half(block, 208));
    for i in 0..256 {
        let low = (bits[i / 128 * 64 + i % 64] >> (4 * (i % 128 / 64))) & 15;
        let q = i32::from(low | (pair(high, i) << 4)) - 32;
        out.push(d * f32::from(scales[i / 16] as i8) * q as f32);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use safetensors::SafeTensors;

    use super::*;

    /// Random blocks and what gguf-py makes of them (`scripts/fixtures/make_fixtures.py`).
    #[test]
    fn numbers_are_those_of_gguf_py() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/gguf-blocks.safetensors");
        let bytes = std::fs::read(file).expect("the fixture");
        let tensors = SafeTensors::deserialize(&bytes).expect("whole");
        for packing in PACKINGS {
            let bytes_of =
                |part: &str| tensors.tensor(&format!("{}.{part}", packing.name)).expect("there").data().to_vec();
            let expected = bytes_of("numbers");
            let expected = expected.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            let found = packing.unpack(&bytes_of("blocks"));
            assert!(found.iter().copied().eq(expected), "{}", packing.name);
            assert!(found.len() >= 32 && found.iter().any(|v| *v != 0.0), "{}", packing.name);
        }
    }
}
