//! A run's state after a complete round, as bytes: what is needed to go on as if the run had never stopped. Everything
//! random is a function of seed and round, so no generator has a state to keep. Where privacy's noise comes from a secret, that is
//! in here, for the run that goes on to be the run that never stopped: **who has the file can take the noise off again**, so it is
//! to be kept like a key.
//!
//! The format: `"BONFIRE\0"`, the format's version (u32), the payload's length in bytes (u64) and its SHA-256, all
//! little-endian, then the payload: a safetensors file that holds every matrix in f32 and uploads on their way as the bytes that
//! cross, with what is neither as JSON in its metadata, under `run`, and the caller's notes beside it.

mod file;

use std::collections::{BTreeMap, HashMap};

use bonfire_data::random::NoiseKey;
use bonfire_engine::{ClientMemory, Plan, Private, Upload};
use bonfire_models::{Adapter, DeltaLog, HeadTensor, Matrix};
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use serde::{Deserialize, Serialize};

use self::file::{Stored, VERSION, opened, sealed};
use crate::clients::Clients;
use crate::data_checksum::hex;
use crate::download::Pushes;
use crate::groups::Groups;
use crate::timeline::{StoredTimeline, Timeline};
use crate::{Coordinator, Ledger, Run, Server, State};

/// Where the JSON stands in the metadata.
const RUN: &str = "run";

/// Bytes that are no checkpoint, or none that can be used here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Something else.
    #[error("is not a checkpoint of bonfire")]
    Foreign,
    /// Of a format that this program does not know.
    #[error("has format version {0}; this bonfire reads version {VERSION}: use the bonfire that wrote it")]
    Version(u32),
    /// The end is missing, or there is more than there should be.
    #[error("is cut short or too long: {found} bytes, expected {expected}")]
    Length {
        /// Bytes that are there.
        found: u64,
        /// Bytes that the head announces.
        expected: u64,
    },
    /// Bits have changed.
    #[error("is damaged: its contents do not match its checksum")]
    Damaged,
    /// What it says cannot be.
    #[error("holds what cannot be: {0}")]
    Contents(String),
    /// It was written by a run of something else.
    #[error("belongs to another run: {0}")]
    OtherRun(String),
}

/// Before the names of uploads on their way, and of what their clients keep once they have come.
const SENT: &str = "sent/";
const WAITING: &str = "waiting/";

/// What is not a matrix.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Header {
    round: usize,
    strategy: String,
    rank: usize,
    targets: Vec<String>,
    head: Vec<String>,
    pushed: u64,
    ledger: Ledger,
    #[serde(default)]
    restarted: usize,
    private: Private,
    /// Of the texts and of who holds them: see `data_checksum.rs`.
    data: String,
    /// The secret that noise is drawn from, in hex, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    noise: Option<String>,
    /// Where the run stands by its clients' devices.
    #[serde(default, skip_serializing_if = "StoredTimeline::is_start")]
    timeline: StoredTimeline,
}

/// A state that was read back.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    header: Header,
    matrices: BTreeMap<String, Matrix>,
    /// Uploads on their way, by client.
    messages: BTreeMap<usize, Vec<u8>>,
    /// What the caller wrote down with it.
    pub notes: BTreeMap<String, String>,
}

/// What is written down.
pub(crate) struct Written<'w> {
    pub server: &'w Server,
    pub strategy: &'w str,
    pub ledger: &'w Ledger,
    pub restarted: usize,
    pub private: &'w Private,
    pub memories: &'w BTreeMap<usize, ClientMemory>,
    pub data: &'w str,
    pub noise: &'w NoiseKey,
    pub timeline: &'w Timeline,
}

/// What was read, and fits.
pub(crate) struct Read {
    pub server: Server,
    pub ledger: Ledger,
    pub restarted: usize,
    pub private: Private,
    pub memories: BTreeMap<usize, ClientMemory>,
    pub noise: Option<NoiseKey>,
    /// What is left to be read when the plans are known.
    pub waiting: Waiting,
}

/// Who is at work, what they have sent, and what they keep once that has come.
pub(crate) struct Waiting {
    timeline: StoredTimeline,
    messages: BTreeMap<usize, Vec<u8>>,
    kept: BTreeMap<usize, ClientMemory>,
}

