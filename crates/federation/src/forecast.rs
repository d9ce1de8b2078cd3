//! What a federation would send, from shapes alone: the strategy's own plans and aggregation and the ledger itself, with
//! made-up uploads in place of training. Nothing is counted by a formula of its own.

use bonfire_engine::{Choice, Plan, Upload, passes, sketch};
use bonfire_models::{Adapter, DeltaLog, ModelInfo, Task, blank_head};
use rand::SeedableRng;

use crate::clock::{Clock, Closed, Work};
use crate::initial_adapter::begin_trained;
use crate::protection::Protection;
use crate::strategies::build;
use crate::timeline::Timeline;
use crate::{FederationError, Ledger, Server, Settings, StrategySettings};

/// Traffic of a whole run, and of one client in a round of it; with `clients.devices` the time that it takes there.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Forecast {
    /// Uploaded scalars of the run.
    pub upload_params: u64,
    /// Uploaded bytes of the run.
    pub upload_bytes: u64,
    /// Downloaded scalars of the run.
    pub download_params: u64,
    /// Downloaded bytes of the run.
    pub download_bytes: u64,
    /// Largest upload of one client in one round, bytes.
    pub largest_upload: u64,
    /// Largest download of one client in one round, bytes.
    pub largest_download: u64,
    /// Bytes that the client which uploads most sends in the whole run.
    pub client_upload_bytes: u64,
    /// Bytes that the client which downloads most gets in the whole run.
    pub client_download_bytes: u64,
    /// Seconds of the run by the clock of `clients.devices`; 0 without.
    pub seconds: f64,
    /// Seconds of its longest round.
    pub longest_round: f64,
    /// Uploads that would come too late, and are not counted above.
    pub late: u64,
    /// Watt hours that clients draw in training, where all devices say what they draw.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watt_hours: Option<f64>,
}

/// What one client was sent and sent, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Exchanged {
    down: u64,
    up: u64,
}

/// Rounds that are gone through one by one where every later round is like one of the last two.
const STEADY: usize = 6;

/// The traffic of a run by `settings` on a model of shape `info` trained for `task`. Where clients choose slots,
/// `choice` says which: the two of them are bounds. Nothing is pruned: how much would be depends on the data, and so do
/// the slots that [`crate::StrategyTraits::depends_on_data`] speaks of; those are made up.
///
/// # Errors
/// A setting that cannot be, named by its key.
pub fn forecast(
    settings: &Settings,
    info: &ModelInfo,
    task: Task,
    choice: Choice,
) -> Result<Forecast, FederationError> {
    forecast_of(settings, info, task, choice, &|_| Texts::default())
}

/// What a client has to train on.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Texts {
    /// Rows.
    pub rows: usize,
    /// Tokens of all of them.
    pub tokens: f64,
}

