//! Agreement with PyTorch, Transformers and PEFT: logits, loss, gradients and ten AdamW steps of one client. The
//! numbers come from `scripts/fixtures/make_fixtures.py` (small random models, in the repository) and, when there, from real
//! pretrained weights.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use bonfire_engine::{Active, Engine, EngineSettings, Member, Plan, Split, Start, TrainSettings};
use bonfire_federation::{Norm, average};
use bonfire_kernels::{Arithmetic, product};
use bonfire_models::DeltaLog;
use bonfire_models::check::torch::TorchCase;
use bonfire_models::{
    Adapter, ClientAdapter, Clock, Continuation, DeviceBatch, Factor, Goal, Matrix, Model, PackedBatch, Rounding,
};
use bonfire_tests::{fixture, load_for, shared};
use burn::tensor::{Gradients, Tensor, TensorData};
use rand::SeedableRng;

struct Case {
    torch: TorchCase,
}

impl Case {
    fn new(dir: &Path, case: &str, model_dir: &Path) -> Case {
        let file = |ending: &str| std::fs::read(dir.join(format!("{case}.{ending}"))).unwrap();
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(0);
        let torch = TorchCase::over(case, &file("json"), &file("safetensors"), &mut rng, |task, kinds, _| {
            Ok(load_for(task, model_dir, kinds))
        });
        Case { torch: torch.unwrap() }
    }

    /// One of PyTorch's tensors.
    fn numbers(&self, name: &str) -> Vec<f64> {
        wide(&self.torch.tensor(name).unwrap().1)
    }

    /// One of PyTorch's matrices, turned as ours lie.
    fn ours(&self, name: &str) -> Vec<f64> {
        wide(&self.torch.ours(name).unwrap().data)
    }

    fn logits_and_gradients_agree(&self) {
        let batch =
            self.torch.batch(0).unwrap().to_device(self.torch.model.info(), Rounding::Exact, self.torch.model.device());
        let client = self.torch.client(true);
        let logits = self.torch.model.logits(&client, &batch);
        close("logits", &values(logits), &self.numbers("batch0.logits"), 1e-4);

        let folded = self.torch.model.folded(&self.torch.adapter);
        let bare = ClientAdapter::new(vec![], self.torch.client(false).head);
        close("folded logits", &values(folded.logits(&bare, &batch)), &self.numbers("batch0.logits"), 1e-4);

        let loss = self.torch.model.loss(&client, &batch);
        let expected = self.torch.settings.batch0_loss;
        let found = values(loss.clone())[0];
        assert!((found - expected).abs() < 1e-4 * expected.abs().max(1.0), "loss {found}, PyTorch {expected}");
        seen("loss", (found - expected).abs() / expected.abs());

        let grads = loss.sum().backward();
        self.recomputing_changes_nothing(&client, &batch, found, &grads);
        for (update, t) in client.updates.iter().flatten().zip(self.torch.model.targets()) {
            for (factor, gradient) in [("lora_A", update.a.grad(&grads)), ("lora_B", update.b.grad(&grads))] {
                let name = format!("grad.{}.{factor}.weight", t.name);
                let gradient = gradient.unwrap().squeeze_dim::<2>(0);
                let gradient = if factor == "lora_A" { gradient.transpose() } else { gradient };
                close(&name, &values(gradient), &self.ours(&name), 1e-4);
            }
        }
        self.weights_gradients_agree(folded.as_ref(), &bare, &batch);
        for (tensor, t) in client.head.iter().zip(self.torch.model.head()) {
            let name = format!("grad.{}", t.name);
            close(&name, &values(tensor.grad(&grads).unwrap()), &self.ours(&name), 1e-4);
        }
    }

