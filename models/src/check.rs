//! One training step in numbers: losses, the gradients of adapters and head over a frozen backbone, and what an optimizer
//! step makes of them. Held against the CPU's, it tells whether a device trains right; on the CPU itself, the losses on
//! either side of a point tell whether the gradient there is theirs.

pub mod torch;

use bonfire_kernels::check::{Part, numbers, part};
use bonfire_kernels::{AdamW, FlatLayout, LowRank, Moving, StepRule, optimizer_step};
use burn::tensor::{Device, Gradients, Tensor, TensorData};

use crate::{ClientAdapter, Goal, Model, PackedBatch, Precision, Rounding, Tag, Task, Transformer};

/// Largest [`apart`] of a device's f32 gradients and the CPU's.
pub const GRADIENTS_ALLOWED: f64 = 1e-4;
/// The same of what an optimizer step moved.
pub const MOVEMENTS_ALLOWED: f64 = 1e-2;
/// Largest share by which the slope of the losses differs from the gradient's length.
pub const SLOPE_ALLOWED: f64 = 0.01;

/// How far a training step in a rounded precision may be from the same in f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Allowed {
    /// Largest share by which a loss is off.
    pub losses: f64,
    /// Largest [`apart`] of a gradient.
    pub gradients: f64,
}

impl Allowed {
    /// Goes by the format's unit roundoff u, 2⁻¹¹ for TF32 and f16, 2⁻⁸ for bfloat16: 10·u for losses and 40·u for gradients
    /// where all that passes between operations is rounded, half of that where operands of products alone are. Small models
    /// rounded on the CPU stay below.
    ///
    /// # Panics
    /// For f32, which is held to another order of summation alone.
    pub fn of(precision: Precision) -> Allowed {
        match precision {
            Precision::F32 => panic!("f32 is not rounded"),
            Precision::Tf32 => Allowed { losses: 2.5e-3, gradients: 1e-2 },
            Precision::F16 => Allowed { losses: 5e-3, gradients: 2e-2 },
            Precision::Bf16 => Allowed { losses: 4e-2, gradients: 0.16 },
        }
    }
}

/// Clients of a check: two with texts, one without.
const CLIENTS: usize = 3;
/// Slots of every target: fill no register.
const RANK: usize = 3;

/// What clients train, as numbers: A and B of every target in turn, then the head, each `[C, rows, cols]`.
#[derive(Clone, Debug)]
pub struct Leaves {
    names: Vec<String>,
    shapes: Vec<[usize; 3]>,
    values: Vec<Vec<f32>>,
    targets: usize,
}

/// The numbers of one training step.
#[derive(Clone, Debug)]
pub struct Step {
    /// Losses `[C]`.
    pub losses: Part,
    /// The gradient of every leaf.
    pub gradients: Vec<Part>,
    /// What a step of AdamW moved every leaf by.
    pub movements: Vec<Part>,
}

impl Leaves {
    /// Made-up values for `model`, the same everywhere.
    pub fn new(model: &Transformer, clients: usize, rank: usize) -> Leaves {
        let mut leaves = Leaves { names: vec![], shapes: vec![], values: vec![], targets: model.targets().len() };
        let mut add = |name: String, shape: [usize; 3]| {
            let made = numbers(shape.iter().product(), leaves.names.len() as u64 + 1);
            leaves.names.push(name);
            leaves.shapes.push(shape);
            leaves.values.push(made.into_iter().map(|v| 0.3 * v).collect());
        };
        for t in model.targets() {
            add(format!("A of {}", t.name), [clients, rank, t.d_in]);
            add(format!("B of {}", t.name), [clients, rank, t.d_out]);
        }
        for t in model.head() {
            add(t.name.clone(), [clients, t.value.rows, t.value.cols]);
        }
        leaves
    }

    fn tensors(&self, device: &Device) -> Vec<Tensor<3>> {
        let put = |(values, shape): (&Vec<f32>, &[usize; 3])| {
            Tensor::from_data(TensorData::new(values.clone(), *shape), device)
        };
        self.values.iter().zip(&self.shapes).map(put).collect()
    }

    /// The adapter that these tensors make.
    fn adapter(&self, tensors: &[Tensor<3>]) -> ClientAdapter {
        let (factors, head) = tensors.split_at(2 * self.targets);
        let lowrank = |pair: &[Tensor<3>]| LowRank { a: pair[0].clone(), b: pair[1].clone(), used: None, scale: 1.0 };
        ClientAdapter::new(factors.chunks(2).map(|pair| Some(lowrank(pair))).collect(), head.to_vec())
    }

