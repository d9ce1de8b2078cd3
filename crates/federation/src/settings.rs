//! What a user can say about the server: `[strategy]`, `[clients]`, `[adapter]`, `[evaluate]`. Checked here, beside its owner.

use bonfire_engine::{InFlight, Probe, TrainSettings};
use bonfire_models::{AdapterInit, TargetKind};
use serde::{Deserialize, Serialize};

use crate::FederationError;

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
    /// When to evaluate.
    pub evaluate: EvaluateSettings,
    /// Clients on the device together.
    pub in_flight: InFlight,
}

impl Settings {
    /// The first thing wrong with these settings, as `(key, what is wrong and what would be right)`.
    pub fn problem(&self) -> Option<(&'static str, String)> {
        let Settings { clients, adapter, .. } = self;
        let is = |wrong: bool, key, text: &str| wrong.then(|| (key, text.to_string()));
        is(clients.count == 0, "clients.count", "must be at least 1")
            .or(is(adapter.rank == 0, "adapter.rank", "is 0; must be at least 1"))
            .or(is(adapter.rank > 65_536, "adapter.rank", "is above 65536, more than any model has features"))
            .or(is(!adapter.alpha.is_finite() || adapter.alpha <= 0.0, "adapter.alpha", "must be a positive number"))
            .or(is(
                adapter.targets.is_empty(),
                "adapter.targets",
                "is empty; name at least one linear, e.g. [\"query\", \"value\"]",
            ))
            .or(is(self.evaluate.every == 0, "evaluate.every", "must be at least 1"))
            .or_else(|| self.cohort_problem())
            .or_else(|| self.train.problem())
            .or_else(|| self.strategy_problem())
    }

    fn cohort_problem(&self) -> Option<(&'static str, String)> {
        let (n, count) = (self.clients.per_round?, self.clients.count);
        (n == 0 || n > count)
            .then(|| ("clients.per_round", format!("is {n}; must lie between 1 and clients.count = {count}")))
    }

    fn strategy_problem(&self) -> Option<(&'static str, String)> {
        let rank = self.adapter.rank;
        match &self.strategy {
            StrategySettings::LoraA2 { probe, .. } => {
                let probe = probe.problem().map(|p| ("strategy.probe", p.to_string()));
                let budget = self.clients.budget.resolve(self.clients.count, rank).err();
                probe.or(budget.map(|p| ("clients.budget", p)))
            }
            other if self.clients.budget != Budget::Full => Some((
                "clients.budget",
                format!(
                    "is read by lora-a2 alone; {} uploads every slot, so set adapter.rank, and clients.budget = \"full\"",
                    other.name()
                ),
            )),
            _ => None,
        }
    }

    /// Whether clients train the head.
    pub fn trains_head(&self) -> bool {
        self.adapter.head == HeadMode::Trained
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

impl StrategySettings {
    /// The name users write.
    pub fn name(&self) -> &'static str {
        match self {
            StrategySettings::LoraA2 { .. } => "lora-a2",
            StrategySettings::FedIt {} => "fedit",
            StrategySettings::FfaLora {} => "ffa-lora",
            StrategySettings::RoLora {} => "rolora",
        }
    }
}

/// The strategy and the keys that belong to it alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub enum StrategySettings {
    /// LoRA-A² (arXiv 2410.22815): alternating freeze and adaptive rank selection.
    #[serde(rename = "lora-a2")]
    LoraA2 {
        /// How slots are scored before a client trains.
        #[serde(default)]
        probe: Probe,
        /// What the sparse average divides by.
        #[serde(default)]
        norm: Norm,
    },
    /// FedIT (arXiv 2305.05644): both factors trained and averaged separately; "FL+LoRA" in the paper.
    #[serde(rename = "fedit")]
    FedIt {},
    /// FFA-LoRA (arXiv 2403.12313): A frozen at its start, B trained.
    #[serde(rename = "ffa-lora")]
    FfaLora {},
    /// RoLoRA (arXiv 2502.01755): the factors alternate, no selection.
    #[serde(rename = "rolora")]
    RoLora {},
}

/// The denominator of LoRA-A²'s sparse average.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Norm {
    /// All participants: a slot few chose moves little (the paper's way).
    #[default]
    All,
    /// Only those that chose the slot; an ablation.
    Choosers,
}

/// Who takes part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientSettings {
    /// Clients in the federation.
    pub count: usize,
    /// Clients drawn into each round's cohort; left out: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_round: Option<usize>,
    /// Slots a client may upload, per target on average.
    #[serde(default)]
    pub budget: Budget,
}

/// Upload budgets, in slots per target on average (r_i in the paper).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "BudgetText", into = "BudgetText")]
pub enum Budget {
    /// Every slot of the global rank: no selection.
    #[default]
    Full,
    /// The same for every client.
    Same(usize),
    /// One for each client, in client order.
    Each(Vec<usize>),
    /// A distribution of the paper's table 8.
    Named(BudgetName),
}

/// The client budget distributions of the paper's table 8, as counts that match its upload totals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BudgetName {
    /// Equal shares at 2, 4, 8, 16, 32.
    Uniform,
    /// 16 : 8 : 4 : 2 at 2, 4, 8, 16.
    HeavyTail,
    /// 3 : 7 : 10 : 7 : 3 at 1, 2, 4, 8, 16.
    Normal,
}

