//! Whole rounds against float64. `tests/fixtures/rounds/make.py` computes them apart from this code, from the papers'
//! formulas; here every tensor that the server, or a client that keeps something, holds after each round is compared.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use bonfire_data::Shards;
use bonfire_engine::{InFlight, Role, Split, TokenizedData};
use bonfire_federation::{ClientMetrics, Event, Run, Settings};
use bonfire_models::{Adapter, Architecture, Goal, Matrix, Task};
use bonfire_tests::{fixture, load_for, toy};
use safetensors::SafeTensors;
use serde::Deserialize;

/// How far a tensor may be off, as a share of its norm, where a case says nothing else. A wrong formula shows as 1e-2.
const TOLERANCE: f64 = 1e-4;

/// The least that a norm counts as: what is zero in truth (control variates of the keys' biases, for one) holds nothing but
/// f32's rounding.
const LEAST: f64 = 1e-3;

/// A case of `cases.json`.
#[derive(Deserialize)]
struct Case {
    name: String,
    /// The model's folder.
    model: String,
    /// TOML, as [`toy::settings`] reads it.
    settings: String,
    tolerance: Option<f64>,
    /// Why it needs more than [`TOLERANCE`].
    why: Option<String>,
}

/// `texts.json`.
#[derive(Deserialize)]
struct Texts {
    shards: Vec<Vec<usize>>,
    texts: Vec<Vec<u32>>,
    labels: Vec<usize>,
    sayings: Vec<Vec<u32>>,
    starts: Vec<usize>,
}

fn read<T: serde::de::DeserializeOwned>(folder: &Path, name: &str) -> T {
    serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap()
}

impl Case {
    fn settings(&self, in_flight: usize) -> Settings {
        toy::with_in_flight(toy::settings(&self.settings), InFlight::Count(in_flight))
    }

    /// The run, before its first round.
    fn run(&self, folder: &Path, in_flight: usize) -> Run {
        let settings = self.settings(in_flight);
        let Texts { shards, texts, labels, sayings, starts } = read(folder, "texts.json");
        let classes = 1 + labels.iter().max().unwrap();
        let (architecture, task, train) = match self.model.as_str() {
            "llama" => {
                let goals = starts.into_iter().map(Goal::Next).collect();
                (Architecture::Llama, Task::Causal, Split::new(sayings, goals))
            }
            _ => {
                let goals = labels.into_iter().map(Goal::Class).collect();
                (Architecture::Roberta, Task::Classify(classes), Split::new(texts, goals))
            }
        };
        let kinds = settings.adapter.targets.kinds(architecture).unwrap();
        let model = load_for(task, &folder.join(&self.model), &kinds);
        let shards = Shards { test: vec![Vec::new(); shards.len()], train: shards };
        let data = TokenizedData { train, validation: Split::default(), test: Split::default(), task, triggered: None };
        Run::new(settings, vec![Box::new(model)], data, shards).unwrap()
    }

    /// Trains all rounds and compares after each; gives the largest error and what is wrong.
    fn check(&self, folder: &Path, in_flight: usize) -> (f64, Vec<String>) {
        let bytes = std::fs::read(folder.join(format!("{}.safetensors", self.name))).unwrap();
        let stored = SafeTensors::deserialize(&bytes).unwrap();
        let tolerance = self.tolerance.unwrap_or(TOLERANCE);
        assert!(tolerance <= 5e-4 && self.why.is_some() == self.tolerance.is_some(), "{}", self.name);
        let mut wanted = BTreeMap::new();
        let (mut worst, mut wrong) = (0f64, Vec::new());
        let mut run = self.run(folder, in_flight);
        let mut compared = 0;
        let result = run.train(&mut |event| {
            if let Event::RoundEnded { metrics, clients, run } = event {
                // What is not stored again is as it was, but those who take part choose anew.
                wanted.retain(|kind: &String, _| !kind.starts_with("chosen"));
                for (name, tensor) in stored.tensors() {
                    if let Some(kind) = name.strip_prefix(&format!("{}/", metrics.round)) {
                        wanted.insert(kind.to_string(), floats(tensor.data()));
                    }
                }
                for (kind, numbers) in &wanted {
                    let mut numbers = numbers.iter();
                    for (i, found) in held(run, clients, kind).into_iter().enumerate() {
                        let expected: Vec<f64> = numbers.by_ref().take(found.len()).copied().collect();
                        let error = apart(&found, &expected);
                        worst = worst.max(error);
                        compared += 1;
                        if error.is_nan() || error > tolerance {
                            let (name, round) = (&self.name, metrics.round);
                            wrong.push(format!("{name}, round {round}, {kind}/{i}: off by {error:.1e}"));
                        }
                    }
                    assert!(numbers.next().is_none(), "{}: {kind} has more numbers than the run holds", self.name);
                }
            }
            ControlFlow::Continue(())
        });
        if let Err(error) = result {
            wrong.push(format!("{}: {error}", self.name));
        }
        assert!(compared > 0, "{} compares nothing", self.name);
        (worst, wrong)
    }
}

fn floats(bytes: &[u8]) -> Vec<f64> {
    bytes.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect()
}

fn wide(m: &Matrix) -> Vec<f64> {
    m.data.iter().map(|&v| f64::from(v)).collect()
}

fn all(list: &[Matrix]) -> Vec<Vec<f64>> {
    list.iter().map(wide).collect()
}

fn heads(adapter: &Adapter) -> Vec<Vec<f64>> {
    adapter.head.iter().map(|t| wide(&t.value)).collect()
}

