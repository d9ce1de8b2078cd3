//! The operations, their references and the data they are tried on: shapes of a step with all clients in flight.

use anyhow::{Result, anyhow};
use bonfire_kernels::{
    AdamW, AttentionPlan, LowRank, Moments, Segments, StepFactors, adamw_step, gelu, layer_norm, lowrank_update,
    packed_attention, packed_attention_composed, segmented_matmul, segmented_matmul_composed,
};
use bonfire_models::PackedBatch;
use burn::tensor::{Device, Distribution, Gradients, Tensor};

use super::numbers;
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
        .map(|rows| rows[..args.batch].iter().map(|&row| (&work.texts.ids[row][..], work.texts.labels[row])).collect())
        .collect();
    let device = device.clone().autodiff();
    let batch = PackedBatch::pack(&first).to_device(info.first_position, &device);
    let ground = Ground {
        sequences: batch.attention.sequences().clone(),
        clients: batch.client_tokens.clone(),
        device,
        hidden: info.hidden,
        intermediate: info.intermediate,
        heads: info.heads,
        rank: args.rank,
        eps: info.eps,
    };
    vec![
        ground.product(),
        ground.update(),
        ground.masked_update(args.budget.unwrap_or(1)),
        ground.attention(),
        ground.norm(),
        ground.gelu(),
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

    fn product(&self) -> Case {
        let (t, c, d, r) = (self.clients.rows(), self.clients.len(), self.hidden, self.rank);
        let (x, w, clients) = (self.leaf([t, d]), self.leaf([c, d, r]), self.clients.clone());
        Case {
            name: "segmented_matmul",
            reference: "a product a client, concatenated",
            shape: format!("[{t}, {d}] x [{c}, {d}, {r}]"),
            leaves: vec![Box::new(x.clone()), Box::new(w.clone())],
            ours: {
                let (x, w, clients) = (x.clone(), w.clone(), clients.clone());
                Box::new(move || segmented_matmul(x.clone(), w.clone(), &clients))
            },
            composed: Box::new(move || segmented_matmul_composed(x.clone(), w.clone(), &clients)),
        }
    }

    /// A low-rank update from `[T, D]` to the width of the feed-forward block.
    fn low_rank(&self, name: &'static str, factors: LowRank, mut leaves: Vec<Box<dyn Leaf>>) -> Case {
        let (t, d) = (self.clients.rows(), self.hidden);
        let (x, clients) = (self.leaf([t, d]), self.clients.clone());
        leaves.push(Box::new(x.clone()));
        let shape = format!("[{t}, {d}] x {:?} x {:?}", factors.a.dims(), factors.b.dims());
        let ours: Make = {
            let (x, factors, clients) = (x.clone(), factors.clone(), clients.clone());
            Box::new(move || lowrank_update(x.clone(), &factors, &clients))
        };
        let composed = Box::new(move || composed_update(x.clone(), &factors, &clients));
        Case { name, reference: "segmented products client by client", shape, leaves, ours, composed }
    }

    /// Both factors are the client's own.
    fn update(&self) -> Case {
        let c = self.clients.len();
        let a = self.leaf([c, self.hidden, self.rank]);
        let b = self.leaf([c, self.rank, self.intermediate]);
        let leaves: Vec<Box<dyn Leaf>> = vec![Box::new(a.clone()), Box::new(b.clone())];
        self.low_rank("lowrank_update", LowRank { a, b, slots: None, scale: 2.0 }, leaves)
    }

    /// LoRA-A²'s B round: A is frozen and shared, every client has `budget` slots of its own.
    fn masked_update(&self, budget: usize) -> Case {
        let (c, r) = (self.clients.len(), self.rank);
        let b = self.leaf([c, r, self.intermediate]);
        let slot = |i: usize| f32::from(u8::from((i % r + r - (i / r) % r) % r < budget));
        let slots = burn::tensor::TensorData::new((0..c * r).map(slot).collect::<Vec<f32>>(), [c, r]);
        let slots = Some(Tensor::from_data(slots, &self.device));
        let leaves: Vec<Box<dyn Leaf>> = vec![Box::new(b.clone())];
        let a = self.fixed([1, self.hidden, r]);
        self.low_rank("lowrank_update, masked", LowRank { a, b, slots, scale: 2.0 }, leaves)
    }

    fn attention(&self) -> Case {
        let (t, d, heads) = (self.sequences.rows(), self.hidden, self.heads);
        let [q, k, v] = [(); 3].map(|()| self.leaf([t, d]));
        let plan = AttentionPlan::new(self.sequences.clone(), &self.device);
        let composed_plan = AttentionPlan::composed(self.sequences.clone(), &self.device);
        Case {
            name: "packed_attention",
            reference: "groups of like length, padded",
            shape: format!("[{t}, {d}], {heads} heads, {} sequences", self.sequences.len()),
            leaves: vec![Box::new(q.clone()), Box::new(k.clone()), Box::new(v.clone())],
            ours: {
                let (q, k, v) = (q.clone(), k.clone(), v.clone());
                Box::new(move || packed_attention(q.clone(), k.clone(), v.clone(), heads, &plan))
            },
            composed: Box::new(move || {
                packed_attention_composed(q.clone(), k.clone(), v.clone(), heads, &composed_plan)
            }),
        }
    }

    fn norm(&self) -> Case {
        let (t, d, eps) = (self.clients.rows(), self.hidden, self.eps);
        let (x, gamma, beta) = (self.leaf([t, d]), self.fixed([d]), self.fixed([d]));
        Case {
            name: "layer_norm",
            reference: "Burn's layer_norm",
            shape: format!("[{t}, {d}]"),
            leaves: vec![Box::new(x.clone())],
            ours: {
                let (x, gamma, beta) = (x.clone(), gamma.clone(), beta.clone());
                Box::new(move || layer_norm(x.clone(), gamma.clone(), beta.clone(), eps))
            },
            composed: Box::new(move || {
                burn::tensor::module::layer_norm(x.clone(), gamma.clone(), Some(beta.clone()), eps)
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

    /// A step of the optimizer on one target's B, all clients at their third step.
    fn optimizer(&self) -> Case {
        let shape = [self.clients.len(), self.rank, self.intermediate];
        let plain = |shape: [usize; 3]| self.fixed(shape).inner();
        let constants = AdamW { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01 };
        let (movement, start, grad) = (plain(shape), plain([1, shape[1], shape[2]]), plain(shape));
        let moments = Moments { first: plain(shape), second: plain(shape).square() };
        let column = |value: f64| Tensor::<3>::full([shape[0], 1, 1], value, &self.device.clone().inner());
        let correct = |beta: f64| column(1.0 / (1.0 - beta.powi(3)));
        let factors = StepFactors { lr: column(1e-3), correct_first: correct(0.9), correct_second: correct(0.999) };
        let flat = move |t: Tensor<3>| t.reshape([shape[0] * shape[1], shape[2]]);
        let state = (movement, start, moments, grad);
        Case {
            name: "adamw_step",
            reference: "the formula in plain operations",
            shape: format!("{shape:?}"),
            leaves: Vec::new(),
            ours: {
                let ((movement, start, moments, grad), factors) = (state.clone(), factors.clone());
                Box::new(move || {
                    let (m, s, g) = (movement.clone(), start.clone(), grad.clone());
                    flat(adamw_step(&constants, m, s, moments.clone(), g, None, &factors).0)
                })
            },
            composed: Box::new(move || flat(composed_step(&constants, state.clone(), &factors))),
        }
    }
}

/// The update in plain operations, client by client; a shared factor meets all tokens at once.
fn composed_update(x: Tensor<2>, factors: &LowRank, clients: &Segments) -> Tensor<2> {
    let product = |x: Tensor<2>, w: Tensor<3>| match w.dims()[0] {
        1 => x.matmul(w.squeeze_dim(0)),
        _ => segmented_matmul_composed(x, w, clients),
    };
    let b = match &factors.slots {
        Some(slots) => factors.b.clone() * slots.clone().unsqueeze_dim::<3>(2),
        None => factors.b.clone(),
    };
    product(product(x, factors.a.clone()) * factors.scale, b)
}

/// AdamW as PyTorch writes it, on start + movement; gives the new movement.
fn composed_step(
    constants: &AdamW,
    (movement, start, moments, grad): (Tensor<3>, Tensor<3>, Moments, Tensor<3>),
    factors: &StepFactors,
) -> Tensor<3> {
    let [beta1, beta2] = constants.betas;
    let first = moments.first * beta1 + grad.clone() * (1.0 - beta1);
    let second = moments.second * beta2 + grad.clone() * grad * (1.0 - beta2);
    let step = first * factors.correct_first.clone()
        / ((second * factors.correct_second.clone()).sqrt() + constants.eps)
        * factors.lr.clone();
    let decay = (movement.clone() + start) * constants.weight_decay * factors.lr.clone();
    movement - step - decay
}
