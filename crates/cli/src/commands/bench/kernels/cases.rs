//! The operations, their references and the data they are tried on: shapes of a step with all clients in flight.

use std::ops::Range;

use anyhow::{Result, anyhow};
use bonfire_kernels::{
    AdamW, Arithmetic, AttentionLayout, FlatLayout, LowRank, Moving, Segments, StepRule, adapted_linear,
    adapted_linear_composed, adapted_linear_gelu, adapted_linear_of_gelu, add_norm, gelu, optimizer_step,
    optimizer_step_composed, packed_attention, product,
};
use bonfire_models::{PackedBatch, Rounding};
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Distribution, Gradients, Int, Tensor, TensorData};

use crate::commands::bench::args::BenchArgs;
use crate::commands::bench::work::Work;

/// A way to make the result.
type Make = Box<dyn Fn() -> Tensor<2>>;

/// One operation with its inputs.
pub struct Case {
    /// The operation.
    pub name: &'static str,
    /// What it is held against.
    pub reference: &'static str,
    /// The shapes of its inputs.
    pub shape: String,
    /// Inputs whose gradients are compared.
    pub leaves: Vec<Box<dyn Leaf>>,
    /// The operation.
    pub ours: Make,
    /// The reference.
    pub composed: Make,
}

/// An input of any number of axes.
pub trait Leaf {
    /// Its gradient.
    fn gradient(&self, grads: &Gradients) -> Result<Vec<f32>>;
}

impl<const D: usize> Leaf for Tensor<D> {
    fn gradient(&self, grads: &Gradients) -> Result<Vec<f32>> {
        numbers(self.grad(grads).ok_or_else(|| anyhow!("an input got no gradient"))?)
    }
}

/// What the cases share.
struct Ground {
    /// With autodiff.
    device: Device,
    sequences: Segments,
    clients: Segments,
    hidden: usize,
    intermediate: usize,
    heads: usize,
    rank: usize,
    eps: f64,
}

/// All cases on `device`, which has no autodiff.
pub fn cases(args: &BenchArgs, work: &Work, device: &Device) -> Vec<Case> {
    let info = &work.info;
    let first: Vec<_> = work
        .shards
        .iter()
        .map(|rows| {
            rows[..args.batch].iter().map(|&row| (&work.texts.ids[row][..], work.texts.goals[row].clone())).collect()
        })
        .collect();
    let device = device.clone().autodiff();
    let batch = PackedBatch::pack(&first).to_device(info, Rounding::Exact, &device);
    let ground = Ground {
        sequences: batch.sequences.clone(),
        clients: batch.client_tokens.clone(),
        device,
        hidden: info.hidden,
        intermediate: info.intermediate,
        heads: info.heads,
        rank: args.rank,
        eps: info.eps,
    };
    vec![
        ground.qkv(),
        ground.wide(),
        ground.chosen(args.budget.unwrap_or(1)),
        ground.attention(),
        ground.norm(),
        ground.gelu(),
        ground.feed_forward(),
        ground.optimizer(),
    ]
}

