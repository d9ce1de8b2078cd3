//! Settings that exclude each other: a strategy with budgets, a server's rule, privacy, or a way of the engine that it cannot
//! work with.

use bonfire_engine::{Problem, Recompute};
use bonfire_models::Precision;

use super::{
    Aggregation, AttackSettings, Budget, BudgetUse, PrivacySettings, Publish, ServerSettings, Settings,
    StrategySettings,
};
use crate::FederationError;

impl Settings {
    /// The first thing wrong with the strategy, or with what it is to go together with.
    pub(super) fn strategy_problem(&self) -> Option<Problem> {
        self.strategy
            .problem(self.adapter.rank)
            .or_else(|| self.budget_problem())
            .or_else(|| self.server.problem())
            .or_else(|| self.privacy.as_ref().and_then(|p| p.problem(self.clients.count)))
            .or_else(|| self.attack_problem())
            .or_else(|| self.window_problem())
            .or_else(|| self.asynchronous_problem())
            .or_else(|| self.averaging_problem())
            .or_else(|| self.fairness_problem())
            .or_else(|| self.groups_problem())
            .or_else(|| self.method_problem())
            .or_else(|| self.privacy_problem())
            .or_else(|| self.full_problem())
            .or_else(|| self.recompute_problem())
            .or_else(|| self.wire_problem())
            .or_else(|| self.dropout_problem())
            .or_else(|| self.personalise_problem())
    }

