//! Agreement with PyTorch, Transformers and PEFT: logits, loss, gradients and ten AdamW steps of one client. The
//! numbers come from `scripts/make_fixtures.py` (small random models, in the repository) and, when there, from real
//! pretrained weights.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::Path;

use bonfire_engine::{Active, Engine, InFlight, Member, Plan, Split, Start, TrainSettings};
use bonfire_federation::{Norm, average};
use bonfire_kernels::{Arithmetic, LowRank, product};
use bonfire_models::DeltaLog;
use bonfire_models::{
    Adapter, AdapterInit, ClientAdapter, Clock, DeviceBatch, Factor, Goal, HeadTensor, Matrix, Model, PackedBatch,
    Rounding, TargetKind, Task, Transformer,
};
use bonfire_tests::{fixture, load_for, shared};
use burn::tensor::{Gradients, Tensor, TensorData};
use rand::SeedableRng;
use safetensors::SafeTensors;

type Numbers = HashMap<String, (Vec<usize>, Vec<f64>)>;

fn read(path: &Path) -> Numbers {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let of = |view: &safetensors::tensor::TensorView| -> Vec<f64> {
        match view.dtype() {
            safetensors::Dtype::F32 => {
                view.data().chunks(4).map(|c| f64::from(f32::from_le_bytes(c.try_into().unwrap()))).collect()
            }
            safetensors::Dtype::I64 => {
                view.data().chunks(8).map(|c| i64::from_le_bytes(c.try_into().unwrap()) as f64).collect()
            }
            other => panic!("{other:?} in {path:?}"),
        }
    };
    file.tensors().into_iter().map(|(name, view)| (name, (view.shape().to_vec(), of(&view)))).collect()
}

struct Case {
    numbers: Numbers,
    settings: serde_json::Value,
    model: Transformer,
    adapter: Adapter,
}

/// A matrix from the file in our orientation: weights transposed, biases as rows.
fn ours(numbers: &Numbers, name: &str) -> Matrix {
    let (shape, data) = numbers.get(name).unwrap_or_else(|| panic!("{name} in the fixture"));
    let data = data.iter().map(|&v| v as f32).collect();
    match shape[..] {
        [n] => Matrix::new(1, n, data),
        [rows, cols] => Matrix::new(rows, cols, data).transposed(),
        _ => panic!("{name} has shape {shape:?}"),
    }
}

impl Case {
    fn new(dir: &Path, case: &str, model_dir: &Path) -> Case {
        let numbers = read(&dir.join(format!("{case}.safetensors")));
        let settings: serde_json::Value =
            serde_json::from_slice(&std::fs::read(dir.join(format!("{case}.json"))).unwrap()).unwrap();
        let kinds: Vec<TargetKind> = serde_json::from_value(settings["targets"].clone()).unwrap();
        // A label a text, or one for every token.
        let task = match numbers["batch0.labels"].0.len() {
            1 => Task::Classify(numbers["batch0.logits"].0[1]),
            _ => Task::Causal,
        };
        let model = load_for(task, model_dir, &kinds);
        let adapter = Self::adapter(&numbers, &settings, &model, "init.");
        Case { numbers, settings, model, adapter }
    }

    fn adapter(numbers: &Numbers, settings: &serde_json::Value, model: &Transformer, stage: &str) -> Adapter {
        let rank = settings["rank"].as_u64().unwrap() as usize;
        let alpha = settings["lora_alpha"].as_f64().unwrap();
        let head: Vec<HeadTensor> = model
            .head()
            .iter()
            .map(|t| HeadTensor { name: t.name.clone(), value: ours(numbers, &format!("{stage}{}", t.name)) })
            .collect();
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(0);
        let mut adapter = Adapter::fresh(model.targets(), rank, alpha, AdapterInit::Kaiming, head, &mut rng);
        for (i, t) in model.targets().iter().enumerate() {
            adapter.a[i] = ours(numbers, &format!("{stage}{}.lora_A.weight", t.name));
            adapter.b[i] = ours(numbers, &format!("{stage}{}.lora_B.weight", t.name));
        }
        adapter
    }

