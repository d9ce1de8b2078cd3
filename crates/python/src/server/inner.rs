//! What a `bonfire.Server` holds, and how its rounds end, away from the interpreter.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use bonfire_engine::Upload as EngineUpload;
use bonfire_experiment::OpenServer;
use bonfire_federation::{Checkpoint, ClientMetrics, RoundMetrics, SecureSum};

use crate::messages::{Plan, Upload};

/// Where a state keeps the rows.
const HISTORY: &str = "history";

pub(super) struct Inner {
    pub open: OpenServer,
    pub history: Vec<RoundMetrics>,
    /// Rows of the clients of the last round.
    pub clients: Vec<ClientMetrics>,
    /// When the round that runs was planned.
    pub began: Option<Instant>,
    pub evaluates: bool,
}

impl Inner {
    pub fn take_up(&mut self, state: &[u8]) -> Result<()> {
        let mut checkpoint = Checkpoint::read(state).context("the state cannot be taken up")?;
        let rows = checkpoint.notes.remove(HISTORY).context("the state is not that of a server: it has no rows")?;
        let rows: Vec<RoundMetrics> = serde_json::from_str(&rows).context("the state's rows cannot be read")?;
        self.open.coordinator.resume(checkpoint).context("the state cannot be taken up")?;
        rows.iter().for_each(|row| self.open.note(row, &[]));
        self.history = rows;
        Ok(())
    }

    pub fn state(&self) -> Vec<u8> {
        let rows = serde_json::to_string(&self.history).expect("rows are plain numbers and text");
        self.open.coordinator.checkpoint(&BTreeMap::from([(HISTORY.to_string(), rows)]))
    }

    /// The uploads that the messages are, in the order of clients, whatever order they came in.
    pub fn read(&self, plan: &Plan, uploads: &[Message], asked: &[usize]) -> Result<Vec<EngineUpload>> {
        let mut read = BTreeMap::new();
        for message in uploads {
            let upload = self.open.coordinator.decode(&message.bytes, &plan.orders).context("an upload is refused")?;
            let client = upload.client;
            ensure!(asked.contains(&client), "client {client} was not asked in round {}", plan.orders.round);
            let (loss, steps, tokens) = (message.loss, message.steps, message.tokens);
            let twice = read.insert(client, EngineUpload { loss, steps, tokens, ..upload });
            ensure!(twice.is_none(), "there are two uploads of client {client}");
        }
        Ok(read.into_values().collect())
    }

    pub fn aggregate(&mut self, plan: &Plan, uploads: &[Message], asked: &[usize]) -> Result<RoundMetrics> {
        let mut uploads = self.read(plan, uploads, asked)?;
        let stayed: Vec<usize> = uploads.iter().map(|u| u.client).collect();
        let skipped = self.open.leave_out(&mut uploads)?;
        self.end(plan, &uploads, (&stayed, asked), skipped, None)
    }

    pub fn aggregate_mean(
        &mut self,
        plan: &Plan,
        mean: &Message,
        examples: BTreeMap<usize, usize>,
        (sites, bytes): (u64, u64),
        asked: &[usize],
    ) -> Result<RoundMetrics> {
        let coordinator = &self.open.coordinator;
        if let Some(problem) = coordinator.settings().against_secure_aggregation() {
            bail!("{} {}", problem.key, problem.what);
        }
        ensure!(!examples.is_empty(), "a mean is of one client or more");
        if let Some((client, _)) = examples.iter().find(|(client, n)| !asked.contains(client) || **n == 0) {
            bail!("client {client} was not asked in round {}, or has no examples", plan.orders.round);
        }
        let upload = coordinator.decode(&mean.bytes, &plan.orders).context("the mean is refused")?;
        let upload = EngineUpload { loss: mean.loss, steps: mean.steps, tokens: mean.tokens, ..upload };
        if let Some(problem) = coordinator.disbelieves(&upload) {
            bail!("the mean of round {}: {problem}", plan.orders.round);
        }
        let sum = SecureSum { mean: upload, examples, sites, bytes };
        let clients: Vec<usize> = sum.examples.keys().copied().collect();
        self.end(plan, &sum.uploads(), (&clients, asked), Vec::new(), Some(&sum))
    }