impl Ground {
    /// A tensor that wants no gradient.
    fn fixed<const D: usize>(&self, shape: [usize; D]) -> Tensor<D> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), &self.device)
    }

    /// A tensor that wants one.
    fn leaf<const D: usize>(&self, shape: [usize; D]) -> Tensor<D> {
        self.fixed(shape).require_grad()
    }

    /// A frozen linear from `[T, D]` with adapters on consecutive columns of its result.
    fn linear(&self, name: &'static str, adapters: Vec<LowRank>, mut leaves: Vec<Box<dyn Leaf>>) -> Case {
        let (t, d) = (self.clients.rows(), self.hidden);
        let (x, clients) = (self.leaf([t, d]), self.clients.clone());
        leaves.push(Box::new(x.clone()));
        let [c, r, width] = adapters[0].b.dims();
        let n = width * adapters.len();
        let shape = format!("[{t}, {d}] x [{d}, {n}] + {c} x {r} slots");
        let (weight, bias) = (self.fixed([d, n]) / (d as f64).sqrt(), self.fixed([n]));
        let side = |linear: Linear| -> Make {
            let (x, weight, bias) = (x.clone(), weight.clone(), bias.clone());
            let (adapters, clients) = (adapters.clone(), clients.clone());
            Box::new(move || {
                let parts = adapters.iter().enumerate().map(|(i, factors)| (factors, i * width..(i + 1) * width));
                linear(x.clone(), weight.clone(), bias.clone(), &parts.collect::<Vec<_>>(), &clients, Arithmetic::F32)
            })
        };
        let (ours, composed) = (side(adapted_linear), side(adapted_linear_composed));
        Case { name, reference: "client by client, slot by slot", shape, leaves, ours, composed }
    }

    /// Factors `[C, R, D]` and `[C, R, width]` of which both train.
    fn factors(&self, width: usize, leaves: &mut Vec<Box<dyn Leaf>>) -> LowRank {
        let c = self.clients.len();
        let [a, b] = [self.hidden, width].map(|width| self.leaf([c, self.rank, width]));
        leaves.push(Box::new(a.clone()));
        leaves.push(Box::new(b.clone()));
        LowRank { a, b, used: None, scale: 0.1 }
    }

    /// Query, key and value in one pass, both factors the client's own.
    fn qkv(&self) -> Case {
        let mut leaves = Vec::new();
        let adapters = (0..3).map(|_| self.factors(self.hidden, &mut leaves)).collect();
        self.linear("adapted_linear, q k v", adapters, leaves)
    }

    /// The widening linear, both factors the client's own.
    fn wide(&self) -> Case {
        let mut leaves = Vec::new();
        let adapters = vec![self.factors(self.intermediate, &mut leaves)];
        self.linear("adapted_linear", adapters, leaves)
    }

    /// LoRA-A²'s B round: each client has the rows of A that belong to its own slots, from none to twice the budget.
    fn chosen(&self, budget: usize) -> Case {
        let (c, most) = (self.clients.len(), 2 * budget);
        let b = self.leaf([c, most, self.intermediate]);
        let leaves: Vec<Box<dyn Leaf>> = vec![Box::new(b.clone())];
        let used: Vec<usize> = (0..c).map(|client| (client + 1) % (most + 1)).collect();
        let a = self.fixed([c, most, self.hidden]);
        self.linear(
            "adapted_linear, chosen slots",
            vec![LowRank { a, b, used: Some(bonfire_kernels::SlotCounts::new(used)), scale: 0.1 }],
            leaves,
        )
    }

    fn attention(&self) -> Case {
        let (t, d, heads) = (self.sequences.rows(), self.hidden, self.heads);
        let qkv = self.leaf([t, 3 * d]);
        let layout = AttentionLayout::full(self.sequences.clone(), heads);
        let padding = Padding::new(&self.sequences, &self.device);
        Case {
            name: "packed_attention",
            reference: "padded to the longest, masked",
            shape: format!("[{t}, 3 x {d}], {heads} heads, {} texts", self.sequences.len()),
            leaves: vec![Box::new(qkv.clone())],
            ours: {
                let qkv = qkv.clone();
                Box::new(move || packed_attention(qkv.clone(), &layout))
            },
            composed: Box::new(move || padding.attention(qkv.clone(), heads)),
        }
    }

    fn norm(&self) -> Case {
        let (t, d, eps) = (self.clients.rows(), self.hidden, self.eps);
        let (x, r, gamma, beta) = (self.leaf([t, d]), self.leaf([t, d]), self.fixed([d]), self.fixed([d]));
        Case {
            name: "add_norm",
            reference: "Burn's layer_norm of the sum",
            shape: format!("[{t}, {d}]"),
            leaves: vec![Box::new(x.clone()), Box::new(r.clone())],
            ours: {
                let (x, r, gamma, beta) = (x.clone(), r.clone(), gamma.clone(), beta.clone());
                Box::new(move || add_norm(x.clone(), r.clone(), gamma.clone(), beta.clone(), eps))
            },
            composed: Box::new(move || {
                burn::tensor::module::layer_norm(x.clone() + r.clone(), gamma.clone(), Some(beta.clone()), eps)
            }),
        }
    }

    fn gelu(&self) -> Case {
        let (t, i) = (self.clients.rows(), self.intermediate);
        let x = self.leaf([t, i]);
        Case {
            name: "gelu",
            reference: "Burn's gelu",
            shape: format!("[{t}, {i}]"),
            leaves: vec![Box::new(x.clone())],
            ours: {
                let x = x.clone();
                Box::new(move || gelu(x.clone()))
            },
            composed: Box::new(move || burn::tensor::activation::gelu(x.clone())),
        }
    }

    /// Two linears around GELU, each with an adapter.
    fn feed_forward(&self) -> Case {
        let (t, d, i, c) = (self.clients.rows(), self.hidden, self.intermediate, self.clients.len());
        let x = self.leaf([t, d]);
        let mut leaves: Vec<Box<dyn Leaf>> = vec![Box::new(x.clone())];
        let wide = self.factors(i, &mut leaves);
        let [a, b] = [i, d].map(|width| self.leaf([c, self.rank, width]));
        let narrow = LowRank { a: a.clone(), b: b.clone(), used: None, scale: wide.scale };
        leaves.extend([a, b].map(|factor| Box::new(factor) as Box<dyn Leaf>));
        let weights = [(d, i), (i, d)].map(|(from, to)| self.fixed([from, to]) / (from as f64).sqrt());
        let biases = [i, d].map(|width| self.fixed([width]));
        let clients = self.clients.clone();
        let side = |ours: bool| -> Make {
            let (x, wide, narrow, clients) = (x.clone(), wide.clone(), narrow.clone(), clients.clone());
            let ([up, down], [up_bias, down_bias]) = (weights.clone(), biases.clone());
            Box::new(move || {
                let (x, up, down) = (x.clone(), up.clone(), down.clone());
                let (up_bias, down_bias) = (up_bias.clone(), down_bias.clone());
                let (wide, narrow, f32s) = ([(&wide, 0..i)], [(&narrow, 0..d)], Arithmetic::F32);
                if ours {
                    let (inside, _) = adapted_linear_gelu(x, up, up_bias, &wide, &clients, f32s);
                    adapted_linear_of_gelu(inside, down, down_bias, &narrow, &clients, f32s)
                } else {
                    let inside = adapted_linear_composed(x, up, up_bias, &wide, &clients, f32s);
                    let inside = inside.clone() * ((inside / std::f64::consts::SQRT_2).erf() + 1.0) / 2.0;
                    adapted_linear_composed(inside, down, down_bias, &narrow, &clients, f32s)
                }
            })
        };
        let (ours, composed) = (side(true), side(false));
        let shape = format!("[{t}, {d}] to {i} and back + 2 x {c} x {} slots", self.rank);
        Case { name: "feed-forward", reference: "client by client", shape, leaves, ours, composed }
    }

    /// A step of the optimizer on the A and B of one target, all clients at their third step.
    fn optimizer(&self) -> Case {
        let clients = self.clients.len();
        let dims = [self.hidden, self.intermediate].map(|width| [self.rank, width]);
        let layout = FlatLayout::new(dims.map(|dims| (dims, 0, false)));
        let plain = |clients| dims.map(|[rows, cols]| self.fixed([clients, rows, cols]).inner());
        let rule = StepRule::AdamW(AdamW { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01 });
        let start = layout.flat(&plain(1));
        let flat = || layout.flat(&plain(clients));
        let state = Moving { movement: flat(), first: flat(), second: flat().square(), weights: flat() };
        let correct = |beta: f32| 1.0 / (1.0 - beta.powi(3));
        let row = [1e-3, correct(0.9), correct(0.999)];
        let rates = TensorData::new(row.repeat(clients), [1, clients, 3]);
        let rates = Tensor::<3>::from_data(rates, &self.device.clone().inner());
        let grads = plain(clients).to_vec();
        let side = |step: Step| -> Make {
            let (layout, state, start, rates) = (layout.clone(), state.clone(), start.clone(), rates.clone());
            let grads = grads.clone();
            Box::new(move || step(rule, &layout, state.clone(), start.clone(), grads.clone(), rates.clone()).movement)
        };
        Case {
            name: "optimizer_step",
            reference: "the formula in plain operations",
            shape: format!("{clients} x {dims:?}"),
            leaves: Vec::new(),
            ours: side(optimizer_step),
            composed: side(optimizer_step_composed),
        }
    }
}

