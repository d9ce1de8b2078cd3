//! `[server] aggregate = { name = "q-fedavg" }`: what it cannot go together with.

use bonfire_engine::Problem;

use super::{Aggregation, BudgetUse, Settings};

impl Settings {
    /// A warning where q-FedAvg's bound, left to the settings, would hold the model nearly still: it takes movements for gradients times the
    /// rate, and an adaptive optimizer moves every number by about the rate, whatever its gradient.
    pub(super) fn stands_still(&self) -> Option<String> {
        let Aggregation::QFedAvg { q, lipschitz: None } = self.server.aggregate else { return None };
        (q > 0.0 && self.train.optimizer.is_adaptive()).then(|| {
            "server.aggregate = q-fedavg takes L = 1/η, as its paper does for SGD; clients here step by Adam's rule, whose movements are so \
             much longer than η times a gradient that the model will hardly move. Set lipschitz in it (smaller goes further; 1e-3 trains \
             the quickstart) or train.optimizer = { name = \"sgd\" }"
                .into()
        })
    }

    /// What stands against q-FedAvg, where it is asked for.
    pub(super) fn fairness_problem(&self) -> Option<Problem> {
        let Aggregation::QFedAvg { lipschitz, .. } = self.server.aggregate else { return None };
        let differ = matches!(self.strategy.traits().budget, BudgetUse::Ranks | BudgetUse::Drawn)
            && self
                .clients
                .budget
                .resolve(self.clients.count, self.adapter.rank)
                .is_ok_and(|budgets| budgets.iter().any(|&budget| budget < self.adapter.rank));
        let wrong = [
            (
                "server.aggregate",
                self.privacy.is_some(),
                "is q-fedavg, whose clients send their losses, which [privacy] does not protect; leave one of them out",
            ),
            (
                "server.aggregate",
                differ,
                "is q-fedavg, which compares clients by their losses under one model, and clients of different ranks have no one model; set clients.budget = \"full\"",
            ),
            (
                "train.lr_rounds",
                self.train.lr_rounds.is_some() && lipschitz.is_none(),
                "moves the rates that q-fedavg's L is one over; leave it out, or set server.aggregate.lipschitz",
            ),
        ];
        wrong.into_iter().find(|(_, wrong, _)| *wrong).map(|(key, _, what)| Problem::new(key, what))
    }
}