    fn texts(&self, batch: usize) -> Split {
        let of = |part: &str| &self.numbers[&format!("batch{batch}.{part}")];
        let (ids, mask, labels) = (of("input_ids"), of("attention_mask"), of("labels"));
        let rows = ids.1.chunks(ids.0[1]).zip(mask.1.chunks(ids.0[1]));
        let ids =
            rows.map(|(row, keep)| row.iter().zip(keep).filter(|(_, k)| **k == 1.0).map(|(&v, _)| v as u32).collect());
        let goals = match labels.0[..] {
            [_] => labels.1.iter().map(|&l| Goal::Class(l as usize)).collect(),
            // Everything from the first token that is not -100 on.
            _ => {
                let rows = labels.1.chunks(labels.0[1]);
                rows.map(|row| Goal::Next(row.iter().position(|&l| l >= 0.0).unwrap())).collect()
            }
        };
        Split { ids: ids.collect(), goals }
    }

    fn packed(&self, batch: usize) -> PackedBatch {
        let texts = self.texts(batch);
        PackedBatch::pack(&[texts.ids.iter().zip(&texts.goals).map(|(ids, &l)| (ids.as_slice(), l)).collect()])
    }

    fn tensor(&self, m: &Matrix) -> Tensor<3> {
        Tensor::from_data(TensorData::new(m.data.clone(), [1, m.rows, m.cols]), self.model.device())
    }

    /// Logits with the adapter unfolded, factors given as tensors.
    fn client(&self, adapter: &Adapter, track: bool) -> ClientAdapter {
        let put = |m: &Matrix| if track { self.tensor(m).require_grad() } else { self.tensor(m) };
        let scale = adapter.scale() as f32;
        let updates = adapter.a.iter().zip(&adapter.b);
        let updates = updates.map(|(a, b)| Some(LowRank { a: put(&a.transposed()), b: put(b), used: None, scale }));
        ClientAdapter::new(updates.collect(), adapter.head.iter().map(|t| put(&t.value)).collect())
    }

    fn logits_and_gradients_agree(&self) {
        let batch = self.packed(0).to_device(self.model.info(), Rounding::Exact, self.model.device());
        let client = self.client(&self.adapter, true);
        let logits = self.model.logits(&client, &batch);
        close("logits", &values(logits), &self.numbers["batch0.logits"].1, 1e-4);

        let folded = self.model.folded(&self.adapter);
        let bare = ClientAdapter::new(vec![], self.client(&self.adapter, false).head);
        close("folded logits", &values(folded.logits(&bare, &batch)), &self.numbers["batch0.logits"].1, 1e-4);

        let loss = self.model.loss(&client, &batch);
        let expected = self.settings["batch0_loss"].as_f64().unwrap();
        let found = values(loss.clone())[0];
        assert!((found - expected).abs() < 1e-4 * expected.abs().max(1.0), "loss {found}, PyTorch {expected}");

        let grads = loss.sum().backward();
        self.recomputing_changes_nothing(&client, &batch, found, &grads);
        for (update, t) in client.updates.iter().flatten().zip(self.model.targets()) {
            for (factor, gradient) in [("lora_A", update.a.grad(&grads)), ("lora_B", update.b.grad(&grads))] {
                let name = format!("grad.{}.{factor}.weight", t.name);
                let gradient = gradient.unwrap().squeeze_dim::<2>(0);
                let gradient = if factor == "lora_A" { gradient.transpose() } else { gradient };
                close(&name, &values(gradient), &floats(&ours(&self.numbers, &name)), 1e-4);
            }
        }
        self.weights_gradients_agree(folded.as_ref(), &bare, &batch);
        for (tensor, t) in client.head.iter().zip(self.model.head()) {
            let name = format!("grad.{}", t.name);
            close(&name, &values(tensor.grad(&grads).unwrap()), &floats(&ours(&self.numbers, &name)), 1e-4);
        }
    }

    /// The backward pass that computes layers again gives the same loss and gradients, in parts.
    fn recomputing_changes_nothing(&self, client: &ClientAdapter, batch: &DeviceBatch, loss: f64, grads: &Gradients) {
        let client_again = self.client(&self.adapter, true);
        let (losses, parts) = self.model.gradients(&client_again, batch, true, &mut Clock::start(self.model.device()));
        assert!((values(losses)[0] - loss).abs() < 1e-5 * loss);
        assert_eq!(parts.len(), self.model.info().layers);
        let tensors = |client: &ClientAdapter| {
            let updates = client.updates.iter().flatten().flat_map(|u| [u.a.clone(), u.b.clone()]);
            updates.chain(client.head.clone()).collect::<Vec<_>>()
        };
        for (again, once) in tensors(&client_again).into_iter().zip(tensors(client)) {
            let again = parts.iter().find_map(|part| again.grad(part)).unwrap();
            close("a gradient in parts", &values(again), &values(once.grad(grads).unwrap()), 1e-5);
        }
    }

