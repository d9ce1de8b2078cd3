//! Every operation against its reference in plain tensor operations or plain numbers: forward and gradients, on random
//! shapes with empty clients, single tokens and empty slot lists. `BONFIRE_TEST_DEVICE=wgpu` runs the same on a GPU.
#![allow(clippy::unwrap_used)]

#[path = "../../../tests/support/cases.rs"]
mod cases;
mod device_math;
mod dropout;

use bonfire_kernels::check::exact::{self, Format};
use bonfire_kernels::check::{self, Way, numbers};
use bonfire_kernels::{
    Activated, AdamW, Arithmetic, AttentionLayout, Bend, FlatLayout, Grouped, LowRank, Moving, Segments, SlotCounts,
    StepRule, adapted_linear, adapted_linear_and_input, adapted_linear_composed, adapted_linear_gelu,
    adapted_linear_of_gelu, add_norm, clip, clip_composed, cross_entropy, gather_lanes, gelu, glu, lanes_on,
    optimizer_step, optimizer_step_composed, packed_attention, packed_attention_composed, packed_attention_with,
    product, rms_norm, rms_norm_and_input, rotate, slot_scores, widest_head,
};
use burn::tensor::{Device, Int, Tensor, TensorData};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

fn device() -> Device {
    check::devices::asked_for().unwrap_or_else(Device::flex)
}

/// A frozen tensor.
fn fixed<const D: usize>(shape: [usize; D], seed: u64) -> Tensor<D> {
    check::tensor(shape, seed, &device().autodiff())
}

/// A tensor that wants a gradient.
fn tensor<const D: usize>(shape: [usize; D], seed: u64) -> Tensor<D> {
    fixed(shape, seed).require_grad()
}

fn values<const D: usize>(t: Tensor<D>) -> Vec<f32> {
    t.into_data().try_to_vec().unwrap()
}

