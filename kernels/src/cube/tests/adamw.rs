//! The fused optimizer step: per-client factors, clipping, shared and own starts, ranks from none to all.

use super::*;
use crate::AdamW;
use crate::cube::adamw::{StepTable, adamw_step};
use crate::cube::tiles::{RankTable, SlotAxis};

const SHAPE: [usize; 3] = [4, 37, 21];
const CONSTANTS: AdamW = AdamW { betas: [0.9, 0.99], eps: 1e-6, weight_decay: 0.1 };

/// Movement, moments and gradient `[C, rows, cols]`, and the start.
struct Problem {
    values: [Vec<f32>; 4],
    start: Vec<f32>,
    own_start: bool,
    /// Learning rate, corrections, clip factor, each `[C]`.
    factors: [Vec<f32>; 4],
    ranks: [u32; 4],
    axis: Option<SlotAxis>,
}

impl Problem {
    fn new(seed: u64, own_start: bool, axis: Option<SlotAxis>) -> Self {
        let mut random = Random::new(seed);
        let size = SHAPE.iter().product();
        let mut values = [0; 4].map(|_| random.numbers(size));
        values[2].iter_mut().for_each(|v| *v = v.abs());
        let start = random.numbers(if own_start { size } else { size / SHAPE[0] });
        let factors = [vec![0.1, 0.0, 0.3, 0.02], vec![10.0, 5.0, 3.0, 1.5], vec![90.0, 40.0, 20.0, 9.0]];
        let [lr, first, second] = factors;
        let factors = [lr, first, second, vec![1.0, 0.5, 0.25, 0.0]];
        Problem { values, start, own_start, factors, ranks: [0, 21, 5, 17], axis }
    }

    /// Movement and moments after the step, in f64.
    fn reference(&self, clipped: bool) -> [Vec<f64>; 3] {
        let [beta1, beta2] = CONSTANTS.betas;
        let mut out = [0, 1, 2].map(|i| self.values[i].iter().map(|&v| v as f64).collect::<Vec<_>>());
        let plane = SHAPE[1] * SHAPE[2];
        for i in 0..self.values[0].len() {
            let (client, row, col) = (i / plane, i % plane / SHAPE[2], i % SHAPE[2]);
            let slot = match self.axis {
                Some(SlotAxis::Rows) => row,
                Some(SlotAxis::Cols) => col,
                None => 0,
            };
            if self.axis.is_some() && slot >= self.ranks[client] as usize {
                continue;
            }
            let [lr, correct_first, correct_second, clip] = [0, 1, 2, 3].map(|f: usize| self.factors[f][client] as f64);
            let grad = self.values[3][i] as f64 * if clipped { clip } else { 1.0 };
            let start = self.start[if self.own_start { i } else { i % plane }] as f64;
            out[1][i] = beta1 * out[1][i] + (1.0 - beta1) * grad;
            out[2][i] = beta2 * out[2][i] + (1.0 - beta2) * grad * grad;
            let update = out[1][i] * correct_first / ((out[2][i] * correct_second).sqrt() + CONSTANTS.eps);
            out[0][i] -= lr * (update + CONSTANTS.weight_decay * (out[0][i] + start));
        }
        out
    }

    fn run(&self, clipped: bool, device: &CubeDevice) {
        let [lr, first, second, clip] = self.factors.each_ref().map(|f| upload(f, &[SHAPE[0], 1, 1], device));
        let step = StepTable::new(lr, first, second, clipped.then_some(clip));
        let ranks = RankTable::new(&self.ranks, device);
        let [movement, first, second, grad] = self.values.each_ref().map(|v| upload(v, &SHAPE, device));
        let stacked = if self.own_start { SHAPE[0] } else { 1 };
        let start = upload(&self.start, &[stacked, SHAPE[1], SHAPE[2]], device);
        let kept = first.clone();
        let memory = format!("{:?}", movement.handle.memory);
        let slots = self.axis.map(|axis| (&ranks, axis));
        let (movement, [first, second]) = adamw_step(&CONSTANTS, movement, start, [first, second], grad, &step, slots);
        assert_eq!(format!("{:?}", movement.handle.memory), memory, "in place where nothing else holds it");
        assert_eq!(values(kept), self.values[1], "a tensor held elsewhere is not written");
        let expected = self.reference(clipped);
        for (i, (name, found)) in [("movement", movement), ("first", first), ("second", second)].into_iter().enumerate()
        {
            close(&format!("{name}, clipped {clipped}, {:?}", self.axis), &values(found), &expected[i]);
        }
    }
}

#[test]
fn one_step() {
    let Some(device) = device() else { return };
    for (seed, axis) in [None, Some(SlotAxis::Rows), Some(SlotAxis::Cols)].into_iter().enumerate() {
        Problem::new(seed as u64, false, axis).run(true, &device);
        Problem::new(seed as u64 + 5, true, axis).run(false, &device);
    }
}
