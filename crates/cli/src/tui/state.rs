//! What the dashboard shows, as plain data: filled by the training thread, copied and drawn by the dashboard's own.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bonfire_engine::TargetSlots;
use bonfire_experiment::config::RunConfig;
use bonfire_federation::{ClientMetrics, RoundMetrics, Run};
use bonfire_models::{ModelInfo, Target, Task};

use crate::progress::pace::Pace;

/// Lines that are kept to be looked at.
const LINES: usize = 500;

/// What stays the same over a run.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// Name of the run.
    pub name: String,
    /// Strategy name, as in the configuration.
    pub strategy: String,
    /// The device, in words.
    pub device: String,
    /// Clients in a cohort.
    pub cohort: usize,
    /// Bytes that a client uploads with plain LoRA; `None` where no adapter trains.
    pub plain_upload: Option<u64>,
    /// Short names of the targets, and the layer of each.
    pub targets: Vec<(String, usize)>,
    /// Bytes of memory that the device has, where it tells.
    pub memory: Option<u64>,
    /// Whether perplexity is shown in place of accuracy.
    pub perplexity: bool,
}

impl About {
    /// Of `run`, which `config` describes, on `device`.
    pub fn of(run: &Run, config: &RunConfig, device: &str) -> About {
        let (clients, model) = (config.clients.count, run.model());
        let adapter = &run.server().adapter;
        About {
            name: config.name().to_owned(),
            strategy: config.strategy.name().to_owned(),
            device: device.to_owned(),
            cohort: config.clients.per_round.unwrap_or(clients).min(clients),
            plain_upload: adapter.weights.is_empty().then(|| 4 * run.trainable_params()),
            targets: adapter.targets.iter().map(|target| (short_name(target, model.info()), target.layer)).collect(),
            memory: bonfire_kernels::device_memory(model.device()),
            perplexity: model.task() == Task::Causal,
        }
    }
}

/// `3 attn.output` for `roberta.encoder.layer.3.attention.output.dense`.
fn short_name(target: &Target, info: &ModelInfo) -> String {
    let name = target.kind.name(info.architecture);
    let name = name.strip_suffix(".dense").unwrap_or(name).replace("attention", "attn");
    format!("{} {name}", target.layer)
}

/// A client as it was last seen.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientRow {
    /// The last round it took part in.
    pub round: usize,
    /// Examples in its shard.
    pub examples: usize,
    /// Local steps of that round.
    pub steps: usize,
    /// Mean loss over them.
    pub loss: f64,
    /// Bytes it uploaded.
    pub upload: u64,
    /// Slots it uploaded, over all targets, where it chose.
    pub slots: Option<usize>,
    /// Accuracy of the global model on its own test shard, as last measured, 0 to 1.
    pub accuracy: Option<f64>,
}

/// The run as it stands. What grows is shared, so that a copy costs little.
#[derive(Clone, Debug)]
pub struct State {
    /// What stays the same.
    pub about: Arc<About>,
    /// How far it has come.
    pub pace: Pace,
    /// The round that is running, from 1; 0 before the first.
    pub round: usize,
    /// What trains, in words.
    pub phase: &'static str,
    /// Clients in this round.
    pub clients: usize,
    /// Every round that ended, after the untrained model as round 0.
    pub rounds: Arc<Vec<RoundMetrics>>,
    /// Bytes uploaded in the run.
    pub uploaded: u64,
    /// What the same clients would have uploaded with plain LoRA.
    pub plain: Option<u64>,
    /// The clients that have been seen.
    pub seen: Arc<BTreeMap<usize, ClientRow>>,
    /// Rounds in which clients chose slots: the round, and how often each target's slots were chosen.
    pub chosen: Arc<Vec<(usize, Vec<u32>)>>,
    /// Bytes of the device's memory in use, where it is not the process's own.
    pub device_memory: Option<u64>,
    /// Bytes of memory of the process.
    pub process_memory: Option<u64>,
    /// The last lines said.
    pub lines: VecDeque<String>,
    /// Whether the run is to stop when the round is over.
    pub stopping: bool,
}

