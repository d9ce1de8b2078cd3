//! Steps on the client axis and slot scores. All of it is f32.

use burn::tensor::Device;

use super::threads::each;
use super::{Exact, Format, compare, read, rows};
use crate::{AdamW, FlatLayout, Moving, Sgd, StepRule, optimizer_step, slot_scores};

const CONSTANTS: AdamW = AdamW { betas: [0.9, 0.99], eps: 1e-6, weight_decay: 0.1 };

const RULES: [(&str, StepRule); 5] = [
    ("AdamW", StepRule::AdamW(CONSTANTS)),
    ("Adam", StepRule::Adam(CONSTANTS)),
    ("SGD", sgd(0.0, false)),
    ("SGD, momentum", sgd(0.7, false)),
    ("SGD, Nesterov", sgd(0.7, true)),
];

const fn sgd(momentum: f64, nesterov: bool) -> StepRule {
    StepRule::Sgd(Sgd { momentum, nesterov, weight_decay: 0.1 })
}

pub(super) fn small(seed: u64) -> Vec<Exact> {
    let scored = [(1, 3, 50, 5, 33), (3, 1, 7, 16, 90), (3, 3, 20, 35, 20), (1, 1, 1, 1, 1)];
    let tensors = [([37, 21], false), ([1, 5], true), ([16, 64], false)];
    let steps = RULES.iter().flat_map(|rule| [1, 4].map(|starts| steps(*rule, 4, &tensors, starts, seed)));
    steps.chain(scored.map(|sizes| scores(sizes, seed))).collect()
}

pub(super) fn real(seed: u64) -> Vec<Exact> {
    vec![
        steps(RULES[0], 30, &[([16, 768], false); 12], 1, seed),
        // More workgroups than one axis of a launch holds.
        steps(RULES[0], 65_537, &[([1, 3], false)], 1, seed),
        scores((1, 30, 768, 16, 3072), seed),
    ]
}

