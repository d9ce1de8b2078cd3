//! The client-axis AdamW step on the CPU: one pass, in place.

use burn::backend::TensorMetadata;
use burn::tensor::Shape;
use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use super::micro::vectorised;
use super::{ELEMENTS_A_TASK, dense, tensor, values};
use crate::adamw::{AdamW, OptimizerOps};

impl OptimizerOps for Flex {
    fn adamw(
        movement: FlexTensor,
        first: FlexTensor,
        second: FlexTensor,
        start: FlexTensor,
        grad: FlexTensor,
        clients: FlexTensor,
        constants: AdamW,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let [mut movement, mut first, mut second, start, grad, clients] =
            [movement, first, second, start, grad, clients].map(dense);
        let [count, rows, cols] = grad.shape().dims();
        let size = (rows * cols).max(1);
        let (starts, grads, clients) = (values(&start), values(&grad), values(&clients));
        let shared = start.shape()[0] == 1;
        let [ms, vs, ws] =
            [&mut first, &mut second, &mut movement].map(|t| &mut t.storage_mut::<f32>()[..count * rows * cols]);
        let mut tasks = Vec::new();
        let lanes = ms.chunks_mut(size).zip(vs.chunks_mut(size)).zip(ws.chunks_mut(size)).zip(grads.chunks(size));
        for (c, (((m, v), w), g)) in lanes.enumerate() {
            let start = &starts[if shared { 0 } else { c * size }..][..size];
            let pieces =
                m.chunks_mut(ELEMENTS_A_TASK).zip(v.chunks_mut(ELEMENTS_A_TASK)).zip(w.chunks_mut(ELEMENTS_A_TASK));
            let inputs = g.chunks(ELEMENTS_A_TASK).zip(start.chunks(ELEMENTS_A_TASK));
            tasks.extend(pieces.zip(inputs).map(|(state, inputs)| (c, state, inputs)));
        }
        tasks.into_par_iter().for_each(|(c, ((m, v), w), (g, start))| {
            let step = Step::new(&constants, &clients[c * 3..c * 3 + 3]);
            vectorised(|| {
                for ((((m, v), w), g), start) in m.iter_mut().zip(v).zip(w).zip(g).zip(start) {
                    step.element(m, v, w, *g, *start);
                }
            });
        });
        (movement, first, second)
    }

    fn slot_norms(a: FlexTensor, b: FlexTensor) -> FlexTensor {
        let (a, b) = (dense(a), dense(b));
        let ([count_a, rank, _], [count_b, _, _]) = (a.shape().dims(), b.shape().dims());
        let count = count_a.max(count_b);
        let norms = |t: &FlexTensor| -> Vec<f32> {
            let width = t.shape()[2].max(1);
            values(t).par_chunks(width).map(|row| row.iter().map(|v| v * v).sum::<f32>().sqrt()).collect()
        };
        let (a, b) = (norms(&a), norms(&b));
        let scores = (0..count * rank).map(|i| a[i % a.len()] * b[i % b.len()]).collect();
        tensor(scores, Shape::from([count, rank]))
    }

    fn gather(table: FlexTensor, stack: FlexTensor, lanes: FlexTensor, at: usize) -> FlexTensor {
        let [mut table, stack, lanes] = [table, stack, lanes].map(dense);
        let ([ends, width], [clients, rows, cols]) = (table.shape().dims(), stack.shape().dims());
        let (from, size) = (values(&stack), rows * cols);
        let rows_of = table.storage_mut::<f32>()[..ends * width].chunks_mut(width.max(1));
        for (row, &lane) in rows_of.zip(values(&lanes)) {
            let lane = if clients == 1 { 0 } else { lane as usize };
            row[at..at + size].copy_from_slice(&from[lane * size..(lane + 1) * size]);
        }
        table
    }
}

/// One client's step in the numbers that its elements need.
#[derive(Clone, Copy)]
struct Step {
    beta1: f32,
    beta2: f32,
    rate: f32,
    correct_first: f32,
    correct_second: f32,
    eps: f32,
    decay: f32,
}

impl Step {
    fn new(constants: &AdamW, client: &[f32]) -> Self {
        let [beta1, beta2] = constants.betas.map(|b| b as f32);
        Step {
            beta1,
            beta2,
            rate: client[0] * constants.lr as f32,
            correct_first: client[1],
            correct_second: client[2],
            eps: constants.eps as f32,
            decay: constants.weight_decay as f32,
        }
    }

    #[inline(always)]
    fn element(&self, m: &mut f32, v: &mut f32, w: &mut f32, g: f32, start: f32) {
        *m = *m * self.beta1 + g * (1.0 - self.beta1);
        *v = *v * self.beta2 + g * g * (1.0 - self.beta2);
        let root = (*v * self.correct_second).sqrt() + self.eps;
        let update = *m * self.correct_first / root + (*w + start) * self.decay;
        *w -= update * self.rate;
    }
}
