//! Cross-entropy with its gradient on the CPU: a row at a time, in place, rows on all threads.

use burn::backend::TensorMetadata;
use burn::tensor::Shape;
use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use super::attention::softmax;
use super::halves::{narrow, wide};
use super::micro::vectorised;
use super::{dense, tensor, values};
use crate::loss::LossOps;

impl LossOps for Flex {
    fn loss_and_slopes(scores: FlexTensor, targets: FlexTensor) -> (FlexTensor, FlexTensor) {
        let held = scores.dtype();
        let (mut slopes, targets) = (dense(wide(scores)), dense(wide(targets)));
        let [rows, width] = slopes.shape().dims();
        let mut losses = vec![0f32; rows];
        let all = slopes.storage_mut::<f32>()[..rows * width].par_chunks_mut(width.max(1));
        all.zip(values(&targets).par_iter()).zip(&mut losses).for_each(|((row, &target), loss)| {
            let right = row[target as usize];
            vectorised(|| *loss = softmax(row, row.len()) - right);
            row[target as usize] -= 1.0;
        });
        (tensor(losses, Shape::from([rows])), narrow(slopes, held)) // [N], [N, V]
    }
}
