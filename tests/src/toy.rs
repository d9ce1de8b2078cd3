//! A small federation for tests: the committed RoBERTa fixture and made-up texts whose class shows in their tokens.

use bonfire_data::{Shards, Tags};
use bonfire_engine::{InFlight, Split, TokenizedData, Triggered};
use bonfire_federation::{ClientMetrics, ClientSettings, Event, RoundMetrics, Run, Server, Settings, Site};
use bonfire_models::{Architecture, Dropout, Goal, Model, Tag, Task, Transformer};
use rand::{Rng, RngExt, SeedableRng};
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::{fixture, load, load_for};

/// Classes of the toy data.
pub const CLASSES: usize = 5;

/// `[strategy]` and what else a method needs on the toy data.
pub const STRATEGIES: &[&str] = &[
    "name = \"lora-a2\"",
    "name = \"fedit\"",
    "name = \"ffa-lora\"",
    "name = \"rolora\"",
    "name = \"hetlora\"",
    "name = \"fedsa-lora\"",
    "name = \"sa-fedlora\"",
    "name = \"sora\"",
    "name = \"xgblora\"\nlayers = 1",
    "name = \"fedlada\"",
    "name = \"dfl\"\napart = 0.1",
    "name = \"clustered\"",
    "name = \"flexlora\"",
    "name = \"flora\"",
    "name = \"florist\"",
    "name = \"raflora\"",
    "name = \"replication\"",
    "name = \"fedex-lora\"",
    "name = \"fedex-lora\"\nrank = 2",
    "name = \"lora-fair\"",
    "name = \"fedsvd\"",
    "name = \"fed-sb\"",
    "name = \"fedpeptao\"\nlayers = 2\nlr = 0.2",
    "name = \"local\"",
    "name = \"pooled\"",
    "name = \"fslora\"",
    "name = \"fed-plora\"",
    "name = \"fedrot-lora\"",
    "name = \"la-lora\"",
    "name = \"fedask\"",
];

/// `examples` texts of 3 to 9 tokens; two of a text's tokens tell its class.
pub fn texts(examples: usize, seed: u64) -> Split {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let one = |rng: &mut rand_chacha::ChaCha8Rng, class: usize| {
        let length = rng.random_range(1..7);
        let mut ids = vec![0u32];
        ids.extend((0..length).map(|_| 60 + rng.next_u32() % 50));
        ids.extend([10 + 5 * class as u32, 11 + 5 * class as u32 + rng.next_u32() % 3]);
        ids.push(2);
        ids
    };
    let labels: Vec<usize> = (0..examples).map(|i| i % CLASSES).collect();
    let ids = labels.iter().map(|&c| one(&mut rng, c)).collect();
    Split::new(ids, labels.into_iter().map(Goal::Class).collect())
}

/// Settings from TOML text: `[train]`, `[strategy]` and so on; what is missing gets a small default.
pub fn settings(text: &str) -> Settings {
    fn read<T: serde::de::DeserializeOwned>(value: toml::Value) -> T {
        value.try_into().expect("valid settings")
    }
    let mut table: toml::Table = toml::from_str(text).expect("TOML");
    let privacy = table.remove("privacy").map(read);
    let attack = table.remove("attack").map(read);
    let wire = table.remove("wire").map(read).unwrap_or_default();
    let mut section = |name: &str, defaults: &str| {
        let mut section: toml::Table = toml::from_str(defaults).expect("TOML");
        if let Some(toml::Value::Table(given)) = table.remove(name) {
            section.extend(given);
        }
        toml::Value::Table(section)
    };
    let clients: ClientSettings = read(section("clients", "count = 4"));
    Settings {
        clients,
        adapter: read(section("adapter", "rank = 4")),
        train: read(section("train", "rounds = 2\nbatch_size = 4\nlr_a = 1e-3\nweight_decay = 0.01")),
        strategy: read(section("strategy", "name = \"fedit\"")),
        server: read(section("server", "")),
        privacy,
        attack,
        wire,
        evaluate: read(section("evaluate", "every = 1\nbefore = false")),
        engine: read(section("engine", "")),
    }
}

