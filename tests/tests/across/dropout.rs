//! Dropout: Transformers and PEFT in training mode, with masks that both sides work out (`scripts/fixtures/make_dropout.py`); the
//! masks of a client, whoever else is in the batch; and runs that drop.

use bonfire_engine::InFlight;
use bonfire_federation::{Event, RoundMetrics, Run, Settings};
use bonfire_models::check::torch::TorchCase;
use bonfire_models::{
    Adapter, ClientAdapter, Clock, Dropout, Goal, Matrix, Model, ModelDropout, PackedBatch, Rounding, TargetKind,
};
use bonfire_tests::{fixture, load, load_for, toy};
use burn::tensor::Tensor;
use rand::SeedableRng;
use serde::Deserialize;
use std::ops::ControlFlow;

#[derive(Deserialize)]
struct Recorded {
    key: u64,
    attention: f64,
    adapter: f64,
    cases: Vec<RecordedCase>,
}

#[derive(Deserialize)]
struct RecordedCase {
    case: String,
    hidden: f64,
    classifier: Option<f64>,
    loss: f64,
}

fn torch_case(name: &str, ending: &str) -> TorchCase {
    let file = |name: &str| std::fs::read(fixture(name)).unwrap();
    let (settings, numbers) = (file(&format!("{name}.case.json")), file(&format!("{name}.{ending}.safetensors")));
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(0);
    let load = |task, kinds: &[TargetKind], _: &mut _| Ok(load_for(task, &fixture(name), kinds));
    TorchCase::over(name, &settings, &numbers, &mut rng, load).unwrap()
}

fn values<const D: usize>(t: Tensor<D>) -> Vec<f64> {
    t.into_data().iter::<f64>().collect()
}

fn wide(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().map(|&v| f64::from(v)).collect()
}

/// Compares as vectors: the norm of the difference over that of what is expected.
fn close(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|v| v * v).sum::<f64>().sqrt();
    let apart =
        norm(&mut found.iter().zip(expected).map(|(f, e)| f - e)) / norm(&mut expected.iter().copied()).max(1e-9);
    assert!(apart <= tolerance, "{what}: off by {apart:.1e} of its norm");
}

#[test]
fn families_drop_as_transformers_and_peft() {
    let recorded: Recorded = serde_json::from_slice(&std::fs::read(fixture("dropout.json")).unwrap()).unwrap();
    for RecordedCase { case, hidden, classifier, loss } in &recorded.cases {
        let (start, dropped) =
            (torch_case(case, "case"), std::fs::read(fixture(&format!("{case}.dropout.safetensors"))));
        let dropped = safetensors(dropped.unwrap());
        let model = ModelDropout { hidden: *hidden, attention: recorded.attention, classifier: *classifier };
        let model = start.model.clone().dropping(Dropout { model, adapter: recorded.adapter }).unwrap();
        let packed = start.batch(0).unwrap();
        let batch = packed.to_device(model.info(), Rounding::Exact, model.device());
        let masks = packed.masks(&[recorded.key], model.info(), Rounding::Exact);
        let client = || ClientAdapter { masks: Some(masks.clone()), ..start.client(true) };
        let client_at_once = client();
        let logits = values(model.logits(&client_at_once, &batch));
        close(&format!("{case}: scores"), &logits, &dropped("batch0.logits").1, 1e-5);
        let found = model.loss(&client_at_once, &batch);
        let found_loss = values(found.clone())[0];
        assert!((found_loss - loss).abs() < 1e-5 * loss, "{case}: loss {found_loss}, PyTorch {loss}");
        let grads = found.sum().backward();
        let client_by_layer = client();
        let (losses, parts) = model.gradients(&client_by_layer, &batch, true, &mut Clock::start(model.device()));
        assert!((values(losses)[0] - loss).abs() < 1e-5 * loss, "{case}: recomputed");
        let leaves = |client: &ClientAdapter| {
            let updates = client.updates.iter().flatten().flat_map(|u| [u.a.clone(), u.b.clone()]);
            updates.chain(client.head.clone()).collect::<Vec<_>>()
        };
        let factors =
            model.targets().iter().flat_map(|t| ["lora_A", "lora_B"].map(|f| format!("{}.{f}.weight", t.name)));
        let names = factors.chain(model.head().iter().map(|t| t.name.clone()));
        for ((leaf, by_layer), name) in leaves(&client_at_once).iter().zip(leaves(&client_by_layer)).zip(names) {
            let (shape, numbers) = dropped(&format!("grad.{name}"));
            // A lies slot by slot there as here; other matrices lie the other way round.
            let expected = match shape[..] {
                [rows, cols] if !name.ends_with("lora_A.weight") => {
                    (0..rows * cols).map(|i| numbers[i % rows * cols + i / rows]).collect()
                }
                _ => numbers,
            };
            close(&format!("{case}: gradient of {name}"), &values(leaf.grad(&grads).unwrap()), &expected, 1e-5);
            let again = parts.iter().find_map(|part| by_layer.grad(part)).unwrap();
            close(&format!("{case}: {name}, recomputed"), &values(again), &expected, 1e-5);
        }
        // Without masks nothing is dropped.
        let evaluated = values(model.logits(&start.client(false), &batch));
        close(&format!("{case}: evaluated"), &evaluated, &wide(&start.tensor("batch0.logits").unwrap().1), 1e-4);
        assert!(apart(&evaluated, &logits) > 1e-2, "{case}: dropout is felt");
    }
}

