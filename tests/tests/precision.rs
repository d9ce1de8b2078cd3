//! Training with the backbone in half the bits, on devices that have them: near the f32 numbers, adapters still in f32.
#![allow(clippy::unwrap_used)]

use bonfire_engine::Split;
use bonfire_models::{
    Adapter, AdapterInit, ClientAdapter, Model, ModelSource, NoiseSigns, PackedBatch, Precision, Rounding, TargetKind,
    Task, Transformer, check, normals,
};
use bonfire_tests::{fixture, toy};
use burn::tensor::{Device, Distribution, Tensor};
use rand::SeedableRng;

/// The device to test on and a precision it computes in besides f32: bfloat16 where it can, else IEEE half.
fn device() -> Option<(Device, Precision)> {
    let device = bonfire_tests::device();
    let found = [Precision::Bf16, Precision::F16].into_iter().find(|p| p.runs_on(&device));
    if found.is_none() {
        println!("SKIPPED: this device computes in f32 alone; set BONFIRE_TEST_DEVICE=wgpu or cuda");
    }
    found.map(|precision| (device.autodiff(), precision))
}

#[test]
fn the_cpu_is_said_to_compute_in_f32_alone() {
    assert!(Precision::F32.runs_on(&Device::flex()) && !Precision::Bf16.runs_on(&Device::flex()));
}

#[test]
fn losses_and_gradients_are_near_those_of_f32() {
    let Some((device, precision)) = device() else { return };
    for (name, task, texts) in [
        ("roberta-tiny", Task::Classify(toy::CLASSES), toy::texts(7, 3)),
        ("llama-tiny", Task::Causal, toy::sayings(7, 3)),
    ] {
        println!("{name}");
        near_f32(name, task, &texts, &device, precision);
    }
}

fn near_f32(name: &str, task: Task, texts: &Split, device: &Device, precision: Precision) {
    let source = ModelSource::Folder(fixture(name));
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let model = Transformer::load(&source, task, &TargetKind::all(), &mut rng, device).unwrap();
    let example = |i: usize| (texts.ids[i].as_slice(), texts.goals[i]);
    let batch = PackedBatch::pack(&[(0..3).map(example).collect(), (3..7).map(example).collect()]);
    let leaves = check::Leaves::new(&model, 2, 2);
    let of = |model: &Transformer| check::step(model, &leaves, &batch).unwrap();
    let (exact, found) = (of(&model), of(&model.clone().computing_in(precision)));
    for (x, y) in exact.losses.values.iter().zip(&found.losses.values) {
        assert!((x - y).abs() < 0.02 * x.abs(), "loss {y} in {precision:?}, {x} in f32");
    }
    let (off, which) = check::furthest(&found.gradients, &exact.gradients);
    assert!(off < check::ROUNDED_GRADIENTS_ALLOWED, "the gradient of {which} in {precision:?} is off by {off}");
    // What is folded into rounded weights is near what is folded into those that were read.
    let mut start = Adapter::fresh(model.targets(), 2, 2.0, AdapterInit::Kaiming, vec![], &mut rng);
    start.b.iter_mut().flat_map(|m| &mut m.data).enumerate().for_each(|(i, v)| *v = 0.1 * (i as f32).sin());
    let head = model.head().iter();
    let head: Vec<_> =
        head.map(|t| Tensor::random([2, t.value.rows, t.value.cols], Distribution::Normal(0.0, 0.2), device)).collect();
    let folded = |model: &Transformer| {
        let bare = ClientAdapter::new(vec![], head.clone());
        let losses = model.folded(&start).loss(&bare, &batch.to_device(model.info(), Rounding::Few, device));
        losses.into_data().try_to_vec::<f32>().unwrap()
    };
    for (x, y) in folded(&model).iter().zip(folded(&model.clone().computing_in(precision))) {
        assert!((x - y).abs() < 0.02 * x.abs(), "folded: loss {y} in {precision:?}, {x} in f32");
    }
}

#[test]
fn noise_is_near_that_of_f32() {
    let Some((device, precision)) = device() else { return };
    let source = ModelSource::Folder(fixture("roberta-tiny"));
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let model =
        Transformer::load(&source, Task::Classify(toy::CLASSES), &TargetKind::all(), &mut rng, &device).unwrap();
    let adapter = Adapter::fresh(model.targets(), 1, 1.0, AdapterInit::Kaiming, vec![], &mut rng);
    let texts = toy::texts(7, 3);
    let batch = PackedBatch::pack(&[(0..7).map(|i| (texts.ids[i].as_slice(), texts.goals[i])).collect()]);
    let head = model
        .head()
        .iter()
        .map(|t| Tensor::random([1, t.value.rows, t.value.cols], Distribution::Normal(0.0, 0.2), &device));
    let signs = NoiseSigns::draw(model.targets(), 0.3, &mut rng);
    let plain = ClientAdapter::new(vec![], head.collect());
    let noise = NoiseSigns::to_device(signs, model.targets(), &device);
    let noised = ClientAdapter { noise, ..plain.clone() };
    let of = |model: &Transformer, client: &ClientAdapter| {
        let targets = model.targets().to_vec();
        let mut draw = |t: usize| {
            normals(targets[t].d_in * targets[t].d_out, &mut rand_chacha::ChaCha8Rng::seed_from_u64(t as u64))
        };
        let batch = batch.to_device(model.info(), Rounding::Few, &device);
        let losses = model.noisy(&adapter, &mut draw).loss(client, &batch);
        losses.into_data().try_to_vec::<f32>().unwrap()[0]
    };
    let (exact, found) = (of(&model, &noised), of(&model.clone().computing_in(precision), &noised));
    let felt = (exact - of(&model, &plain)).abs();
    assert!((exact - found).abs() < 0.2 * felt, "{found} in {precision:?}, {exact} in f32, of it noise {felt}");
}
