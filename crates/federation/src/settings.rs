//! What a user can say about the server: `[strategy]`, `[server]`, `[clients]`, `[adapter]`, `[privacy]`, `[evaluate]`.
//! Checked here, beside its owner.

mod adapter_start;
mod asynchronous;
mod attack;
mod availability;
mod clients;
mod clustered;
mod composition;
mod devices;
mod evaluate;
mod fair;
mod personalise;
mod privacy;
mod schema;
mod secure_sum;
mod server;
mod strategy;
mod strategy_traits;
mod wire;

use bonfire_data::random::{Use, stream};
use bonfire_engine::{ClientPrivacy, EngineSettings, Problem, TrainSettings, WireSettings};
use bonfire_models::{ModelInfo, SHARE, TargetKind, Targets, is_share};
use rand::RngExt;
use rand::seq::SliceRandom;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::FederationError;

pub use adapter_start::AdapterStart;
pub use asynchronous::Asynchronous;
pub(crate) use attack::no_class;
pub use attack::{AttackSettings, LabelRef, TriggerPlace};
pub use availability::{Availability, Window};
pub use clients::{Budget, BudgetName, ClientSettings, Stragglers};
pub use devices::DeviceKind;
pub use evaluate::{BestBy, EvaluateOn, EvaluateSettings};
pub use personalise::Personalise;
pub(crate) use privacy::Mechanism;
pub use privacy::{PrivacySettings, Publish, Spent};
pub use server::{Aggregation, ServerOptimizer, ServerSettings, Weights};
pub(crate) use strategy::MOST_GROUPS;
pub use strategy::{BudgetUse, First, Norm, Prune, StrategySettings};
pub use strategy_traits::StrategyTraits;

/// Everything a run is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Who takes part.
    pub clients: ClientSettings,
    /// The adapter.
    pub adapter: AdapterSettings,
    /// Local training.
    pub train: TrainSettings,
    /// The strategy and its keys.
    pub strategy: StrategySettings,
    /// How movements are combined, where the strategy averages them.
    pub server: ServerSettings,
    /// What is done so that an upload tells little about its client.
    pub privacy: Option<PrivacySettings>,
    /// Clients that mean harm.
    pub attack: Option<AttackSettings>,
    /// How messages are written.
    pub wire: WireSettings,
    /// When to evaluate.
    pub evaluate: EvaluateSettings,
    /// How the work is done on the devices.
    pub engine: EngineSettings,
}

/// SoRA's ξ over the gates' learning rate, as in its published runs (3e-4 / 8e-4 on STS-B).
const SORA_XI: f64 = 0.375;

/// Clients that a federation may have: something is remembered of each.
const MOST_CLIENTS: usize = 10_000_000;

impl Settings {
    /// The first thing wrong with these settings.
    pub fn problem(&self) -> Option<Problem> {
        let Settings { clients, adapter, .. } = self;
        let is = |wrong: bool, key, text: &str| wrong.then(|| Problem::new(key, text));
        is(clients.count == 0, "clients.count", "must be at least 1")
            .or(is(clients.count > MOST_CLIENTS, "clients.count", "is above 10000000, more than can be kept track of"))
            .or(is(adapter.rank == 0, "adapter.rank", "is 0; must be at least 1"))
            .or(is(adapter.rank > 65_536, "adapter.rank", "is above 65536, more than any model has features"))
            .or(is(!adapter.alpha.is_finite() || adapter.alpha <= 0.0, "adapter.alpha", "must be a positive number"))
            .or(is(
                adapter.targets == Targets::Some(Vec::new()),
                "adapter.targets",
                "is empty; name at least one linear, e.g. [\"query\", \"value\"]",
            ))
            .or(is(!is_share(adapter.dropout), "adapter.dropout", &format!("is {}; must be {SHARE}", adapter.dropout)))
            .or(is(self.evaluate.every == 0, "evaluate.every", "must be at least 1"))
            .or_else(|| self.cohort_problem())
            .or_else(|| self.clients.problem())
            .or_else(|| self.train.problem())
            .or_else(|| self.strategy_problem())
    }

