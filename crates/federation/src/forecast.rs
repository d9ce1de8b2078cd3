//! What a federation would send, from shapes alone: the strategy's own plans and aggregation and the ledger itself, with
//! made-up uploads in place of training. Nothing is counted by a formula of its own.

use bonfire_engine::{Choice, Upload, sketch};
use bonfire_models::{Adapter, DeltaLog, ModelInfo, blank_head};
use rand::SeedableRng;

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

/// The traffic of a run by `settings` on a model of shape `info` with `classes` classes. Where clients choose slots,
/// `choice` says which: the two of them are bounds. Nothing is pruned: how much would be depends on the data, and so do
/// the slots that [`StrategySettings::depends_on_data`] speaks of; those are made up.
///
/// # Errors
/// A setting that cannot be, named by its key.
pub fn forecast(
    settings: &Settings,
    info: &ModelInfo,
    classes: usize,
    choice: Choice,
) -> Result<Forecast, FederationError> {
    if let Some((key, problem)) = settings.problem() {
        return Err(FederationError::Setting { key: key.into(), problem });
    }
    let clients = settings.clients.count;
    let strategy = build(settings, settings.budgets(clients)?);
    // Full fine-tuning is counted with one weight that stands for all of them.
    let stands_for = if settings.strategy.is_full() { info.encoder_params() - 1 } else { 0 };
    let mut server = start(settings, info, classes);
    strategy.begin(&mut server);
    let mut ledger = Ledger::new(clients);
    let mut rounds: Vec<Forecast> = Vec::new();
    let all = settings.train.rounds;
    for round in 1..=if is_steady(settings) { all.min(STEADY) } else { all } {
        let mut plan = strategy.plan(&server);
        // As if no client pruned itself.
        plan.terms.tail = None;
        let cohort = settings.cohort(round, clients);
        let (stays, dropped) = settings.who_stays(round, &cohort);
        let mut now = Forecast::default();
        for &client in stays.iter().chain(&dropped) {
            let down = ledger.download(&plan, &server, &[client]);
            let more = if down.download_params > 0 { stands_for } else { 0 };
            now.download_params += down.download_params + more;
            now.download_bytes += down.download_bytes + 4 * more;
            now.largest_download = now.largest_download.max(down.download_bytes + 4 * more);
        }
        // Clients of the same rank and budget send messages of the same size: one stands for all. Where the server
        // keeps every client's factors, all are made.
        let class = |client: usize| {
            let rank = plan.ranks.as_ref().map(|ranks| ranks[client]);
            (rank, plan.selection.as_ref().map(|s| s.budgets[client]))
        };
        let mut uploads: Vec<Upload> = Vec::new();
        let mut made: Vec<_> = Vec::new();
        for &client in &stays {
            let place = made.iter().position(|c| *c == class(client));
            let upload = match place {
                Some(place) => &uploads[place],
                None => {
                    made.push(class(client));
                    uploads.push(sketch(&plan, &server.adapter, &settings.train, client, choice));
                    uploads.last().expect("just made")
                }
            };
            let params = upload.adapter_params() + upload.head_params() + upload.aux_params() + stands_for;
            let bytes = upload.encoded_len() as u64 + 4 * stands_for;
            now.upload_params += params;
            now.upload_bytes += bytes;
            now.largest_upload = now.largest_upload.max(bytes);
        }
        let mut next = server.clone();
        if settings.strategy.merges() {
            // Clones would not do: what the mean of equal clients misses is nothing.
            let whole = |&client: &usize| sketch(&plan, &server.adapter, &settings.train, client, choice);
            uploads = stays.iter().map(whole).collect();
        }
        if !uploads.is_empty() {
            strategy.aggregate(&mut next, &uploads)?;
        }
        next.round = round;
        ledger.changed(&plan, &uploads, &server, &next);
        // Only how much was merged matters here, and the log itself would grow.
        next.merged = DeltaLog { pushed: next.merged.pushed, ..DeltaLog::default() };
        server = next;
        rounds.push(now);
    }
    let later = (rounds.len()..all).map(|round| rounds[rounds.len() - 2 + (round - rounds.len()) % 2]);
    Ok(rounds.iter().copied().chain(later).fold(Forecast::default(), Forecast::with))
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

fn start(settings: &Settings, info: &ModelInfo, classes: usize) -> Server {
    let adapter = &settings.adapter;
    let head = blank_head(info, classes);
    if settings.strategy.is_full() {
        return Server::new(Adapter::of_weights(vec![bonfire_models::Matrix::zeros(1, 1)], head));
    }
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(settings.train.seed);
    let targets = info.targets(&adapter.targets);
    Server::new(Adapter::fresh(&targets, adapter.rank, adapter.alpha, adapter.init, head, &mut rng))
}

/// Whether every later round is like one of two earlier ones: full cohorts, nothing that shrinks as rounds go by.
fn is_steady(settings: &Settings) -> bool {
    let whole = settings.clients.per_round.is_none_or(|n| n == settings.clients.count);
    whole && settings.clients.dropout == 0.0 && !matches!(settings.strategy, StrategySettings::SaFedLora { .. })
}
