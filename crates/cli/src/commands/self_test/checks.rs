//! The list of checks.

use bonfire_data::random::{Use, stream};
use bonfire_kernels::check::exact::{self, Exact, Format};
use bonfire_models::check::{self, Leaves};
use bonfire_models::{Goal, ModelInfo, PackedBatch, Tag, TargetKind, Task, Transformer};
use burn::tensor::Device;

use super::args::SelfTestArgs;
use super::check::{Check, Offs};
use super::torch;

/// The checks that `args` ask for on `device`.
pub fn all(args: &SelfTestArgs, device: &Device) -> Vec<Check> {
    let (mut checks, seed) = (Vec::new(), u64::from(args.seed));
    let formats = Format::all(device);
    if !args.real {
        checks.extend(operations(exact::small(seed), &formats));
        checks.extend(torch::checks(&formats));
    }
    if !args.quick {
        checks.extend(operations(exact::real(args.tokens, seed), &formats));
        checks.extend(models(args.tokens));
    }
    checks
}

/// Every operation in every format that it is computed in.
fn operations(cases: Vec<Exact>, formats: &[Format]) -> Vec<Check> {
    let mut checks = Vec::new();
    for case in cases.into_iter().map(std::sync::Arc::new) {
        for &format in formats.iter().filter(|&&format| case.rounded || format == Format::F32) {
            let own = case.clone();
            checks.push(Check {
                what: case.operation.into(),
                shape: case.shape.clone(),
                format: format.name(),
                allowed: format.allowed(),
                run: Box::new(move |device| {
                    Ok(own.measure(device, format)?.into_iter().map(|off| (off.name, off.off)).collect())
                }),
            });
        }
    }
    checks
}

/// Largest difference between a device's training step of a real width and the CPU's, in f32: two layers deep, so that
/// rounding adds up.
const STEP_ALLOWED: f64 = 1e-3;

/// Two layers of a real model, with random weights: their training step against the CPU's. The decoder's vocabulary takes
/// several blocks.
fn models(tokens: usize) -> Vec<Check> {
    let encoder = ModelInfo { layers: 2, vocab: 1000, ..ModelInfo::roberta_base() };
    let decoder = ModelInfo { layers: 2, ..ModelInfo::smollm2_135m() };
    let one = |name: &str, info: ModelInfo, task: Task, tokens: usize| Check {
        what: format!("a training step of {name}"),
        shape: format!("2 layers of {}, {tokens} tokens of 8 clients", info.hidden),
        format: "f32",
        allowed: STEP_ALLOWED,
        run: Box::new(move |device| against_the_cpu(&info, task, tokens, device)),
    };
    vec![
        one("RoBERTa-base", encoder, Task::Classify(77), tokens.min(2000)),
        one("SmolLM2-135M", decoder, Task::Causal, tokens.min(300)),
    ]
}

#[cfg(feature = "flex")]
fn against_the_cpu(info: &ModelInfo, task: Task, tokens: usize, device: &Device) -> Result<Offs, String> {
    const CLIENTS: usize = 8;
    const RANK: usize = 16;
    let step = |device: &Device| {
        let mut rng = stream(0, Use::HeadInit, 0, 0, 0);
        let device = device.clone().autodiff();
        let model = Transformer::random(info.clone(), task, &TargetKind::all(), &mut rng, &device)
            .map_err(|error| error.to_string())?;
        let leaves = Leaves::new(&model, CLIENTS, RANK);
        check::step(&model, &leaves, &batch(info, task, tokens, CLIENTS))
    };
    let (found, expected) = (step(device)?, step(&Device::flex())?);
    let (gradients, which) = check::furthest(&found.gradients, &expected.gradients);
    Ok(vec![
        ("losses".into(), check::apart(&found.losses, &expected.losses)),
        (format!("gradient of {which}"), gradients),
    ])
}

#[cfg(not(feature = "flex"))]
fn against_the_cpu(_: &ModelInfo, _: Task, _: usize, _: &Device) -> Result<Offs, String> {
    Err("this build has no CPU backend to check against; build it with the Cargo feature `flex`".into())
}

/// Made-up texts of 4 to 28 tokens of so many clients, `tokens` in all or a few more.
#[cfg(feature = "flex")]
fn batch(info: &ModelInfo, task: Task, tokens: usize, clients: usize) -> PackedBatch {
    let vocab = info.vocab as u32;
    let text =
        |i: u32| -> Vec<u32> { (0..4 + i * 7 % 25).map(|t| 3 + (31 * i + 7 * t * t + t) % (vocab - 3)).collect() };
    let (mut texts, mut sum) = (Vec::new(), 0);
    while sum < tokens {
        texts.push(text(texts.len() as u32));
        sum += texts[texts.len() - 1].len();
    }
    let goal = |i: usize| match task {
        Task::Classify(classes) => Goal::Class(i % classes),
        Task::MultiLabel(labels) => {
            Goal::Labels { labels: (0..labels).map(|k| (i + k).is_multiple_of(3)).collect(), second: None }
        }
        Task::Regress => Goal::Value { value: i as f32, second: None },
        Task::Tag(classes) => Goal::Tags([Tag { word: 0, token: 0, class: i % classes }].into()),
        Task::Causal => Goal::Next(1),
    };
    let of = |client: usize| {
        let own = texts.iter().enumerate().skip(client).step_by(clients);
        own.map(|(i, ids)| (ids.as_slice(), goal(i))).collect()
    };
    PackedBatch::pack(&(0..clients).map(of).collect::<Vec<_>>())
}