    /// Ends the round with these uploads, of the clients that `stayed` of those `asked`; of a secure sum they are made from it.
    fn end(
        &mut self,
        plan: &Plan,
        uploads: &[EngineUpload],
        (stayed, asked): (&[usize], &[usize]),
        skipped: Vec<usize>,
        sum: Option<&SecureSum>,
    ) -> Result<RoundMetrics> {
        let dropped: Vec<usize> = asked.iter().copied().filter(|client| !stayed.contains(client)).collect();
        let (counted, sizes) = self.open.coordinator.aggregate(&plan.orders, uploads, stayed, &dropped)?;
        let traffic = sum.map_or(counted, |sum| sum.traffic(counted));
        let due = self.evaluates && self.open.coordinator.is_due();
        let test = if due { self.open.evaluate()? } else { None };
        let coordinator = &self.open.coordinator;
        let mut row = coordinator.row(&plan.orders, uploads, traffic, test);
        row.dropped = dropped;
        row.seconds = self.began.take().map_or(0.0, |clock| clock.elapsed().as_secs_f64());
        row.skipped = skipped;
        let client = |(upload, &bytes): (&EngineUpload, &u64)| ClientMetrics::of(row.round, upload, bytes);
        // Of a sum nothing is known of any client.
        let single = uploads.iter().zip(&sizes).filter(|_| sum.is_none());
        let rows = single.map(client).collect();
        (row, self.clients) = coordinator.published(row, rows);
        self.open.note(&row, &self.clients);
        self.history.push(row.clone());
        Ok(row)
    }

    /// The plan of the round that runs, and who was asked of its cohort: all, if nobody is named.
    pub fn running(&mut self, asked: Option<Vec<usize>>) -> Result<(Plan, Vec<usize>)> {
        if self.open.coordinator.is_finished() {
            bail!("all {} rounds are done", self.open.coordinator.settings().train.rounds);
        }
        let plan = self.plan();
        let strange = |client: &&usize| !plan.cohort.contains(client);
        if let Some(client) = asked.iter().flatten().find(strange) {
            bail!("client {client} does not take part in round {}", plan.orders.round);
        }
        let asked = asked.unwrap_or_else(|| plan.cohort.clone());
        Ok((plan, asked))
    }

    pub fn plan(&mut self) -> Plan {
        self.began.get_or_insert_with(Instant::now);
        Plan { orders: self.open.coordinator.plan(), cohort: self.open.coordinator.cohort() }
    }

    pub fn sums(&self) -> BTreeMap<&'static str, u64> {
        let sum = |of: fn(&RoundMetrics) -> u64| self.history.iter().map(of).sum();
        BTreeMap::from([
            ("upload_params", sum(|r| r.upload_params)),
            ("upload_head_params", sum(|r| r.upload_head_params)),
            ("upload_aux_params", sum(|r| r.upload_aux_params)),
            ("upload_index_bytes", sum(|r| r.upload_index_bytes)),
            ("upload_bytes", sum(|r| r.upload_bytes)),
            ("download_params", sum(|r| r.download_params)),
            ("download_bytes", sum(|r| r.download_bytes)),
            ("lost_download_bytes", sum(|r| r.lost_download_bytes)),
        ])
    }
}

/// An upload away from the interpreter.
pub(super) struct Message {
    bytes: Vec<u8>,
    loss: f64,
    steps: usize,
    tokens: u64,
}

impl Message {
    pub fn of(upload: &Upload) -> Message {
        Message { bytes: upload.message(), loss: upload.loss, steps: upload.steps, tokens: upload.tokens }
    }
}
