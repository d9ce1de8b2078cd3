//! The client-axis step of the optimizers on the CPU: one pass, in place.

use burn::backend::TensorMetadata;
use burn::tensor::Shape;
use burn_flex::{Flex, FlexTensor, Layout};
use rayon::prelude::*;

use super::micro::vectorised;
use super::{ELEMENTS_A_TASK, dense, filled, tensor, values};
use crate::clip::TINY;
use crate::flat::{FlatLayout, FlatOps, Tensors};
use crate::optimizer::{AdamW, OptimizerOps, Sgd, StepRule};

/// A run of one client's numbers of one tensor.
struct Task<'t> {
    movement: &'t mut [f32],
    /// As the second empty where the rule has none.
    first: &'t mut [f32],
    second: &'t mut [f32],
    /// None where the weights are the movement.
    weights: Option<&'t mut [f32]>,
    start: &'t [f32],
    grad: &'t [f32],
    /// Three numbers, or four.
    rates: &'t [f32],
    folded: bool,
}

impl FlatOps for Flex {
    fn part(flat: FlexTensor, at: usize, [rows, cols]: [usize; 2]) -> FlexTensor {
        let flat = dense(flat);
        let [clients, width] = flat.shape().dims();
        let strides = [width, cols, 1].map(|stride| stride as isize);
        flat.with_layout(Layout::new(Shape::from([clients, rows, cols]), strides.to_vec(), at))
    }
}

impl OptimizerOps for Flex {
    fn step(
        movement: FlexTensor,
        first: FlexTensor,
        second: FlexTensor,
        start: FlexTensor,
        grads: Tensors<Flex>,
        rates: FlexTensor,
        (rule, layout): (StepRule, FlatLayout),
    ) -> (FlexTensor, FlexTensor, FlexTensor, FlexTensor) {
        let [mut movement, mut first, mut second, start, rates] = [movement, first, second, start, rates].map(dense);
        let grads: Vec<FlexTensor> = grads.0.into_iter().map(dense).collect();
        let [clients, width] = movement.shape().dims();
        let (starts, numbers, rates) = (values(&start), rates.shape()[2], values(&rates));
        let shared = start.shape()[0] == 1;
        let apart = !layout.all_folded();
        let [has_first, has_second] = rule.moments();
        let [ws, ms, vs] = [(&mut movement, true), (&mut first, has_first), (&mut second, has_second)]
            .map(|(t, wide)| &mut t.storage_mut::<f32>()[..if wide { clients * width } else { 0 }]);
        let step = |weights: &mut [f32]| {
            let mut tasks = Vec::new();
            let [mut ws, mut ms, mut vs, mut weights] = [ws, ms, vs, weights].map(Rest);
            for client in 0..clients {
                for (place, grad) in layout.places().iter().zip(&grads) {
                    let end = place.columns().end;
                    let room = FlatLayout::width_of(place.dims) - place.len();
                    let start = &starts[if shared { 0 } else { client * width }..][place.at..end];
                    let grad = &values(grad)[client * place.len()..(client + 1) * place.len()];
                    let rates = &rates[(place.rates * clients + client) * numbers..][..numbers];
                    for (start, grad) in start.chunks(ELEMENTS_A_TASK).zip(grad.chunks(ELEMENTS_A_TASK)) {
                        tasks.push(Task {
                            movement: ws.take(grad.len()),
                            first: ms.take(if has_first { grad.len() } else { 0 }),
                            second: vs.take(if has_second { grad.len() } else { 0 }),
                            weights: apart.then(|| weights.take(grad.len())),
                            start,
                            grad,
                            rates,
                            folded: place.folded,
                        });
                    }
                    for (rest, wide) in [(&mut ws, true), (&mut ms, has_first), (&mut vs, has_second)] {
                        rest.take(if wide { room } else { 0 });
                    }
                    if apart {
                        weights.take(room).fill(0.0);
                    }
                }
            }
            tasks.into_par_iter().for_each(|task| task.run(&rule));
        };
        // SAFETY: every tensor's numbers are written by its tasks and the columns behind it with zeros; nothing is read.
        #[allow(unsafe_code)]
        let (weights, ()) = unsafe { filled(if apart { clients * width } else { 0 }, step) };
        let weights = if apart { tensor(weights, Shape::from([clients, width])) } else { movement.clone() };
        (movement, first, second, weights)
    }

    fn square_sums(grads: Tensors<Flex>, layout: FlatLayout) -> FlexTensor {
        let grads: Vec<FlexTensor> = grads.0.into_iter().map(dense).collect();
        let clients = grads.first().map_or(0, |grad| grad.shape()[0]);
        let of_client = |client: usize| {
            let own = layout.places().iter().zip(&grads).map(move |(place, grad)| (client * place.len(), place, grad));
            own.flat_map(|(from, place, grad)| values(grad)[from..][..place.len()].chunks(ELEMENTS_A_TASK))
        };
        let tasks: Vec<(usize, &[f32])> =
            (0..clients).flat_map(|client| of_client(client).map(move |part| (client, part))).collect();
        let parts: Vec<(usize, f64)> = tasks.into_par_iter().map(|(client, part)| (client, squares(part))).collect();
        // In their order, so that a client's sum is the same whoever else is in flight.
        let mut sums = vec![0f64; clients];
        parts.into_iter().for_each(|(client, sum)| sums[client] += sum);
        tensor(sums.into_iter().map(|sum| sum as f32).collect(), Shape::from([clients, 1]))
    }

