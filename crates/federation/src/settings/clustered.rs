//! `[strategy] name = "clustered"`: how many clients there must be for what is asked.

use bonfire_engine::Problem;

use super::{Settings, StrategySettings};

impl Settings {
    /// Clients of a round, where none drops out.
    fn in_a_round(&self) -> usize {
        self.clients.per_round.unwrap_or(self.clients.count).min(self.clients.count)
    }

    /// What stands against the groups that are asked for.
    pub(super) fn groups_problem(&self) -> Option<Problem> {
        let StrategySettings::Clustered { groups: Some(groups), .. } = self.strategy else { return None };
        (groups > self.in_a_round()).then(|| {
            let what = format!(
                "is {groups}, and groups are found among the clients of the first round, which has {}",
                self.in_a_round()
            );
            Problem::new("strategy.groups", what)
        })
    }

    /// A warning where a round has too few clients for their likeness to say anything.
    pub(super) fn few_to_group(&self) -> Option<String> {
        let StrategySettings::Clustered { groups: None, .. } = self.strategy else { return None };
        (self.in_a_round() < 3).then(|| {
            "clustered finds its groups among the clients of the first round, and fewer than three are one group: set strategy.groups, or let \
             more take part in a round"
                .into()
        })
    }
}
