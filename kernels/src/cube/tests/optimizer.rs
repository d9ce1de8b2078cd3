//! The optimizer step: many tensors in one launch, per-client rates, shared and own starts, in place only where nothing else looks.

use super::*;
use crate::cube::optimizer::{clip, optimizer_step, part, square_sums};
use crate::{AdamW, FlatLayout, Sgd, StepRule};

/// Tensors of less than a workgroup, of some, and of many; every other one folded and with other rates.
const DIMS: [[usize; 2]; 4] = [[37, 21], [1, 5], [16, 96], [3, 1000]];
const CONSTANTS: AdamW = AdamW { betas: [0.9, 0.99], eps: 1e-6, weight_decay: 0.1 };
const RULES: [StepRule; 5] =
    [StepRule::AdamW(CONSTANTS), StepRule::Adam(CONSTANTS), sgd(0.0, false), sgd(0.7, false), sgd(0.7, true)];
/// Learning rate and corrections of each client, for both rates.
const RATES: [[[f32; 3]; 3]; 2] =
    [[[0.1, 10.0, 90.0], [0.0, 5.0, 40.0], [0.3, 3.0, 20.0]], [[0.02, 10.0, 90.0], [0.4, 1.5, 9.0], [0.0, 3.0, 20.0]]];
const CLIENTS: usize = 3;

const fn sgd(momentum: f64, nesterov: bool) -> StepRule {
    StepRule::Sgd(Sgd { momentum, nesterov, weight_decay: 0.1 })
}

fn layout(folded: impl Fn(usize) -> bool) -> FlatLayout {
    FlatLayout::new(DIMS.into_iter().enumerate().map(|(i, dims)| (dims, i % 2, folded(i))))
}

/// Movement, moments and weights after the step of one number, in f64.
fn reference(rule: StepRule, before: [f32; 3], grad: f32, start: f32, rates: [f32; 3], folded: bool) -> [f64; 4] {
    let ([movement, mut first, mut second], [rate, correct_first, correct_second]) =
        (before.map(f64::from), rates.map(f64::from));
    let (mut grad, weight) = (f64::from(grad), movement + f64::from(start));
    if rate != 0.0 && !matches!(rule, StepRule::AdamW(_)) {
        grad += 0.1 * weight;
    }
    let update = match rule {
        StepRule::AdamW(AdamW { betas: [beta1, beta2], eps, weight_decay })
        | StepRule::Adam(AdamW { betas: [beta1, beta2], eps, weight_decay }) => {
            first = beta1 * first + (1.0 - beta1) * grad;
            second = beta2 * second + (1.0 - beta2) * grad * grad;
            let update = first * correct_first / ((second * correct_second).sqrt() + eps);
            update + if matches!(rule, StepRule::AdamW(_)) { weight_decay * weight } else { 0.0 }
        }
        StepRule::Sgd(Sgd { momentum, nesterov, .. }) => {
            let sum = momentum * first + grad;
            if momentum > 0.0 {
                first = sum;
            }
            if nesterov { grad + momentum * sum } else { sum }
        }
    };
    let movement = movement - rate * update;
    [movement, first, second, if folded { movement } else { movement + f64::from(start) }]
}

#[test]
pub(super) fn one_step() {
    let Some(device) = device() else { return };
    let folded: [fn(usize) -> bool; 3] = [|i| i % 2 == 1, |_| false, |_| true];
    let cases = LAYOUTS.into_iter().flat_map(|put| [(put, 1), (put, CLIENTS)]);
    let cases = cases.flat_map(|case| folded.map(|folded| (case, folded)));
    for (rule, ((put, starts), folded)) in cases.flat_map(|case| RULES.map(|rule| (rule, case))) {
        let layout = layout(folded);
        let width = layout.width();
        let mut random = Random::new(starts as u64);
        let mut numbers = [0; 3].map(|_| random.numbers(CLIENTS * width));
        numbers[2].iter_mut().for_each(|v| *v = v.abs());
        let start = random.numbers(starts * width);
        let grads = DIMS.map(|[rows, cols]| random.numbers(CLIENTS * rows * cols));
        let [movement, first, second] = numbers.each_ref().map(|v| put(v, &[CLIENTS, width], &device));
        let kept = first.clone();
        let memory = identity(&movement);
        let grad = |(v, [rows, cols]): (&Vec<f32>, [usize; 2])| put(v, &[CLIENTS, rows, cols], &device);
        let found = optimizer_step(
            &rule,
            &layout,
            [movement, first, second],
            put(&start, &[starts, width], &device),
            grads.iter().zip(DIMS).map(grad).collect(),
            put(&RATES.as_flattened().concat(), &[2, CLIENTS, 3], &device),
        );
        assert_eq!(identity(&found[0]), memory, "in place where nothing else holds it");
        nothing_between(&found[0]);
        assert_eq!(values(kept), numbers[1], "a tensor held elsewhere is not written");
        for (i, place) in layout.places().iter().enumerate() {
            let (mut expected, size) = ([const { Vec::new() }; 4], place.len());
            for (client, number) in (0..CLIENTS).flat_map(|client| (0..size).map(move |number| (client, number))) {
                let at = client * width + place.at + number;
                let before = numbers.each_ref().map(|v| v[at]);
                let (grad, start) = (grads[i][client * size + number], start[at % (starts * width)]);
                let after = reference(rule, before, grad, start, RATES[place.rates][client], place.folded);
                expected.iter_mut().zip(after).for_each(|(list, number)| list.push(number));
            }
            let names = ["movement", "first", "second", "weights"];
            for ((name, found), expected) in names.into_iter().zip(&found).zip(&expected) {
                close(&format!("{rule:?}: {name} {i}"), &values(part(found.clone(), place.at, place.dims)), expected);
            }
        }
    }
}