    /// The backward pass that computes layers again gives the same loss and gradients, in parts.
    fn recomputing_changes_nothing(&self, client: &ClientAdapter, batch: &DeviceBatch, loss: f64, grads: &Gradients) {
        let client_again = self.torch.client(true);
        let (losses, parts) =
            self.torch.model.gradients(&client_again, batch, true, &mut Clock::start(self.torch.model.device()));
        assert!((values(losses)[0] - loss).abs() < 1e-5 * loss);
        assert_eq!(parts.len(), self.torch.model.info().layers);
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
        let texts = self.torch.texts(1).unwrap();
        let (device, info) = (self.torch.model.device(), self.torch.model.info());
        let client = self.torch.client(false);
        let scores = |clients: &[Vec<(&[u32], Goal)>]| {
            let batch = PackedBatch::pack(clients).to_device(info, Rounding::Exact, device);
            values(self.torch.model.logits(&client, &batch))
        };
        let all: Vec<_> = texts.iter().map(|(ids, goal)| (ids.as_slice(), goal.clone())).collect();
        let alone: Vec<f64> = all.iter().flat_map(|text| scores(&[vec![text.clone()]])).collect();
        close("packed", &scores(std::slice::from_ref(&all)), &alone, 1e-5);
        let (first, second) = all.split_at(2);
        close("of two clients", &scores(&[first.to_vec(), second.to_vec()]), &alone, 1e-5);
    }

    /// Token by token with kept keys and values, the scores are those of the whole text at once.
    fn generation_agrees(&self) {
        let texts = self.torch.texts(0).unwrap();
        let model = self.torch.model.with_folded(&self.torch.adapter);
        let (device, info) = (self.torch.model.device(), self.torch.model.info());
        let bare = ClientAdapter::new(vec![], vec![]);
        let ids = texts.iter().map(|(ids, _)| ids).max_by_key(|ids| ids.len()).unwrap();
        let whole = PackedBatch::pack(&[vec![(ids.as_slice(), Goal::Next(1))]]);
        let whole = values(model.logits(&bare, &whole.to_device(info, Rounding::Exact, device)));
        let expected = |at: usize| &whole[at * info.vocab..(at + 1) * info.vocab];
        // A prompt of five tokens, then three at once, then one at a time; beside it the same text two tokens behind, which
        // goes on alone when the first one is over.
        let scores = |text: &Continuation| -> Vec<Vec<f64>> {
            text.scores().map(|scores| scores.iter().map(|&v| f64::from(v)).collect()).collect()
        };
        let mut text = model.begin(&[&ids[..5], &ids[..3]]);
        let close_to = |what: &str, found: Vec<Vec<f64>>, at: &[usize]| {
            assert_eq!(found.len(), at.len());
            found.iter().zip(at).for_each(|(found, &at)| close(what, found, expected(at), 1e-5));
        };
        close_to("after the prompt", scores(&text), &[4, 2]);
        text.push(&[&ids[5..8], &ids[3..6]]);
        close_to("after three more", scores(&text), &[7, 5]);
        for at in 8..ids.len() - 1 {
            text.push(&[&ids[at..=at], &ids[at - 2..=at - 2]]);
            close_to("after one more", scores(&text), &[at, at - 2]);
        }
        text.keep(&[1]);
        let last = ids.len() - 3;
        text.push(&[&ids[last..=last]]);
        close_to("alone", scores(&text), &[last]);
    }

