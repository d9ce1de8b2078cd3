//! What is lost by holding what passes from layer to layer in bfloat16, as the backbone does in `precision = "bf16"`, and
//! what by keeping the sums at residuals and the norms in f32, as PyTorch's autocast does. By emulation on the CPU: the
//! built-in encoder composed of plain operations in f32, its numbers and their gradients rounded where a GPU's would be.
//!
//! `cargo test --release -p bonfire-tests --test across -- rounding:: --nocapture` prints the figures of `docs/performance.md`.

use std::collections::HashMap;

use bonfire_kernels::check::{Part, numbers};
use bonfire_kernels::{LowRank, cross_entropy};
use bonfire_models::check::{Allowed, apart};
use bonfire_models::{
    ClientAdapter, Goal, Model, ModelSource, PackedBatch, Precision, Rounding, TargetKind, Task, Transformer,
};
use burn::tensor::activation::softmax;
use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData};
use rand::SeedableRng;

const CLASSES: usize = 5;
const RANK: usize = 8;
const SCALE: f64 = 0.5;

/// Where numbers are rounded.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rounded {
    Nowhere,
    /// What linears read and give, GELU and attention; sums at residuals and norms are f32.
    Products,
    /// All that passes from operation to operation.
    Everything,
}

impl Rounded {
    /// A tensor that passes between operations; its gradient is rounded on its way back.
    fn passing(self, x: Tensor<2>) -> Tensor<2> {
        if self == Rounded::Nowhere { x } else { x.cast(FloatDType::BF16).cast(FloatDType::F32) }
    }

    /// The same on the residual stream.
    fn stream(self, x: Tensor<2>) -> Tensor<2> {
        if self == Rounded::Everything { self.passing(x) } else { x }
    }
}

/// The encoder with low-rank factors on its linears, text by text.
struct Composed {
    weights: HashMap<String, Tensor<2>>,
    factors: HashMap<String, [Tensor<2>; 2]>,
    head: Tensor<2>,
    layers: usize,
    heads: usize,
    eps: f64,
    rounded: Rounded,
}

impl Composed {
    fn new(model: &Transformer, rounded: Rounded, seed: u64, device: &Device) -> Composed {
        let put = |data: Vec<f32>, shape: [usize; 2]| Tensor::<2>::from_data(TensorData::new(data, shape), device);
        let named = model.weights().into_iter().map(|w| {
            let name = w.name.strip_prefix("roberta.").unwrap().to_string();
            let value = put(w.value.data, [w.value.rows, w.value.cols]);
            (name, rounded.passing(value))
        });
        let weights = named.collect();
        let made = |shape: [usize; 2], seed: u64, size: f32| {
            put(numbers(shape[0] * shape[1], seed).into_iter().map(|v| size * v).collect(), shape)
        };
        let factors = model.targets().iter().zip(0..).map(|(t, i)| {
            let a = made([t.d_in, RANK], 2 * i + 1 + 100 * seed, 0.1).require_grad();
            let b = made([RANK, t.d_out], 2 * i + 2 + 100 * seed, 0.1).require_grad();
            (t.name.strip_prefix("roberta.").unwrap().to_string(), [a, b])
        });
        let info = model.info();
        Composed {
            weights,
            factors: factors.collect(),
            head: made([info.hidden, CLASSES], 999 + seed, 0.3),
            layers: info.layers,
            heads: info.heads,
            eps: info.eps,
            rounded,
        }
    }

    fn weight(&self, name: &str) -> Tensor<2> {
        self.weights[name].clone()
    }

    /// Product, bias and low-rank update, each rounded as the kernels leave it.
    fn linear(&self, name: &str, x: Tensor<2>) -> Tensor<2> {
        let (r, x) = (self.rounded, self.rounded.passing(x));
        let y = r.passing(x.clone().matmul(self.weight(&format!("{name}.weight"))));
        let y = r.passing(y + self.weight(&format!("{name}.bias")));
        let [a, b] = self.factors[name].clone();
        r.passing(y + x.matmul(a).matmul(b) * SCALE)
    }