impl Written<'_> {
    /// The file, with `notes` of the caller's own.
    pub fn to_bytes(&self, notes: &BTreeMap<String, String>) -> Vec<u8> {
        let Server { round, adapter, merged, state } = self.server;
        let header = Header {
            round: *round,
            strategy: self.strategy.into(),
            rank: adapter.rank,
            targets: adapter.targets.iter().map(|t| t.name.clone()).collect(),
            head: adapter.head.iter().map(|t| t.name.clone()).collect(),
            pushed: merged.pushed,
            ledger: self.ledger.clone(),
            restarted: self.restarted,
            private: self.private.clone(),
            data: self.data.into(),
            noise: match self.noise {
                NoiseKey::Secret(key) => Some(hex(key)),
                NoiseKey::Seed(_) => None,
            },
            timeline: StoredTimeline::of(self.timeline),
        };
        let mut all: Vec<(String, &Matrix)> = Vec::new();
        let lists = [
            ("a", &adapter.a),
            ("b", &adapter.b),
            ("core", &adapter.core),
            ("weights", &adapter.weights),
            ("merged-a", &merged.a),
            ("merged-b", &merged.b),
        ];
        for (name, list) in lists {
            all.extend(list.iter().enumerate().map(|(i, m)| (format!("{name}/{i}"), m)));
        }
        all.extend(adapter.head.iter().enumerate().map(|(i, t)| (format!("head/{i}"), &t.value)));
        all.extend(state.named().map(|(name, m)| (format!("state/{name}"), m)));
        for (client, kept) in self.memories {
            all.extend(kept.named().map(|(name, m)| (format!("memory/{client}/{name}"), m)));
        }
        for (client, upload) in &self.timeline.uploads {
            all.extend(upload.kept.named().map(|(name, m)| (format!("{WAITING}{client}/{name}"), m)));
        }
        let json = serde_json::to_string(&header).expect("numbers and names");
        let mut metadata: HashMap<String, String> = notes.clone().into_iter().collect();
        metadata.insert(RUN.into(), json);
        let matrices = all.into_iter().map(|(name, m)| (name, Stored::Matrix([m.rows, m.cols], m)));
        let message = |(client, upload): (&usize, &Upload)| {
            let bytes = upload.encode();
            (format!("{SENT}{client}"), Stored::Message([bytes.len()], bytes))
        };
        let all: Vec<_> = matrices.chain(self.timeline.uploads.iter().map(message)).collect();
        let payload = safetensors::serialize(all, Some(metadata)).expect("names are unique");
        sealed(&payload)
    }
}

impl Run {
    /// The state after the last complete round, with `notes` of the caller's own.
    pub fn checkpoint(&self, notes: &BTreeMap<String, String>) -> Vec<u8> {
        let Clients { private, memories, data_checksum, .. } = &self.clients;
        self.coordinator.written(private, memories, data_checksum).to_bytes(notes)
    }

    /// Goes on from `checkpoint`, which this run wrote, or one of the same model, data and clients.
    ///
    /// # Errors
    /// [`CheckpointError::OtherRun`] and [`CheckpointError::Contents`]; the run is as it was.
    pub fn resume(&mut self, checkpoint: Checkpoint) -> Result<(), CheckpointError> {
        let read = self.coordinator.resume_from(checkpoint, &self.clients.data_checksum)?;
        (self.clients.memories, self.clients.private) = read;
        self.clients.groups = Groups::read(&self.coordinator.server.state);
        self.clients.engine.draw_noise_from(self.coordinator.protection.key.clone());
        Ok(())
    }

    /// Whether the run that left `checkpoint` had the same texts, dealt out to the same clients.
    pub fn has_texts_of(&self, checkpoint: &Checkpoint) -> bool {
        checkpoint.header.data == self.clients.data_checksum
    }
}

impl Coordinator {
    /// The state after the last complete round, with `notes` of the caller's own.
    pub fn checkpoint(&self, notes: &BTreeMap<String, String>) -> Vec<u8> {
        self.written(&Private::default(), &BTreeMap::new(), "").to_bytes(notes)
    }

    /// Goes on from a checkpoint of a coordinator with the same model and clients.
    ///
    /// # Errors
    /// [`CheckpointError::OtherRun`] and [`CheckpointError::Contents`]; the state is as it was.
    pub fn resume(&mut self, checkpoint: Checkpoint) -> Result<(), CheckpointError> {
        self.resume_from(checkpoint, "").map(drop)
    }