    /// A factor's gradient is that of the weight it is folded into times the other factor, so PyTorch's gradients of the
    /// factors tell those of the weights: dA = s·dW·Bᵀ and dB = s·Aᵀ·dW.
    fn weights_gradients_agree(&self, folded: &dyn Model, bare: &ClientAdapter, batch: &DeviceBatch) {
        let weights = folded.weights();
        let device = self.torch.model.device();
        let two = |m: &Matrix| Tensor::<2>::from_data(TensorData::new(m.data.clone(), [m.rows, m.cols]), device);
        let leaves: Vec<Tensor<2>> = weights.iter().map(|w| two(&w.value).require_grad()).collect();
        let grads = folded.with_weights(leaves.clone(), true).loss(bare, batch).sum().backward();
        for (i, t) in folded.targets().iter().enumerate() {
            let at = weights.iter().position(|w| w.name == format!("{}.weight", t.name)).unwrap();
            let gradient = leaves[at].grad(&grads).unwrap() * self.torch.adapter.scale();
            let (a, b) = (two(&self.torch.adapter.a[i]).inner(), two(&self.torch.adapter.b[i]).inner());
            let a_gradient = product(gradient.clone(), b.transpose(), Arithmetic::F32);
            let b_gradient = product(a.transpose(), gradient, Arithmetic::F32);
            for (factor, found) in [("lora_A", a_gradient), ("lora_B", b_gradient)] {
                let name = format!("grad.{}.{factor}.weight", t.name);
                close(&name, &values(found), &self.ours(&name), 1e-4);
            }
        }
    }

    /// Ten AdamW steps through the engine: one client whose shard is the batches in turn, in order. The loss of step n
    /// is what the n-th step adds to the sum of losses, so the first n batches are trained for every n.
    fn ten_steps_agree(&self) {
        let turns: Vec<_> = (0..10).map(|i| self.torch.texts(i % 4).unwrap()).collect();
        let batch_size = turns[0].len();
        let (ids, goals) = turns.into_iter().flatten().unzip();
        let (train, given) = (Split::new(ids, goals), &self.torch.settings);
        let rows: Vec<usize> = (0..train.len()).collect();
        let text = format!(
            "rounds = 1\nbatch_size = {batch_size}\nshuffle = false\nlr_head = {:?}\nweight_decay = {:?}",
            given.head_lr, given.weight_decay
        );
        let settings: TrainSettings = toml::from_str(&text).unwrap();
        let engine = Engine::new(vec![Box::new(self.torch.model.clone())], train, settings, EngineSettings::default());
        let plan = Plan { train_head: true, ..Plan::new(1, Active::Both, given.lr, given.lr) };
        let run = |steps: usize| {
            let member = [Member::new(0, &rows[..steps * batch_size])];
            let start = Start { adapter: &self.torch.adapter, merged: &DeltaLog::default() };
            engine
                .train(&plan, start, &member, &mut |_| ControlFlow::Continue(()))
                .unwrap()
                .continue_value()
                .unwrap()
                .uploads
                .remove(0)
        };
        let mut before = 0.0;
        for (i, expected) in given.losses_10_steps.iter().enumerate() {
            let sum = run(i + 1).loss * (i + 1) as f64;
            let found = sum - before;
            seen("ten losses", (found - expected).abs() / expected.abs());
            assert!(
                (found - expected).abs() <= 1e-3 * expected.abs().max(0.5),
                "step {}: loss {found}, PyTorch {expected}",
                i + 1
            );
            before = sum;
        }
        let mut end = self.torch.adapter.clone();
        average(&mut end, &[run(10)], Norm::All);
        let wanted = self.torch.stage("after10.").unwrap();
        for i in 0..wanted.targets.len() {
            for factor in [Factor::A, Factor::B] {
                let name = format!("{} {factor:?} after ten steps", wanted.targets[i].name);
                let moved = |a: &Adapter| difference(&a.factor(factor)[i], &self.torch.adapter.factor(factor)[i]);
                close(&name, &moved(&end), &moved(&wanted), 1e-2);
            }
        }
    }
}

fn wide(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().map(|&v| f64::from(v)).collect()
}

fn difference(x: &Matrix, y: &Matrix) -> Vec<f64> {
    x.data.iter().zip(&y.data).map(|(x, y)| f64::from(x - y)).collect()
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
    let column = match what {
        _ if what.contains("logits") => "scores",
        _ if what.starts_with("grad.") => "gradients",
        _ if what.starts_with("after ") => "generation",
        _ => return,
    };
    seen(column, apart / norm);
}