/// The same where client `c` has `texts(c)`: what the clock of `clients.devices` needs to know beside the messages.
///
/// # Errors
/// As [`forecast`].
pub fn forecast_of(
    settings: &Settings,
    info: &ModelInfo,
    task: Task,
    choice: Choice,
    texts: &dyn Fn(usize) -> Texts,
) -> Result<Forecast, FederationError> {
    if let Some(problem) = settings.problem() {
        return Err(problem.into());
    }
    let clients = settings.clients.count;
    let clock = Clock::new(settings, clients);
    let (exchanges, pools) = (settings.strategy.traits().exchanges, settings.strategy.traits().pools);
    if pools || (!exchanges && clock.is_none()) {
        return Ok(Forecast::default());
    }
    let protection = Protection::simulated(settings, clients)?;
    let strategy = build(settings, &protection, settings.budgets(clients)?);
    // Full fine-tuning is counted with one weight that stands for all of them.
    let stands_for = if settings.strategy.traits().trains_weights { info.backbone_params() - 1 } else { 0 };
    let mut server = start(settings, info, task)?;
    let mut ledger = Ledger::new(clients);
    if settings.adapter.init.folder().is_some() {
        begin_trained(strategy.as_ref(), settings, &mut server, &mut ledger);
        server.merged = DeltaLog { pushed: server.merged.pushed, ..DeltaLog::default() };
    }
    strategy.begin(&mut server);
    if let Some(clock) = clock.as_ref().filter(|_| !exchanges) {
        return Ok(training_alone(settings, clock, &strategy.plan(&server), texts));
    }
    let mut rounds: Vec<Forecast> = Vec::new();
    let mut of_clients = vec![Exchanged::default(); clients];
    let mut last_two: [Vec<(usize, Exchanged)>; 2] = Default::default();
    let (all, mut timeline) = (settings.train.rounds, Timeline::default());
    for round in 1..=if is_steady(settings) { all.min(STEADY) } else { all } {
        let mut plan = Plan { wire: settings.wire, ..strategy.plan(&server) };
        // As if no client pruned itself.
        plan.terms.tail = None;
        let make = |client: usize| sketch(&plan, &server.adapter, &settings.train, client, choice);
        let mut kinds = Kinds::new(&plan, &make, stands_for);
        let mut work = |client: usize, download_bytes: u64| Work {
            client,
            download_bytes,
            tokens: trained(settings, &plan, client, texts(client)),
            upload_bytes: kinds.of(client).upload_bytes,
        };
        let asynchronous = clock.as_ref().zip(settings.server.asynchronous);
        let turn = asynchronous.map(|(clock, how)| {
            let sent = |client: usize| download(&ledger, &plan, &server, client, stands_for).download_bytes;
            let mut own = |client: usize| work(client, sent(client));
            clock.turn(settings, how, round, &timeline, &mut own)
        });
        let begins = settings.first_open(clients, timeline.now);
        let cohort = match &turn {
            Some(turn) => turn.began.clone(),
            None => protection.cohort(settings, round, clients, begins),
        };
        let (stays, dropped) = settings.who_stays(round, &cohort);
        let invited: Vec<usize> = stays.iter().chain(&dropped).copied().collect();
        let down = downloads(&mut ledger, &plan, &server, &invited, stands_for);
        let work: Vec<Work> = stays.iter().zip(&down.bytes).map(|(&client, &down)| work(client, down)).collect();
        let closed = match (&clock, turn) {
            (Some(clock), Some(turn)) => turn.closed(clock, timeline.now),
            (Some(clock), None) => clock.close(&work).starting_at(timeline.now, begins),
            (None, _) => Closed::default(),
        };
        let in_time: Vec<usize> = closed.arrived.clone().unwrap_or_else(|| {
            stays.iter().copied().filter(|client| closed.late.binary_search(client).is_err()).collect()
        });
        let up = in_time.iter().map(|&client| kinds.of(client)).fold(Forecast::default(), Forecast::with);
        let downs = invited.iter().zip(&down.bytes).map(|(&client, &down)| (client, Exchanged { down, up: 0 }));
        let ups = in_time.iter().map(|&client| (client, Exchanged { down: 0, up: kinds.of(client).upload_bytes }));
        last_two[round % 2] = downs.chain(ups).collect();
        last_two[round % 2].iter().for_each(|&(client, more)| of_clients[client].add(more));
        let mut uploads = kinds.made;
        if settings.strategy.traits().merges || plan.private.by_group {
            // FedEx-LoRA merges what the mean of products has beyond the product of means, which is nothing where all
            // clients are alike, and only who sends something is in a group: here each gets an upload of its own.
            uploads = in_time.iter().map(|&client| make(client)).collect();
        }
        let mut next = server.clone();
        if in_time.is_empty() {
            uploads.clear();
        } else {
            strategy.aggregate(&mut next, &uploads)?;
        }
        next.round = round;
        ledger.changed(&plan, &uploads, &server, &next);
        // Only how much was merged matters here, and the log itself would grow.
        next.merged = DeltaLog { pushed: next.merged.pushed, ..DeltaLog::default() };
        server = next;
        rounds.push(down.sum.with(up).with(Forecast::of(&closed)));
        timeline = closed.after;
    }
    let done = rounds.len();
    for round in done + 1..=all {
        // As two rounds ago.
        rounds.push(rounds[round - 3]);
        last_two[round % 2].iter().for_each(|&(client, more)| of_clients[client].add(more));
    }
    let mut run = rounds.into_iter().fold(Forecast::default(), Forecast::with);
    run.client_upload_bytes = of_clients.iter().map(|of| of.up).max().unwrap_or(0);
    run.client_download_bytes = of_clients.iter().map(|of| of.down).max().unwrap_or(0);
    Ok(run)
}

/// A run in which nothing is sent, so that the clock alone goes.
fn training_alone(settings: &Settings, clock: &Clock, plan: &Plan, texts: &dyn Fn(usize) -> Texts) -> Forecast {
    let count = settings.clients.count;
    let mut timeline = Timeline::default();
    let round = |round: usize| {
        let begins = settings.first_open(count, timeline.now);
        let (stays, _) = settings.who_stays(round, &settings.cohort(round, count, begins));
        let work = stays.into_iter().map(|client| Work {
            client,
            download_bytes: 0,
            tokens: trained(settings, &Plan { round, ..plan.clone() }, client, texts(client)),
            upload_bytes: 0,
        });
        let closed = clock.close(&work.collect::<Vec<_>>()).starting_at(timeline.now, begins);
        let forecast = Forecast::of(&closed);
        timeline = closed.after;
        forecast
    };
    (1..=settings.train.rounds).map(round).fold(Forecast::default(), Forecast::with)
}

/// Tokens that `client` trains on in the round of `plan`, probe included.
fn trained(settings: &Settings, plan: &Plan, client: usize, texts: Texts) -> u64 {
    let pace = settings.pace(plan.round, client);
    (texts.tokens * passes(texts.rows, pace, plan, &settings.train)).round() as u64
}

impl Exchanged {
    fn add(&mut self, more: Exchanged) {
        (self.down, self.up) = (self.down + more.down, self.up + more.up);
    }
}