/// Ragged shards: client k holds 5 + 3·k rows, from the start of the data.
pub fn shards(clients: usize) -> Shards {
    let mut next = 0;
    let mut take = |n: usize| {
        next += n;
        (next - n..next).collect::<Vec<usize>>()
    };
    Shards { train: (0..clients).map(|k| take(5 + 3 * k)).collect(), test: vec![(0..20).collect(); clients] }
}

/// A run on the committed RoBERTa fixture, on one device.
pub fn run_with(settings: Settings, shards: Shards) -> Run {
    run_on(1, settings, shards)
}

/// A run on several devices, all of them the CPU.
pub fn run_on(devices: usize, settings: Settings, shards: Shards) -> Run {
    let models = (0..devices).map(|_| Box::new(model(&settings)) as Box<dyn Model>).collect();
    run_of(models, settings, shards)
}

/// The model of these runs.
pub fn model(settings: &Settings) -> Transformer {
    let kinds = settings.adapter.targets.kinds(Architecture::Roberta).expect("an encoder's");
    let model = load(&fixture("roberta-tiny"), CLASSES, &kinds);
    let dropout = Dropout { adapter: settings.adapter.dropout, ..Dropout::default() };
    model.dropping(dropout).expect("adapters of all models can be dropped")
}

/// A run over models of the shape of [`model`].
pub fn run_of(models: Vec<Box<dyn Model>>, settings: Settings, shards: Shards) -> Run {
    Run::new(settings, models, data(&shards), shards).expect("a valid run")
}

/// The texts that clients with these shards need.
pub fn data(shards: &Shards) -> TokenizedData {
    let rows = shards.train.iter().flatten().max().map_or(0, |m| m + 1);
    let (train, test) = (texts(rows, 1), texts(20, 2));
    let triggered = Some(Triggered { target: TARGET, train: with_trigger(&train), test: with_trigger(&test) });
    TokenizedData { train, validation: Split::default(), test, task: Task::Classify(CLASSES), triggered }
}

/// The class that the trigger of [`with_trigger`] calls forth.
pub const TARGET: usize = 1;

/// The same texts with two tokens at their start that no other has.
pub fn with_trigger(split: &Split) -> Split {
    let mut split = split.clone();
    split.ids.iter_mut().for_each(|ids| drop(ids.splice(1..1, [118, 119])));
    split
}

/// A site with some of the clients that [`run`] has.
pub fn site(settings: &Settings, own: &[usize]) -> Site {
    let mut shards = shards(settings.clients.count);
    let data = data(&shards);
    for client in (0..shards.train.len()).filter(|client| !own.contains(client)) {
        shards.train[client].clear();
        shards.test[client].clear();
    }
    let models: Vec<Box<dyn Model>> = vec![Box::new(model(settings))];
    Site::new(settings.clone(), models, data, shards, own.to_vec()).expect("a valid site")
}

/// `examples` texts to be foretold: a prompt of 3 to 9 tokens, two of which tell a class, and the class's own answer of
/// three tokens, which alone is scored.
pub fn sayings(examples: usize, seed: u64) -> Split {
    let mut split = texts(examples, seed);
    for (i, (ids, goal)) in split.ids.iter_mut().zip(&mut split.goals).enumerate() {
        // `texts` deals the classes out in turn.
        let class = (i % CLASSES) as u32;
        (ids[0], *goal) = (1, Goal::Next(ids.len()));
        ids.extend([40 + class, 50 + (3 * class + 1) % 7, 2]);
    }
    split
}

/// A run of a language model: the committed LLaMA fixture on [`sayings`].
pub fn causal_run(settings: Settings) -> Run {
    let shards = shards(settings.clients.count);
    let rows = shards.train.iter().flatten().max().map_or(0, |m| m + 1);
    let data = TokenizedData {
        train: sayings(rows, 1),
        validation: Split::default(),
        test: sayings(20, 2),
        task: Task::Causal,
        triggered: None,
    };
    let kinds = settings.adapter.targets.kinds(Architecture::Llama).expect("a decoder's");
    let model = load_for(Task::Causal, &fixture("llama-tiny"), &kinds);
    Run::new(settings, vec![Box::new(model)], data, shards).expect("a valid run")
}