thread_local! {
    /// The largest error of each kind so far, for the table in `docs/models.md`.
    static LARGEST: RefCell<BTreeMap<&'static str, f64>> = const { RefCell::new(BTreeMap::new()) };
}

fn seen(column: &'static str, error: f64) {
    LARGEST.with_borrow_mut(|largest| {
        let most = largest.entry(column).or_default();
        *most = most.max(error);
    });
}

/// What f32 allows: ten times what was measured at most.
fn nothing_is_further_apart() {
    LARGEST.with_borrow(|largest| {
        for (column, most) in [("scores", 1e-5), ("loss", 1e-5), ("gradients", 1e-5), ("ten losses", 1e-4)] {
            assert!(largest[column] <= most, "{column}: {:e}", largest[column]);
        }
    });
}

/// Prints a row of the table and begins the next.
fn row(case: &str) {
    let columns = LARGEST.take();
    let columns = ["scores", "loss", "gradients", "ten losses", "generation"].map(|column| match columns.get(column) {
        Some(error) => format!("{error:.1e}"),
        None => "-".into(),
    });
    println!("| {case} | {} |", columns.join(" | "));
}

fn committed(case: &str) -> Case {
    Case::new(&fixture(""), &format!("{case}.case"), &fixture(case))
}

#[test]
fn small_encoders_agree_with_transformers() {
    let cases = [
        "roberta-tiny",
        "bert-tiny",
        "xlm-roberta-tiny",
        "camembert-tiny",
        "distilbert-tiny",
        "mpnet-tiny",
        "modernbert-tiny",
        "modernbert-cls-tiny",
    ];
    for case in cases {
        println!("{case}");
        let torch = committed(case);
        torch.logits_and_gradients_agree();
        torch.packed_is_unpacked();
        torch.ten_steps_agree();
        row(case);
    }
}

#[test]
fn models_that_foretell_numbers_agree_with_transformers() {
    for case in ["roberta-tiny-regression", "llama-tiny-regression"] {
        println!("{case}");
        let torch = committed(case);
        torch.logits_and_gradients_agree();
        torch.packed_is_unpacked();
        torch.ten_steps_agree();
        row(case);
    }
}

#[test]
fn models_that_tag_words_agree_with_transformers() {
    for family in ["roberta", "bert", "distilbert", "mpnet", "modernbert", "llama"] {
        let case = format!("{family}-tiny-tokens");
        println!("{case}");
        let torch = committed(&case);
        torch.logits_and_gradients_agree();
        torch.packed_is_unpacked();
        torch.ten_steps_agree();
        nothing_is_further_apart();
        row(&case);
    }
}

#[test]
fn models_of_several_labels_agree_with_transformers() {
    for case in ["roberta-tiny-labels", "llama-tiny-labels"] {
        println!("{case}");
        let torch = committed(case);
        torch.logits_and_gradients_agree();
        torch.packed_is_unpacked();
        torch.ten_steps_agree();
        nothing_is_further_apart();
        row(case);
    }
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
    let cases = [
        "llama-tiny",
        "llama3-tiny",
        "mistral-tiny",
        "qwen2-tiny",
        "qwen3-tiny",
        "gemma3-tiny",
        "smollm3-tiny",
        "phi3-tiny",
    ];
    for case in cases {
        println!("{case}");
        let torch = committed(case);
        torch.logits_and_gradients_agree();
        torch.packed_is_unpacked();
        torch.generation_agrees();
        torch.ten_steps_agree();
        row(case);
    }
}

#[test]
fn decoders_that_classify_agree_with_transformers() {
    for case in ["llama-tiny", "qwen3-tiny", "gemma3-tiny", "smollm3-tiny", "phi3-tiny"] {
        println!("{case}-classifier");
        let torch = committed(&format!("{case}-classifier"));
        torch.logits_and_gradients_agree();
        torch.packed_is_unpacked();
        torch.ten_steps_agree();
        row(&format!("{case}, classes"));
    }
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
