//! Dropout on the CPU: a row's mask from two words of its own, column by column in vector registers.

use burn::backend::TensorMetadata;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::micro::vectorised;
use super::{ELEMENTS_A_TASK, dense};
use crate::masks::{DropMask, drawn};

/// See [`crate::backends::Kernels::drop_elements`]; in place where `x` is nobody else's.
pub(super) fn dropped(x: FlexTensor, mask: &DropMask) -> FlexTensor {
    let mut x = dense(x);
    let [rows, width] = x.shape().dims();
    if rows * width == 0 {
        return x;
    }
    let (threshold, scale) = (mask.threshold(), mask.scale());
    let rows_a_task = (ELEMENTS_A_TASK / width).max(1);
    let out = &mut x.storage_mut::<f32>()[..rows * width];
    out.par_chunks_mut(rows_a_task * width).enumerate().for_each(|(task, some)| {
        for (i, row) in some.chunks_mut(width).enumerate() {
            let words = mask.words_of(task * rows_a_task + i);
            vectorised(|| {
                for (column, value) in row.iter_mut().enumerate() {
                    *value = if drawn(words, column as u32) < threshold { 0.0 } else { *value * scale };
                }
            });
        }
    });
    x
}
