//! Every operation against its reference in plain tensor operations or plain numbers: forward and gradients, on random
//! shapes with empty clients, single tokens and empty slot lists. `BONFIRE_TEST_DEVICE=wgpu` runs the same on a GPU.
#![allow(clippy::unwrap_used)]

use bonfire_kernels::{
    AdamW, AttentionPlan, LowRank, Moments, Segments, StepFactors, adamw_step, cross_entropy, gelu, layer_norm,
    lowrank_update, mean_per_client, packed_attention, packed_attention_composed, segmented_matmul,
    segmented_matmul_composed, slot_scores,
};
use burn::tensor::{Device, Int, Tensor, TensorData};
use proptest::prelude::*;

fn device() -> Device {
    match std::env::var("BONFIRE_TEST_DEVICE").as_deref() {
        Err(_) | Ok("cpu") => Device::flex(),
        #[cfg(feature = "wgpu")]
        Ok("wgpu") => Device::wgpu(burn::tensor::DeviceKind::DefaultDevice),
        Ok(other) => panic!("BONFIRE_TEST_DEVICE={other}; expected cpu or wgpu"),
    }
}

/// Numbers in -1..1 that depend on `seed` alone.
fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// A frozen tensor.
fn fixed<const D: usize>(shape: [usize; D], seed: u64) -> Tensor<D> {
    Tensor::from_data(TensorData::new(numbers(shape.iter().product(), seed), shape), &device().autodiff())
}

/// A tensor that wants a gradient.
fn tensor<const D: usize>(shape: [usize; D], seed: u64) -> Tensor<D> {
    fixed(shape, seed).require_grad()
}

fn values<const D: usize>(t: Tensor<D>) -> Vec<f32> {
    t.into_data().try_to_vec().unwrap()
}

fn close(what: &str, found: Vec<f32>, expected: Vec<f32>) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (f, e)) in found.iter().zip(&expected).enumerate() {
        assert!((f - e).abs() <= 1e-4 * e.abs().max(1.0), "{what}[{i}]: {f}, reference {e}");
    }
}

/// Compares two ways to the same result, and the gradients of a weighted sum of it for every input.
fn agree<const D: usize, const N: usize>(
    what: &str,
    inputs: [&dyn Gradient; N],
    found: Tensor<D>,
    reference: Tensor<D>,
) {
    let weights = fixed(found.dims(), 99);
    close(what, values(found.clone()), values(reference.clone()));
    let [one, two] = [found, reference].map(|y| (y * weights.clone()).sum().backward());
    for (i, input) in inputs.iter().enumerate() {
        let (found, reference) = (input.gradient(&one), input.gradient(&two));
        close(&format!("{what}, gradient of input {i}"), found, reference);
    }
}

trait Gradient {
    fn gradient(&self, grads: &burn::tensor::Gradients) -> Vec<f32>;
}

impl<const D: usize> Gradient for Tensor<D> {
    fn gradient(&self, grads: &burn::tensor::Gradients) -> Vec<f32> {
        self.grad(grads).map(values).expect("a gradient")
    }
}

/// Lengths of client segments, some empty, not all.
fn ragged() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![1 => Just(0usize), 1 => Just(1usize), 3 => 2usize..9], 1..6)
        .prop_filter("some row", |v| v.iter().sum::<usize>() > 0)
}

