//! Training with the backbone in fewer bits: near the f32 numbers, adapters still in f32. GPUs compute in what they have; the
//! CPU, which offers none of it to users, in all of it, rounding where a GPU does.

use bonfire_engine::Split;
use bonfire_kernels::runs_on_cpu;
use bonfire_models::check::Allowed;
use bonfire_models::{
    Adapter, AdapterInit, ClientAdapter, Model, ModelSource, NoiseSigns, PackedBatch, Precision, Rounding, TargetKind,
    Task, Transformer, check, normals,
};
use bonfire_tests::{fixture, toy};
use burn::tensor::{Device, Distribution, Tensor, TensorData};
use rand::SeedableRng;

/// The device to test on and the precisions to test there.
fn device() -> (Device, Vec<Precision>) {
    let device = bonfire_tests::device();
    let mut found = vec![Precision::Tf32, Precision::Bf16, Precision::F16];
    found.retain(|p| runs_on_cpu(&device) || p.runs_on(&device));
    if found.is_empty() {
        println!("SKIPPED: this device computes in f32 alone");
    }
    (device.autodiff(), found)
}

#[test]
fn losses_and_gradients_are_near_those_of_f32() {
    let (device, precisions) = device();
    for (name, task, texts) in [
        ("roberta-tiny", Task::Classify(toy::CLASSES), toy::texts(7, 3)),
        ("bert-tiny", Task::Classify(toy::CLASSES), toy::texts(7, 3)),
        ("llama-tiny", Task::Causal, toy::sayings(7, 3)),
        ("llama-tiny", Task::Classify(toy::CLASSES), toy::texts(7, 3)),
    ] {
        for &precision in &precisions {
            println!("{name}, {task:?}, {precision:?}");
            near_f32(name, task, &texts, &device, precision);
        }
    }
}

#[test]
fn tf32_rounds_what_meets_frozen_weights_and_nothing_else() {
    let (device, precisions) = device();
    if !precisions.contains(&Precision::Tf32) {
        println!("SKIPPED: no TF32 here");
        return;
    }
    let model = load("roberta-tiny", Task::Classify(toy::CLASSES), &device);
    let texts = toy::texts(7, 3);
    let batch = PackedBatch::pack(&[(0..7).map(|i| (texts.ids[i].as_slice(), texts.goals[i].clone())).collect()]);
    let leaves = check::Leaves::new(&model, 1, 2);
    let step_in = |precision| check::step(&model.clone().computing_in(precision), &leaves, &batch).unwrap();
    let (exact, again, found) = (step_in(Precision::F32), step_in(Precision::F32), step_in(Precision::Tf32));
    assert_eq!(exact.losses.values, again.losses.values, "asking for f32 is computing in f32");
    let off = (found.losses.values[0] - exact.losses.values[0]).abs() / exact.losses.values[0];
    assert!(off > 1e-6, "nothing was rounded: {off}");
    // Weights are held as they were read: what is folded is f32, and the model goes back to it.
    let back = check::step(&model.computing_in(Precision::Tf32).computing_in(Precision::F32), &leaves, &batch).unwrap();
    assert_eq!(back.losses.values, exact.losses.values);
}

fn load(name: &str, task: Task, device: &Device) -> Transformer {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    Transformer::load(&ModelSource::Folder(fixture(name)), task, &TargetKind::all(), &mut rng, device).unwrap()
}

fn near_f32(name: &str, task: Task, texts: &Split, device: &Device, precision: Precision) {
    let (model, allowed) = (load(name, task, device), Allowed::of(precision));
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let example = |i: usize| (texts.ids[i].as_slice(), texts.goals[i].clone());
    let batch = PackedBatch::pack(&[(0..3).map(example).collect(), (3..7).map(example).collect()]);
    let leaves = check::Leaves::new(&model, 2, 2);
    let step_of = |model: &Transformer| check::step(model, &leaves, &batch).unwrap();
    let (exact, found) = (step_of(&model), step_of(&model.clone().computing_in(precision)));
    for (x, y) in exact.losses.values.iter().zip(&found.losses.values) {
        println!("    a loss off by {:.1e}", (x - y).abs() / x);
        assert!(f64::from((x - y).abs()) < allowed.losses * f64::from(*x), "loss {y} in {precision:?}, {x} in f32");
    }
    let (off, which) = check::furthest(&found.gradients, &exact.gradients);
    println!("    {which} off by {off:.1e}");
    assert!(off < allowed.gradients, "the gradient of {which} in {precision:?} is off by {off}");
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
        assert!(f64::from((x - y).abs()) < allowed.losses * f64::from(*x), "folded: {y} in {precision:?}, {x} in f32");
    }
}

#[test]
fn noise_is_near_that_of_f32() {
    let (device, precisions) = device();
    let model = load("roberta-tiny", Task::Classify(toy::CLASSES), &device);
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let adapter = Adapter::fresh(model.targets(), 1, 1.0, AdapterInit::Kaiming, vec![], &mut rng);
    let texts = toy::texts(7, 3);
    let batch = PackedBatch::pack(&[(0..7).map(|i| (texts.ids[i].as_slice(), texts.goals[i].clone())).collect()]);
    // Drawn here and not by the backend, whose generator all tests share.
    let mut head = Vec::new();
    for (rows, cols) in model.head().iter().map(|t| (t.value.rows, t.value.cols)) {
        let numbers = normals(rows * cols, &mut rng).into_iter().map(|v| 0.2 * v).collect::<Vec<f32>>();
        head.push(Tensor::from_data(TensorData::new(numbers, [1, rows, cols]), &device));
    }
    let signs = NoiseSigns::draw(model.targets(), 0.3, &mut rng);
    let plain = ClientAdapter::new(vec![], head);
    let noise = NoiseSigns::to_device(signs, model.targets(), &device);
    let noised = ClientAdapter { noise, ..plain.clone() };
    let noisy_loss = |model: &Transformer, client: &ClientAdapter| {
        let targets = model.targets().to_vec();
        let mut draw = |t: usize| {
            normals(targets[t].d_in * targets[t].d_out, &mut rand_chacha::ChaCha8Rng::seed_from_u64(t as u64))
        };
        let batch = batch.to_device(model.info(), Rounding::Few, &device);
        let losses = model.noisy(&adapter, &mut draw).loss(client, &batch);
        losses.into_data().try_to_vec::<f32>().unwrap()[0]
    };
    let exact = noisy_loss(&model, &noised);
    let felt = (exact - noisy_loss(&model, &plain)).abs();
    for precision in precisions {
        let found = noisy_loss(&model.clone().computing_in(precision), &noised);
        assert!((exact - found).abs() < 0.2 * felt, "{found} in {precision:?}, {exact} in f32, of it noise {felt}");
    }
}