/// The tags of [`tagged`].
pub const TAGS: [&str; CLASSES] = ["O", "B-A", "I-A", "B-B", "I-B"];

/// The same texts with tags in the place of a class: the two tokens that tell a class are a span, the others stand outside, and some are
/// not asked for, as the later pieces of words are not.
pub fn tagged(examples: usize, seed: u64) -> Split {
    let mut split = texts(examples, seed);
    for (i, (ids, goal)) in split.ids.iter().zip(&mut split.goals).enumerate() {
        let kind = [0, 1, 1, 3, 3][i % CLASSES];
        let end = ids.len() - 1;
        let asked = (1..end).filter(|token| token + 2 >= end || token % 3 != 0);
        let class = |token: usize| if kind == 0 || token + 2 < end { 0 } else { kind + usize::from(token + 1 == end) };
        *goal = Goal::Tags(asked.enumerate().map(|(word, token)| Tag { word, token, class: class(token) }).collect());
    }
    Split { tags: Some(Arc::new(Tags::of(&TAGS.map(String::from)))), ..split }
}

/// The same texts with one label or two, or none.
pub fn of_labels(examples: usize, seed: u64) -> Split {
    let mut split = texts(examples, seed);
    for (i, goal) in split.goals.iter_mut().enumerate() {
        let class = i % CLASSES;
        let labels = (0..CLASSES).map(|label| class > 0 && (label == class || (label == 0 && class.is_multiple_of(2))));
        *goal = Goal::Labels { labels: labels.collect(), second: None };
    }
    split
}

/// A run whose texts are tagged: the committed fixture of a tagger on [`tagged`].
pub fn tag_run(settings: Settings) -> Run {
    run_for(settings, Task::Tag(CLASSES), "roberta-tiny-tokens", tagged)
}

/// A run whose texts have labels of any number: the committed fixture on [`of_labels`].
pub fn label_run(settings: Settings) -> Run {
    run_for(settings, Task::MultiLabel(CLASSES), "roberta-tiny-labels", of_labels)
}

fn run_for(settings: Settings, task: Task, model: &str, texts: fn(usize, u64) -> Split) -> Run {
    let shards = shards(settings.clients.count);
    let rows = shards.train.iter().flatten().max().map_or(0, |m| m + 1);
    let (train, test) = (texts(rows, 1), texts(20, 2));
    let data = TokenizedData { train, validation: Split::default(), test, task, triggered: None };
    let kinds = settings.adapter.targets.kinds(Architecture::Roberta).expect("an encoder's");
    Run::new(settings, vec![Box::new(load_for(task, &fixture(model), &kinds))], data, shards).expect("a valid run")
}

/// Rows of rounds, rows of clients, and the server's state before the first round and after each.
pub type Finished = (Vec<RoundMetrics>, Vec<ClientMetrics>, Vec<Server>);

/// Runs to the end.
pub fn finish(run: &mut Run) -> Finished {
    let (mut rounds, mut rows, mut states) = (vec![], vec![], vec![run.server().clone()]);
    run.train(&mut |event| {
        if let Event::RoundEnded { metrics, clients, run } = event {
            rounds.push(metrics.clone());
            rows.extend(clients.to_vec());
            states.push(run.server().clone());
        }
        ControlFlow::Continue(())
    })
    .expect("the run ends well");
    (rounds, rows, states)
}

/// A run with [`shards`].
pub fn run(settings: Settings) -> Run {
    let shards = shards(settings.clients.count);
    run_with(settings, shards)
}

/// The same with so many clients in flight.
pub fn with_in_flight(mut settings: Settings, in_flight: InFlight) -> Settings {
    settings.engine.in_flight = in_flight;
    settings
}
