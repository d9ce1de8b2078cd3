//! The cases: each computes its result and the gradients of a weighted sum of it, by the operation or by its reference.

use std::f64::consts::SQRT_2;

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Gradients, Int, Tensor, TensorData};

use super::{Case, Outcome, Part, Way, numbers, part, tensor};
use crate::product::product_untuned;
use crate::{
    AdamW, Arithmetic, AttentionLayout, FlatLayout, Grouped, LowRank, Moving, Segments, Sgd, SlotCounts, StepRule,
    adapted_linear, adapted_linear_composed, add_norm, cross_entropy, gelu, optimizer_step, optimizer_step_composed,
    packed_attention, packed_attention_composed, product, slot_scores,
};

pub(super) fn all() -> Vec<Case> {
    let case = |operation, shape, short, run| Case { operation, shape, short, used: true, run };
    vec![
        case("matrix product, tuned", "37 x 40 x 24", true, |device, way| matrices(device, way, true)),
        Case {
            operation: "matrix product, untuned",
            shape: "37 x 40 x 24",
            short: false,
            used: false,
            run: |device, way| matrices(device, way, false),
        },
        case("linear, A and B train", "an empty client, rank 3", true, |device, way| {
            linear(device, way, &Linear { rank: 3, own: [true, true], chosen: false })
        }),
        case("linear, A trains", "chosen slots, rank 9", false, |device, way| {
            linear(device, way, &Linear { rank: 9, own: [true, false], chosen: true })
        }),
        case("linear, B trains", "chosen slots, rank 9", true, |device, way| {
            linear(device, way, &Linear { rank: 9, own: [false, true], chosen: true })
        }),
        case("attention", "lengths 1 to 70", false, |device, way| {
            attention(
                device,
                way,
                Attention { lengths: &[1, 7, 1, 70], heads: 2, kv_heads: 2, width: 10, causal: false },
            )
        }),
        case("attention, causal", "2 key heads of 4", true, |device, way| {
            attention(device, way, Attention { lengths: &[1, 33, 5], heads: 4, kv_heads: 2, width: 16, causal: true })
        }),
        case("norm of a sum", "5 x 37", true, norm),
        case("GELU", "3 x 17", false, gelu_rows),
        case("heads and losses", "an empty client", true, losses),
        case("slot scores", "A shared", false, scores),
        case("AdamW", "a client joins late", true, |device, way| stepped(StepRule::AdamW(ADAM), device, way)),
        case("Adam", "a client joins late", false, |device, way| stepped(StepRule::Adam(ADAM), device, way)),
        case("SGD", "a client joins late", false, |device, way| stepped(sgd(0.0, false), device, way)),
        case("SGD", "momentum", false, |device, way| stepped(sgd(0.9, false), device, way)),
        case("SGD", "Nesterov's momentum", false, |device, way| stepped(sgd(0.9, true), device, way)),
    ]
}

/// A tensor that wants a gradient.
fn leaf<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    tensor(shape, seed, device).require_grad()
}

/// The gradients of a weighted sum of `result`, under which no entry's gradient is like another's.
fn gradients<const D: usize>(result: &Tensor<D>) -> Gradients {
    let weights = tensor(result.dims(), 99, &result.device());
    (result.clone() * weights).sum().backward()
}

/// A leaf's gradient. A reference has no graph to what nobody uses; an operation must say zero.
fn gradient<const D: usize>(name: String, leaf: &Tensor<D>, grads: &Gradients, way: Way) -> Result<Part, String> {
    let name = format!("gradient of {name}");
    match (leaf.grad(grads), way) {
        (Some(gradient), _) => part(name, gradient),
        (None, Way::Reference) => Ok(Part { name, values: vec![0.0; leaf.shape().num_elements()] }),
        (None, Way::Operation) => Err(format!("there is no {name}")),
    }
}

/// A product as the forward pass and as the gradient of activations meets it.
fn matrices(device: &Device, way: Way, tuned: bool) -> Outcome {
    let (x, w) = (tensor([37, 40], 1, device), tensor([40, 24], 2, device));
    let multiplied = |x: Tensor<2>, w: Tensor<2>| match (way, tuned) {
        (Way::Operation, false) => product_untuned(x, w),
        _ => product(x, w, Arithmetic::F32),
    };
    let y = multiplied(x, w.clone());
    Ok(vec![part("x·W", y.clone())?, part("dy·Wᵀ", multiplied(y, w.transpose()))?])
}

struct Linear {
    rank: usize,
    /// Whether A and B are each client's own, or all clients'.
    own: [bool; 2],
    /// Whether clients have different numbers of slots, some none.
    chosen: bool,
}

