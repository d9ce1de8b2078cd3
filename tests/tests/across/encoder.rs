//! What the encoder can do beside logits over frozen weights: train every weight, add noise, show its layers' states, be
//! written as a checkpoint.

use bonfire_kernels::{Arithmetic, LowRank, product};
use bonfire_models::{
    Adapter, AdapterInit, ClientAdapter, DeviceBatch, Goal, Matrix, Model, NamedWeight, NoiseSigns, PackedBatch,
    Rounding, TargetKind, Transformer, checkpoint, normals,
};
use bonfire_tests::{fixture, load, toy};
use burn::tensor::{Tensor, TensorData};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

const FIXTURES: [&str; 2] = ["roberta-tiny", "bert-tiny"];

fn encoder(name: &str) -> Transformer {
    load(&fixture(name), toy::CLASSES, &TargetKind::all())
}

/// Toy texts, so many a client.
fn batch(model: &dyn Model, clients: &[usize], rounding: Rounding) -> DeviceBatch {
    let texts = toy::texts(clients.iter().sum(), 3);
    let mut rows = texts.ids.iter().map(Vec::as_slice).zip(texts.goals.iter().cloned());
    let clients: Vec<Vec<_>> = clients.iter().map(|&n| rows.by_ref().take(n).collect()).collect();
    PackedBatch::pack(&clients).to_device(model.info(), rounding, model.device())
}

fn tensor(model: &dyn Model, m: &Matrix) -> Tensor<2> {
    Tensor::from_data(TensorData::new(m.data.clone(), [m.rows, m.cols]), model.device())
}

/// The head alone, as it starts but ten times as large: a fresh one is too small to tell much.
fn head_alone(model: &dyn Model) -> ClientAdapter {
    let head = model.head().iter().map(|t| tensor(model, &t.value).mul_scalar(10.0).unsqueeze_dim(0));
    ClientAdapter::new(vec![], head.collect())
}

fn numbers<const D: usize>(t: &Tensor<D>) -> Vec<f64> {
    t.to_data().iter::<f64>().collect()
}

fn norm(v: &[f64]) -> f64 {
    v.iter().map(|v| v * v).sum::<f64>().sqrt()
}

fn apart(x: &[f64], y: &[f64]) -> f64 {
    assert_eq!(x.len(), y.len());
    norm(&x.iter().zip(y).map(|(x, y)| x - y).collect::<Vec<_>>()) / norm(y).max(1e-12)
}

fn with(model: &dyn Model, weights: &[NamedWeight], trained: bool) -> Box<dyn Model> {
    model.with_weights(weights.iter().map(|w| tensor(model, &w.value)).collect(), trained)
}

#[test]
fn the_weights_are_the_whole_encoder_and_give_the_same_logits() {
    for name in FIXTURES {
        let model = encoder(name);
        let weights = model.weights();
        let count: u64 = weights.iter().map(|w| w.value.data.len() as u64).sum();
        assert_eq!(count, model.info().backbone_params());
        let (batch, adapter) = (batch(&model, &[7], Rounding::Exact), head_alone(&model));
        let expected = numbers(&model.logits(&adapter, &batch));
        assert_eq!(numbers(&with(&model, &weights, false).logits(&adapter, &batch)), expected);
        let composed = numbers(&with(&model, &weights, true).logits(&adapter, &batch));
        assert!(apart(&composed, &expected) < 1e-5, "{name}: {:e}", apart(&composed, &expected));
    }
}