    /// Texts in one batch, of one client or several, are scored as each of them alone.
    fn packed_is_unpacked(&self) {
        let texts = self.texts(1);
        let (device, info) = (self.model.device(), self.model.info());
        let client = self.client(&self.adapter, false);
        let scores = |clients: &[Vec<(&[u32], Goal)>]| {
            let batch = PackedBatch::pack(clients).to_device(info, Rounding::Exact, device);
            values(self.model.logits(&client, &batch))
        };
        let all: Vec<_> = texts.ids.iter().map(Vec::as_slice).zip(texts.goals.iter().copied()).collect();
        let alone: Vec<f64> = all.iter().flat_map(|&text| scores(&[vec![text]])).collect();
        close("packed", &scores(std::slice::from_ref(&all)), &alone, 1e-5);
        let (first, second) = all.split_at(2);
        close("of two clients", &scores(&[first.to_vec(), second.to_vec()]), &alone, 1e-5);
    }

    /// Token by token with kept keys and values, the scores are those of the whole text at once.
    fn generation_agrees(&self) {
        let texts = self.texts(0);
        let model = self.model.with_folded(&self.adapter);
        let (device, info) = (self.model.device(), self.model.info());
        let bare = ClientAdapter::new(vec![], vec![]);
        let ids = texts.ids.iter().max_by_key(|ids| ids.len()).unwrap();
        let whole = PackedBatch::pack(&[vec![(ids.as_slice(), Goal::Next(1))]]);
        let whole = values(model.logits(&bare, &whole.to_device(info, Rounding::Exact, device)));
        let expected = |at: usize| &whole[at * info.vocab..(at + 1) * info.vocab];
        // A prompt of five tokens, then three at once, then one at a time.
        let mut text = model.begin(&ids[..5]);
        let found = |scores: &[f32]| scores.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
        close("after the prompt", &found(text.scores()), expected(4), 1e-5);
        text.push(&ids[5..8]);
        close("after three more", &found(text.scores()), expected(7), 1e-5);
        for at in 8..ids.len() - 1 {
            text.push(&ids[at..=at]);
            close("after one more", &found(text.scores()), expected(at), 1e-5);
        }
    }

    /// A factor's gradient is that of the weight it is folded into times the other factor, so PyTorch's gradients of the
    /// factors tell those of the weights: dA = s·dW·Bᵀ and dB = s·Aᵀ·dW.
    fn weights_gradients_agree(&self, folded: &dyn Model, bare: &ClientAdapter, batch: &DeviceBatch) {
        let weights = folded.weights();
        let two = |m: &Matrix| self.tensor(m).squeeze_dim::<2>(0);
        let leaves: Vec<Tensor<2>> = weights.iter().map(|w| two(&w.value).require_grad()).collect();
        let grads = folded.with_weights(leaves.clone(), true).loss(bare, batch).sum().backward();
        for (i, t) in folded.targets().iter().enumerate() {
            let at = weights.iter().position(|w| w.name == format!("{}.weight", t.name)).unwrap();
            let gradient = leaves[at].grad(&grads).unwrap() * self.adapter.scale();
            let (a, b) = (two(&self.adapter.a[i]).inner(), two(&self.adapter.b[i]).inner());
            let a_gradient = product(gradient.clone(), b.transpose(), Arithmetic::F32);
            let b_gradient = product(a.transpose(), gradient, Arithmetic::F32);
            for (factor, found) in [("lora_A", a_gradient), ("lora_B", b_gradient)] {
                let name = format!("grad.{}.{factor}.weight", t.name);
                close(&name, &values(found), &floats(&ours(&self.numbers, &name)), 1e-4);
            }
        }
    }

