//! `[clients]`: who takes part, with how much, and how long.

use bonfire_engine::Problem;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::DeviceKind;

/// Who takes part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientSettings {
    /// Clients in the federation.
    pub count: usize,
    /// Clients drawn into each round's cohort; left out: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_round: Option<usize>,
    /// Slots a client may upload, per target on average; a client's rank, for methods in which ranks differ.
    #[serde(default)]
    pub budget: Budget,
    /// Probability that a client of a round's cohort is gone before it uploads.
    #[serde(default)]
    pub dropout: f64,
    /// Clients that do not manage all their local steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stragglers: Option<Stragglers>,
    /// What the clients' devices and links are like, a table `[[clients.devices]]` for each kind: the run then tells how long it would
    /// have taken there. Nobody else's clock is in it: what the server does costs nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceKind>,
    /// Seconds after which a round is closed, by that clock: who has not sent everything by then has trained for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<f64>,
    /// Share of `clients.per_round` that is invited besides: the round is closed when `per_round` have sent everything.
    #[serde(default, skip_serializing_if = "super::is_zero")]
    pub over_select: f64,
}

/// Clients that do not manage all their local steps, drawn anew in every round.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stragglers {
    /// Probability that a client of a round is one.
    pub share: f64,
    /// Smallest share of its local steps that a straggler manages; the share is even between this and 1.
    #[serde(default = "a_fifth")]
    pub least: f64,
}

fn a_fifth() -> f64 {
    0.2
}

impl ClientSettings {
    /// `count` clients that all take part, with the whole rank and to the end.
    pub fn new(count: usize) -> Self {
        ClientSettings {
            count,
            per_round: None,
            budget: Budget::Full,
            dropout: 0.0,
            stragglers: None,
            devices: Vec::new(),
            deadline: None,
            over_select: 0.0,
        }
    }

    /// The first thing wrong.
    pub(super) fn problem(&self) -> Option<Problem> {
        let share = |v: f64| (0.0..=1.0).contains(&v);
        Problem::first([
            ("clients.dropout", (0.0..1.0).contains(&self.dropout), "a probability below 1"),
            ("clients.stragglers.share", self.stragglers.is_none_or(|s| share(s.share)), "a probability, 0 to 1"),
            (
                "clients.stragglers.least",
                self.stragglers.is_none_or(|s| share(s.least) && s.least > 0.0),
                "a share of the local steps, above 0 and at most 1",
            ),
        ])
        .or_else(|| self.clock_problem())
    }
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