#[test]
fn every_weights_gradient_is_the_slope_of_the_loss() {
    for name in FIXTURES {
        let model = encoder(name);
        let (batch, adapter) = (batch(&model, &[7], Rounding::Exact), head_alone(&model));
        let weights = model.weights();
        let leaves: Vec<_> = weights.iter().map(|w| tensor(&model, &w.value).require_grad()).collect();
        let grads = model.with_weights(leaves.clone(), true).loss(&adapter, &batch).sum().backward();
        let frozen: Vec<_> = weights.iter().map(|w| tensor(&model, &w.value)).collect();
        let loss_at = |i: usize, moved: Tensor<2>| {
            let mut weights = frozen.clone();
            weights[i] = moved;
            numbers(&model.with_weights(weights, false).loss(&adapter, &batch))[0]
        };
        for (i, (weight, leaf)) in weights.iter().zip(&leaves).enumerate() {
            let gradient = numbers(&leaf.grad(&grads).unwrap());
            // The same number on every key changes no attention.
            assert!(
                norm(&gradient) > 0.05 || weight.name.ends_with("key.bias"),
                "{}: {}",
                weight.name,
                norm(&gradient)
            );
            // Down the whole gradient, and along its largest number alone.
            let largest = gradient.iter().map(|g| g.abs()).enumerate().max_by(|x, y| x.1.total_cmp(&y.1)).unwrap().0;
            let whole = gradient.iter().map(|g| g / norm(&gradient).max(1e-12)).collect::<Vec<f64>>();
            let one = (0..gradient.len()).map(|j| f64::from(u8::from(j == largest))).collect();
            for direction in [whole, one] {
                let expected: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
                let step = 0.005;
                let moved = |by: f64| {
                    let data = weight.value.data.iter().zip(&direction).map(|(w, d)| w + (by * d) as f32).collect();
                    loss_at(i, tensor(&model, &Matrix { data, ..weight.value }))
                };
                let slope = (moved(step) - moved(-step)) / (2.0 * step);
                let tolerance = 0.02 * expected.abs() + 1e-3;
                assert!((slope - expected).abs() < tolerance, "{}: slope {slope}, gradient {expected}", weight.name);
            }
        }
    }
}

/// An adapter of rank 2 that is not zero.
fn adapter(model: &dyn Model) -> Adapter {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let head = model.head().to_vec();
    let mut adapter = Adapter::fresh(model.targets(), 2, 4.0, AdapterInit::Kaiming, head, &mut rng);
    for b in &mut adapter.b {
        b.data = normals(b.data.len(), &mut rng).iter().map(|v| v * 0.1).collect();
    }
    adapter
}

/// The adapter as `clients` clients have it, in tracked tensors, and with noise where signs are given.
fn clients_of(model: &dyn Model, adapter: &Adapter, clients: usize, noise: Vec<NoiseSigns>) -> ClientAdapter {
    let put = |m: &Matrix| tensor(model, m).unsqueeze_dim::<3>(0).repeat_dim(0, clients).require_grad();
    let scale = adapter.scale() as f32;
    let updates = adapter.a.iter().zip(&adapter.b);
    let updates = updates.map(|(a, b)| Some(LowRank { a: put(&a.transposed()), b: put(b), used: None, scale }));
    ClientAdapter { noise, ..ClientAdapter::new(updates.collect(), head_alone(model).head) }
}

/// Losses, and the gradients of every factor.
fn losses_and_gradients(model: &dyn Model, adapter: &ClientAdapter, batch: &DeviceBatch) -> (Vec<f64>, Vec<Tensor<3>>) {
    let losses = model.loss(adapter, batch);
    let grads = losses.clone().sum().backward();
    let factors = adapter.updates.iter().flatten().flat_map(|u| [&u.a, &u.b]);
    (numbers(&losses), factors.map(|t| t.grad(&grads).unwrap()).collect())
}

fn noisy(model: &dyn Model, adapter: &Adapter) -> Box<dyn Model> {
    let targets = model.targets().to_vec();
    model.noisy(adapter, &mut |t| {
        normals(targets[t].d_in * targets[t].d_out, &mut ChaCha8Rng::seed_from_u64(100 + t as u64))
    })
}

/// Signs of clients with these sigmas; each draws from a stream of its own.
fn signs(model: &dyn Model, clients: &[(u64, f32)]) -> Vec<NoiseSigns> {
    let drawn = |&(seed, sigma)| NoiseSigns::draw(model.targets(), sigma, &mut ChaCha8Rng::seed_from_u64(seed));
    NoiseSigns::to_device(clients.iter().flat_map(drawn).collect(), model.targets(), model.device())
}