fn apart(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max)
}

/// Shape and numbers of the tensors of a safetensors file.
fn safetensors(bytes: Vec<u8>) -> impl Fn(&str) -> (Vec<usize>, Vec<f64>) {
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let numbers = |data: &[u8]| data.as_chunks::<4>().0.iter().map(|&b| f64::from(f32::from_le_bytes(b))).collect();
    let all: std::collections::BTreeMap<String, (Vec<usize>, Vec<f64>)> =
        file.tensors().into_iter().map(|(name, t)| (name, (t.shape().to_vec(), numbers(t.data())))).collect();
    move |name| all[name].clone()
}

const ALL: Dropout =
    Dropout { model: ModelDropout { hidden: 0.2, attention: 0.2, classifier: Some(0.3) }, adapter: 0.2 };

/// The scores of a client are those that it has alone, wherever it stands in the batch, also where a device rounds up: one element
/// dropped otherwise would show in the first digits.
#[test]
fn masks_are_the_clients_own() {
    let model = load(&fixture("roberta-tiny"), toy::CLASSES, &[]).dropping(Dropout { adapter: 0.0, ..ALL }).unwrap();
    let texts = toy::texts(9, 3);
    let examples = |range: std::ops::Range<usize>| -> Vec<(&[u32], Goal)> {
        range.map(|i| (texts.ids[i].as_slice(), texts.goals[i].clone())).collect()
    };
    let head = |clients| {
        let of = |m: &Matrix| {
            let data = burn::tensor::TensorData::new(m.data.clone(), [1, m.rows, m.cols]);
            Tensor::<3>::from_data(data, model.device()).repeat_dim(0, clients)
        };
        model.head().iter().map(|t| of(&t.value)).collect::<Vec<_>>()
    };
    let scores = |clients: &[Vec<(&[u32], Goal)>], keys: &[u64], rounding| {
        let packed = PackedBatch::pack(clients);
        let masks = Some(packed.masks(keys, model.info(), rounding));
        let client = ClientAdapter { masks, ..ClientAdapter::new(vec![], head(clients.len())) };
        values(model.logits(&client, &packed.to_device(model.info(), rounding, model.device())))
    };
    let (one, two, three) = (examples(0..3), examples(3..4), examples(4..9));
    let alone: Vec<f64> = [(&one, 11), (&two, 22), (&three, 33)]
        .into_iter()
        .flat_map(|(texts, key)| scores(std::slice::from_ref(texts), &[key], Rounding::Exact))
        .collect();
    let together = |rounding| scores(&[one.clone(), two.clone(), three.clone()], &[11, 22, 33], rounding);
    close("together", &together(Rounding::Exact), &alone, 1e-6);
    let n = alone.len();
    close("rounded up", &together(Rounding::Few)[..n], &alone, 1e-6);
    let others: Vec<f64> = scores(&[one.clone(), two.clone(), three.clone()], &[12, 22, 33], Rounding::Exact);
    assert!(apart(&others[..3 * toy::CLASSES], &alone[..3 * toy::CLASSES]) > 1e-3, "another key is another mask");
    assert_eq!(apart(&others[3 * toy::CLASSES..], &together(Rounding::Exact)[3 * toy::CLASSES..]), 0.0);
}

fn run(settings: Settings, dropout: Dropout) -> Run {
    let shards = toy::shards(settings.clients.count);
    let models: Vec<Box<dyn Model>> = vec![Box::new(toy::model(&settings).dropping(dropout).unwrap())];
    toy::run_of(models, settings, shards)
}