    fn written<'w>(
        &'w self,
        private: &'w Private,
        memories: &'w BTreeMap<usize, ClientMemory>,
        data: &'w str,
    ) -> Written<'w> {
        let Coordinator { server, ledger, restarted, timeline, .. } = self;
        let (strategy, restarted) = (self.strategy_name(), *restarted);
        let noise = &self.protection.key;
        Written { server, strategy, ledger, restarted, private, memories, data, noise, timeline }
    }

    /// Sets the state; gives what the clients keep.
    fn resume_from(
        &mut self,
        checkpoint: Checkpoint,
        data: &str,
    ) -> Result<(BTreeMap<usize, ClientMemory>, Private), CheckpointError> {
        let read = checkpoint.fit(&self.server.adapter, self.strategy.name(), self.clients(), data)?;
        let timeline = self.waiting(read.waiting, &read.server)?;
        // Reproducible noise comes from the run's seed: no secret takes its place.
        let protected = self.settings.privacy.is_some_and(|privacy| !privacy.reproducible());
        if let Some(key) = read.noise.filter(|_| protected) {
            self.draw_noise_from(key).map_err(|e| CheckpointError::Contents(e.to_string()))?;
        }
        (self.server, self.ledger, self.restarted) = (read.server, read.ledger, read.restarted);
        (self.pushes, self.timeline) = (Pushes::default(), timeline);
        Ok((read.memories, read.private))
    }

    /// Where the run stands that `server` is the state of. Asynchronous rounds have plans that differ in their number alone.
    fn waiting(&self, waiting: Waiting, server: &Server) -> Result<Timeline, CheckpointError> {
        let Waiting { timeline, messages, mut kept } = waiting;
        let plan = Plan { wire: self.settings.wire, ..self.strategy.plan(server) };
        let decode = |round: usize, message: &[u8]| {
            let plan = Plan { round, ..plan.clone() };
            Upload::decode(message, &plan, &server.adapter, &self.settings.train, self.clients())
        };
        timeline.restored(self.clients(), &messages, &mut kept, decode).map_err(CheckpointError::Contents)
    }
}

impl Checkpoint {
    /// What was written, where it fits a model with the adapter `own`, this strategy, these clients and this data.
    ///
    /// # Errors
    /// [`CheckpointError::OtherRun`] and [`CheckpointError::Contents`].
    pub(crate) fn fit(
        self,
        own: &Adapter,
        strategy: &str,
        clients: usize,
        data: &str,
    ) -> Result<Read, CheckpointError> {
        let Checkpoint { header, mut matrices, messages, .. } = self;
        header.check(own, strategy, clients, data)?;
        // Some methods put something between A and B only after their first rounds.
        let cores = if matrices.contains_key("core/0") { own.targets.len() } else { 0 };
        let mut list = |name: &str, count: usize| -> Result<Vec<Matrix>, CheckpointError> {
            let take = |i| {
                let name = format!("{name}/{i}");
                matrices.remove(&name).ok_or_else(|| CheckpointError::Contents(format!("{name} is missing")))
            };
            (0..count).map(take).collect()
        };
        let targets = own.targets.len();
        let some = |count: usize, there: bool| if there { count } else { 0 };
        let (a, b) = (list("a", targets)?, list("b", targets)?);
        let core = list("core", cores)?;
        let weights = list("weights", own.weights.len())?;
        let head = list("head", own.head.len())?;
        let merges = some(targets, header.pushed > 0);
        let merged = DeltaLog { a: list("merged-a", merges)?, b: list("merged-b", merges)?, pushed: header.pushed };
        let head = own.head.iter().zip(head).map(|(t, value)| HeadTensor { name: t.name.clone(), value }).collect();
        let adapter = Adapter { targets: own.targets.clone(), a, b, core, head, weights, ..*own };
        fits(own, &adapter, &merged)?;
        let mut state = State::default();
        let mut memories: BTreeMap<usize, ClientMemory> = BTreeMap::new();
        let mut kept: BTreeMap<usize, ClientMemory> = BTreeMap::new();
        for (name, matrix) in matrices {
            if let Some(name) = name.strip_prefix("state/") {
                state.insert_named(name, matrix);
                continue;
            }
            let (client, own, waits) = remembered(&name, clients)?;
            let into = if waits { &mut kept } else { &mut memories };
            if !into.entry(client).or_default().insert_named(own, matrix) {
                return Err(nothing_kept(&name));
            }
        }
        let Header { round, ledger, restarted, private, noise, timeline, .. } = header;
        let secret = |text: String| unhex(&text).ok_or_else(|| CheckpointError::Contents("its secret is none".into()));
        let noise = noise.map(secret).transpose()?.map(NoiseKey::Secret);
        let (server, waiting) = (Server { round, adapter, merged, state }, Waiting { timeline, messages, kept });
        Ok(Read { server, ledger, restarted, private, memories, noise, waiting })
    }
}

