//! What a user can say about the server: `[strategy]`, `[server]`, `[clients]`, `[adapter]`, `[privacy]`, `[evaluate]`.
//! Checked here, beside its owner.

mod adapter_start;
mod clients;
mod privacy;
mod schema;
mod server;
mod strategy;

use bonfire_data::random::{Use, stream};
use bonfire_engine::{ClientPrivacy, EngineSettings, Recompute, TrainSettings};
use bonfire_models::{ModelInfo, Precision, TargetKind, Targets};
use rand::RngExt;
use rand::seq::SliceRandom;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::FederationError;

pub use adapter_start::AdapterStart;
pub use clients::{Budget, BudgetName, ClientSettings, Stragglers};
pub(crate) use privacy::Mechanism;
pub use privacy::{PrivacySettings, Publish, Spent};
pub use server::{Aggregation, ServerOptimizer, ServerSettings, Weights};
pub use strategy::{BudgetUse, Norm, Prune, StrategySettings};

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
    /// The first thing wrong with these settings, as `(key, what is wrong and what would be right)`.
    pub fn problem(&self) -> Option<(&'static str, String)> {
        let Settings { clients, adapter, .. } = self;
        let is = |wrong: bool, key, text: &str| wrong.then(|| (key, text.to_string()));
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
            .or(is(self.evaluate.every == 0, "evaluate.every", "must be at least 1"))
            .or_else(|| self.cohort_problem())
            .or_else(|| self.clients.problem())
            .or_else(|| self.train.problem())
            .or_else(|| self.strategy_problem())
    }

    fn cohort_problem(&self) -> Option<(&'static str, String)> {
        let (n, count) = (self.clients.per_round?, self.clients.count);
        (n == 0 || n > count)
            .then(|| ("clients.per_round", format!("is {n}; must lie between 1 and clients.count = {count}")))
    }

    fn strategy_problem(&self) -> Option<(&'static str, String)> {
        self.strategy
            .problem(self.adapter.rank)
            .or_else(|| self.budget_problem())
            .or_else(|| self.server.problem())
            .or_else(|| self.privacy.as_ref().and_then(|p| p.problem(self.clients.count)))
            .or_else(|| self.composition_problem())
    }

    fn budget_problem(&self) -> Option<(&'static str, String)> {
        let budget = &self.clients.budget;
        match self.strategy.budgets() {
            BudgetUse::Slots | BudgetUse::Ranks => {
                budget.resolve(self.clients.count, self.adapter.rank).err().map(|p| ("clients.budget", p))
            }
            BudgetUse::None if *budget != Budget::Full => Some((
                "clients.budget",
                format!(
                    "is not read by {}, whose clients all hold the same rank; set adapter.rank, and clients.budget = \"full\"",
                    self.strategy.name()
                ),
            )),
            BudgetUse::None => None,
        }
    }

    /// What composes with strategies that average movements, and with those alone.
    fn composition_problem(&self) -> Option<(&'static str, String)> {
        let name = self.strategy.name();
        let averages = |key, what: &str| {
            Some((
                key,
                format!("{what} works on averaged movements, and {name} combines uploads in its own way; leave it out"),
            ))
        };
        let averaging = self.strategy.averages();
        // What a client weighs, and what is believed, is every method's business.
        let ServerSettings { weights, max_norm, max_examples, .. } = self.server;
        if !averaging
            && self.server != (ServerSettings { weights, max_norm, max_examples, ..ServerSettings::default() })
        {
            return averages("server", "a server optimizer or a robust average");
        }
        if !averaging && self.train.scaffold {
            return averages("train.scaffold", "SCAFFOLD");
        }
        if self.train.scaffold && self.strategy.keeps_private() {
            let what = format!(
                "sends control variates of all that trains, and {name} keeps a part of it private; leave it out"
            );
            return Some(("train.scaffold", what));
        }
        let secretive = self.publish() == Publish::Minimal;
        if secretive && self.evaluate.per_client {
            return Some((
                "evaluate.per_client",
                "tells of every client what privacy.publish = \"minimal\" keeps back; leave one of them out".into(),
            ));
        }
        if secretive && self.strategy.keeps_private() {
            return Some((
                "privacy.publish",
                format!("must be \"all\": of {name} every client's own model lies in the run folder"),
            ));
        }
        let central = matches!(self.privacy, Some(PrivacySettings::Gaussian { .. }));
        if !averaging && central {
            return averages("privacy", "noise on the mean");
        }
        let private = self.privacy.is_some();
        if private && self.train.scaffold {
            return Some((
                "train.scaffold",
                "sends control variates, which [privacy] does not protect; leave one of them out".into(),
            ));
        }
        if central && self.strategy.divides_by_owners() {
            return Some((
                "privacy",
                format!(
                    "noise on the mean needs the same divisor for every slot; {name} divides by the clients that have a slot"
                ),
            ));
        }
        if central && !matches!(self.server.aggregate, Aggregation::Mean {}) {
            return Some(("server.aggregate", "must be the mean where privacy adds its noise to the mean".into()));
        }
        if self.strategy.is_full() {
            if self.adapter.init.folder().is_some() {
                return Some((
                    "adapter.init",
                    "names an adapter, and full trains the weights themselves; leave it out".into(),
                ));
            }
            if self.train.flat.is_some() {
                return Some((
                    "train.flat",
                    "puts noise on adapted weights, and full has no adapter; leave it out".into(),
                ));
            }
            if self.engine.precision != Precision::F32 {
                return Some(("engine.precision", "must be \"f32\": full trains the weights themselves".into()));
            }
        }
        if self.engine.recompute == Recompute::Block && !self.strategy.recomputes() {
            return Some(("engine.recompute", format!("must be \"none\": {name} needs the whole graph at once")));
        }
        if private && self.strategy.sends_more() {
            return Some((
                "privacy",
                format!("protects movements, and {name} sends more than those; leave [privacy] out"),
            ));
        }
        None
    }

    /// SoRA's threshold ξ and the learning rate of its gates; `None`: the strategy has no gates.
    pub(crate) fn gates(&self) -> Option<(f64, f64)> {
        let StrategySettings::Sora { xi, lr_gate, .. } = self.strategy else { return None };
        let lr_gate = lr_gate.unwrap_or(self.train.lr_a);
        Some((xi.unwrap_or(SORA_XI * lr_gate), lr_gate))
    }

    /// What works and will hardly be what the user wants, one line each.
    pub fn warnings(&self) -> Vec<String> {
        let gates = self.gates().filter(|(xi, lr_gate)| *xi > 0.0 && xi >= lr_gate);
        let gates = gates.map(|(xi, lr_gate)| {
            format!(
                "strategy.xi = {xi} is not below the gates' learning rate of {lr_gate}: a step of AdamW moves a gate by about its rate, so every gate shrinks faster than it can grow, and in the end all slots go; left out it is {}",
                SORA_XI * lr_gate
            )
        });
        gates.into_iter().chain(self.privacy_warnings()).collect()
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

    /// The clients of `round`, of `count`, ascending: all of them, or a draw without repetition that depends on seed and
    /// round alone. With noise on the mean it is the coordinator that draws: see [`crate::Coordinator::cohort`].
    pub fn cohort(&self, round: usize, count: usize) -> Vec<usize> {
        let mut clients: Vec<usize> = (0..count).collect();
        let size = self.cohort_size(count);
        if size < count {
            let mut rng = stream(self.train.seed, Use::Cohort, round as u64, 0, 0);
            clients.shuffle(&mut rng);
            clients.truncate(size);
            clients.sort_unstable();
        }
        clients
    }

    /// Who of the `cohort` stays to the end of `round`, and who drops out before it uploads.
    pub fn who_stays(&self, round: usize, cohort: &[usize]) -> (Vec<usize>, Vec<usize>) {
        let (seed, chance) = (self.train.seed, self.clients.dropout);
        let drops = |client: usize| {
            chance > 0.0 && stream(seed, Use::Dropout, round as u64, client as u64, 0).random_bool(chance)
        };
        cohort.iter().partition(|&&client| !drops(client))
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
        self.strategy.budgets() == BudgetUse::Slots
            && few().is_ok_and(|budgets| budgets.iter().any(|&budget| budget < self.adapter.rank))
    }

    /// Clients in a round's cohort, of `count`.
    pub(crate) fn cohort_size(&self, count: usize) -> usize {
        self.clients.per_round.unwrap_or(count).min(count)
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

/// When and how the global model is evaluated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EvaluateSettings {
    /// Rounds between evaluations; the last round is always evaluated.
    #[serde(default = "every_round")]
    pub every: usize,
    /// Also evaluate on each client's own test shard.
    #[serde(default)]
    pub per_client: bool,
}

fn every_round() -> usize {
    1
}

impl Default for EvaluateSettings {
    fn default() -> Self {
        EvaluateSettings { every: 1, per_client: false }
    }
}