fn finish(run: &mut Run) -> (Vec<RoundMetrics>, Vec<Adapter>) {
    let (mut rounds, mut models) = (Vec::new(), vec![run.server().model()]);
    run.train(&mut |event| {
        if let Event::RoundEnded { metrics, run, .. } = event {
            rounds.push(metrics.clone());
            models.push(run.server().model());
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    (rounds, models)
}

/// What the model computes with: every target's product, and the head.
fn computed(adapter: &Adapter) -> Vec<f64> {
    let products = adapter.a.iter().zip(&adapter.b).map(|(a, b)| a.matmul(b));
    products.chain(adapter.head.iter().map(|t| t.value.clone())).flat_map(|m| wide(&m.data)).collect()
}

/// Largest difference of two models relative to how far the first has moved.
fn moved_apart(x: &Adapter, y: &Adapter, start: &Adapter) -> f64 {
    apart(&computed(x), &computed(y)) / apart(&computed(x), &computed(start)).max(1e-12)
}

#[test]
fn strategies_drop_one_by_one_as_all_together() {
    for strategy in toy::STRATEGIES.iter().chain(&["name = \"full\""]) {
        let text = format!("[strategy]\n{strategy}\n[adapter]\nrank = 4\nhead = \"trained\"");
        let mut settings = toy::settings(&text);
        let adapter = if settings.strategy.traits().drops_adapter_inputs { 0.2 } else { 0.0 };
        settings.adapter.dropout = adapter;
        assert!(settings.problem().is_none(), "{strategy}");
        let trained = |in_flight, dropout| {
            let mut settings = toy::with_in_flight(settings.clone(), in_flight);
            settings.train.rounds = 2;
            if strategy.contains("full") {
                settings.train.lr_a = Some(3e-4);
            }
            finish(&mut run(settings, dropout))
        };
        let dropout = Dropout { adapter, ..ALL };
        let (one, models) = trained(InFlight::Count(1), dropout);
        let (all, together) = trained(InFlight::Count(100), dropout);
        for (x, y) in one.iter().zip(&all) {
            assert!((x.train_loss - y.train_loss).abs() < 2e-4 * x.train_loss, "{strategy}: {x:?} {y:?}");
        }
        let off = moved_apart(&models[2], &together[2], &models[0]);
        assert!(off < 2e-2, "{strategy}: apart by {off:.1e}");
        let (without, _) = trained(InFlight::Count(100), Dropout::default());
        assert!((without[0].train_loss - one[0].train_loss).abs() > 1e-3, "{strategy}: dropout is felt");
    }
}

/// Where a factor is frozen the start is folded into the backbone, and beside it where adapters drop something: without a share that
/// goes both are the same.
#[test]
fn a_start_beside_the_backbone_is_the_one_folded() {
    for strategy in ["ffa-lora", "rolora", "fed-sb", "la-lora", "fedsvd"] {
        let text = format!("[strategy]\nname = \"{strategy}\"\n[adapter]\nrank = 4\nhead = \"trained\"");
        let trained = |adapter| {
            let mut settings = toy::settings(&text);
            settings.train.rounds = 3;
            settings.adapter.dropout = adapter;
            finish(&mut run(settings, Dropout { adapter, ..Dropout::default() })).1
        };
        // Of 2³² numbers one goes.
        let (folded, beside) = (trained(0.0), trained(2f64.powi(-32)));
        let off = moved_apart(&folded[3], &beside[3], &folded[0]);
        assert!(off < 2e-3, "{strategy}: apart by {off:.1e}");
    }
}

#[test]
fn every_step_and_client_has_masks_of_its_own() {
    // With steps that change nothing, losses differ by masks alone; every client has the same five texts.
    let mut settings = toy::settings(
        "[strategy]\nname = \"fedit\"\n[train]\nrounds = 2\nlr_a = 0.0\nbatch_size = 5\nepochs = 2\nshuffle = false",
    );
    settings.clients.count = 2;
    let shards = bonfire_data::Shards { train: vec![(0..5).collect(); 2], test: vec![(0..5).collect(); 2] };
    let models: Vec<Box<dyn Model>> = vec![Box::new(toy::model(&settings).dropping(ALL).unwrap())];
    let mut run = toy::run_of(models, settings, shards);
    let (_, clients, _) = toy::finish(&mut run);
    let losses: Vec<f64> = clients.iter().map(|row| row.train_loss).collect();
    assert_eq!(losses.len(), 4);
    for (i, x) in losses.iter().enumerate() {
        assert!(losses[..i].iter().all(|y| (x - y).abs() > 1e-4), "{losses:?}");
    }
}

#[test]
fn what_a_family_does_not_drop_is_refused_by_name() {
    let encoder = load(&fixture("roberta-tiny"), 5, &[]);
    assert!(encoder.dropping(ALL).is_ok());
    let decoder = || load(&fixture("llama-tiny-classifier"), 5, &[]);
    let (key, why) = decoder().dropping(ALL).unwrap_err();
    assert!(key == "model.dropout.hidden" && why.contains("llama"), "{why}");
    let of = |model| Dropout { model, adapter: 0.1 };
    let (key, _) = decoder().dropping(of(ModelDropout { hidden: 0.0, ..ALL.model })).unwrap_err();
    assert_eq!(key, "model.dropout.classifier");
    assert!(decoder().dropping(of(ModelDropout { attention: 0.1, ..Default::default() })).is_ok());
    let mut settings = toy::settings("[strategy]\nname = \"lora-a2\"");
    settings.adapter.dropout = 0.05;
    let problem = settings.problem().unwrap();
    assert!(problem.key == "adapter.dropout" && problem.what.contains("lora-a2"), "{problem:?}");
    settings.adapter.dropout = 1.0;
    assert!(settings.problem().unwrap().what.contains("below 1"));
}
