//! TF32 by hand: matrix units round the operands of an f32 product to 10 bits of mantissa, multiply them exactly and add in
//! f32. No CPU is faster by it, so users are offered none; tests see by it what a GPU's TF32 does to a model.

use burn::backend::{DType, TensorMetadata};
use burn_flex::FlexTensor;

use super::{dense, tensor, values};

/// An operand as a matrix unit reads it; tensors of other types are left as they are.
pub(crate) fn in_tf32(t: FlexTensor) -> FlexTensor {
    if t.dtype() != DType::F32 {
        return t;
    }
    let t = dense(t);
    tensor(values(&t).iter().copied().map(rounded).collect(), t.shape())
}

/// To the nearest number of 10 bits of mantissa, ties away from zero.
fn rounded(x: f32) -> f32 {
    const DROPPED: u32 = 13;
    let bits = x.to_bits();
    // What is not finite stays so.
    if x.is_finite() { f32::from_bits((bits + (1 << (DROPPED - 1))) >> DROPPED << DROPPED) } else { x }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_bits_of_mantissa_are_left() {
        let unit = 2f32.powi(-10);
        for (x, expected) in [
            (1.0 + unit, 1.0 + unit),
            (1.0 + 0.49 * unit, 1.0),
            (-1.0 - 0.5 * unit, -1.0 - unit),
            (3.0 * 2f32.powi(100), 3.0 * 2f32.powi(100)),
            (0.0, 0.0),
            (f32::INFINITY, f32::INFINITY),
        ] {
            assert_eq!(rounded(x), expected, "{x}");
        }
        assert!(rounded(f32::NAN).is_nan());
    }
}
