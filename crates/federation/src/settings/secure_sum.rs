//! What secure aggregation serves: a protocol by which the server sees no upload, only the sum of all (SecAgg, Bonawitz et al., CCS 2017;
//! SecAgg+, Bell et al., CCS 2020).

use bonfire_engine::Problem;

use super::{Aggregation, BudgetUse, Settings, Weights};

impl Settings {
    /// Why the server cannot do with the sum of the uploads, by the first key in its way; `None`: it can.
    pub fn against_secure_aggregation(&self) -> Option<Problem> {
        let (name, traits, server) = (self.strategy.name(), self.strategy.traits(), &self.server);
        let is = |wrong: bool, key, what: &str| wrong.then(|| Problem::new(key, what));
        let unlike = matches!(traits.budget, BudgetUse::Ranks | BudgetUse::Drawn)
            && self.clients.budget.resolve(self.clients.count, self.adapter.rank).is_ok_and(|budgets| {
                // A client with fewer slots than there are sends other numbers than the next.
                budgets.iter().any(|&budget| budget < self.adapter.rank)
            });
        is(!traits.exchanges, "strategy.name", &format!("is {name}, of which nothing is sent to sum"))
            .or_else(|| {
                let why = traits.against_secure_aggregation?;
                Some(Problem::new("strategy.name", format!("is {name}, which the sum of uploads does not serve ({why})")))
            })
            .or(is(unlike, "clients.budget", "gives clients unlike slots, and what is summed must be the same numbers of all"))
            .or(is(self.wire.codes_uploads(), "wire", "makes short messages with scales or places of their own, which do not add up"))
            .or(is(
                server.aggregate != Aggregation::default(),
                "server.aggregate",
                "looks at every client's upload, and a secure sum shows none; leave it out, which is the mean",
            ))
            .or(is(server.max_norm.is_some(), "server.max_norm", "bounds every client's movement, and a secure sum shows none; leave it out"))
            .or(is(
                server.max_examples.is_some(),
                "server.max_examples",
                "leaves out the uploads of single clients, and out of a secure sum none can be taken; leave it out",
            ))
            .or(is(
                self.adds_central_noise(),
                "privacy.kind",
                "is gaussian, by which the server clips every upload, and a secure sum shows none; \"laplace\" is added before",
            ))
            .or(is(
                self.train.scaffold && server.weights != Weights::Uniform,
                "train.scaffold",
                "averages control variates without weights and movements by examples, which are two sums; set server.weights = \"uniform\"",
            ))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::strategies::testing::{self, read};
    use crate::{Settings, StrategySettings};

    fn settings(name: &str) -> Settings {
        let strategy = StrategySettings::with_defaults(name).expect("a strategy");
        testing::settings(json!({ "count": 3 }), json!({ "rank": 4 }), json!({ "rounds": 2, "lr_a": 1e-2 }), strategy)
    }

    #[test]
    fn what_looks_at_single_uploads_is_refused_by_its_key() {
        type Change = fn(&mut Settings);
        fn server(it: &mut Settings, key: &str, value: Value) {
            it.server = read(json!({ key: value }));
        }
        let cases: [(&str, Change, Option<&str>); 13] = [
            ("fedit", |_| {}, None),
            ("fedsa-lora", |_| {}, None),
            ("lora-a2", |_| {}, Some("strategy.name")),
            ("flora", |_| {}, Some("strategy.name")),
            ("local", |_| {}, Some("strategy.name")),
            ("replication", |_| {}, None),
            ("replication", |it| it.clients.budget = read(json!([1, 2, 4])), Some("clients.budget")),
            ("fslora", |it| it.clients.budget = read(json!(2)), Some("clients.budget")),
            ("fedit", |it| it.wire = read(json!({ "upload": "bf16" })), Some("wire")),
            ("fedit", |it| server(it, "aggregate", json!({ "name": "median" })), Some("server.aggregate")),
            ("fedit", |it| server(it, "max_norm", json!(1.0)), Some("server.max_norm")),
            ("fedit", |it| server(it, "max_examples", json!(100)), Some("server.max_examples")),
            (
                "fedit",
                |it| it.privacy = Some(read(json!({ "kind": "gaussian", "clip": 1.0, "noise": 1.0 }))),
                Some("privacy.kind"),
            ),
        ];
        for (name, change, key) in cases {
            let mut settings = settings(name);
            change(&mut settings);
            let found = settings.against_secure_aggregation();
            assert_eq!(found.as_ref().map(|problem| problem.key), key, "{name}: {found:?}");
        }
        let mut settings = settings("fedit");
        settings.train.scaffold = true;
        assert_eq!(settings.against_secure_aggregation().map(|problem| problem.key), Some("train.scaffold"));
        server(&mut settings, "weights", json!("uniform"));
        assert_eq!(settings.against_secure_aggregation(), None);
    }
}
