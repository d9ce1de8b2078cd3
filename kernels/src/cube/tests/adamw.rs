//! The fused optimizer step: per-client factors, shared and own starts, in place only where nothing else looks.

use super::*;
use crate::AdamW;
use crate::cube::adamw::adamw_step;

const SHAPE: [usize; 3] = [4, 37, 21];
const CONSTANTS: AdamW = AdamW { lr: 0.5, betas: [0.9, 0.99], eps: 1e-6, weight_decay: 0.1 };
/// Factor on the learning rate and corrections of each client.
const CLIENTS: [[f32; 3]; 4] = [[0.2, 10.0, 90.0], [0.0, 5.0, 40.0], [0.6, 3.0, 20.0], [0.04, 1.5, 9.0]];

/// Movement and moments after the step, in f64.
fn reference(values: &[Vec<f32>; 4], start: &[f32]) -> [Vec<f64>; 3] {
    let [beta1, beta2] = CONSTANTS.betas;
    let mut out = [0, 1, 2].map(|i: usize| values[i].iter().map(|&v| v as f64).collect::<Vec<_>>());
    let plane = SHAPE[1] * SHAPE[2];
    for i in 0..values[0].len() {
        let [rate, correct_first, correct_second] = CLIENTS[i / plane].map(f64::from);
        let (grad, start) = (values[3][i] as f64, start[i % start.len()] as f64);
        out[1][i] = beta1 * out[1][i] + (1.0 - beta1) * grad;
        out[2][i] = beta2 * out[2][i] + (1.0 - beta2) * grad * grad;
        let update = out[1][i] * correct_first / ((out[2][i] * correct_second).sqrt() + CONSTANTS.eps);
        out[0][i] -= CONSTANTS.lr * rate * (update + CONSTANTS.weight_decay * (out[0][i] + start));
    }
    out
}

#[test]
pub(super) fn one_step() {
    let Some(device) = device() else { return };
    for (put, stacked) in LAYOUTS.into_iter().flat_map(|put| [(put, 1), (put, SHAPE[0])]) {
        let mut random = Random::new(stacked as u64);
        let mut numbers = [0; 4].map(|_| random.numbers(SHAPE.iter().product()));
        numbers[2].iter_mut().for_each(|v| *v = v.abs());
        let start = random.numbers(stacked * SHAPE[1] * SHAPE[2]);
        let [movement, first, second, grad] = numbers.each_ref().map(|v| put(v, &SHAPE, &device));
        let clients = put(&CLIENTS.concat(), &[SHAPE[0], 3], &device);
        let kept = first.clone();
        let memory = identity(&movement);
        let begun = put(&start, &[stacked, SHAPE[1], SHAPE[2]], &device);
        let found = adamw_step(&CONSTANTS, [movement, first, second], begun, grad, clients);
        assert_eq!(identity(&found[0]), memory, "in place where nothing else holds it");
        nothing_between(&found[0]);
        assert_eq!(values(kept), numbers[1], "a tensor held elsewhere is not written");
        let expected = reference(&numbers, &start);
        for ((name, found), expected) in ["movement", "first", "second"].into_iter().zip(found).zip(&expected) {
            close(name, &values(found), expected);
        }
    }
}

#[test]
fn a_tensor_of_more_groups_than_a_row_holds() {
    let Some(device) = device() else { return };
    let shape = [1, crate::cube::tensors::LONGEST + 2, crate::cube::product::UNITS as usize];
    let filled = |value: f32| to_device(&vec![value; shape.iter().product()], &shape, &device);
    let clients = to_device(&[1.0, 10.0, 100.0], &[1, 3], &device);
    let state = [filled(0.0), filled(0.0), filled(0.0)];
    let [movement, ..] = adamw_step(&CONSTANTS, state, filled(0.0), filled(2.0), clients);
    // The first step of Adam goes by the sign alone.
    assert!(values(movement).iter().all(|v| (v + 0.5).abs() < 1e-5));
}