    fn norm(&self, name: &str, x: Tensor<2>) -> Tensor<2> {
        let x = self.rounded.stream(x);
        let centred = x.clone() - x.mean_dim(1);
        let hat = centred.clone() / (centred.square().mean_dim(1) + self.eps).sqrt();
        let [gain, shift] = ["weight", "bias"].map(|part| self.weight(&format!("{name}.{part}")));
        self.rounded.stream(hat * gain + shift)
    }

    fn attention(&self, layer: &str, x: Tensor<2>) -> Tensor<2> {
        let [tokens, features] = x.dims();
        let width = features / self.heads;
        let part = |name: &str| {
            let rows = self.linear(&format!("{layer}.attention.self.{name}"), x.clone());
            rows.reshape([tokens, self.heads, width]).swap_dims(0, 1)
        };
        let [q, k, v] = ["query", "key", "value"].map(part);
        let scores = q.matmul(k.swap_dims(1, 2)) / (width as f64).sqrt();
        self.rounded.passing(softmax(scores, 2).matmul(v).swap_dims(0, 1).reshape([tokens, features]))
    }

    /// What a text's first token is after the last layer `[1, D]`.
    fn hidden(&self, ids: &[u32], first_position: usize) -> Tensor<2> {
        let device = self.head.device();
        let ints = |values: Vec<i32>| Tensor::<1, Int>::from_ints(values.as_slice(), &device);
        let words =
            self.weight("embeddings.word_embeddings.weight").select(0, ints(ids.iter().map(|&i| i as i32).collect()));
        let places = ints((0..ids.len()).map(|p| (first_position + p) as i32).collect());
        let places = self.weight("embeddings.position_embeddings.weight").select(0, places);
        let kind = self.weight("embeddings.token_type_embeddings.weight").narrow(0, 0, 1);
        let mut x = self.norm("embeddings.LayerNorm", words + self.rounded.passing(places + kind));
        for i in 0..self.layers {
            let layer = format!("encoder.layer.{i}");
            let attended = self.attention(&layer, x.clone());
            let attended = self.linear(&format!("{layer}.attention.output.dense"), attended);
            x = self.norm(&format!("{layer}.attention.output.LayerNorm"), x + attended);
            let wide = self.linear(&format!("{layer}.intermediate.dense"), x.clone());
            let wide = wide.clone() * ((wide / std::f64::consts::SQRT_2).erf() + 1.0) / 2.0;
            let narrow = self.linear(&format!("{layer}.output.dense"), self.rounded.passing(wide));
            x = self.norm(&format!("{layer}.output.LayerNorm"), x + narrow);
        }
        x.narrow(0, 0, 1)
    }

    /// The loss of one text, whose class is `class`.
    fn loss(&self, ids: &[u32], class: usize, first_position: usize) -> Tensor<1> {
        let class = Tensor::<1, Int>::from_ints([class as i32], &self.head.device());
        cross_entropy(self.hidden(ids, first_position).matmul(self.head.clone()), class)
    }
}

/// Losses of made-up texts, and the gradients of their sum.
struct Step {
    losses: Vec<f64>,
    gradients: Vec<Part>,
}

/// Made-up tokens.
fn text(i: u32) -> Vec<u32> {
    (0..5 + i % 17).map(|t| 3 + (17 * i + 7 * t * t + t) % 1190).collect()
}

fn encoder(device: &Device) -> Transformer {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let task = Task::Classify(CLASSES);
    Transformer::load(&ModelSource::Builtin, task, &TargetKind::all(), &mut rng, device).unwrap()
}