impl Header {
    /// Whether it speaks of this model, these clients and this data.
    fn check(&self, own: &Adapter, strategy: &str, clients: usize, data: &str) -> Result<(), CheckpointError> {
        let other = |what: &str| Err(CheckpointError::OtherRun(what.into()));
        // Each strategy keeps a state of its own.
        if self.strategy != strategy {
            return other(&format!("it is of strategy {}, this run of {strategy}", self.strategy));
        }
        if self.rank != own.rank {
            return other(&format!("its adapter has rank {}, this run's {}", self.rank, own.rank));
        }
        if !own.targets.iter().map(|t| &t.name).eq(&self.targets) {
            return other("its adapter is on other linears");
        }
        if !own.head.iter().map(|t| &t.name).eq(&self.head) {
            return other("its head has other tensors");
        }
        if self.ledger.clients() != clients {
            return other(&format!("it has {} clients, this run {clients}", self.ledger.clients()));
        }
        if self.data != data {
            return other("the texts, their tokens or their clients are not what they were");
        }
        Ok(())
    }
}

/// The client and the name in `memory/7/control/a/3`, and whether it waits for the client's upload to come, as `waiting/7/b/3` does.
fn remembered(name: &str, clients: usize) -> Result<(usize, &str, bool), CheckpointError> {
    let bad = || nothing_kept(name);
    let waiting = name.strip_prefix(WAITING);
    let rest = waiting.or_else(|| name.strip_prefix("memory/"));
    let (client, own) = rest.and_then(|rest| rest.split_once('/')).ok_or_else(bad)?;
    let client = client.parse().ok().filter(|client| *client < clients).ok_or_else(bad)?;
    Ok((client, own, waiting.is_some()))
}

fn nothing_kept(name: &str) -> CheckpointError {
    CheckpointError::Contents(format!("\"{name}\" is nothing that a run keeps"))
}

/// Whether what was read has the shapes that `own` asks for.
fn fits(own: &Adapter, read: &Adapter, merged: &DeltaLog) -> Result<(), CheckpointError> {
    let rank = own.rank;
    let shape = |m: &Matrix| [m.rows, m.cols];
    let mut pairs = Vec::new();
    for (t, target) in own.targets.iter().enumerate() {
        pairs.push((shape(&read.a[t]), [target.d_in, rank]));
        pairs.push((shape(&read.b[t]), [rank, target.d_out]));
        pairs.extend(read.core.get(t).map(|m| (shape(m), [rank, if m.cols == 1 { 1 } else { rank }])));
        let inner = merged.a.get(t).map_or(0, |m| m.cols);
        pairs.extend(merged.a.get(t).map(|m| (shape(m), [target.d_in, inner])));
        pairs.extend(merged.b.get(t).map(|m| (shape(m), [inner, target.d_out])));
    }
    pairs.extend(own.weights.iter().zip(&read.weights).map(|(own, read)| (shape(read), shape(own))));
    pairs.extend(own.head.iter().zip(&read.head).map(|(own, read)| (shape(&read.value), shape(&own.value))));
    match pairs.into_iter().find(|(found, wanted)| found != wanted) {
        None => Ok(()),
        Some((found, wanted)) => Err(CheckpointError::OtherRun(format!(
            "it holds a matrix of {} x {} where the model asks for {} x {}",
            found[0], found[1], wanted[0], wanted[1]
        ))),
    }
}

impl Checkpoint {
    /// Reads what [`Run::checkpoint`] wrote.
    ///
    /// # Errors
    /// Anything else, or a part of it; [`Run::resume`] checks whether it fits.
    pub fn read(bytes: &[u8]) -> Result<Checkpoint, CheckpointError> {
        let payload = opened(bytes)?;
        let bad = |e: &dyn std::fmt::Display| CheckpointError::Contents(e.to_string());
        let (_, about) = SafeTensors::read_metadata(payload).map_err(|e| bad(&e))?;
        let tensors = SafeTensors::deserialize(payload).map_err(|e| bad(&e))?;
        let mut notes: BTreeMap<String, String> = about.metadata().clone().unwrap_or_default().into_iter().collect();
        let json = notes.remove(RUN).ok_or_else(|| bad(&"no state of a run"))?;
        let header = serde_json::from_str(&json).map_err(|e| bad(&e))?;
        let (mut matrices, mut messages) = (BTreeMap::new(), BTreeMap::new());
        for (name, view) in tensors.iter() {
            if let Some(client) = name.strip_prefix(SENT) {
                let client = client.parse().ok().filter(|_| view.dtype() == Dtype::U8);
                messages.insert(client.ok_or_else(|| bad(&format!("{name} is no message")))?, view.data().to_vec());
                continue;
            }
            let (Dtype::F32, &[rows, cols]) = (view.dtype(), view.shape()) else {
                return Err(bad(&format!("{name} is no matrix in f32")));
            };
            let data = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            matrices.insert(name.to_string(), Matrix::new(rows, cols, data));
        }
        Ok(Checkpoint { header, matrices, messages, notes })
    }

    /// Complete rounds.
    pub fn round(&self) -> usize {
        self.header.round
    }
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    bytes.try_into().ok().filter(|_| digits.len() == 64)
}