    /// Ten AdamW steps through the engine: one client whose shard is the batches in turn, in order. The loss of step n
    /// is what the n-th step adds to the sum of losses, so the first n batches are trained for every n.
    fn ten_steps_agree(&self) {
        let (batch_size, turns): (usize, Vec<Split>) =
            (self.texts(0).len(), (0..10).map(|i| self.texts(i % 4)).collect());
        let train = Split {
            ids: turns.iter().flat_map(|t| t.ids.clone()).collect(),
            goals: turns.iter().flat_map(|t| t.goals.clone()).collect(),
        };
        let rows: Vec<usize> = (0..train.len()).collect();
        let lr = self.settings["lr"].as_f64().unwrap();
        let text = format!(
            "rounds = 1\nbatch_size = {batch_size}\nshuffle = false\nlr_head = {}\nweight_decay = {}",
            self.settings["head_lr"],
            self.settings["weight_decay"].as_f64().unwrap_or(0.0)
        );
        let settings: TrainSettings = toml::from_str(&text).unwrap();
        let engine = Engine::new(vec![Box::new(self.model.clone())], train, settings, InFlight::Auto);
        let plan = Plan { train_head: true, ..Plan::new(1, Active::Both, lr, lr) };
        let run = |steps: usize| {
            let member = [Member::new(0, &rows[..steps * batch_size])];
            let start = Start { adapter: &self.adapter, merged: &DeltaLog::default() };
            engine.train(&plan, start, &member, &mut |_| true).unwrap().uploads.remove(0)
        };
        let expected: Vec<f64> = serde_json::from_value(self.settings["losses_10_steps"].clone()).unwrap();
        let mut before = 0.0;
        for (i, expected) in expected.iter().enumerate() {
            let sum = run(i + 1).loss * (i + 1) as f64;
            let found = sum - before;
            assert!(
                (found - expected).abs() <= 1e-3 * expected.abs().max(0.5),
                "step {}: loss {found}, PyTorch {expected}",
                i + 1
            );
            before = sum;
        }
        let mut end = self.adapter.clone();
        average(&mut end, &[run(10)], Norm::All);
        let wanted = Self::adapter(&self.numbers, &self.settings, &self.model, "after10.");
        for i in 0..wanted.targets.len() {
            for factor in [Factor::A, Factor::B] {
                let name = format!("{} {factor:?} after ten steps", wanted.targets[i].name);
                let moved = |a: &Adapter| difference(&a.factor(factor)[i], &self.adapter.factor(factor)[i]);
                close(&name, &moved(&end), &moved(&wanted), 1e-2);
            }
        }
    }
}

fn difference(x: &Matrix, y: &Matrix) -> Vec<f64> {
    x.data.iter().zip(&y.data).map(|(x, y)| f64::from(x - y)).collect()
}

fn floats(m: &Matrix) -> Vec<f64> {
    m.data.iter().map(|&v| f64::from(v)).collect()
}

fn values<const D: usize>(t: Tensor<D>) -> Vec<f64> {
    t.into_data().iter::<f64>().collect()
}

/// Largest difference relative to the expected values' norm (at least 1e-6).
fn close(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let norm = expected.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-6);
    let apart = found.iter().zip(expected).map(|(f, e)| (f - e) * (f - e)).sum::<f64>().sqrt();
    assert!(apart <= tolerance * norm, "{what}: off by {:.2e} of its norm", apart / norm);
}

fn committed(case: &str) -> Case {
    Case::new(&fixture(""), &format!("{case}.case"), &fixture(case))
}

#[test]
fn small_roberta_agrees_with_transformers() {
    let case = committed("roberta-tiny");
    case.logits_and_gradients_agree();
    case.ten_steps_agree();
}

#[test]
fn small_bert_agrees_with_transformers() {
    let case = committed("bert-tiny");
    case.logits_and_gradients_agree();
    case.ten_steps_agree();
}

#[test]
fn real_weights_agree_with_transformers() {
    let Some(shared) = shared() else { return };
    for (case, model) in
        [("bert_all", "minilm-l6-bert"), ("roberta_all", "minilm-l6-roberta"), ("roberta_qv", "minilm-l6-roberta")]
    {
        let case = Case::new(&shared.join("reference/fixtures"), case, &shared.join("models").join(model));
        case.logits_and_gradients_agree();
        case.ten_steps_agree();
    }
}

#[test]
fn small_decoders_agree_with_transformers() {
    for case in ["llama-tiny", "llama3-tiny", "qwen2-tiny"] {
        println!("{case}");
        let case = committed(case);
        case.logits_and_gradients_agree();
        case.packed_is_unpacked();
        case.generation_agrees();
        case.ten_steps_agree();
    }
}

#[test]
fn a_decoder_that_classifies_agrees_with_transformers() {
    let case = committed("llama-tiny-classifier");
    case.logits_and_gradients_agree();
    case.packed_is_unpacked();
    case.ten_steps_agree();
}

#[test]
fn a_real_decoder_agrees_with_transformers() {
    let Some(shared) = shared() else { return };
    let case = Case::new(&fixture(""), "stories260k.case", &shared.join("models/stories260k-llama"));
    case.logits_and_gradients_agree();
    case.packed_is_unpacked();
    case.generation_agrees();
    case.ten_steps_agree();
}