    /// The same moved by `share` of `by`.
    fn moved(&self, by: &[Part], share: f64) -> Leaves {
        let add = |(x, part): (&Vec<f32>, &Part)| {
            x.iter().zip(&part.values).map(|(x, d)| (f64::from(*x) + share * f64::from(*d)) as f32).collect()
        };
        Leaves { values: self.values.iter().zip(by).map(add).collect(), ..self.clone() }
    }
}

/// Made-up texts of 1 to 20 tokens of two clients; a third has none.
pub fn batch(model: &Transformer) -> PackedBatch {
    let vocab = model.info().vocab as u32;
    let text =
        |i: u32, length: u32| -> Vec<u32> { (0..length).map(|t| 3 + (17 * i + 7 * t * t + t) % (vocab - 3)).collect() };
    let texts: Vec<Vec<u32>> = [1, 7, 12, 20, 3].into_iter().zip(0..).map(|(length, i)| text(i, length)).collect();
    let goal = |i: usize| match model.task() {
        Task::Classify(classes) => Goal::Class(i % classes),
        Task::MultiLabel(labels) => {
            Goal::Labels { labels: (0..labels).map(|k| (i + k).is_multiple_of(3)).collect(), second: None }
        }
        Task::Regress => Goal::Value { value: i as f32, second: None },
        Task::Tag(classes) => Goal::Tags([Tag { word: 0, token: 0, class: i % classes }].into()),
        Task::Causal => Goal::Next(1),
    };
    let texts_in = |range: std::ops::Range<usize>| range.map(|i| (texts[i].as_slice(), goal(i))).collect();
    PackedBatch::pack(&[texts_in(0..3), texts_in(3..5), texts_in(0..0)])
}

/// The made-up values that belong to [`batch`].
pub fn leaves(model: &Transformer) -> Leaves {
    Leaves::new(model, CLIENTS, RANK)
}

/// A training step of `model`, which lies on an autodiff device, at `leaves`.
///
/// # Errors
/// The device failed, in words; or a leaf got no gradient.
///
/// # Panics
/// Where the backend panics.
pub fn step(model: &Transformer, leaves: &Leaves, batch: &PackedBatch) -> Result<Step, String> {
    let device = model.device();
    let tensors: Vec<_> = leaves.tensors(device).into_iter().map(Tensor::require_grad).collect();
    let losses = losses(model, leaves, &tensors, batch);
    let grads = losses.clone().sum().backward();
    let (mut gradients, mut movements) = (Vec::new(), Vec::new());
    for (name, tensor) in leaves.names.iter().zip(&tensors) {
        let gradient = tensor.grad(&grads).ok_or_else(|| format!("{name} got no gradient"))?;
        movements.push(part(name, moved(tensor.clone().inner(), gradient.clone()))?);
        gradients.push(part(name, gradient)?);
    }
    drop::<Gradients>(grads);
    Ok(Step { losses: part("losses", losses)?, gradients, movements })
}

fn losses(model: &Transformer, leaves: &Leaves, tensors: &[Tensor<3>], batch: &PackedBatch) -> Tensor<1> {
    let device = model.device();
    model.loss(&leaves.adapter(tensors), &batch.to_device(model.info(), Rounding::of(device), device))
}

/// The movement of the first step of AdamW. The floor of its denominator is high: with the usual one, the sign of a
/// gradient next to nothing would be a whole step.
fn moved(start: Tensor<3>, gradient: Tensor<3>) -> Tensor<3> {
    let rule = StepRule::AdamW(AdamW { betas: [0.9, 0.999], eps: 1e-3, weight_decay: 0.1 });
    let [clients, rows, cols] = start.dims();
    let layout = FlatLayout::new([([rows, cols], 0, false)]);
    let rates = [0.01f32, 1.0 / (1.0 - 0.9), 1.0 / (1.0 - 0.999)].repeat(clients);
    let rates = Tensor::<3>::from_data(TensorData::new(rates, [1, clients, 3]), &start.device());
    let start = layout.flat(&[start]);
    let state = Moving::new(clients, &start, &layout, &rule);
    layout.tensor(&optimizer_step(rule, &layout, state, start, vec![gradient], rates).movement, 0)
}