#[test]
fn noise_is_that_of_the_weights_moved_by_it() {
    for name in FIXTURES {
        let model = encoder(name);
        let (batch, adapter) = (batch(&model, &[7], Rounding::Exact), adapter(&model));
        let signs = signs(&model, &[(1, 0.3)]);
        // The same noise put into the weights: scaled by the columns of W + s·A·B.
        let mut weights = model.weights();
        for (t, target) in model.targets().iter().enumerate() {
            let name = format!("{}.weight", target.name);
            let weight = &mut weights.iter_mut().find(|w| w.name == name).unwrap().value;
            let product = adapter.a[t].matmul(&adapter.b[t]);
            let normals = normals(target.d_in * target.d_out, &mut ChaCha8Rng::seed_from_u64(100 + t as u64));
            let (u, v) = (numbers(&signs[t].input), numbers(&signs[t].output));
            for (j, v) in v.iter().enumerate() {
                let at = |i: usize| i * target.d_out + j;
                let start = |i: usize| f64::from(weight.data[at(i)]) + 2.0 * f64::from(product.data[at(i)]);
                let size = norm(&(0..target.d_in).map(start).collect::<Vec<_>>()) / (target.d_in as f64).sqrt();
                for i in 0..target.d_in {
                    weight.data[at(i)] += (u[i] * v * size * f64::from(normals[at(i)])) as f32;
                }
            }
        }
        let expected = with(&model, &weights, false);
        let expected = losses_and_gradients(expected.as_ref(), &clients_of(&model, &adapter, 1, vec![]), &batch);
        let noisy = noisy(&model, &adapter);
        let found = losses_and_gradients(noisy.as_ref(), &clients_of(&model, &adapter, 1, signs), &batch);
        assert!(apart(&found.0, &expected.0) < 1e-5, "{name}: loss off by {:e}", apart(&found.0, &expected.0));
        for (i, (x, y)) in found.1.iter().zip(&expected.1).enumerate() {
            assert!(apart(&numbers(x), &numbers(y)) < 1e-3, "{name}: gradient {i}");
        }
        let without = losses_and_gradients(&model, &clients_of(&model, &adapter, 1, vec![]), &batch);
        assert!(apart(&without.0, &expected.0) > 1e-3, "{name}: the noise is felt");
    }
}

#[test]
fn noise_of_zero_is_none_to_the_bit() {
    let model = encoder("roberta-tiny");
    let (batch, adapter) = (batch(&model, &[3, 0, 4], Rounding::Few), adapter(&model));
    let noisy = noisy(&model, &adapter);
    let zero = signs(&model, &[(1, 0.0), (2, 0.0), (3, 0.0)]);
    let with = losses_and_gradients(noisy.as_ref(), &clients_of(&model, &adapter, 3, zero), &batch);
    for plain in [&model as &dyn Model, noisy.as_ref()] {
        let without = losses_and_gradients(plain, &clients_of(&model, &adapter, 3, vec![]), &batch);
        assert_eq!(with.0, without.0);
        assert!(with.1.iter().zip(&without.1).all(|(x, y)| numbers(x) == numbers(y)));
    }
}

#[test]
fn clients_feel_their_own_noise_alone() {
    let model = encoder("roberta-tiny");
    let (texts, adapter) = (toy::texts(7, 3), adapter(&model));
    let noisy = noisy(&model, &adapter);
    let clients = [(1, 0.3), (2, 0.0), (3, 0.1)];
    let rows = [0..3, 3..5, 5..7];
    for rounding in [Rounding::Exact, Rounding::Few] {
        let packed = |rows: &[std::ops::Range<usize>]| {
            let example = |i: usize| (texts.ids[i].as_slice(), texts.goals[i].clone());
            let clients: Vec<Vec<_>> = rows.iter().map(|r| r.clone().map(example).collect()).collect();
            PackedBatch::pack(&clients).to_device(model.info(), rounding, model.device())
        };
        let together = clients_of(&model, &adapter, 3, signs(&model, &clients));
        let together = losses_and_gradients(noisy.as_ref(), &together, &packed(&rows));
        for (c, client) in clients.iter().enumerate() {
            let alone = clients_of(&model, &adapter, 1, signs(&model, &[*client]));
            let alone = losses_and_gradients(noisy.as_ref(), &alone, &packed(&rows[c..c + 1]));
            assert!((together.0[c] - alone.0[0]).abs() < 1e-5, "client {c}");
            for (x, y) in together.1.iter().zip(&alone.1) {
                assert!(apart(&numbers(&x.clone().narrow(0, c, 1)), &numbers(y)) < 1e-4, "client {c}");
            }
        }
    }
}