/// Three adapters side by side, as on query, key and value.
fn linear(device: &Device, way: Way, shape: &Linear) -> Outcome {
    const LENGTHS: [usize; 4] = [5, 0, 1, 9];
    let (d, width, clients, device) = (13, 6, Segments::from_lengths(LENGTHS), &device.clone().autodiff());
    // Two rows more than the clients have.
    let x = leaf([clients.rows() + 2, d], 1, device);
    let (weight, bias) = (tensor([d, 3 * width], 2, device), tensor([3 * width], 3, device));
    let [a, b] = shape.own.map(|own| if own { clients.len() } else { 1 });
    let used = |i: usize| (0..clients.len()).map(|client| (5 * client + 3 * i) % (shape.rank + 1)).collect();
    let factors: Vec<LowRank> = (0..3)
        .map(|i| LowRank {
            a: leaf([a, shape.rank, d], 10 + i as u64, device),
            b: leaf([b, shape.rank, width], 20 + i as u64, device),
            used: shape.chosen.then(|| SlotCounts::new(used(i))),
            scale: 0.7,
        })
        .collect();
    let adapters: Vec<_> = factors.iter().enumerate().map(|(i, f)| (f, i * width..(i + 1) * width)).collect();
    let result = match way {
        Way::Operation => adapted_linear(x.clone(), weight, bias, &adapters, &clients, Arithmetic::F32),
        Way::Reference => adapted_linear_composed(x.clone(), weight, bias, &adapters, &clients, Arithmetic::F32),
    };
    let grads = gradients(&result);
    let mut parts = vec![part("result", result)?, gradient("x".into(), &x, &grads, way)?];
    for (i, f) in factors.iter().enumerate() {
        for (name, factor) in [("A", &f.a), ("B", &f.b)] {
            parts.push(gradient(format!("{name} {i}"), factor, &grads, way)?);
        }
    }
    Ok(parts)
}

struct Attention {
    lengths: &'static [usize],
    heads: usize,
    kv_heads: usize,
    width: usize,
    causal: bool,
}

fn attention(device: &Device, way: Way, shape: Attention) -> Outcome {
    let Attention { lengths, heads, kv_heads, width, causal } = shape;
    let layout = AttentionLayout {
        sequences: Segments::from_lengths(lengths.iter().copied()),
        heads,
        kv_heads,
        causal,
        window: None,
    };
    let columns = (heads + 2 * kv_heads) * width;
    let qkv = (tensor([layout.sequences.rows() + 2, columns], 1, &device.clone().autodiff()) * 2.0).require_grad();
    let result = match way {
        Way::Operation => packed_attention(qkv.clone(), &layout),
        Way::Reference => packed_attention_composed(qkv.clone(), &layout),
    };
    let grads = gradients(&result);
    Ok(vec![part("result", result)?, gradient("q, k, v".into(), &qkv, &grads, way)?])
}

fn norm(device: &Device, way: Way) -> Outcome {
    let device = &device.clone().autodiff();
    let [x, r] = [1, 4].map(|seed| leaf([5, 37], seed, device));
    let [gamma, beta] = [2, 3].map(|seed| tensor([37], seed, device));
    let result = match way {
        Way::Operation => add_norm(x.clone(), r.clone(), gamma, beta, 1e-5),
        Way::Reference => {
            let sum = x.clone() + r.clone();
            let centred = sum.clone() - sum.mean_dim(1);
            let var = centred.clone().square().mean_dim(1);
            centred / (var + 1e-5).sqrt() * gamma.unsqueeze::<2>() + beta.unsqueeze::<2>()
        }
    };
    let grads = gradients(&result);
    let leaves = [("x", &x), ("the residual", &r)].map(|(name, leaf)| gradient(name.into(), leaf, &grads, way));
    [part("result", result)].into_iter().chain(leaves).collect()
}

fn gelu_rows(device: &Device, way: Way) -> Outcome {
    let x = (tensor([3, 17], 1, &device.clone().autodiff()) * 6.0).require_grad();
    let result = match way {
        Way::Operation => gelu(x.clone()),
        // Not Burn's own, whose backward is that of the approximation by tanh on GPUs.
        Way::Reference => x.clone() * ((x.clone() / SQRT_2).erf() + 1.0) / 2.0,
    };
    let grads = gradients(&result);
    Ok(vec![part("result", result)?, gradient("x".into(), &x, &grads, way)?])
}