    /// Why clients of this run cannot be in one pass with those of other runs over the same backbone; `None`: they can.
    pub fn steps_alone(&self) -> Option<&'static str> {
        let (traits, strategy) = (self.strategy.traits(), &self.strategy);
        let twice = matches!(strategy, StrategySettings::Dfl { apart, .. } if *apart > 0.0);
        let reasons = [
            (traits.trains_weights, "every weight of the backbone trains"),
            (traits.merges, "what clients learn is merged into the backbone"),
            (self.train.flat.is_some(), "train.flat adds noise to the backbone"),
            (twice, "strategy.apart takes every batch through the backbone twice"),
        ];
        reasons.into_iter().find(|(true_here, _)| *true_here).map(|(_, reason)| reason)
    }

    fn budget_problem(&self) -> Option<Problem> {
        let budget = &self.clients.budget;
        match self.strategy.traits().budget {
            BudgetUse::Slots | BudgetUse::Ranks | BudgetUse::Drawn => {
                let resolved = budget.resolve(self.clients.count, self.adapter.rank);
                resolved.err().map(|what| Problem::new("clients.budget", what))
            }
            BudgetUse::None => (*budget != Budget::Full).then(|| {
                let name = self.strategy.name();
                let what = format!("is not read by {name}, whose clients all hold the same rank; set adapter.rank, and clients.budget = \"full\"");
                Problem::new("clients.budget", what)
            }),
        }
    }

    /// What composes with strategies that average movements, and with those alone.
    fn averaging_problem(&self) -> Option<Problem> {
        let (name, traits) = (self.strategy.name(), self.strategy.traits());
        // Clients' weights, and limits on what is believed of them, go with every strategy; asynchronous rounds have a check of their own.
        let ServerSettings { weights, max_norm, max_examples, asynchronous, .. } = self.server;
        let usual = ServerSettings { weights, max_norm, max_examples, asynchronous, ..ServerSettings::default() };
        let composed = [
            ("server", self.server != usual, "a server optimizer or a robust average"),
            ("train.scaffold", self.train.scaffold, "SCAFFOLD"),
            ("privacy", self.adds_central_noise(), "noise on the mean"),
        ];
        let refused = composed.into_iter().find(|(_, asked, _)| *asked && !traits.averages);
        refused.map(|(key, _, what)| {
            let why = if traits.exchanges {
                format!("works on averaged movements, and {name} combines uploads in its own way; leave it out")
            } else {
                format!("works on what clients send, and in {name} nothing is sent; leave it out")
            };
            Problem::new(key, format!("{what} {why}"))
        })
    }

    /// What an attack needs, and what the server's choice of uploads needs to stand it.
    fn attack_problem(&self) -> Option<Problem> {
        let clients = self.cohort_size(self.clients.count);
        let (name, needed) = match self.server.aggregate {
            Aggregation::Krum { attackers } => ("krum", 2 * attackers + 3),
            Aggregation::MultiKrum { attackers, .. } => ("multi-krum", 2 * attackers + 3),
            Aggregation::Bulyan { attackers } => ("bulyan", 4 * attackers + 3),
            _ => ("", 0),
        };
        let few = (clients < needed).then(|| {
            let what = format!(
                "holds against so many attackers only with {needed} clients in a round, and there are {clients}"
            );
            Problem::new("server.aggregate.attackers", format!("{what}: {name} needs that by its paper"))
        });
        self.attack.as_ref().and_then(AttackSettings::problem).or(few)
    }

    /// Clients on several machines cannot have their rows in one place.
    ///
    /// # Errors
    /// The strategy asks for that.
    pub(crate) fn refuse_pooled(&self) -> Result<(), FederationError> {
        if !self.strategy.traits().pools {
            return Ok(());
        }
        let what =
            "has all rows in one place, and here clients are on machines of their own; train it with bonfire train";
        Err(Problem::new("strategy.name", format!("is {}, which {what}", self.strategy.name())).into())
    }

    /// What a method cannot compute, or would not see.
    fn method_problem(&self) -> Option<Problem> {
        let is = |wrong: bool, key, what: &str| wrong.then(|| Problem::new(key, what));
        match self.strategy {
            StrategySettings::FedLada { .. } if !self.train.optimizer.is_adamw() => Some(Problem::new(
                "train.optimizer",
                "must be left out: fedlada steps by a rule of its own, AMSGrad's amended",
            )),
            StrategySettings::Sora { .. } if !self.train.optimizer.is_adaptive() => Some(Problem::new(
                "train.optimizer.name",
                "must be \"adamw\" or \"adam\": sora's threshold is a share of their steps, which have the size of the rate at any gradient",
            )),
            StrategySettings::LaLora { .. } => is(
                self.train.scaffold,
                "train.scaffold",
                "corrects the gradients of all local steps, and la-lora moves each factor in half of them; leave it out",
            ),
            StrategySettings::FedAsk { .. } => is(
                self.server.max_norm.is_some(),
                "server.max_norm",
                "looks at a client's movement, and fedask sends sketches of its product; leave it out",
            ),
            StrategySettings::FedLada { .. } | StrategySettings::FedPepTao { .. } => is(
                self.train.lr_rounds.is_some(),
                "train.lr_rounds",
                &format!("moves the rates that {} divides movements by; leave it out", self.strategy.name()),
            )
            .or(is(
                self.train.scaffold && matches!(self.strategy, StrategySettings::FedLada { .. }),
                "train.scaffold",
                "has clients report their mean gradients, and fedlada their second moments in that place; leave it out",
            )),
            _ => None,
        }
    }

    fn privacy_problem(&self) -> Option<Problem> {
        let (name, traits) = (self.strategy.name(), self.strategy.traits());
        let (private, central) = (self.privacy.is_some(), self.adds_central_noise());
        let secretive = self.publish() == Publish::Minimal;
        let is = |wrong: bool, key, what: &str| wrong.then(|| Problem::new(key, what));
        is(
            self.train.scaffold && traits.keeps_private,
            "train.scaffold",
            &format!("sends control variates of all that trains, and {name} keeps a part of it private; leave it out"),
        )
        .or(is(
            secretive && self.evaluate.per_client,
            "evaluate.per_client",
            "tells of every client what privacy.publish = \"minimal\" keeps back; leave one of them out",
        ))
        .or(is(
            secretive && traits.keeps_private,
            "privacy.publish",
            &format!("must be \"all\": of {name} every client's own model lies in the run folder"),
        ))
        .or(is(
            private && !traits.exchanges,
            "privacy",
            &format!("protects what clients send, and in {name} nothing is sent; leave [privacy] out"),
        ))
        .or(is(
            private && self.train.scaffold,
            "train.scaffold",
            "sends control variates, which [privacy] does not protect; leave one of them out",
        ))
        .or(is(
            central && traits.divides_by_owners,
            "privacy",
            &format!(
                "noise on the mean needs the same divisor for every slot; {name} divides by the clients that have a slot"
            ),
        ))
        .or(is(
            central && !matches!(self.server.aggregate, Aggregation::Mean {}),
            "server.aggregate",
            "must be the mean where privacy adds its noise to the mean",
        ))
        .or(is(
            central && self.clients.over_select > 0.0,
            "clients.over_select",
            "makes one client's being there keep another out, which the account of [privacy] does not count; leave it out",
        ))
        .or(is(
            private && traits.sends_more,
            "privacy",
            &format!("protects movements, and {name} sends more than those; leave [privacy] out"),
        ))
    }

    pub(super) fn adds_central_noise(&self) -> bool {
        matches!(self.privacy, Some(PrivacySettings::Gaussian { .. }))
    }

    /// What needs an adapter, or frozen weights.
    fn full_problem(&self) -> Option<Problem> {
        if !self.strategy.traits().trains_weights {
            return None;
        }
        let wrong = [
            (
                "adapter.init",
                self.adapter.init.folder().is_some(),
                "names an adapter, and full trains the weights themselves; leave it out",
            ),
            (
                "train.flat",
                self.train.flat.is_some(),
                "puts noise on adapted weights, and full has no adapter; leave it out",
            ),
            (
                "engine.precision",
                self.engine.precision != Precision::F32,
                "must be \"f32\": full trains the weights themselves",
            ),
        ];
        wrong.into_iter().find(|(_, wrong, _)| *wrong).map(|(key, _, what)| Problem::new(key, what))
    }

    /// A dropout that would miss a part of what it is to drop.
    fn dropout_problem(&self) -> Option<Problem> {
        let traits = self.strategy.traits();
        if self.adapter.dropout == 0.0 {
            return None;
        }
        let folds = matches!(self.strategy, StrategySettings::FfaLora { .. } | StrategySettings::RoLora { .. });
        if folds && self.strategy.prune().is_some() {
            let what = "leaves slots whose start is folded into the backbone, where adapter.dropout drops nothing; leave one of them out";
            return Some(Problem::new("strategy.prune", what));
        }
        if traits.drops_adapter_inputs {
            return None;
        }
        let why = if traits.trains_weights {
            "which trains the weights themselves and has no adapter"
        } else {
            "whose clients have the slots that they do not train in their backbone, where nothing is dropped"
        };
        let what = format!("is not for {}, {why}; leave it out, or see model.dropout", self.strategy.name());
        Some(Problem::new("adapter.dropout", what))
    }

    fn recompute_problem(&self) -> Option<Problem> {
        let wrong = self.engine.recompute == Recompute::Block && !self.strategy.traits().recomputes;
        let what = || format!("must be \"none\": {} needs the whole graph at once", self.strategy.name());
        wrong.then(|| Problem::new("engine.recompute", what()))
    }
}