#[test]
fn layer_states_are_the_first_tokens() {
    for (name, rounding) in FIXTURES.into_iter().zip([Rounding::Exact, Rounding::Few]) {
        let model = encoder(name);
        let (batch, adapter) = (batch(&model, &[3, 4], rounding), head_alone(&model));
        // A second layer that adds nothing: it normalises twice what the first one leaves.
        let mut weights = model.weights();
        for w in weights.iter_mut().filter(|w| w.name.contains("encoder.layer.1.")) {
            w.value.data.fill(if w.name.ends_with("LayerNorm.weight") { 1.0 } else { 0.0 });
        }
        let states = with(&model, &weights, false).layer_states(&adapter, &batch);
        let [first, second] = [0, 1].map(|i: usize| states[i].clone());
        assert_eq!((states.len(), first.dims()), (2, [7, model.info().hidden]));
        let normalised = |x: Tensor<2>| {
            let centred = x.clone() - x.mean_dim(1);
            centred.clone() / (centred.square().mean_dim(1) + model.info().eps).sqrt()
        };
        let expected = numbers(&normalised(normalised(first.clone())));
        assert!(apart(&numbers(&second), &expected) < 1e-5, "{name}");
        // In the model itself the first layer is the same and the last is what the classifier reads.
        let states = model.layer_states(&adapter, &batch);
        assert_eq!(numbers(&states[0]), numbers(&first));
        let logits = model.logits(&adapter, &batch);
        let mut read = states[1].clone();
        for w in model.pooler().chunks(2) {
            read = (product(read, tensor(&model, &w[0].value), Arithmetic::F32) + tensor(&model, &w[1].value)).tanh();
        }
        for (i, pair) in adapter.head.chunks(2).enumerate() {
            let [w, b] = [&pair[0], &pair[1]].map(|t| t.clone().squeeze_dim::<2>(0));
            read = product(if i > 0 { read.tanh() } else { read }, w, Arithmetic::F32) + b;
        }
        assert!(apart(&numbers(&read), &numbers(&logits)) < 1e-5, "{name}");
    }
}

#[test]
fn a_written_checkpoint_is_the_same_model() {
    for name in FIXTURES {
        let model = encoder(name);
        let dir = tempfile::tempdir().unwrap();
        let head: Vec<NamedWeight> = model.head().iter().map(NamedWeight::from).collect();
        let (mut weights, pooler) = (model.weights(), model.pooler());
        weights[0].value.data.iter_mut().for_each(|v| *v *= 1.5);
        let all = weights.iter().chain(&pooler).chain(&head).map(NamedWeight::parts);
        checkpoint::write(&dir.path().join("model.safetensors"), all).unwrap();
        std::fs::copy(fixture(name).join("config.json"), dir.path().join("config.json")).unwrap();
        let again = load(dir.path(), toy::CLASSES, &TargetKind::all());
        let (batch, adapter) = (batch(&model, &[7], Rounding::Exact), head_alone(&again));
        let expected = with(&model, &weights, false).logits(&adapter, &batch);
        assert_eq!(numbers(&again.logits(&adapter, &batch)), numbers(&expected));
        assert_eq!((again.weights(), again.head()), (weights, model.head()));
    }
}

#[test]
fn the_second_text_of_a_pair_has_a_type_of_its_own() {
    let model = encoder("bert-tiny");
    let texts = toy::texts(3, 3);
    let adapter = head_alone(&model);
    let logits = |model: &dyn Model, goal: &dyn Fn(usize) -> Goal, rounding| {
        let rows: Vec<_> = texts.ids.iter().enumerate().map(|(i, ids)| (ids.as_slice(), goal(i))).collect();
        let batch = PackedBatch::pack(&[rows]).to_device(model.info(), rounding, model.device());
        numbers(&model.logits(&adapter, &batch))[..3 * toy::CLASSES].to_vec()
    };
    // A model whose first type is the other's second: there all of a text has that type.
    let mut weights = model.weights();
    let types = weights.iter_mut().find(|weight| weight.name.contains("token_type")).expect("BERT has two types");
    let width = types.value.cols;
    assert_eq!(types.value.rows, 2);
    types.value.data.copy_within(width.., 0);
    let swapped = with(&model, &weights, false);
    for rounding in [Rounding::Exact, Rounding::Few] {
        let plain = logits(&model, &|_| Goal::Class(0), rounding);
        let second = |from: usize| logits(&model, &move |_| Goal::PairClass { class: 0, second: from }, rounding);
        let all = logits(swapped.as_ref(), &|_| Goal::Class(0), rounding);
        assert!(apart(&second(0), &all) < 1e-6 && apart(&plain, &all) > 1e-3);
        assert!(apart(&second(1000), &plain) < 1e-6);
        assert!(apart(&second(2), &plain) > 1e-4 && apart(&second(2), &all) > 1e-4);
    }
}