/// The slope of the losses along their gradient, by two losses on either side (of which the farther cancel what is not a
/// line), over the gradient's length: 1 where the gradient is right.
///
/// # Errors
/// The device failed, in words.
pub fn slope(model: &Transformer, leaves: &Leaves, batch: &PackedBatch, step: &Step) -> Result<f64, String> {
    /// Far enough that losses in f32 differ, near enough that they lie on a curve of the fourth degree.
    const DISTANCE: f64 = 0.01;
    let length = step.gradients.iter().flat_map(|part| &part.values).map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    let loss = |distance: f64| -> Result<f64, String> {
        let there = leaves.moved(&step.gradients, distance / length);
        let tensors = there.tensors(model.device());
        Ok(part("losses", losses(model, &there, &tensors, batch))?.values.into_iter().map(f64::from).sum())
    };
    let rise = |distance: f64| Ok::<_, String>(loss(distance)? - loss(-distance)?);
    Ok((8.0 * rise(DISTANCE)? - rise(2.0 * DISTANCE)?) / (12.0 * DISTANCE) / length)
}

/// How far two parts are apart: the length of their difference over that of what is expected (at least 1e-6). Infinite
/// where something is not a number.
pub fn apart(found: &Part, expected: &Part) -> f64 {
    let square = |v: f64| v * v;
    let length = expected.values.iter().map(|&v| square(f64::from(v))).sum::<f64>().sqrt().max(1e-6);
    let pairs = found.values.iter().zip(&expected.values);
    let off = pairs.map(|(f, e)| square(f64::from(*f) - f64::from(*e))).sum::<f64>().sqrt() / length;
    if off.is_finite() && found.values.len() == expected.values.len() { off } else { f64::INFINITY }
}

/// How far the part is apart that is furthest off, and its name; infinitely where parts are missing.
pub fn furthest(found: &[Part], expected: &[Part]) -> (f64, String) {
    if found.len() != expected.len() {
        return (f64::INFINITY, "parts".into());
    }
    let each = found.iter().zip(expected).map(|(f, e)| (apart(f, e), f.name.clone()));
    each.fold((0.0, String::new()), |most, one| if most.1.is_empty() || one.0 > most.0 { one } else { most })
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::{ModelSource, TargetKind};

    fn models() -> [Transformer; 2] {
        [(ModelSource::Builtin, Task::Classify(5)), (ModelSource::BuiltinLlama, Task::Causal)].map(|(source, task)| {
            let device = Device::flex().autodiff();
            let mut rng = ChaCha8Rng::seed_from_u64(1);
            Transformer::load(&source, task, &TargetKind::all(), &mut rng, &device).expect("the built-in models load")
        })
    }

    #[test]
    fn gradients_are_those_of_the_losses() {
        for model in models() {
            let (leaves, batch) = (leaves(&model), batch(&model));
            let found = step(&model, &leaves, &batch).expect("the CPU works");
            let right = slope(&model, &leaves, &batch, &found).expect("the CPU works");
            assert!((right - 1.0).abs() < SLOPE_ALLOWED, "{right}");
            // A gradient that is wrong in one tensor is seen.
            let mut wrong = found.clone();
            wrong.gradients[0].values.iter_mut().for_each(|v| *v = -*v + 1.0);
            let seen = slope(&model, &leaves, &batch, &wrong).expect("the CPU works");
            assert!((seen - 1.0).abs() > SLOPE_ALLOWED, "{seen}");
            assert_eq!(found.losses.values[2], 0.0, "a client without texts");
        }
    }

    #[test]
    fn what_is_wrong_is_far_off_and_named() {
        let part = |name: &str, values: &[f32]| Part { name: name.into(), values: values.to_vec() };
        let expected = [part("a", &[3.0, 4.0]), part("b", &[1.0, 0.0])];
        let found = [part("a", &[3.0, 4.5]), part("b", &[1.0, 0.0])];
        assert_eq!(furthest(&found, &expected), (0.1, "a".into()));
        assert!(apart(&part("a", &[f32::NAN, 4.0]), &expected[0]).is_infinite());
        assert!(apart(&part("a", &[3.0]), &expected[0]).is_infinite());
        assert!(furthest(&found[..1], &expected).0.is_infinite());
    }
}