    fn cohort_problem(&self) -> Option<Problem> {
        let (n, count) = (self.clients.per_round?, self.clients.count);
        let what = || format!("is {n}; must lie between 1 and clients.count = {count}");
        (n == 0 || n > count).then(|| Problem::new("clients.per_round", what()))
    }

    /// SoRA's threshold ξ and the learning rate of its gates; `None`: the strategy has no gates.
    pub(crate) fn gates(&self) -> Option<(f64, f64)> {
        let StrategySettings::Sora { xi, lr_gate, .. } = self.strategy else { return None };
        let lr_gate = lr_gate.unwrap_or(self.train.rate_a());
        Some((xi.unwrap_or(SORA_XI * lr_gate), lr_gate))
    }

    /// What works and will hardly be what the user wants, one line each.
    pub fn warnings(&self) -> Vec<String> {
        let gates = self.gates().filter(|(xi, lr_gate)| *xi > 0.0 && xi >= lr_gate);
        let gates = gates.map(|(xi, lr_gate)| {
            format!(
                "strategy.xi = {xi} is not below the gates' learning rate of {lr_gate}: a step of Adam moves a gate by about its rate, so every gate shrinks faster than it can grow, and in the end all slots go; left out it is {}",
                SORA_XI * lr_gate
            )
        });
        gates.into_iter().chain(self.privacy_warnings()).chain(self.stands_still()).chain(self.few_to_group()).collect()
    }

    /// What `[privacy]` does not cover.
    fn privacy_warnings(&self) -> Vec<String> {
        let Some(privacy) = self.privacy else { return Vec::new() };
        let mut all = Vec::new();
        if privacy.reproducible() {
            all.push("privacy is simulated: its noise comes from train.seed, so anybody can take it off again, and no ε is given; leave privacy.reproducible out to protect anybody".into());
        }
        if matches!(privacy, PrivacySettings::Laplace { .. }) && self.chooses() {
            all.push("no ε is given: which slots a client chose crosses the wire as it is, and Laplace noise on their numbers does not hide it".into());
        }
        if privacy.publish() == Publish::All && !privacy.reproducible() {
            all.push("the run folder holds who took part, losses, counts and label counts of clients, which no noise protects; privacy.publish = \"minimal\" leaves them out".into());
        }
        all
    }

    /// Whether clients train the head.
    pub fn trains_head(&self) -> bool {
        self.adapter.head == HeadMode::Trained
    }

    /// The clients of `round`, of `count`, ascending: all that can be had `now`, in seconds since the run began, or a draw of them without
    /// repetition that depends on seed and round alone. With noise on the mean it is the coordinator that draws: see
    /// [`crate::Coordinator::cohort`].
    pub fn cohort(&self, round: usize, count: usize, now: f64) -> Vec<usize> {
        let mut clients = self.available(round, count, (0..count).collect(), now);
        let size = self.invited(count);
        if size < clients.len() {
            let mut rng = stream(self.train.seed, Use::Cohort, round as u64, 0, 0);
            clients.shuffle(&mut rng);
            clients.truncate(size);
            clients.sort_unstable();
        }
        clients
    }

    /// Who of the `cohort` stays to the end of `round`, and who drops out before it uploads.
    pub fn who_stays(&self, round: usize, cohort: &[usize]) -> (Vec<usize>, Vec<usize>) {
        cohort.iter().partition(|&&client| !self.drops_out(round, client))
    }

    /// Whether `client` is gone before it uploads what it learns in `round`.
    pub(crate) fn drops_out(&self, round: usize, client: usize) -> bool {
        let chance = self.clients.dropout;
        chance > 0.0 && stream(self.train.seed, Use::Dropout, round as u64, client as u64, 0).random_bool(chance)
    }

    /// Share of its local steps that `client` manages in `round`.
    pub(crate) fn pace(&self, round: usize, client: usize) -> f64 {
        let Some(stragglers) = self.clients.stragglers else { return 1.0 };
        let mut rng = stream(self.train.seed, Use::Pace, round as u64, client as u64, 0);
        if rng.random_bool(stragglers.share) {
            stragglers.least + (1.0 - stragglers.least) * rng.random::<f64>()
        } else {
            1.0
        }
    }