/// `[T, out]` from explicit loops over tokens, so that the reference shares no code with the operation.
fn lowrank_by_hand(
    x: &[f32],
    a: &[f32],
    b: &[f32],
    owner: &[usize],
    slots: &[f32],
    [d, r, o]: [usize; 3],
    scale: f32,
) -> Vec<f32> {
    let mut y = vec![0f32; owner.len() * o];
    for (t, &c) in owner.iter().enumerate() {
        for slot in 0..r {
            let hidden: f32 = (0..d).map(|i| x[t * d + i] * a[c * d * r + i * r + slot]).sum();
            for j in 0..o {
                y[t * o + j] += scale * slots[c * r + slot] * hidden * b[c * r * o + slot * o + j];
            }
        }
    }
    y
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if std::env::var_os("BONFIRE_TEST_DEVICE").is_some() { 2 } else { 32 }, failure_persistence: None, ..Default::default() })]

    #[test]
    fn segmented_products(lengths in ragged(), k in 1usize..9, n in 1usize..9) {
        let segments = Segments::from_lengths(lengths.clone());
        let (x, w) = (tensor([segments.rows(), k], 1), tensor([lengths.len(), k, n], 2));
        let found = segmented_matmul(x.clone(), w.clone(), &segments);
        agree("product", [&x, &w], found, segmented_matmul_composed(x.clone(), w.clone(), &segments));
        let shared = tensor([1, k, n], 3);
        let whole = Segments::from_lengths([segments.rows()]);
        let found = segmented_matmul(x.clone(), shared.clone(), &segments);
        agree("shared product", [&x, &shared], found, segmented_matmul_composed(x.clone(), shared.clone(), &whole));
    }

    #[test]
    fn masked_lowrank_updates(lengths in ragged(), d in 1usize..7, r in 1usize..5, o in 1usize..7, bits in any::<u32>()) {
        let clients = Segments::from_lengths(lengths.clone());
        let c = lengths.len();
        let slots: Vec<f32> = (0..c * r).map(|i| (bits >> (i % 32) & 1) as f32).collect();
        let mask = || Tensor::<2>::from_data(TensorData::new(slots.clone(), [c, r]), &device().autodiff());
        let x = tensor([clients.rows(), d], 1);
        // Who is shared: B (an A round), A (a B round), nobody.
        for (ca, cb) in [(c, 1), (1, c), (c, c)] {
            let (a, b) = (tensor([ca, d, r], 2), tensor([cb, r, o], 3));
            let y = lowrank_update(x.clone(), &LowRank { a: a.clone(), b: b.clone(), slots: Some(mask()), scale: 0.7 }, &clients);
            let spread = |v: Vec<f32>, n: usize| if n == c { v } else { v.repeat(c) };
            let (av, bv) = (spread(values(a.clone()), ca), spread(values(b.clone()), cb));
            close("update", values(y.clone()), lowrank_by_hand(&values(x.clone()), &av, &bv, &clients.owners(), &slots, [d, r, o], 0.7));
            // Slots that are not a client's get no gradient.
            let grads = y.square().sum().backward();
            if cb == c {
                let gradient = b.grad(&grads).map(values).unwrap();
                for (i, _) in slots.iter().enumerate().filter(|(_, s)| **s == 0.0) {
                    prop_assert!(gradient[i * o..(i + 1) * o].iter().all(|&g| g == 0.0));
                }
            }
        }
    }

    #[test]
    fn attention_over_sequences(lengths in prop::collection::vec(1usize..20, 1..6), heads in 1usize..4, width in 1usize..10) {
        let sequences = Segments::from_lengths(lengths);
        let shape = [sequences.rows(), heads * width];
        let [q, k, v] = [1, 2, 3].map(|seed| (fixed(shape, seed) * 2.0).require_grad());
        let device = device().autodiff();
        let (plan, composed) = (AttentionPlan::new(sequences.clone(), &device), AttentionPlan::composed(sequences.clone(), &device));
        let found = packed_attention(q.clone(), k.clone(), v.clone(), heads, &plan);
        let reference = packed_attention_composed(q.clone(), k.clone(), v.clone(), heads, &composed);
        agree("attention", [&q, &k, &v], found.clone(), reference);
        // A sequence alone gives the same rows: nobody sees a neighbour.
        let range = sequences.range(0);
        let alone = |t: &Tensor<2>| t.clone().narrow(0, range.start, range.len());
        let plan = AttentionPlan::new(Segments::from_lengths([range.len()]), &device);
        let single = packed_attention(alone(&q), alone(&k), alone(&v), heads, &plan);
        close("alone", values(single), values(found.narrow(0, range.start, range.len())));
    }

    #[test]
    fn normalised_rows(rows in 1usize..70, width in 4usize..40) {
        let x = tensor([rows, width], 1);
        let [gamma, beta] = [2, 3].map(|seed| fixed([width], seed));
        let found = layer_norm(x.clone(), gamma.clone(), beta.clone(), 1e-5);
        let centred = x.clone() - x.clone().mean_dim(1);
        let var = centred.clone().square().mean_dim(1);
        let reference = centred / (var + 1e-5).sqrt() * gamma.unsqueeze::<2>() + beta.unsqueeze::<2>();
        agree("norm", [&x], found, reference);
    }

    #[test]
    fn gelu_elementwise(rows in 1usize..9, width in 1usize..40) {
        let x = (fixed([rows, width], 1) * 6.0).require_grad();
        agree("gelu", [&x], gelu(x.clone()), burn::tensor::activation::gelu(x.clone()));
    }

    #[test]
    fn losses_stay_with_their_client(lengths in ragged(), k in 2usize..6) {
        let clients = Segments::from_lengths(lengths.clone());
        let logits = tensor([clients.rows(), k], 1);
        let labels: Vec<i32> = (0..clients.rows()).map(|i| (i * 7 % k) as i32).collect();
        let targets = Tensor::<1, Int>::from_data(TensorData::new(labels.clone(), [labels.len()]), &device().autodiff());
        let losses = mean_per_client(cross_entropy(logits.clone(), targets), &clients);
        let scores = values(logits.clone());
        let by_hand: Vec<f32> = clients.ranges().map(|range| {
            let n = range.len().max(1) as f32;
            range.map(|s| {
                let row = &scores[s * k..(s + 1) * k];
                row.iter().map(|v| v.exp()).sum::<f32>().ln() - row[labels[s] as usize]
            }).sum::<f32>() / n
        }).collect();
        close("losses", values(losses.clone()), by_hand);
        // The first client's loss moves its own rows alone.
        let grads = losses.narrow(0, 0, 1).sum().backward();
        prop_assert!(logits.gradient(&grads)[clients.range(0).end * k..].iter().all(|&g| g == 0.0));
    }

    #[test]
    fn scores_are_norms_of_outer_products(d in 1usize..6, r in 1usize..5, o in 1usize..6) {
        let (a, b) = (tensor([1, d, r], 1), tensor([2, r, o], 2));
        let (av, bv) = (values(a.clone()), values(b.clone()));
        let by_hand: Vec<f32> = (0..2 * r).map(|i| {
            let (c, slot) = (i / r, i % r);
            let products = (0..d).flat_map(|x| (0..o).map(move |y| (x, y)));
            products.map(|(x, y)| (av[x * r + slot] * bv[c * r * o + slot * o + y]).powi(2)).sum::<f32>().sqrt()
        }).collect();
        close("scores", values(slot_scores(a, b)), by_hand);
    }
}

