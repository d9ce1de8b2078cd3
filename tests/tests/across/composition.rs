//! All that composes with strategies, with all strategies: what is refused and what runs, as the table of docs/methods.md has it, which
//! `BONFIRE_WRITE_GOLDEN=1` writes anew.

use bonfire_engine::Recompute;
use bonfire_federation::{Aggregation, DeviceKind, Run, ServerOptimizer, Settings};
use bonfire_models::{Dropout, Model, ModelDropout};
use bonfire_tests::toy;
use serde::de::DeserializeOwned;
use std::ops::ControlFlow;

fn read<T: DeserializeOwned>(text: &str) -> T {
    let table: toml::Table = toml::from_str(&format!("value = {text}")).unwrap();
    table["value"].clone().try_into().unwrap()
}

/// What is asked for besides a strategy: the keys, and the settings with them.
type Option_ = (&'static str, fn(&mut Settings, &mut Dropout));

const OPTIONS: &[Option_] = &[
    ("`server.optimizer`", |s, _| s.server.optimizer = ServerOptimizer::FedAvgM { lr: 1.0, momentum: 0.9 }),
    ("`server.schedule`", |s, _| s.server.schedule = read("{ schedule = \"cosine\" }")),
    ("`server.aggregate`", |s, _| s.server.aggregate = Aggregation::Median {}),
    ("`server.aggregate` q-fedavg", |s, _| s.server.aggregate = Aggregation::QFedAvg { q: 1.0, lipschitz: None }),
    ("`server.weights`", |s, _| s.server.weights = read("\"uniform\"")),
    ("`server.max_norm`", |s, _| s.server.max_norm = Some(1e5)),
    ("`server.asynchronous`", |s, _| {
        s.server.asynchronous = read("{ buffer = 2 }");
        s.clients.devices = vec![DeviceKind::new(100.0, 4.0, 40.0)];
    }),
    ("`clients.budget`", |s, _| s.clients.budget = read("[1, 2, 3, 4]")),
    ("`clients.stragglers`", |s, _| s.clients.stragglers = read("{ share = 0.5, least = 0.3 }")),
    ("`train.scaffold`", |s, _| s.train.scaffold = true),
    ("`train.prox`", |s, _| s.train.prox = 0.1),
    ("`train.flat`", |s, _| s.train.flat = read("{}")),
    ("`train.steps`", |s, _| s.train.steps = Some(3)),
    ("`train.accumulate`", |s, _| s.train.accumulate = 2),
    ("`train.lr_rounds`", |s, _| s.train.lr_rounds = read("{ schedule = \"linear\" }")),
    ("`train.optimizer` sgd", |s, _| s.train.optimizer = read("{ name = \"sgd\", momentum = 0.9, nesterov = true }")),
    ("`train.clip_norm`", |s, _| s.train.clip_norm = Some(0.1)),
    ("`train.label_smoothing`", |s, _| s.train.label_smoothing = 0.1),
    ("`train.class_weights`", |s, _| s.train.class_weights = Some(vec![1.0, 2.0, 1.0, 1.0, 0.5])),
    ("`adapter.dropout`", |s, dropout| (s.adapter.dropout, dropout.adapter) = (0.1, 0.1)),
    ("`model.dropout`", |_, dropout| dropout.model = ModelDropout { hidden: 0.1, attention: 0.1, classifier: None }),
    ("`privacy` gaussian", |s, _| {
        s.privacy = read("{ kind = \"gaussian\", clip = 1.0, noise = 0.1, reproducible = true }")
    }),
    ("`privacy` laplace", |s, _| {
        s.privacy = read("{ kind = \"laplace\", clip = 1.0, epsilon = 1e4, reproducible = true }")
    }),
    ("`attack`", |s, _| s.attack = read("{ kind = \"negate\", share = 0.25 }")),
    ("`engine.recompute`", |s, _| s.engine.recompute = Recompute::Block),
    ("`evaluate.per_client`", |s, _| s.evaluate.per_client = true),
    ("`evaluate.personalise`", |s, _| s.evaluate.personalise = read("{ epochs = 1 }")),
];

fn strategies() -> impl Iterator<Item = &'static str> {
    // The keys of a strategy change nothing here, so each name stands once.
    toy::STRATEGIES.iter().copied().filter(|text| !text.contains("rank = 2")).chain(["name = \"full\""])
}

/// The settings of a strategy with an option.
fn asked(strategy: &str, option: fn(&mut Settings, &mut Dropout)) -> (Settings, Dropout) {
    let train = "[train]\nrounds = 2\nbatch_size = 4\nlr_a = 1e-4\nlr_head = 1e-3";
    let text =
        format!("[strategy]\n{strategy}\n[adapter]\nrank = 4\nhead = \"trained\"\n{train}\n[evaluate]\nevery = 2");
    let (mut settings, mut dropout) = (toy::settings(&text), Dropout::default());
    option(&mut settings, &mut dropout);
    (settings, dropout)
}

fn table() -> String {
    let mut lines = vec![
        format!("| | {} |", OPTIONS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" | ")),
        format!("|---|{}", "---|".repeat(OPTIONS.len())),
    ];
    for strategy in strategies() {
        let mark = |&(_, option): &Option_| if asked(strategy, option).0.problem().is_none() { "yes" } else { "–" };
        let name = toy::settings(&format!("[strategy]\n{strategy}")).strategy.name();
        let marks: Vec<&str> = OPTIONS.iter().map(mark).collect();
        lines.push(format!("| `{name}` | {} |", marks.join(" | ")));
    }
    lines.join("\n") + "\n"
}

const BEGIN: &str = "<!-- what composes: written by tests/tests/across/composition.rs -->\n";
const END: &str = "<!-- end -->";

#[test]
fn the_table_of_the_docs_is_what_is_refused() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/methods.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the docs have a place for the table");
    let (found, after) = rest.split_once(END).expect("the table's end is marked");
    if std::env::var_os("BONFIRE_WRITE_GOLDEN").is_some() {
        return std::fs::write(path, format!("{before}{BEGIN}{}{END}{after}", table())).unwrap();
    }
    assert!(
        found == table(),
        "docs/methods.md is not what composes; BONFIRE_WRITE_GOLDEN=1 writes it anew:\n{}",
        table()
    );
}

/// What is not refused runs to its end, and its losses are numbers.
#[test]
fn what_composes_runs() {
    let mut wrong = Vec::new();
    for strategy in strategies() {
        for (name, option) in OPTIONS {
            let (settings, dropout) = asked(strategy, *option);
            if let Some(problem) = settings.problem() {
                assert!(!problem.what.is_empty() && !problem.key.is_empty(), "{strategy}, {name}");
                continue;
            }
            let models: Vec<Box<dyn Model>> = vec![Box::new(toy::model(&settings).dropping(dropout).unwrap())];
            let shards = toy::shards(settings.clients.count);
            let mut run: Run = toy::run_of(models, settings, shards);
            match run.train(&mut |_| ControlFlow::Continue(())) {
                Ok(_) if run.server().round == 2 => (),
                ended => wrong.push(format!("{strategy}, {name}: {:?}", ended.err())),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