fn close(what: &str, found: Vec<f32>, expected: Vec<f32>) {
    let off = check::difference(&found, &expected);
    assert!(off <= check::ALLOWED, "{what} is off by {off}: {found:?}, reference {expected:?}");
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

/// Random shapes on the CPU. On a GPU few, and the same every time unless `BONFIRE_TEST_SEED` says otherwise: kernels are
/// compiled for each, and the references themselves run on Burn's operations there, not all of which can be trusted.
fn config() -> ProptestConfig {
    match std::env::var_os("BONFIRE_TEST_DEVICE") {
        None => cases::cases(32),
        Some(_) => {
            let seed = std::env::var("BONFIRE_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
            ProptestConfig {
                cases: 3,
                rng_seed: RngSeed::Fixed(seed),
                failure_persistence: None,
                ..ProptestConfig::default()
            }
        }
    }
}

/// The small part of what `bonfire self-test` runs, in f32.
#[test]
fn operations_against_loops_in_f64() {
    for case in exact::small(1) {
        for off in case.measure(&device(), Format::F32).unwrap() {
            let allowed = Format::F32.allowed();
            let exact::Off { name, off } = off;
            assert!(
                off <= allowed,
                "{}, {}: {name} is off by {off}, allowed are {allowed}",
                case.operation,
                case.shape
            );
        }
    }
}

/// What `bonfire doctor` runs on a user's device; the reference is the CPU's.
#[test]
fn the_cases_of_the_check() {
    for case in check::cases() {
        let found = case.outcome(&device(), Way::Operation).unwrap();
        let expected = case.outcome(&Device::flex(), Way::Reference).unwrap();
        let (off, part) = check::largest(&found, &expected);
        assert!(off <= check::ALLOWED, "{}, {}: {part} is off by {off}", case.operation, case.shape);
        assert!(expected.iter().all(|part| part.values.iter().any(|&v| v != 0.0)), "{}", case.operation);
    }
}

fn attention_agrees(layout: AttentionLayout, width: usize, surplus: usize) {
    let sequences = layout.sequences.clone();
    let columns = (layout.heads + 2 * layout.kv_heads) * width;
    let qkv = (fixed([sequences.rows() + surplus, columns], 1) * 2.0).require_grad();
    let found = packed_attention(qkv.clone(), &layout);
    agree("attention", [&qkv], found.clone(), packed_attention_composed(qkv.clone(), &layout));
    // A sequence alone gives the same rows: nobody sees a neighbour.
    let range = sequences.range(0);
    let alone = AttentionLayout { sequences: Segments::from_lengths([range.len()]), ..layout };
    let single = packed_attention(qkv.narrow(0, range.start, range.len()), &alone);
    close("alone", values(single), values(found.narrow(0, range.start, range.len())));
}

/// Softmax-weighted values of a head, query by query, in f64.
fn by_hand(qkv: &[f64], length: usize, width: usize, sees: impl Fn(usize, usize) -> bool, added: &[f64]) -> Vec<f64> {
    let row = |part: usize, i: usize| &qkv[i * 3 * width + part * width..][..width];
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let query = |i: usize| {
        let score = |j: usize| dot(row(0, i), row(1, j)) / (width as f64).sqrt() + added[i * length + j];
        let seen: Vec<(usize, f64)> = (0..length).filter(|&j| sees(i, j)).map(|j| (j, score(j).exp())).collect();
        let total: f64 = seen.iter().map(|(_, weight)| weight).sum();
        (0..width).map(move |w| seen.iter().map(|(j, weight)| weight / total * row(2, *j)[w]).sum::<f64>())
    };
    (0..length).flat_map(query).collect()
}

#[test]
fn attention_inside_a_window() {
    let (length, width) = (11, 6);
    let sequences = Segments::from_lengths([length, 3]);
    let qkv = fixed([length + 4, 3 * width], 1) * 2.0;
    let numbers: Vec<f64> = qkv.clone().into_data().iter::<f64>().collect();
    let zeros = vec![0.0; length * length];
    for (causal, window) in [(true, 4), (false, 4), (true, 1), (false, 11), (true, 11)] {
        let layout =
            AttentionLayout { sequences: sequences.clone(), heads: 1, kv_heads: 1, causal, window: Some(window) };
        let leaf = qkv.clone().require_grad();
        let found = packed_attention(leaf.clone(), &layout);
        let sees = |i: usize, j: usize| i.abs_diff(j) < window && (j <= i || !causal);
        let expected = by_hand(&numbers, length, width, sees, &zeros);
        let first: Vec<f64> = found.clone().narrow(0, 0, length).into_data().iter::<f64>().collect();
        assert!(first.iter().zip(&expected).all(|(x, y)| (x - y).abs() < 1e-5), "causal {causal}, window {window}");
        assert!(leaf.grad(&found.sum().backward()).is_some());
    }
}

#[test]
fn attention_with_something_added() {
    let (length, width) = (5, 4);
    let layout = AttentionLayout::full(Segments::from_lengths([0, length]), 1);
    let (qkv, added) = (fixed([length, 3 * width], 1), fixed([length, length], 2));
    let numbers = |t: Tensor<2>| t.into_data().iter::<f64>().collect::<Vec<f64>>();
    let none = Tensor::<3>::zeros([1, 0, 0], &device().autodiff());
    let found = packed_attention_with(qkv.clone(), &layout, &[none, added.clone().unsqueeze_dim(0)]);
    let expected = by_hand(&numbers(qkv), length, width, |_, _| true, &numbers(added));
    assert!(numbers(found).iter().zip(&expected).all(|(x, y)| (x - y).abs() < 1e-5));
}

#[test]
fn attention_of_wide_heads() {
    // Few shapes: on a GPU the reference tunes its products for each.
    for (kv_heads, group, width, causal) in [(1, 2, 160, true), (2, 1, 192, false), (1, 1, 256, true)] {
        let sequences = Segments::from_lengths([33, 5]);
        attention_agrees(
            AttentionLayout { sequences, heads: kv_heads * group, kv_heads, causal, window: None },
            width,
            1,
        );
    }
    let gpu = device() != Device::flex();
    assert_eq!(widest_head(&device()), if gpu { 256 } else { usize::MAX });
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn linears_with_adapters(
        lengths in ragged(), d in 1usize..40, width in 1usize..20, rank in 1usize..12, bits in any::<u64>(), surplus in 0usize..3,
    ) {
        let clients = Segments::from_lengths(lengths.clone());
        let c = lengths.len();
        let x = tensor([clients.rows() + surplus, d], 1);
        let (weight, bias) = (fixed([d, 3 * width], 2), fixed([3 * width], 3));
        // Some clients have no slot of an adapter at all.
        let used = |shift: usize| SlotCounts::new((0..c).map(|i| (bits >> (4 * i + shift)) as usize % (rank + 1)).collect());
        // Who is shared: B (an A round), A (a B round), nobody.
        for (ca, cb) in [(c, 1), (1, c), (c, c)] {
            let factor = |count, width, seed| tensor([count, rank, width], seed);
            let factors: Vec<_> = (0..3).map(|i| (factor(ca, d, 10 + i), factor(cb, width, 20 + i))).collect();
            let lowrank = |i: usize, used| LowRank { a: factors[i].0.clone(), b: factors[i].1.clone(), used, scale: 0.7 };
            // One adapter alone, or on two of three parts of the columns, or on all.
            for (parts, bias) in [(vec![1], Some(&bias)), (vec![0, 2], Some(&bias)), (vec![0, 1, 2], Some(&bias)), (vec![0, 1, 2], None)] {
                let adapters: Vec<_> =
                    parts.iter().map(|&i| (lowrank(i, (i != 1).then(|| used(8 * i))), i * width..(i + 1) * width)).collect();
                let adapters: Vec<_> = adapters.iter().map(|(f, columns)| (f, columns.clone())).collect();
                let bias = bias.cloned();
                let found = adapted_linear(x.clone(), weight.clone(), bias.clone(), &adapters, &clients, Arithmetic::F32);
                let reference = adapted_linear_composed(x.clone(), weight.clone(), bias, &adapters, &clients, Arithmetic::F32);
                let weights = fixed(found.dims(), 99);
                close("linear", values(found.clone()), values(reference.clone()));
                let [one, two] = [found, reference].map(|y| (y * weights.clone()).sum().backward());
                close("gradient of x", x.gradient(&one), x.gradient(&two));
                for &i in &parts {
                    for (name, factor) in [("A", &factors[i].0), ("B", &factors[i].1)] {
                        // Where nobody has a slot the reference has no graph to the factor.
                        let reference = factor.grad(&two).map_or_else(|| vec![0.0; factor.shape().num_elements()], values);
                        close(&format!("gradient of {name}"), factor.gradient(&one), reference);
                    }
                }
            }
        }
    }

    #[test]
    fn products_and_their_gradients(
        m in 1usize..20, k in 1usize..30, n in 1usize..20, stacks in prop::sample::select(vec![[1, 1], [3, 3], [1, 4], [4, 1]]),
        transposed in any::<bool>(),
    ) {
        let [left, right] = stacks;
        let lhs = tensor([left, m, k], 1);
        let stored = tensor(if transposed { [right, n, k] } else { [right, k, n] }, 2);
        let rhs = if transposed { stored.clone().swap_dims(1, 2) } else { stored.clone() };
        let y = product(lhs.clone(), rhs, Arithmetic::F32);
        let s = left.max(right);
        let weights = numbers(s * m * n, 99);
        let grads = (y.clone() * fixed([s, m, n], 99)).sum().backward();
        // By hand, in f64.
        let (a, b) = (values(lhs.clone()), values(stored.clone()));
        let b_at = |stack: usize, x: usize, j: usize| {
            stack.min(right - 1) * k * n + if transposed { j * k + x } else { x * n + j }
        };
        let (mut expected, mut da, mut db) = (vec![0.0; s * m * n], vec![0.0; a.len()], vec![0.0; b.len()]);
        for stack in 0..s {
            for (i, j, x) in (0..m).flat_map(|i| (0..n).flat_map(move |j| (0..k).map(move |x| (i, j, x)))) {
                let (y_at, a_at, b_at) = ((stack * m + i) * n + j, (stack.min(left - 1) * m + i) * k + x, b_at(stack, x, j));
                expected[y_at] += f64::from(a[a_at]) * f64::from(b[b_at]);
                da[a_at] += f64::from(weights[y_at]) * f64::from(b[b_at]);
                db[b_at] += f64::from(weights[y_at]) * f64::from(a[a_at]);
            }
        }
        for (what, found, expected) in [
            ("product", values(y), expected),
            ("gradient of the left side", lhs.gradient(&grads), da),
            ("gradient of the right side", stored.gradient(&grads), db),
        ] {
            let off = found.iter().zip(&expected).map(|(f, e)| (f64::from(*f) - e).abs()).fold(0.0, f64::max);
            prop_assert!(found.len() == expected.len() && off < 2e-6 * (k + m + n) as f64, "{what} is off by {off}");
        }
    }

    /// A residual connection past a linear, and past a norm: what goes past adds its gradient to the input's once.
    #[test]
    fn inputs_that_go_on_past_an_operation(
        lengths in ragged(), d in 1usize..30, rank in 1usize..6, adapted in any::<bool>(), surplus in 0usize..3,
        leaf in any::<bool>(),
    ) {
        let (clients, c) = (Segments::from_lengths(lengths.clone()), lengths.len());
        let start = tensor([clients.rows() + surplus, d], 1);
        // The input is a leaf, or itself the result of something.
        let input = || if leaf { start.clone() } else { start.clone() * 0.5 + 0.1 };
        let (weight, bias) = (fixed([d, d], 2), fixed([d], 3));
        let factors = LowRank { a: tensor([c, rank, d], 4), b: tensor([c, rank, d], 5), used: None, scale: 0.7 };
        let adapters = if adapted { vec![(&factors, 0..d)] } else { Vec::new() };
        let (y, x) =
            adapted_linear_and_input(input(), weight.clone(), bias.clone(), &adapters, &clients, Arithmetic::F32);
        let found = y.tanh() + x.clone() * x;
        let x = input();
        let y = adapted_linear_composed(x.clone(), weight, bias, &adapters, &clients, Arithmetic::F32);
        let reference = y.tanh() + x.clone() * x;
        if adapted {
            agree("past a linear", [&start as &dyn Gradient, &factors.a, &factors.b], found, reference);
        } else {
            agree("past a linear", [&start], found, reference);
        }
        let gamma = fixed([d], 6);
        let (y, x) = rms_norm_and_input(input(), gamma.clone(), 1.0, 1e-5);
        let found = y.tanh() + x.clone() * x;
        let x = input();
        let y = x.clone() / (x.clone().square().mean_dim(1) + 1e-5).sqrt() * (gamma.unsqueeze::<2>() + 1.0);
        agree("past a norm", [&start], found, y.tanh() + x.clone() * x);
        // Nothing past it, and nothing that wants a gradient past it.
        let (y, _) = rms_norm_and_input(input(), fixed([d], 7), 0.0, 1e-5);
        agree("nothing past it", [&start], y, rms_norm(input(), fixed([d], 7), 0.0, 1e-5));
        let (y, frozen) = rms_norm_and_input(start.clone().detach(), fixed([d], 7), 0.0, 1e-5);
        agree("a frozen input", [&start], y + frozen * start.clone(), rms_norm(start.clone().detach(), fixed([d], 7), 0.0, 1e-5) + start.clone().detach() * start.clone());
    }

    /// A linear, GELU and a linear as models chain them, with adapters on both, one or none; what else reads GELU's result, the
    /// numbers before it or the input has its gradient added.
    #[test]
    fn linears_around_gelu(
        lengths in ragged(), d in 1usize..20, inside in 1usize..40, rank in 1usize..6, wide in any::<bool>(),
        narrow in any::<bool>(), biased in any::<bool>(), others in any::<bool>(), bits in any::<u64>(), surplus in 0usize..3,
    ) {
        let (clients, c) = (Segments::from_lengths(lengths.clone()), lengths.len());
        let x = (fixed([clients.rows() + surplus, d], 1) * 3.0).require_grad();
        let [up, down] = [(d, inside, 2), (inside, d, 4)].map(|(from, to, seed)| {
            let used = SlotCounts::new((0..c).map(|i| (bits >> (4 * i + from)) as usize % (rank + 1)).collect());
            let factors = LowRank {
                a: tensor([c, rank, from], 10 + seed), b: tensor([1, rank, to], 20 + seed), used: Some(used), scale: 0.7,
            };
            (fixed([from, to], seed), biased.then(|| fixed([to], seed + 1)), factors)
        });
        let on_wide: Vec<_> = wide.then_some((&up.2, 0..inside)).into_iter().collect();
        let on_narrow: Vec<_> = narrow.then_some((&down.2, 0..d)).into_iter().collect();
        let more = |y: Tensor<2>, x: Tensor<2>, before: Tensor<2>, after: Tensor<2>| {
            let y = y + x;
            if others { y + (before.tanh() * after).sum_dim(1) } else { y }
        };
        let f32s = Arithmetic::F32;
        let (bent, past) = adapted_linear_gelu(x.clone(), up.0.clone(), up.1.clone(), &on_wide, &clients, f32s);
        let y = adapted_linear_of_gelu(bent.clone(), down.0.clone(), down.1.clone(), &on_narrow, &clients, f32s);
        let found = more(y, past, bent.before.clone(), bent.after);
        let before = adapted_linear_composed(x.clone(), up.0.clone(), up.1.clone(), &on_wide, &clients, f32s);
        close("before GELU", values(bent.before), values(before.clone()));
        let after = before.clone() * ((before.clone() / std::f64::consts::SQRT_2).erf() + 1.0) / 2.0;
        let y = adapted_linear_composed(after.clone(), down.0.clone(), down.1.clone(), &on_narrow, &clients, f32s);
        let reference = more(y, x.clone(), before, after);
        close("around GELU", values(found.clone()), values(reference.clone()));
        let weights = fixed(found.dims(), 99);
        let [one, two] = [found, reference].map(|y| (y * weights.clone()).sum().backward());
        close("gradient of x", x.gradient(&one), x.gradient(&two));
        for (factors, _) in on_wide.iter().chain(&on_narrow) {
            for (name, factor) in [("A", &factors.a), ("B", &factors.b)] {
                let reference = factor.grad(&two).map_or_else(|| vec![0.0; factor.shape().num_elements()], values);
                close(&format!("gradient of {name}"), factor.gradient(&one), reference);
            }
        }
        // Numbers that want no gradient: the factors have theirs.
        if narrow {
            let frozen = Activated::gelu(fixed([clients.rows() + surplus, inside], 7));
            let y = adapted_linear_of_gelu(frozen.clone(), down.0.clone(), None, &on_narrow, &clients, f32s);
            let reference = adapted_linear(frozen.after, down.0.clone(), None, &on_narrow, &clients, f32s);
            let [one, two] = [y, reference].map(|y| y.sum().backward());
            close("gradient of A alone", on_narrow[0].0.a.gradient(&one), on_narrow[0].0.a.gradient(&two));
        }
    }

    #[test]
    fn only_the_gradients_asked_for(lengths in ragged(), active_a in any::<bool>()) {
        let clients = Segments::from_lengths(lengths.clone());
        let c = lengths.len();
        let x = fixed([clients.rows(), 5], 1);
        let (a, b) = (fixed([c, 2, 5], 2), fixed([c, 2, 4], 3));
        let leaf = if active_a { a.clone() } else { b.clone() }.require_grad();
        let (a, b) = if active_a { (leaf.clone(), b) } else { (a, leaf.clone()) };
        let factors = LowRank { a: a.clone(), b: b.clone(), used: None, scale: 2.0 };
        let (weight, bias) = (fixed([5, 4], 4), fixed([4], 5));
        let adapters = [(&factors, 0..4)];
        let found = || adapted_linear(x.clone(), weight.clone(), bias.clone(), &adapters, &clients, Arithmetic::F32);
        let reference = adapted_linear_composed(x.clone(), weight.clone(), bias.clone(), &adapters, &clients, Arithmetic::F32);
        agree("active factor", [&leaf], found(), reference);
        let grads = found().sum().backward();
        let frozen = if active_a { b } else { a };
        prop_assert!(frozen.grad(&grads).is_none() && x.grad(&grads).is_none());
    }

    #[test]
    fn attention_over_sequences(
        lengths in prop::collection::vec(prop_oneof![4 => 1usize..20, 1 => 60usize..140], 1..6),
        kv_heads in 1usize..3, group in 1usize..3, width in 1usize..20, causal in any::<bool>(), surplus in 0usize..3,
    ) {
        let layout = AttentionLayout {
            sequences: Segments::from_lengths(lengths), heads: kv_heads * group, kv_heads, causal, window: None,
        };
        attention_agrees(layout, width, surplus);
    }

    #[test]
    fn normalised_sums(rows in 1usize..70, width in 4usize..70) {
        let (x, r) = (tensor([rows, width], 1), tensor([rows, width], 4));
        let [gamma, beta] = [2, 3].map(|seed| fixed([width], seed));
        let found = add_norm(x.clone(), r.clone(), gamma.clone(), beta.clone(), 1e-5);
        let sum = x.clone() + r.clone();
        let centred = sum.clone() - sum.mean_dim(1);
        let var = centred.clone().square().mean_dim(1);
        let reference = centred / (var + 1e-5).sqrt() * gamma.unsqueeze::<2>() + beta.unsqueeze::<2>();
        agree("norm", [&x, &r], found, reference);
    }

    #[test]
    fn gelu_elementwise(rows in 1usize..9, width in 1usize..40) {
        let x = (fixed([rows, width], 1) * 6.0).require_grad();
        // Not Burn's own, whose backward is that of the approximation by tanh on GPUs.
        let reference = x.clone() * ((x.clone() / std::f64::consts::SQRT_2).erf() + 1.0) / 2.0;
        agree("gelu", [&x], gelu(x.clone()), reference);
    }

    #[test]
    fn root_mean_squares(rows in 1usize..70, width in 1usize..70, from_one in any::<bool>()) {
        let (x, gamma, offset) = (tensor([rows, width], 1), fixed([width], 2), f64::from(u8::from(from_one)));
        let found = rms_norm(x.clone(), gamma.clone(), offset, 1e-5);
        let root = (x.clone().square().mean_dim(1) + 1e-5).sqrt();
        agree("rms norm", [&x], found, x.clone() / root * (gamma.unsqueeze::<2>() + offset));
    }

    #[test]
    fn gated_units(rows in 1usize..70, width in 1usize..70, bend in 0usize..3) {
        let wide = (fixed([rows, 2 * width], 1) * 4.0).require_grad();
        let (gate, up) = (wide.clone().narrow(1, 0, width), wide.clone().narrow(1, width, width));
        let cubed = gate.clone() * gate.clone() * gate.clone();
        let (bend, bent) = match bend {
            0 => (Bend::Silu, gate.clone() / (gate.neg().exp() + 1.0)),
            1 => (Bend::Gelu, gate.clone() * ((gate / std::f64::consts::SQRT_2).erf() + 1.0) / 2.0),
            _ => {
                let inner = (gate.clone() + cubed * 0.044715) * (2.0 / std::f64::consts::PI).sqrt();
                (Bend::GeluTanh, gate * 0.5 * (inner.tanh() + 1.0))
            }
        };
        agree("glu", [&wide], glu(wide.clone(), bend), bent * up);
    }

    #[test]
    fn turned_heads(tokens in 1usize..70, heads in 1usize..4, half in 1usize..40, more in 0usize..9) {
        let x = tensor([tokens, heads * 2 * half + more], 1);
        let [cos, sin] = [2, 3].map(|seed| fixed([tokens, half], seed));
        let found = rotate(x.clone(), cos.clone(), sin.clone(), heads);
        let half_head = |start: usize| x.clone().slice_dim(1, start..start + half);
        let mut parts = Vec::new();
        for head in 0..heads {
            let [a, b] = [half_head(head * 2 * half), half_head(head * 2 * half + half)];
            parts.push(a.clone() * cos.clone() - b.clone() * sin.clone());
            parts.push(b * cos.clone() + a * sin.clone());
        }
        if more > 0 {
            parts.push(x.clone().slice_dim(1, heads * 2 * half..));
        }
        agree("rotary", [&x], found, Tensor::cat(parts, 1));
    }

    #[test]
    fn what_clients_leave_is_gathered(clients in 1usize..5, rows in 1usize..6, cols in 1usize..40, at in 0usize..4) {
        let (device, lanes) = (device(), [clients - 1, 0, clients / 2]);
        let stack = check::tensor([clients, rows, cols], 1, &device);
        let table = check::tensor([3, at + rows * cols + 1], 2, &device);
        let mut by_hand = values(table.clone());
        let width = at + rows * cols + 1;
        for (end, lane) in lanes.iter().enumerate() {
            let from = &values(stack.clone())[lane * rows * cols..(lane + 1) * rows * cols];
            by_hand[end * width + at..][..rows * cols].copy_from_slice(from);
        }
        close("gathered", values(gather_lanes(table, stack, &lanes_on(&lanes, &device), at)), by_hand);
    }

    #[test]
    fn losses_stay_with_their_client(lengths in ragged(), k in 2usize..6) {
        let clients = Segments::from_lengths(lengths.clone());
        let logits = tensor([clients.rows(), k], 1);
        let labels: Vec<i32> = (0..clients.rows()).map(|i| (i * 7 % k) as i32).collect();
        let targets = Tensor::<1, Int>::from_data(TensorData::new(labels.clone(), [labels.len()]), &device().autodiff());
        let losses = Grouped::new(&clients, &device().autodiff()).mean(cross_entropy(logits.clone(), targets));
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
        let (a, b) = (tensor([1, r, d], 1).inner(), tensor([2, r, o], 2).inner());
        let (av, bv) = (values(a.clone()), values(b.clone()));
        let by_hand: Vec<f32> = (0..2 * r).map(|i| {
            let (c, slot) = (i / r, i % r);
            let products = (0..d).flat_map(|x| (0..o).map(move |y| (x, y)));
            products.map(|(x, y)| (av[slot * d + x] * bv[c * r * o + slot * o + y]).powi(2)).sum::<f32>().sqrt()
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
fn each_clients_gradients_are_clipped_over_all_layouts() {
    let device = device();
    let put = |v: Vec<f32>, shape: [usize; 3]| Tensor::<3>::from_data(TensorData::new(v, shape), &device);
    let (clients, limit) = (3, 1.5);
    // Two layouts, whose tensors count together; tensors of less than a block and of many.
    let dims = [vec![[1, 3], [40, 700]], vec![[2, 2]]];
    let layouts: Vec<FlatLayout> =
        dims.iter().map(|dims| FlatLayout::new(dims.iter().map(|&dims| (dims, 0, false)))).collect();
    let gradients: Vec<Vec<Vec<f32>>> = dims
        .iter()
        .map(|dims| {
            dims.iter()
                .map(|[rows, cols]| {
                    let mut own = numbers(clients * rows * cols, (rows + cols) as u64);
                    // The first client stays within the limit, the second is nobody.
                    own[..rows * cols].iter_mut().for_each(|v| *v *= 1e-3);
                    own[rows * cols..2 * rows * cols].fill(0.0);
                    own
                })
                .collect()
        })
        .collect();
    let tensors: Vec<Vec<Tensor<3>>> = gradients
        .iter()
        .zip(&dims)
        .map(|(own, dims)| own.iter().zip(dims).map(|(v, &[r, c])| put(v.clone(), [clients, r, c])).collect())
        .collect();
    let of_layouts: Vec<(&FlatLayout, &[Tensor<3>])> = layouts.iter().zip(&tensors).map(|(l, t)| (l, &t[..])).collect();
    let rates = numbers(2 * clients * 4, 77);
    let by_hand: Vec<f32> = rates
        .iter()
        .enumerate()
        .map(|(i, &rate)| {
            let client = i / 4 % clients;
            let of_tensor = |v: &Vec<f32>| {
                let size = v.len() / clients;
                v[client * size..][..size].iter().map(|v| f64::from(*v).powi(2)).sum::<f64>()
            };
            let norm = gradients.iter().flatten().map(of_tensor).sum::<f64>().sqrt();
            if i % 4 == 3 { (f64::from(rate) * (limit / (norm + 1e-6)).min(1.0)) as f32 } else { rate }
        })
        .collect();
    assert!(by_hand[3] == rates[3] && by_hand[11].abs() < 0.1 * rates[11].abs(), "one client is clipped, one is not");
    let rates = put(rates, [2, clients, 4]);
    close("clip", values(clip(rates.clone(), &of_layouts, limit)), by_hand.clone());
    close("clip composed", values(clip_composed(rates, &of_layouts, limit)), by_hand);
}

#[test]
fn adamw_steps_each_client_by_its_own_count() {
    let device = device();
    let constants = AdamW { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.1 };
    let put = |v: &[f32], shape: [usize; 3]| Tensor::<3>::from_data(TensorData::new(v.to_vec(), shape), &device);
    // Two tensors, the second with a rate of its own and its start in the backbone. The last entry of the first is a slot that nobody
    // has: it starts at zero and no gradient reaches it.
    let (dims, lrs) = ([[1, 3], [2, 2]], [0.01f32, 0.03]);
    let layout = FlatLayout::new([(dims[0], 0, false), (dims[1], 1, true)]);
    let starts = [vec![0.5f32, -2.0, 0.0], vec![0.25, 1.5, -0.75, 2.5]];
    let flat = |clients: usize| {
        let tensor = |i: usize| put(&starts[i].repeat(clients), [clients, dims[i][0], dims[i][1]]);
        layout.flat(&[tensor(0), tensor(1)])
    };
    let rule = StepRule::AdamW(constants);
    let begin = || Moving::new(2, &flat(1), &layout, &rule);
    let (mut state, mut composed, mut apart) = (begin(), begin(), begin());
    // Of each step both tensors, of each tensor both clients.
    let grads: Vec<[Vec<f32>; 2]> = (0..4)
        .map(|i| {
            let mut g = [numbers(6, i + 5), numbers(8, i + 50)];
            [g[0][2], g[0][5]] = [0.0; 2];
            // The second client joins two steps later: its place in the batch is empty before.
            if i < 2 {
                g[0][3..].fill(0.0);
                g[1][4..].fill(0.0);
            }
            g
        })
        .collect();
    for (i, g) in grads.iter().enumerate() {
        let steps = [i + 1, (i + 1).saturating_sub(2)];
        let row = |t: usize, lr: f32| match t {
            0 => [0.0, 1.0, 1.0],
            t => [lr, 1.0 / (1.0 - 0.9f32.powi(t as i32)), 1.0 / (1.0 - 0.999f32.powi(t as i32))],
        };
        let rates = lrs.map(|lr| steps.map(|t| row(t, lr)).concat()).concat();
        let rates = || put(&rates, [2, 2, 3]);
        let grads = || vec![put(&g[0], [2, 1, 3]), put(&g[1], [2, 2, 2])];
        state = optimizer_step(rule, &layout, state, flat(1), grads(), rates());
        composed = optimizer_step_composed(rule, &layout, composed, flat(1), grads(), rates());
        apart = optimizer_step(rule, &layout, apart, flat(2), grads(), rates());
    }
    for i in 0..2 {
        let part = |flat: &Tensor<2>| values(layout.tensor(flat, i));
        close("second moment", part(&state.second), part(&composed.second));
        close("movement", part(&state.movement), part(&composed.movement));
        close("start per client", part(&apart.movement), part(&state.movement));
        close("weights", part(&state.weights), part(&composed.weights));
        let size = dims[i][0] * dims[i][1];
        let (moved, weights) = (part(&state.movement), part(&state.weights));
        for (client, first) in [(0, 0), (1, 2)] {
            for (entry, start) in starts[i].iter().enumerate() {
                let own: Vec<f64> = grads[first..].iter().map(|g| f64::from(g[i][client * size + entry])).collect();
                let expected = adamw_by_hand(f64::from(*start), &own, &constants, f64::from(lrs[i]));
                let read = if i == 0 { expected } else { expected - f64::from(*start) };
                let [found, weight] = [&moved, &weights].map(|part| f64::from(part[client * size + entry]));
                let off = (found - (expected - f64::from(*start))).abs().max((weight - read).abs());
                assert!(
                    off < 1e-6,
                    "tensor {i}, client {client}, entry {entry}: {found}, {weight}; by hand {expected}"
                );
            }
        }
    }
    let moved = values(layout.tensor(&state.movement, 0));
    assert_eq!([moved[2].to_bits(), moved[5].to_bits()], [0, 0], "what nobody has does not move, weight decay or not");
}