/// PyTorch's AdamW in plain numbers, for one entry.
fn adamw_by_hand(start: f64, grads: &[f64], c: &AdamW, lr: f64) -> f64 {
    let (mut p, mut m, mut v) = (start, 0.0, 0.0);
    for (t, g) in (1..).zip(grads) {
        p -= lr * c.weight_decay * p;
        m = c.betas[0] * m + (1.0 - c.betas[0]) * g;
        v = c.betas[1] * v + (1.0 - c.betas[1]) * g * g;
        let corrected = (v / (1.0 - c.betas[1].powi(t))).sqrt();
        p -= lr * (m / (1.0 - c.betas[0].powi(t))) / (corrected + c.eps);
    }
    p
}

#[test]
fn adamw_steps_each_client_by_its_own_count_and_leaves_masked_slots_alone() {
    let device = device();
    let constants = AdamW { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.1 };
    let put = |v: Vec<f32>, shape: [usize; 3]| Tensor::<3>::from_data(TensorData::new(v, shape), &device);
    let start = vec![0.5f32, -2.0, 1.0];
    let mask = put(vec![1.0, 0.0, 1.0, 1.0, 1.0, 0.0], [2, 1, 3]);
    let mut movement = put(vec![0.0; 6], [2, 1, 3]);
    let mut moments = Moments { first: movement.clone(), second: movement.clone() };
    let grads: Vec<Vec<f32>> = (0..4).map(|i| numbers(6, i + 5)).collect();
    // The second client joins two steps later: its place in the batch is empty before.
    for (i, g) in grads.iter().enumerate() {
        let step = [i + 1, (i + 1).saturating_sub(2)];
        let per = |f: &dyn Fn(usize) -> f64| put(step.map(|t| f(t) as f32).to_vec(), [2, 1, 1]);
        let factors = StepFactors {
            lr: per(&|t| if t == 0 { 0.0 } else { 0.01 }),
            correct_first: per(&|t| if t == 0 { 1.0 } else { 1.0 / (1.0 - 0.9f64.powi(t as i32)) }),
            correct_second: per(&|t| if t == 0 { 1.0 } else { 1.0 / (1.0 - 0.999f64.powi(t as i32)) }),
        };
        let mut g = g.clone();
        if step[1] == 0 {
            g[3..].fill(0.0);
        }
        (movement, moments) = adamw_step(
            &constants,
            movement,
            put(start.clone(), [1, 1, 3]),
            moments,
            put(g, [2, 1, 3]),
            Some(mask.clone()),
            &factors,
        );
    }
    let moved = values(movement);
    assert_eq!(
        [moved[1].to_bits(), moved[5].to_bits()],
        [0, 0],
        "masked entries are bit-identical, weight decay or not"
    );
    for (client, entry, first) in [(0, 0, 0), (0, 2, 0), (1, 0, 2), (1, 1, 2)] {
        let own: Vec<f64> = grads[first..].iter().map(|g| f64::from(g[client * 3 + entry])).collect();
        let expected = adamw_by_hand(f64::from(start[entry]), &own, &constants, 0.01) - f64::from(start[entry]);
        let found = f64::from(moved[client * 3 + entry]);
        assert!((found - expected).abs() < 1e-6, "client {client} entry {entry}: {found}, by hand {expected}");
    }
}