/// Each client's own linear head and the mean of its losses.
fn losses(device: &Device, way: Way) -> Outcome {
    let (clients, device) = (Segments::from_lengths([3, 0, 1, 4]), &device.clone().autodiff());
    let (s, c, d, k) = (clients.rows(), clients.len(), 7, 5);
    let (x, w, bias) = (leaf([s, d], 1, device), leaf([c, d, k], 2, device), leaf([c, 1, k], 3, device));
    let labels: Vec<i32> = (0..s).map(|i| (i * 7 % k) as i32).collect();
    let labels = Tensor::<1, Int>::from_data(TensorData::new(labels, [s]), device);
    let result = match way {
        Way::Operation => {
            let grouped = Grouped::new(&clients, device);
            let logits = grouped.linear(x.clone(), w.clone(), bias.clone());
            grouped.mean(cross_entropy(logits, labels))
        }
        Way::Reference => {
            let mean_loss = |(client, range): (usize, std::ops::Range<usize>)| match range.len() {
                0 => Tensor::zeros([1], device),
                n => {
                    let own = |t: &Tensor<3>| t.clone().narrow(0, client, 1).squeeze_dim::<2>(0);
                    let logits = product(x.clone().narrow(0, range.start, n), own(&w), Arithmetic::F32) + own(&bias);
                    let labels = labels.clone().narrow(0, range.start, n).unsqueeze_dim::<2>(1);
                    log_softmax(logits, 1).gather(1, labels).mean().neg()
                }
            };
            Tensor::cat(clients.ranges().enumerate().map(mean_loss).collect(), 0)
        }
    };
    let grads = gradients(&result);
    Ok(vec![
        part("losses", result)?,
        gradient("x".into(), &x, &grads, way)?,
        gradient("the heads".into(), &w, &grads, way)?,
        gradient("their biases".into(), &bias, &grads, way)?,
    ])
}

fn scores(device: &Device, way: Way) -> Outcome {
    let (a, b) = (tensor([1, 5, 13], 1, device), tensor([3, 5, 6], 2, device));
    let result = match way {
        Way::Operation => slot_scores(a, b),
        Way::Reference => {
            let norms = |t: Tensor<3>| t.square().sum_dim(2).sqrt();
            (norms(a) * norms(b)).squeeze_dim::<2>(2)
        }
    };
    Ok(vec![part("scores", result)?])
}

const ADAM: AdamW = AdamW { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.1 };

fn sgd(momentum: f64, nesterov: bool) -> StepRule {
    StepRule::Sgd(Sgd { momentum, nesterov, weight_decay: 0.1 })
}

/// Four steps; the second client's place is empty for the first two.
fn stepped(rule: StepRule, device: &Device, way: Way) -> Outcome {
    let layout = FlatLayout::new([([3, 5], 0, false), ([2, 2], 1, true)]);
    let start = layout.flat(&[tensor([1, 3, 5], 1, device), tensor([1, 2, 2], 2, device)]);
    let mut state = Moving::new(2, &start, &layout, &rule);
    for step in 1..=4 {
        let row = |t: i32, rate: f32| match t {
            ..1 => [0.0, 1.0, 1.0],
            t => [rate, 1.0 / (1.0 - 0.9f32.powi(t)), 1.0 / (1.0 - 0.999f32.powi(t))],
        };
        let rates = [0.01, 0.02].map(|rate| [row(step, rate), row(step - 2, rate)].concat()).concat();
        let rates = Tensor::<3>::from_data(TensorData::new(rates, [2, 2, 3]), device);
        let grad = |rows: usize, cols: usize, seed: u64| {
            let mut grad = numbers(2 * rows * cols, seed + step as u64);
            if step <= 2 {
                grad[rows * cols..].fill(0.0);
            }
            Tensor::<3>::from_data(TensorData::new(grad, [2, rows, cols]), device)
        };
        let grads = vec![grad(3, 5, 4), grad(2, 2, 14)];
        let one = match way {
            Way::Operation => optimizer_step,
            Way::Reference => optimizer_step_composed,
        };
        state = one(rule, &layout, state, start.clone(), grads, rates);
    }
    let moments = [("first moment", state.first), ("second moment", state.second)];
    let kept = moments.into_iter().zip(rule.moments()).filter(|(_, kept)| *kept);
    let mut parts = kept.map(|((name, moment), _)| part(name, moment)).collect::<Result<Vec<_>, _>>()?;
    parts.extend([
        part("movement", state.movement)?,
        part(
            "weights",
            Tensor::cat(
                vec![
                    layout.tensor(&state.weights, 0).reshape([2, 15]),
                    layout.tensor(&state.weights, 1).reshape([2, 4]),
                ],
                1,
            ),
        )?,
    ]);
    Ok(parts)
}