/// Norms of several blocks and tensors of a client; the first is within the limit, the last has nothing.
#[test]
pub(super) fn norms_are_clipped() {
    let Some(device) = device() else { return };
    for put in LAYOUTS {
        let layout = layout(|_| false);
        let mut random = Random::new(9);
        let mut grads = DIMS.map(|[rows, cols]| random.numbers(CLIENTS * rows * cols));
        let scales = [0.01, 1.0, 0.0];
        for (grad, [rows, cols]) in grads.iter_mut().zip(DIMS) {
            grad.iter_mut().enumerate().for_each(|(i, v)| *v *= scales[i / (rows * cols)]);
        }
        let squares = |client: usize| -> f64 {
            let own =
                grads.iter().zip(DIMS).flat_map(|(grad, [rows, cols])| &grad[client * rows * cols..][..rows * cols]);
            own.map(|v| f64::from(*v).powi(2)).sum()
        };
        let limit = 2.0;
        let factors: Vec<f64> = (0..CLIENTS).map(|client| (limit / (squares(client).sqrt() + 1e-6)).min(1.0)).collect();
        assert!(factors[0] == 1.0 && factors[1] < 0.1 && factors[2] == 1.0, "{factors:?}");
        let before = random.numbers(2 * CLIENTS * 4);
        let expected = before.iter().enumerate().map(|(i, &v)| match i % 4 {
            3 => f64::from(v) * factors[i / 4 % CLIENTS],
            _ => f64::from(v),
        });
        let grad = |(v, [rows, cols]): (&Vec<f32>, [usize; 2])| put(v, &[CLIENTS, rows, cols], &device);
        let sums = square_sums(grads.iter().zip(DIMS).map(grad).collect(), &layout);
        for client in 0..CLIENTS {
            let parts = dims(&sums)[1];
            let sum: f32 = values(sums.clone())[client * parts..][..parts].iter().sum();
            close("squares", &[sum], &[squares(client)]);
        }
        let rates = put(&before, &[2, CLIENTS, 4], &device);
        let (kept, memory) = (rates.clone(), identity(&rates));
        assert_ne!(identity(&clip(rates, sums.clone(), limit)), memory, "what is held elsewhere is not written");
        assert_eq!(values(kept.clone()), before);
        let found = clip(kept, sums, limit);
        assert_eq!(identity(&found), memory, "in place where nothing else holds it");
        close("rates", &values(found), &expected.collect::<Vec<_>>());
    }
}

/// A step with a fourth number is the step of gradients multiplied by it.
#[test]
fn gradients_are_multiplied_on_the_way() {
    let Some(device) = device() else { return };
    let (layout, factors) = (layout(|_| false), [0.25f32, 1.0, 0.0]);
    let mut random = Random::new(3);
    let grads = DIMS.map(|[rows, cols]| random.numbers(CLIENTS * rows * cols));
    let size = |[rows, cols]: [usize; 2]| rows * cols;
    let scaled = |(v, dims): (&Vec<f32>, [usize; 2])| -> Vec<f32> {
        v.iter().enumerate().map(|(i, g)| g * factors[i / size(dims)]).collect()
    };
    let scaled: Vec<Vec<f32>> = grads.iter().zip(DIMS).map(scaled).collect();
    let step = |rule: &StepRule, grads: Vec<&[f32]>, rates: Vec<f32>, numbers: usize| {
        let grad = |(v, [rows, cols]): (&[f32], [usize; 2])| to_device(v, &[CLIENTS, rows, cols], &device);
        let flat = |value: f32| to_device(&vec![value; CLIENTS * layout.width()], &[CLIENTS, layout.width()], &device);
        let grads = grads.into_iter().zip(DIMS).map(grad).collect();
        let rates = to_device(&rates, &[2, CLIENTS, numbers], &device);
        let [movement, first, second, _] =
            optimizer_step(rule, &layout, [flat(0.1), flat(0.2), flat(0.3)], flat(0.5), grads, rates);
        [movement, first, second].map(values)
    };
    let with = |numbers: &dyn Fn(&[f32; 3], usize) -> Vec<f32>| -> Vec<f32> {
        RATES.iter().flat_map(|rates| rates.iter().enumerate().flat_map(|(client, own)| numbers(own, client))).collect()
    };
    for rule in RULES {
        let found = step(
            &rule,
            grads.iter().map(Vec::as_slice).collect(),
            with(&|own, client| [own.as_slice(), &[factors[client]]].concat()),
            4,
        );
        let expected = step(&rule, scaled.iter().map(Vec::as_slice).collect(), with(&|own, _| own.to_vec()), 3);
        assert_eq!(found, expected);
    }
}

#[test]
fn a_tensor_of_more_groups_than_a_row_holds() {
    let Some(device) = device() else { return };
    let clients = crate::cube::tensors::LONGEST + 2;
    let layout = FlatLayout::new([([1, 3], 0, true)]);
    let filled = |value: f32, shape: &[usize]| to_device(&vec![value; shape.iter().product()], shape, &device);
    let flat = |value: f32| filled(value, &[clients, layout.width()]);
    let rates = to_device(&[0.5, 10.0, 100.0].repeat(clients), &[1, clients, 3], &device);
    let grads = vec![filled(2.0, &[clients, 1, 3])];
    let [movement, ..] = optimizer_step(
        &StepRule::AdamW(CONSTANTS),
        &layout,
        [flat(0.0), flat(0.0), flat(0.0)],
        flat(0.0),
        grads,
        rates,
    );
    // The first step of Adam goes by the sign alone.
    assert!(values(part(movement, 0, [1, 3])).iter().all(|v| (v + 0.5).abs() < 1e-5));
}