/// The spelling of [`Budget`] in a configuration file.
#[derive(Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a number, a list of one number a client, \"full\", \"uniform\", \"heavy-tail\" or \"normal\""
)]
enum BudgetText {
    Same(usize),
    Each(Vec<usize>),
    Word(String),
}

impl TryFrom<BudgetText> for Budget {
    type Error = String;
    fn try_from(text: BudgetText) -> Result<Self, String> {
        match text {
            BudgetText::Same(n) => Ok(Budget::Same(n)),
            BudgetText::Each(list) => Ok(Budget::Each(list)),
            BudgetText::Word(w) => match w.as_str() {
                "full" => Ok(Budget::Full),
                "uniform" => Ok(Budget::Named(BudgetName::Uniform)),
                "heavy-tail" => Ok(Budget::Named(BudgetName::HeavyTail)),
                "normal" => Ok(Budget::Named(BudgetName::Normal)),
                _ => Err(format!(
                    "\"{w}\"; expected a number, a list of one number a client, \"full\", \"uniform\", \"heavy-tail\" or \"normal\""
                )),
            },
        }
    }
}

impl From<Budget> for BudgetText {
    fn from(value: Budget) -> Self {
        match value {
            Budget::Full => BudgetText::Word("full".into()),
            Budget::Same(n) => BudgetText::Same(n),
            Budget::Each(list) => BudgetText::Each(list),
            Budget::Named(BudgetName::Uniform) => BudgetText::Word("uniform".into()),
            Budget::Named(BudgetName::HeavyTail) => BudgetText::Word("heavy-tail".into()),
            Budget::Named(BudgetName::Normal) => BudgetText::Word("normal".into()),
        }
    }
}

impl BudgetName {
    /// Ranks of the distribution and how many of 30 clients hold each.
    fn shares(self) -> &'static [(usize, usize)] {
        match self {
            BudgetName::Uniform => &[(2, 6), (4, 6), (8, 6), (16, 6), (32, 6)],
            BudgetName::HeavyTail => &[(2, 16), (4, 8), (8, 4), (16, 2)],
            BudgetName::Normal => &[(1, 3), (2, 7), (4, 10), (8, 7), (16, 3)],
        }
    }
}

impl Budget {
    /// The budget of each of `clients` clients at global rank `rank`.
    ///
    /// # Errors
    /// A budget of zero, one above the rank, or a list of another length than `clients`.
    pub fn resolve(&self, clients: usize, rank: usize) -> Result<Vec<usize>, String> {
        let list = match self {
            Budget::Full => vec![rank; clients],
            Budget::Same(n) => vec![*n; clients],
            Budget::Each(list) => list.clone(),
            Budget::Named(name) => {
                // Client k of n stands where k·30/n stands among the paper's thirty.
                let thirty: Vec<usize> = name.shares().iter().flat_map(|&(r, n)| std::iter::repeat_n(r, n)).collect();
                (0..clients).map(|k| thirty[k * thirty.len() / clients.max(1)]).collect()
            }
        };
        if list.len() != clients {
            return Err(format!("has {} entries for {clients} clients; give one for each client", list.len()));
        }
        match list.iter().enumerate().find(|&(_, &b)| b == 0 || b > rank) {
            Some((k, b)) => {
                Err(format!("gives client {k} {b} slots a target; must lie between 1 and adapter.rank = {rank}"))
            }
            None => Ok(list),
        }
    }
}

/// The adapter all clients share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterSettings {
    /// Global rank r_G: slots of every target.
    pub rank: usize,
    /// LoRA's alpha; the scale is `alpha / rank`.
    #[serde(default = "sixteen")]
    pub alpha: f64,
    /// Which linears of each layer carry an adapter.
    #[serde(default = "TargetKind::all")]
    pub targets: Vec<TargetKind>,
    /// Whether clients train and upload the classifier head.
    #[serde(default)]
    pub head: HeadMode,
    /// How the A factors start (B starts at zero).
    #[serde(default)]
    pub init: AdapterInit,
}

fn sixteen() -> f64 {
    16.0
}

/// What happens to the classifier head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeadMode {
    /// Stays at its start, shared by all (the paper's way).
    #[default]
    Frozen,
    /// Trained by every client, uploaded, averaged.
    Trained,
}

/// When and how the global model is evaluated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_budgets_match_the_upload_totals_of_table_8() {
        let sum = |n: BudgetName| Budget::Named(n).resolve(30, 32).expect("valid").iter().sum::<usize>();
        assert_eq!([sum(BudgetName::Uniform), sum(BudgetName::HeavyTail), sum(BudgetName::Normal)], [372, 128, 161]);
    }

    #[test]
    fn budgets_out_of_range_are_refused() {
        assert!(Budget::Same(0).resolve(3, 8).is_err());
        assert!(Budget::Same(9).resolve(3, 8).is_err());
        assert!(Budget::Each(vec![1, 2]).resolve(3, 8).is_err());
        assert!(Budget::Named(BudgetName::Uniform).resolve(30, 16).is_err());
        assert_eq!(Budget::Each(vec![1, 2, 8]).resolve(3, 8), Ok(vec![1, 2, 8]));
    }
}