#[test]
fn unrounded_it_is_the_model() {
    let device = Device::flex().autodiff();
    let model = encoder(&device);
    let composed = Composed::new(&model, Rounded::Nowhere, 0, &device);
    let updates = model.targets().iter().map(|t| {
        let [a, b] = composed.factors[t.name.strip_prefix("roberta.").unwrap()].clone().map(|factor| factor.detach());
        Some(LowRank { a: a.transpose().unsqueeze(), b: b.unsqueeze(), used: None, scale: SCALE as f32 })
    });
    let adapter = ClientAdapter::new(updates.collect(), vec![]);
    let texts: Vec<Vec<u32>> = (0..6).map(text).collect();
    let batch = PackedBatch::pack(&[texts.iter().map(|ids| (ids.as_slice(), Goal::Class(0))).collect()]);
    let states = model.layer_states(&adapter, &batch.to_device(model.info(), Rounding::Exact, &device));
    let part = |t: Tensor<2>| Part { name: "hidden".into(), values: t.into_data().try_to_vec().unwrap() };
    let each = texts.iter().map(|ids| composed.hidden(ids, model.info().first_position));
    let off = apart(&part(Tensor::cat(each.collect(), 0)), &part(states.last().unwrap().clone()));
    assert!(off < 1e-5, "{off}");
}

fn step(model: &Transformer, rounded: Rounded, seed: u64, device: &Device) -> Step {
    let composed = Composed::new(model, rounded, seed, device);
    let first = model.info().first_position;
    let losses = (0..24).map(|i| composed.loss(&text(i), i as usize % CLASSES, first));
    let losses = Tensor::cat(losses.collect(), 0);
    let grads = losses.clone().sum().backward();
    let gradients = model.targets().iter().flat_map(|t| {
        let name = t.name.strip_prefix("roberta.").unwrap();
        composed.factors[name].each_ref().map(|factor| Part {
            name: t.name.clone(),
            values: factor.grad(&grads).unwrap().into_data().try_to_vec().unwrap(),
        })
    });
    Step { gradients: gradients.collect(), losses: losses.into_data().iter::<f64>().collect() }
}

/// How far a step is from that in f32: the largest and the mean difference of a loss over the mean loss, the gradient that is
/// furthest off, and all of them as one.
fn off(found: &Step, exact: &Step) -> [f64; 4] {
    let n = exact.losses.len() as f64;
    let size = exact.losses.iter().sum::<f64>() / n;
    let shares: Vec<f64> = found.losses.iter().zip(&exact.losses).map(|(x, y)| (x - y).abs() / size).collect();
    let furthest = found.gradients.iter().zip(&exact.gradients).map(|(x, y)| apart(x, y)).fold(0.0, f64::max);
    let all = |step: &Step| {
        let values = step.gradients.iter().flat_map(|part| part.values.clone()).collect();
        Part { name: "all".into(), values }
    };
    let largest = shares.iter().copied().fold(0.0, f64::max);
    [largest, shares.iter().sum::<f64>() / n, furthest, apart(&all(found), &all(exact))]
}

#[test]
fn what_a_residual_stream_in_bf16_costs() {
    const SEEDS: u64 = 4;
    let device = Device::flex().autodiff();
    let model = encoder(&device);
    println!("{:<34}{:>12}{:>12}{:>12}{:>12}", "held in bf16", "worst loss", "mean loss", "worst grad", "all grads");
    let exact: Vec<Step> = (0..SEEDS).map(|seed| step(&model, Rounded::Nowhere, seed, &device)).collect();
    let [products, everything] = [Rounded::Products, Rounded::Everything].map(|rounded| {
        let mut mean = [0.0; 4];
        for (seed, exact) in (0..).zip(&exact) {
            let found = off(&step(&model, rounded, seed, &device), exact);
            mean.iter_mut().zip(found).for_each(|(sum, share)| *sum += share / SEEDS as f64);
        }
        let words = match rounded {
            Rounded::Products => "products, GELU, attention",
            _ => "these, residual sums and norms",
        };
        println!("{words:<34}{}", mean.map(|share| format!("{share:>12.1e}")).concat());
        mean
    });
    let allowed = Allowed::of(Precision::Bf16);
    for [worst_loss, mean_loss, worst_gradient, gradients] in [products, everything] {
        assert!(mean_loss > 1e-5 && gradients > 1e-4, "nothing was rounded");
        assert!(worst_loss < allowed.losses && worst_gradient < allowed.gradients);
    }
    // What `precision = "bf16"` rests on: the stream in bf16 adds less than the products lose anyway.
    assert!(everything[3] < 1.5 * products[3], "{everything:?}, without the stream {products:?}");
}
