//! AdamW on the client axis and slot scores. All of it is f32.

use burn::tensor::{Device, Tensor};

use super::threads::each;
use super::{Exact, Format, compare, read, rows};
use crate::{AdamW, Moving, adamw_step, slot_scores};

const CONSTANTS: AdamW = AdamW { lr: 0.5, betas: [0.9, 0.99], eps: 1e-6, weight_decay: 0.1 };

pub(super) fn small(seed: u64) -> Vec<Exact> {
    let scored = [(1, 3, 50, 5, 33), (3, 1, 7, 16, 90), (3, 3, 20, 35, 20), (1, 1, 1, 1, 1)];
    let steps = [1, 4].map(|starts| adamw([4, 37, 21], starts, seed));
    steps.into_iter().chain(scored.map(|sizes| scores(sizes, seed))).collect()
}

pub(super) fn real(seed: u64) -> Vec<Exact> {
    vec![
        adamw([30, 16, 768], 1, seed),
        // More workgroups than one axis of a launch holds.
        adamw([1, 65_537, 256], 1, seed),
        scores((1, 30, 768, 16, 3072), seed),
    ]
}

/// Three steps of AdamW; the last client's place is empty.
fn adamw(shape: [usize; 3], starts: usize, seed: u64) -> Exact {
    let run = move |device: &Device, format: Format| {
        let [clients, rows, cols] = shape;
        let start = format.numbers(starts * rows * cols, 1000 * seed + 50);
        let grads: Vec<_> = (0..3).map(|i| format.numbers(shape.iter().product(), 1000 * seed + 51 + i)).collect();
        let rates = |step: i32| -> Vec<f32> {
            let one = |client: usize| {
                let empty = clients > 1 && client + 1 == clients;
                let rate = if empty { 0.0 } else { 1.0 / (1.0 + client as f32) };
                let [first, second] = CONSTANTS.betas.map(|beta| (1.0 / (1.0 - beta.powi(step))) as f32);
                [rate, first, second]
            };
            (0..clients).flat_map(one).collect()
        };
        let f32s = Format::F32;
        let zeros = || Tensor::<3>::zeros(shape, device);
        let mut state = Moving { movement: zeros(), first: zeros(), second: zeros() };
        for (step, grad) in (1..).zip(&grads) {
            let start = f32s.put(&start, [starts, rows, cols], device);
            let per_client = f32s.put(&rates(step), [clients, 3], device);
            state = adamw_step(CONSTANTS, state, start, f32s.put(grad, shape, device), per_client);
        }
        let rates: Vec<Vec<f32>> = (1..=3).map(rates).collect();
        let expected = by_hand(&start, &grads, &rates, [rows, cols]);
        let parts = [("movement", state.movement), ("first moment", state.first), ("second moment", state.second)];
        let mut offs = Vec::new();
        for ((name, tensor), expected) in parts.into_iter().zip(&expected) {
            offs.push(compare(name, &read(tensor)?, cols, expected));
        }
        Ok(offs)
    };
    let [c, r, d] = shape;
    let shape = format!("[{c}, {r}, {d}], {starts} start{}", if starts == 1 { "" } else { "s" });
    Exact { operation: "AdamW", shape, rounded: false, run: Box::new(run) }
}

/// Rows of a tensor, each with its place.
type Rows = Vec<(usize, Vec<f64>)>;

/// Movement and moments after the steps whose gradients and rates these are; a client has `rows` rows. Of many rows some and
/// the last.
fn by_hand(start: &[f32], grads: &[Vec<f32>], rates: &[Vec<f32>], [rows, cols]: [usize; 2]) -> [Rows; 3] {
    const MANY: usize = 10_000;
    let all = grads[0].len() / cols;
    let sample: Vec<usize> = (0..all).step_by(all / MANY * 10 + 1).chain([all - 1]).collect();
    let found = each(sample.len(), |i| {
        let row = sample[i] * cols..(sample[i] + 1) * cols;
        row.map(|entry| step_by_step(entry, start, grads, rates, rows * cols)).collect::<Vec<_>>()
    });
    let row = |place: usize, part: usize| found[place].iter().map(|entry| entry[part]).collect();
    [0, 1, 2].map(|part| sample.iter().enumerate().map(|(place, &at)| (at, row(place, part))).collect())
}

/// The movement and the moments of one number.
fn step_by_step(i: usize, start: &[f32], grads: &[Vec<f32>], rates: &[Vec<f32>], plane: usize) -> [f64; 3] {
    let [beta1, beta2] = CONSTANTS.betas;
    let (mut movement, mut first, mut second) = (0.0, 0.0, 0.0);
    for (grads, rates) in grads.iter().zip(rates) {
        let grad = f64::from(grads[i]);
        let rate = |which: usize| f64::from(rates[i / plane * 3 + which]);
        first = beta1 * first + (1.0 - beta1) * grad;
        second = beta2 * second + (1.0 - beta2) * grad * grad;
        let update = first * rate(1) / ((second * rate(2)).sqrt() + CONSTANTS.eps);
        let there = movement + f64::from(start[i % start.len()]);
        movement -= CONSTANTS.lr * rate(0) * (update + CONSTANTS.weight_decay * there);
    }
    [movement, first, second]
}

fn scores((ca, cb, d_in, slots, d_out): (usize, usize, usize, usize, usize), seed: u64) -> Exact {
    let run = move |device: &Device, format: Format| {
        let [a, b] = [(ca * d_in, 60), (cb * d_out, 61)].map(|(n, s)| format.numbers(n * slots, 1000 * seed + s));
        let square = |row: &[f32]| row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>();
        let squares_of_slot = |values: &[f32], stack: usize, width: usize, client: usize, slot: usize| {
            let at = (client.min(stack - 1) * slots + slot) * width;
            square(&values[at..at + width])
        };
        let one = |i: usize| {
            let (client, slot) = (i / slots, i % slots);
            (squares_of_slot(&a, ca, d_in, client, slot) * squares_of_slot(&b, cb, d_out, client, slot)).sqrt()
        };
        let expected: Vec<f64> = (0..ca.max(cb) * slots).map(one).collect();
        let f32s = Format::F32;
        let found = slot_scores(f32s.put(&a, [ca, slots, d_in], device), f32s.put(&b, [cb, slots, d_out], device));
        Ok(vec![compare("scores", &read(found)?, slots, &rows(&expected, slots))])
    };
    let shape = format!("{ca} x {cb} clients, {slots} slots, {d_in} and {d_out}");
    Exact { operation: "slot scores", shape, rounded: false, run: Box::new(run) }
}