    fn clip(rates: FlexTensor, sums: FlexTensor, limit: f64) -> FlexTensor {
        let [mut rates, sums] = [rates, sums].map(dense);
        let ([kinds, clients, numbers], [_, parts]) = (rates.shape().dims(), sums.shape().dims());
        let all = rates.storage_mut::<f32>()[..kinds * clients * numbers].chunks_mut(numbers);
        for (i, own) in all.enumerate() {
            let norm = values(&sums)[i % clients * parts..][..parts].iter().copied().map(f64::from).sum::<f64>().sqrt();
            own[3] *= (limit / (norm + TINY)).min(1.0) as f32;
        }
        rates
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

/// The sum of squares. Sixteen sums run side by side, as vector registers have them.
fn squares(numbers: &[f32]) -> f64 {
    let mut sums = [0f32; 16];
    vectorised(|| {
        for sixteen in numbers.chunks(sums.len()) {
            for (sum, number) in sums.iter_mut().zip(sixteen) {
                *sum += number * number;
            }
        }
    });
    sums.into_iter().map(f64::from).sum()
}

/// What is left of a buffer.
struct Rest<'t>(&'t mut [f32]);

impl<'t> Rest<'t> {
    fn take(&mut self, count: usize) -> &'t mut [f32] {
        let (here, rest) = std::mem::take(&mut self.0).split_at_mut(count);
        self.0 = rest;
        here
    }
}

impl Task<'_> {
    fn run(mut self, rule: &StepRule) {
        match rule {
            StepRule::AdamW(constants) => self.adam::<false>(constants),
            StepRule::Adam(constants) => self.adam::<true>(constants),
            StepRule::Sgd(constants) => self.sgd(constants),
        }
        let Task { movement, weights, start, folded, .. } = self;
        let Some(weights) = weights else { return };
        if folded {
            weights.copy_from_slice(movement);
        } else {
            vectorised(|| {
                for ((weight, moved), start) in weights.iter_mut().zip(&*movement).zip(start) {
                    *weight = start + moved;
                }
            });
        }
    }

    /// What gradients are multiplied by.
    fn scale(&self) -> f32 {
        self.rates.get(3).copied().unwrap_or(1.0)
    }

    /// What weight decay adds to a gradient: nothing where there is no client.
    fn coupled(&self, weight_decay: f64) -> f32 {
        if self.rates[0] == 0.0 { 0.0 } else { weight_decay as f32 }
    }

    /// AdamW's step, or with weight decay `COUPLED` to the gradient Adam's.
    fn adam<const COUPLED: bool>(&mut self, constants: &AdamW) {
        let [beta1, beta2] = constants.betas.map(|b| b as f32);
        let [rate, correct_first, correct_second] = [0, 1, 2].map(|n| self.rates[n]);
        let (eps, scale) = (constants.eps as f32, self.scale());
        let decay = if COUPLED { self.coupled(constants.weight_decay) } else { constants.weight_decay as f32 };
        let Task { movement, first, second, start, grad, .. } = self;
        vectorised(|| {
            let moments = first.iter_mut().zip(&mut **second);
            for ((((m, v), w), g), start) in moments.zip(&mut **movement).zip(*grad).zip(*start) {
                let g = *g * scale;
                let g = if COUPLED { g + (*w + start) * decay } else { g };
                *m = *m * beta1 + g * (1.0 - beta1);
                *v = *v * beta2 + g * g * (1.0 - beta2);
                let root = (*v * correct_second).sqrt() + eps;
                let mut update = *m * correct_first / root;
                if !COUPLED {
                    update += (*w + start) * decay;
                }
                *w -= update * rate;
            }
        });
    }

    fn sgd(&mut self, constants: &Sgd) {
        let (rate, momentum, decay) = (self.rates[0], constants.momentum as f32, self.coupled(constants.weight_decay));
        let scale = self.scale();
        let Task { movement, first, start, grad, .. } = self;
        let numbers = movement.iter_mut().zip(*grad).zip(*start);
        if first.is_empty() {
            vectorised(|| numbers.for_each(|((w, g), start)| *w -= (g * scale + (*w + start) * decay) * rate));
        } else if constants.nesterov {
            vectorised(|| {
                for (((w, g), start), m) in numbers.zip(&mut **first) {
                    let g = g * scale + (*w + start) * decay;
                    *m = *m * momentum + g;
                    *w -= (g + *m * momentum) * rate;
                }
            });
        } else {
            vectorised(|| {
                for (((w, g), start), m) in numbers.zip(&mut **first) {
                    *m = *m * momentum + (g * scale + (*w + start) * decay);
                    *w -= *m * rate;
                }
            });
        }
    }
}