    /// What clients do for privacy before an upload leaves.
    pub fn client_privacy(&self) -> ClientPrivacy {
        self.privacy.map_or(ClientPrivacy::Off, |privacy| privacy.client_privacy())
    }

    /// What the run folder holds of clients.
    pub fn publish(&self) -> Publish {
        self.privacy.map_or(Publish::All, |privacy| privacy.publish())
    }

    /// Whether clients choose the slots they train.
    pub(crate) fn chooses(&self) -> bool {
        let few = || self.clients.budget.resolve(self.clients.count, self.adapter.rank);
        self.strategy.traits().budget == BudgetUse::Slots
            && few().is_ok_and(|budgets| budgets.iter().any(|&budget| budget < self.adapter.rank))
    }

    /// Clients in a round's cohort, of `count`.
    pub(crate) fn cohort_size(&self, count: usize) -> usize {
        self.clients.per_round.unwrap_or(count).min(count)
    }

    /// Whether what a round computes depends on how many rounds there will be. Else a run that is given more goes on as if it had
    /// had them from the beginning.
    pub fn counts_rounds(&self) -> bool {
        self.train.lr_rounds.is_some()
            || self.train.flat.is_some()
            || self.server.schedule.is_some()
            || self.privacy.is_some()
            || matches!(self.strategy, StrategySettings::SaFedLora { .. })
    }

    /// Clients whose uploads a round counts on the average: of a cohort those that do not drop out.
    pub fn expected_clients(&self) -> f64 {
        self.cohort_size(self.clients.count) as f64 * (1.0 - self.clients.dropout)
    }

    /// Clients that are invited to a round, of `count`: more than are waited for, with `clients.over_select`.
    pub(crate) fn invited(&self, count: usize) -> usize {
        let wanted = self.cohort_size(count);
        // A tenth of ten is one, whatever the binary fraction.
        let more = (wanted as f64 * self.clients.over_select - 1e-9).ceil().max(0.0) as usize;
        (wanted + more).min(count)
    }

    /// The clients' budgets.
    pub(crate) fn budgets(&self, clients: usize) -> Result<Vec<usize>, FederationError> {
        let bad = |problem| FederationError::Setting { key: "clients.budget".into(), problem };
        self.clients.budget.resolve(clients, self.adapter.rank).map_err(bad)
    }
}

/// The adapter all clients share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdapterSettings {
    /// Global rank r_G: slots of every target.
    pub rank: usize,
    /// LoRA's alpha; the scale is `alpha / rank`.
    #[serde(default = "sixteen")]
    pub alpha: f64,
    /// Which linears of each layer carry an adapter.
    #[serde(default)]
    pub targets: Targets,
    /// Whether clients train and upload the classifier head.
    #[serde(default)]
    pub head: HeadMode,
    /// How the A factors start (B starts at zero): `"kaiming"` or `"gaussian"`; or a folder with a trained adapter in
    /// PEFT layout that the run goes on from.
    #[serde(default)]
    pub init: AdapterStart,
    /// Share of what adapters read that local training drops, at PEFT's place (`lora_dropout`): in front of A, with a mask of its own
    /// for every linear. Evaluation drops nothing.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropout: f64,
}

fn is_zero(share: &f64) -> bool {
    *share == 0.0
}

impl AdapterSettings {
    /// The linears that carry adapters in a model of shape `info`.
    ///
    /// # Errors
    /// One is named that the model does not have.
    pub fn kinds(&self, info: &ModelInfo) -> Result<Vec<TargetKind>, FederationError> {
        let architecture = info.architecture;
        self.targets.kinds(architecture).map_err(|kind| {
            let has: Vec<&str> = architecture.kinds().into_iter().map(|k| k.name(architecture)).collect();
            let (wrong, name) = (kind.name(architecture), architecture.name());
            let problem = format!("names {wrong}, which a {name} model does not have; it has {}", has.join(", "));
            FederationError::Setting { key: "adapter.targets".into(), problem }
        })
    }
}

fn sixteen() -> f64 {
    16.0
}

/// What happens to the classifier head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HeadMode {
    /// Stays at its start, shared by all (the paper's way).
    #[default]
    Frozen,
    /// Trained by every client, uploaded, averaged.
    Trained,
}
