//! What a federation would send, from shapes alone: the strategy's own plans and aggregation and the ledger itself, with
//! made-up uploads in place of training. Nothing is counted by a formula of its own.

use bonfire_engine::{Choice, Plan, Upload, sketch};
use bonfire_models::{Adapter, DeltaLog, ModelInfo, Task, blank_head};
use rand::SeedableRng;

use crate::initial_adapter::begin_trained;
use crate::protection::Protection;
use crate::strategies::build;
use crate::{FederationError, Ledger, Server, Settings, StrategySettings};

/// Traffic of a whole run, and of one client in a round of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
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
    if let Some(problem) = settings.problem() {
        return Err(problem.into());
    }
    if !settings.strategy.traits().exchanges {
        return Ok(Forecast::default());
    }
    let clients = settings.clients.count;
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
    let mut rounds: Vec<Forecast> = Vec::new();
    let all = settings.train.rounds;
    for round in 1..=if is_steady(settings) { all.min(STEADY) } else { all } {
        let mut plan = Plan { wire: settings.wire, ..strategy.plan(&server) };
        // As if no client pruned itself.
        plan.terms.tail = None;
        let cohort = protection.cohort(settings, round, clients);
        let (stays, dropped) = settings.who_stays(round, &cohort);
        let clients: Vec<usize> = stays.iter().chain(&dropped).copied().collect();
        let down = downloads(&mut ledger, &plan, &server, &clients, stands_for);
        let make = |client: usize| sketch(&plan, &server.adapter, &settings.train, client, choice);
        let (mut uploads, up) = uploads(&plan, &stays, &make, stands_for);
        let mut next = server.clone();
        if settings.strategy.traits().merges {
            // FedEx-LoRA merges what the mean of products has beyond the product of means, which is nothing where all
            // clients are alike: here each gets an upload of its own.
            uploads = stays.iter().map(|&client| make(client)).collect();
        }
        if !uploads.is_empty() {
            strategy.aggregate(&mut next, &uploads)?;
        }
        next.round = round;
        ledger.changed(&plan, &uploads, &server, &next);
        // Only how much was merged matters here, and the log itself would grow.
        next.merged = DeltaLog { pushed: next.merged.pushed, ..DeltaLog::default() };
        server = next;
        rounds.push(down.with(up));
    }
    let later = (rounds.len()..all).map(|round| rounds[rounds.len() - 2 + (round - rounds.len()) % 2]);
    Ok(rounds.iter().copied().chain(later).fold(Forecast::default(), Forecast::with))
}

/// What `clients` are sent at the start of a round, each message `more` scalars longer than it says.
fn downloads(ledger: &mut Ledger, plan: &Plan, server: &Server, clients: &[usize], more: u64) -> Forecast {
    let one = |&client: &usize| {
        let down = ledger.download(plan, server, &[client]);
        let more = if down.download_params > 0 { more } else { 0 };
        let bytes = down.download_bytes + plan.wire.download_len(more as usize, more as usize) as u64;
        Forecast {
            download_params: down.download_params + more,
            download_bytes: bytes,
            largest_download: bytes,
            ..Forecast::default()
        }
    };
    clients.iter().map(one).fold(Forecast::default(), Forecast::with)
}

/// What `clients` send in a round, each message `more` scalars longer than it says. Clients of the same rank and budget
/// send messages of the same size, so only one of each kind is made.
fn uploads(plan: &Plan, clients: &[usize], make: &dyn Fn(usize) -> Upload, more: u64) -> (Vec<Upload>, Forecast) {
    let kind = |client: usize| {
        let rank = plan.ranks.as_ref().map(|ranks| ranks[client]);
        (rank, plan.selection.as_ref().map(|s| s.budgets[client]))
    };
    let (mut kinds, mut made, mut sum) = (Vec::new(), Vec::new(), Forecast::default());
    for &client in clients {
        let place = kinds.iter().position(|k| *k == kind(client)).unwrap_or_else(|| {
            kinds.push(kind(client));
            made.push(make(client));
            made.len() - 1
        });
        let upload: &Upload = &made[place];
        let bytes = plan.wire.message_len(upload, more as usize) as u64;
        let params = plan.wire.sent_params(upload, more as usize) + upload.aux_params();
        sum = sum.with(Forecast {
            upload_params: params,
            upload_bytes: bytes,
            largest_upload: bytes,
            ..Forecast::default()
        });
    }
    (made, sum)
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
        }
    }

    /// Seconds that the slowest client of a round sends and receives, at so many megabits a second.
    pub fn transfer_seconds(&self, up_mbit: f64, down_mbit: f64) -> f64 {
        8e-6 * (self.largest_upload as f64 / up_mbit + self.largest_download as f64 / down_mbit)
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
    whole && settings.clients.dropout == 0.0 && !matches!(settings.strategy, StrategySettings::SaFedLora { .. })
}