/// `A·B` of every target in f64.
fn products(a: &[Matrix], b: &[Matrix]) -> Vec<Vec<f64>> {
    let product = |(a, b): (&Matrix, &Matrix)| {
        let mut out = vec![0.0; a.rows * b.cols];
        for i in 0..a.rows {
            for k in 0..a.cols {
                let (x, row) = (f64::from(a.data[i * a.cols + k]), &b.data[k * b.cols..(k + 1) * b.cols]);
                out[i * b.cols..(i + 1) * b.cols].iter_mut().zip(row).for_each(|(o, y)| *o += x * f64::from(*y));
            }
        }
        out
    };
    a.iter().zip(b).map(product).collect()
}

/// Of every target the norms of A's columns, then those of B's rows.
fn norms(adapter: &Adapter) -> Vec<Vec<f64>> {
    let of_rows = |m: &Matrix| {
        let norm = |row: &[f32]| row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        m.data.chunks(m.cols).map(norm).collect::<Vec<f64>>()
    };
    let pair_norms = |(a, b): (&Matrix, &Matrix)| [of_rows(&a.transposed()), of_rows(b)].concat();
    adapter.a.iter().zip(&adapter.b).map(pair_norms).collect()
}

/// The numbers of the encoder's weights in the order of their names.
fn by_name(run: &Run) -> Vec<usize> {
    let names: Vec<String> = run.model().weights().into_iter().map(|w| w.name).collect();
    let mut order: Vec<usize> = (0..names.len()).collect();
    order.sort_by_key(|&i| &names[i]);
    order
}

/// SCAFFOLD's variates of a kind of tensors. They lie as uploads do, a row a slot: those of A are turned.
fn variates<'r>(run: &Run, part: &str, get: impl Fn(Role) -> Option<&'r Matrix>) -> Vec<Vec<f64>> {
    let adapter = &run.server().adapter;
    let order = match part {
        "weight" => by_name(run),
        "head" => (0..adapter.head.len()).collect(),
        _ => (0..adapter.targets.len()).collect(),
    };
    let one = |i| {
        let role: Role = format!("{part}/{i}").parse().unwrap();
        let variate = get(role).cloned().unwrap_or_default();
        wide(&if part == "a" { variate.transposed() } else { variate })
    };
    order.into_iter().map(one).collect()
}

/// The tensors of a kind that the run holds: names and layouts are in the fixtures' README.md.
fn held(run: &Run, clients: &[ClientMetrics], kind: &str) -> Vec<Vec<f64>> {
    let server = run.server();
    let adapter = &server.adapter;
    let targets = adapter.targets.len();
    let parts_of = |adapter: &Adapter, kind: &str| match kind {
        "a" => all(&adapter.a),
        "b" => all(&adapter.b),
        "core" => all(&adapter.core),
        "head" => heads(adapter),
        "weight" => by_name(run).into_iter().map(|i| wide(&adapter.weights[i])).collect(),
        "product" => {
            let plain = adapter.plain();
            products(&plain.a, &plain.b)
        }
        other => panic!("nothing is called {other}"),
    };
    let mut parts = kind.split('/');
    match (parts.next().unwrap(), parts.next()) {
        ("merged", None) => products(&server.merged.a, &server.merged.b),
        ("norms", None) => norms(adapter),
        ("ranks", None) => vec![wide(server.state.table("ranks").unwrap())],
        (kind, None) => parts_of(adapter, kind),
        ("control", Some(part)) => variates(run, part, |role| server.state.tensor("control", role)),
        ("variate", Some(client)) => {
            let own = run.memory(client.parse().unwrap()).expect("it has taken part");
            variates(run, parts.next().unwrap(), |role| own.variates.get(&role))
        }
        ("chosen", Some(client)) => {
            let row = clients.iter().find(|row| row.client.to_string() == client).expect("it takes part");
            let slots = row.slots.as_ref().expect("it chooses");
            let flag = |t: usize, slot| f64::from(u8::from(slots[t].contains(&slot)));
            vec![(0..targets).flat_map(|t| (0..adapter.rank).map(move |slot| flag(t, slot))).collect()]
        }
        ("person", Some(client)) => {
            let (_, own) = run.personal_models().find(|(k, _)| k.to_string() == client).expect("it keeps something");
            parts_of(&own, parts.next().unwrap())
        }
        _ => panic!("nothing is called {kind}"),
    }
}

/// ‖found − expected‖ as a share of ‖expected‖, which counts as at least [`LEAST`].
fn apart(found: &[f64], expected: &[f64]) -> f64 {
    if found.len() != expected.len() {
        return f64::NAN;
    }
    let norm = expected.iter().map(|v| v * v).sum::<f64>().sqrt();
    let far = found.iter().zip(expected).map(|(f, e)| (f - e).powi(2)).sum::<f64>().sqrt();
    far / norm.max(LEAST)
}

#[test]
fn four_rounds_of_every_method_agree_with_float64() {
    let folder = fixture("rounds");
    let only = std::env::var("BONFIRE_ROUNDS").unwrap_or_default();
    let mut cases: Vec<Case> = read(&folder, "cases.json");
    let ending =
        |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().path().extension() == Some("safetensors".as_ref());
    assert_eq!(std::fs::read_dir(&folder).unwrap().filter_map(|e| ending(e).then_some(())).count(), cases.len());
    cases.retain(|case| case.name.starts_with(&only));
    let mut wrong = Vec::new();
    for case in &cases {
        for in_flight in [1, 100] {
            let (worst, own) = case.check(&folder, in_flight);
            println!("{:28} {in_flight:3} in flight: largest error {worst:.1e}", case.name);
            wrong.extend(own.into_iter().map(|text| format!("{text} ({in_flight} in flight)")));
        }
    }
    let first: Vec<&str> = wrong.iter().take(40).map(String::as_str).collect();
    assert!(wrong.is_empty(), "{} tensors are off, the first of them:\n{}", wrong.len(), first.join("\n"));
}