impl State {
    /// Of a run of `rounds` rounds before its first.
    pub fn new(about: About, rounds: usize) -> State {
        State {
            plain: about.plain_upload.map(|_| 0),
            about: Arc::new(about),
            pace: Pace::new(rounds),
            round: 0,
            phase: "getting ready",
            clients: 0,
            rounds: Arc::default(),
            uploaded: 0,
            seen: Arc::default(),
            chosen: Arc::default(),
            device_memory: None,
            process_memory: None,
            lines: VecDeque::new(),
            stopping: false,
        }
    }

    /// Rounds that were done before: `clients` of them are known by number alone.
    pub fn past(&mut self, rounds: &[RoundMetrics]) {
        let (before, rounds) = rounds.split_at(rounds.iter().take_while(|row| row.round == 0).count());
        before.iter().for_each(|row| self.begin(row));
        for metrics in rounds {
            self.add_round(metrics, self.about.cohort.saturating_sub(metrics.dropped.len()));
        }
        self.pace.past(rounds.len());
    }

    /// The untrained model was evaluated.
    pub fn begin(&mut self, metrics: &RoundMetrics) {
        Arc::make_mut(&mut self.rounds).push(metrics.clone());
    }

    fn add_round(&mut self, metrics: &RoundMetrics, uploads: usize) {
        self.uploaded += metrics.upload_bytes;
        let whole = self.about.plain_upload.map_or(0, |bytes| bytes * uploads as u64);
        self.plain = self.plain.map(|plain| plain + whole);
        self.round = metrics.round;
        Arc::make_mut(&mut self.rounds).push(metrics.clone());
    }

    /// A round has ended.
    pub fn round_ended(&mut self, metrics: &RoundMetrics, clients: &[ClientMetrics]) {
        self.add_round(metrics, clients.len());
        self.pace.round_ended();
        let seen = Arc::make_mut(&mut self.seen);
        for client in clients {
            let before = seen.get(&client.client).and_then(|row| row.accuracy);
            seen.insert(client.client, row(client, before));
        }
        let targets = self.about.targets.len();
        let mut chosen = vec![0; targets];
        let choices: Vec<&TargetSlots> = clients.iter().filter_map(|client| client.slots.as_ref()).collect();
        for (target, slots) in choices.iter().flat_map(|choice| choice.iter().enumerate()).filter(|(t, _)| *t < targets)
        {
            chosen[target] += slots.len() as u32;
        }
        if !choices.is_empty() {
            Arc::make_mut(&mut self.chosen).push((metrics.round, chosen));
        }
    }

    /// Something was said.
    pub fn log(&mut self, text: &str) {
        self.lines.extend(text.lines().filter(|line| !line.is_empty()).map(str::to_owned));
        let surplus = self.lines.len().saturating_sub(LINES);
        self.lines.drain(..surplus);
    }
}

fn row(client: &ClientMetrics, accuracy: Option<f64>) -> ClientRow {
    ClientRow {
        round: client.round,
        examples: client.examples,
        steps: client.steps,
        loss: client.train_loss,
        upload: client.upload_bytes,
        slots: client.slots.as_ref().map(|slots| slots.iter().map(Vec::len).sum()),
        accuracy: client.test_accuracy.or(accuracy),
    }
}

/// The state that both threads hold.
#[derive(Clone)]
pub struct SharedState(Arc<Mutex<State>>);

impl SharedState {
    /// To be filled and drawn.
    pub fn new(state: State) -> SharedState {
        SharedState(Arc::new(Mutex::new(state)))
    }

    /// The state, for as long as a number takes to write.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something was said.
    pub fn log(&self, text: &str) {
        self.state().log(text);
    }
}