/// A step of the optimizer, ours or composed.
type Step = fn(StepRule, &FlatLayout, Moving, Tensor<2>, Vec<Tensor<3>>, Tensor<3>) -> Moving;

/// An adapted linear, ours or composed.
type Linear = fn(Tensor<2>, Tensor<2>, Tensor<1>, &[(&LowRank, Range<usize>)], &Segments, Arithmetic) -> Tensor<2>;

/// Sequences gathered into rows of one length, as without packing.
struct Padding {
    sequences: usize,
    longest: usize,
    /// Token at each place `[S·L]`; padding repeats the first token.
    rows: Tensor<1, Int>,
    /// Place of each token `[T]`.
    back: Tensor<1, Int>,
    /// 0 at tokens, a large negative number at padding: `[S, 1, 1, L]`.
    bias: Tensor<4>,
}

impl Padding {
    fn new(sequences: &Segments, device: &Device) -> Self {
        let (count, longest) = (sequences.len(), sequences.ranges().map(|r| r.len()).max().unwrap_or(0));
        let (mut rows, mut back, mut bias) = (Vec::new(), Vec::new(), Vec::new());
        for (s, range) in sequences.ranges().enumerate() {
            rows.extend((0..longest).map(|j| (range.start + if j < range.len() { j } else { 0 }) as i32));
            back.extend((0..range.len()).map(|j| (s * longest + j) as i32));
            bias.extend((0..longest).map(|j| if j < range.len() { 0f32 } else { -1e9 }));
        }
        let ints = |values: Vec<i32>| {
            let n = values.len();
            Tensor::from_data(TensorData::new(values, [n]), device)
        };
        let bias = Tensor::from_data(TensorData::new(bias, [count, 1, 1, longest]), device);
        Padding { sequences: count, longest, rows: ints(rows), back: ints(back), bias }
    }

    /// `[T, 3·D] -> [T, D]`.
    fn attention(&self, qkv: Tensor<2>, heads: usize) -> Tensor<2> {
        let features = qkv.dims()[1] / 3;
        let width = features / heads;
        let padded = qkv.select(0, self.rows.clone());
        let part = |i: usize| {
            let part = padded.clone().narrow(1, i * features, features);
            part.reshape([self.sequences, self.longest, heads, width]).swap_dims(1, 2)
        };
        let scores =
            product(part(0), part(1).swap_dims(2, 3), Arithmetic::F32) / (width as f64).sqrt() + self.bias.clone();
        let mixed = product(softmax(scores, 3), part(2), Arithmetic::F32).swap_dims(1, 2);
        mixed.reshape([self.sequences * self.longest, features]).select(0, self.back.clone())
    }
}

/// The numbers of a tensor.
pub fn numbers<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>> {
    let data = tensor.try_into_data().map_err(|error| anyhow!("the device failed: {error}"))?;
    data.try_to_vec().map_err(|error| anyhow!("the device gave something else than f32: {error:?}"))
}