/// Three steps on tensors of these rows and columns, some of them folded; the last client's place is empty.
fn steps(
    (operation, rule): (&'static str, StepRule),
    clients: usize,
    tensors: &[([usize; 2], bool)],
    starts: usize,
    seed: u64,
) -> Exact {
    let tensors = tensors.to_vec();
    let shape =
        format!("{clients} clients, {} tensors, {starts} start{}", tensors.len(), if starts == 1 { "" } else { "s" });
    let run = move |device: &Device, format: Format| {
        // Every other tensor steps at half the rate.
        let layout = FlatLayout::new(tensors.iter().enumerate().map(|(i, &(dims, folded))| (dims, i % 2, folded)));
        let numbers = |i: usize, of: u64, clients: usize| {
            let [rows, cols] = tensors[i].0;
            format.numbers(clients * rows * cols, 1000 * seed + 50 + 7 * i as u64 + of)
        };
        let rates = |step: i32, which: usize| -> Vec<f32> {
            let one = |client: usize| {
                let empty = clients > 1 && client + 1 == clients;
                let rate = if empty { 0.0 } else { 0.5 / (1.0 + client as f32) / (1.0 + which as f32) };
                let [first, second] = CONSTANTS.betas.map(|beta| (1.0 / (1.0 - beta.powi(step))) as f32);
                [rate, first, second]
            };
            (0..clients).flat_map(one).collect()
        };
        let f32s = Format::F32;
        let put = |numbers: &[f32], i: usize, clients: usize| {
            let [rows, cols] = tensors[i].0;
            f32s.put(numbers, [clients, rows, cols], device)
        };
        let all = || 0..tensors.len();
        let start = layout.flat(&all().map(|i| put(&numbers(i, 0, starts), i, starts)).collect::<Vec<_>>());
        let mut state = Moving::new(clients, &start, &layout, &rule);
        for step in 1..=3 {
            let grads = all().map(|i| put(&numbers(i, step as u64, clients), i, clients)).collect();
            let per_client = f32s.put(&[rates(step, 0), rates(step, 1)].concat(), [2, clients, 3], device);
            state = optimizer_step(rule, &layout, state, start.clone(), grads, per_client);
        }
        let mut offs = Vec::new();
        for (i, &(dims, folded)) in tensors.iter().enumerate() {
            let rates: Vec<Vec<f32>> = (1..=3).map(|step| rates(step, i % 2)).collect();
            let grads: Vec<_> = (1..=3).map(|step| numbers(i, step, clients)).collect();
            let expected = by_hand(rule, &numbers(i, 0, starts), folded, &grads, &rates, dims);
            let [first, second] = rule.moments();
            let parts = [
                ("movement", &state.movement, true),
                ("first moment", &state.first, first),
                ("second moment", &state.second, second),
                ("weights", &state.weights, true),
            ];
            let there = parts.into_iter().zip(&expected).filter(|((.., there), _)| *there);
            for ((name, flat, _), expected) in there {
                let found = read(layout.tensor(flat, i))?;
                offs.push(compare(format!("{name} {i}"), &found, dims[1], expected));
            }
        }
        Ok(offs)
    };
    Exact { operation, shape, rounded: false, run: Box::new(run) }
}

/// Rows of a tensor, each with its place.
type Rows = Vec<(usize, Vec<f64>)>;

/// Movement, moments and weights after the steps whose gradients and rates these are; a client has `rows` rows. Of many rows some
/// and the last.
fn by_hand(
    rule: StepRule,
    start: &[f32],
    folded: bool,
    grads: &[Vec<f32>],
    rates: &[Vec<f32>],
    [rows, cols]: [usize; 2],
) -> [Rows; 4] {
    const MANY: usize = 10_000;
    let all = grads[0].len() / cols;
    let sample: Vec<usize> = (0..all).step_by(all / MANY * 10 + 1).chain([all - 1]).collect();
    let found = each(sample.len(), |i| {
        let row = sample[i] * cols..(sample[i] + 1) * cols;
        row.map(|entry| step_by_step(rule, entry, start, folded, grads, rates, rows * cols)).collect::<Vec<_>>()
    });
    let row = |place: usize, part: usize| found[place].iter().map(|entry| entry[part]).collect();
    [0, 1, 2, 3].map(|part| sample.iter().enumerate().map(|(place, &at)| (at, row(place, part))).collect())
}

/// The movement, the moments and the weight of one number.
fn step_by_step(
    rule: StepRule,
    i: usize,
    start: &[f32],
    folded: bool,
    grads: &[Vec<f32>],
    rates: &[Vec<f32>],
    plane: usize,
) -> [f64; 4] {
    let [beta1, beta2] = CONSTANTS.betas;
    let (mut movement, mut first, mut second) = (0.0, 0.0, 0.0);
    for (grads, rates) in grads.iter().zip(rates) {
        let rate = |which: usize| f64::from(rates[i / plane * 3 + which]);
        let there = movement + f64::from(start[i % start.len()]);
        let mut grad = f64::from(grads[i]);
        if rate(0) != 0.0 && !matches!(rule, StepRule::AdamW(_)) {
            grad += CONSTANTS.weight_decay * there;
        }
        let update = if let StepRule::Sgd(Sgd { momentum, nesterov, .. }) = rule {
            first = momentum * first + grad;
            if nesterov { grad + momentum * first } else { first }
        } else {
            first = beta1 * first + (1.0 - beta1) * grad;
            second = beta2 * second + (1.0 - beta2) * grad * grad;
            first * rate(1) / ((second * rate(2)).sqrt() + CONSTANTS.eps)
        };
        let beside = if matches!(rule, StepRule::AdamW(_)) { CONSTANTS.weight_decay * there } else { 0.0 };
        movement -= rate(0) * (update + beside);
    }
    let weight = if folded { movement } else { movement + f64::from(start[i % start.len()]) };
    [movement, first, second, weight]
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