/// What was sent to the clients of a round.
struct Downloads {
    sum: Forecast,
    /// To each.
    bytes: Vec<u64>,
}

/// What `clients` are sent at the start of a round, each message `more` scalars longer than it says.
fn downloads(ledger: &mut Ledger, plan: &Plan, server: &Server, clients: &[usize], more: u64) -> Downloads {
    let all: Vec<Forecast> = clients.iter().map(|&client| download(ledger, plan, server, client, more)).collect();
    ledger.sent(plan, clients);
    let bytes = all.iter().map(|one| one.download_bytes).collect();
    Downloads { sum: all.into_iter().fold(Forecast::default(), Forecast::with), bytes }
}

/// What one of them is sent.
fn download(ledger: &Ledger, plan: &Plan, server: &Server, client: usize, more: u64) -> Forecast {
    let (params, bytes) = ledger.message(plan, server, client);
    let more = if params > 0 { more } else { 0 };
    let bytes = bytes + plan.wire.download_len(more as usize, more as usize) as u64;
    Forecast { download_params: params + more, download_bytes: bytes, largest_download: bytes, ..Forecast::default() }
}

/// What the clients of a round send. Clients of the same rank and budget send messages of the same size, so only one of each kind is
/// made, each `more` scalars longer than it says.
struct Kinds<'k> {
    plan: &'k Plan,
    make: &'k dyn Fn(usize) -> Upload,
    more: u64,
    kinds: Vec<(Option<usize>, Option<usize>)>,
    counts: Vec<Forecast>,
    made: Vec<Upload>,
}

impl<'k> Kinds<'k> {
    fn new(plan: &'k Plan, make: &'k dyn Fn(usize) -> Upload, more: u64) -> Self {
        Kinds { plan, make, more, kinds: Vec::new(), counts: Vec::new(), made: Vec::new() }
    }

    /// The counts of an upload like that of `client`, which is made if none of its kind was.
    fn of(&mut self, client: usize) -> Forecast {
        let rank = self.plan.ranks.as_ref().map(|ranks| ranks[client]);
        let kind = (rank, self.plan.selection.as_ref().map(|s| s.budgets[client]));
        let place = self.kinds.iter().position(|k| *k == kind).unwrap_or_else(|| {
            let (upload, wire) = ((self.make)(client), &self.plan.wire);
            let bytes = wire.message_len(&upload, self.more as usize) as u64;
            let upload_params = wire.sent_params(&upload, self.more as usize) + upload.aux_params();
            let count = Forecast { upload_params, upload_bytes: bytes, largest_upload: bytes, ..Forecast::default() };
            self.kinds.push(kind);
            self.counts.push(count);
            self.made.push(upload);
            self.kinds.len() - 1
        });
        self.counts[place]
    }
}

impl Forecast {
    fn with(self, other: Forecast) -> Forecast {
        Forecast {
            upload_params: self.upload_params + other.upload_params,
            upload_bytes: self.upload_bytes + other.upload_bytes,
            download_params: self.download_params + other.download_params,
            download_bytes: self.download_bytes + other.download_bytes,
            largest_upload: self.largest_upload.max(other.largest_upload),
            largest_download: self.largest_download.max(other.largest_download),
            client_upload_bytes: 0,
            client_download_bytes: 0,
            seconds: self.seconds + other.seconds,
            longest_round: self.longest_round.max(other.longest_round),
            late: self.late + other.late,
            watt_hours: match (self.watt_hours, other.watt_hours) {
                (Some(a), Some(b)) => Some(a + b),
                (a, b) => a.or(b),
            },
        }
    }

    /// The time of a round.
    fn of(closed: &Closed) -> Forecast {
        let Closed { seconds, late, watt_hours, .. } = closed;
        Forecast {
            seconds: *seconds,
            longest_round: *seconds,
            late: late.len() as u64,
            watt_hours: *watt_hours,
            ..Forecast::default()
        }
    }
}

fn start(settings: &Settings, info: &ModelInfo, task: Task) -> Result<Server, FederationError> {
    let adapter = &settings.adapter;
    let head = blank_head(info, task);
    if settings.strategy.traits().trains_weights {
        return Ok(Server::new(Adapter::of_weights(vec![bonfire_models::Matrix::zeros(1, 1)], head)));
    }
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(settings.train.seed);
    let targets = info.targets(&adapter.kinds(info)?);
    Ok(Server::new(Adapter::fresh(&targets, adapter.rank, adapter.alpha, adapter.init.draw(), head, &mut rng)))
}

/// Whether every later round is like one of two earlier ones: full cohorts, nothing that shrinks as rounds go by.
fn is_steady(settings: &Settings) -> bool {
    let whole = settings.clients.per_round.is_none_or(|n| n == settings.clients.count);
    let there = settings.clients.devices.iter().all(|kind| kind.availability.is_always());
    whole
        && there
        && settings.server.asynchronous.is_none()
        && settings.clients.stragglers.is_none()
        && settings.clients.dropout == 0.0
        && !matches!(settings.strategy, StrategySettings::SaFedLora { .. })
}
