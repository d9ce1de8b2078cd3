//! Every strategy's facts, held to what its own plans and its own aggregation do with made-up uploads.

use bonfire_engine::{Active, Choice, Plan, Slots, TargetSlots, Upload, sketch};
use bonfire_models::{Adapter, HeadTensor, Matrix};
use serde_json::{Value, json};

use crate::protection::Protection;
use crate::strategies::testing::{self, product_of, read, server};
use crate::strategies::{Strategy, build};
use crate::{BudgetUse, Server, ServerOptimizer, Settings, StrategySettings, StrategyTraits};

const RANK: usize = 4;
const CLIENTS: usize = 3;

/// Every strategy there is, as the schema of the configuration names them, and once more with the keys that change a fact.
fn all() -> Vec<StrategySettings> {
    let schema = serde_json::to_value(schemars::schema_for!(StrategySettings)).expect("JSON");
    let variants = schema["oneOf"].as_array().expect("one of the strategies").clone();
    let name = |variant: &Value| variant["properties"]["name"]["const"].as_str().expect("a name").to_owned();
    let plain = variants.iter().map(|v| StrategySettings::with_defaults(&name(v)).expect("defaults"));
    let more = [json!({ "name": "lora-a2", "norm": "choosers" }), json!({ "name": "fedex-lora", "rank": 2 })];
    plain.chain(more.map(read)).collect()
}

fn settings(strategy: &StrategySettings) -> Settings {
    let (adapter, train) = (json!({ "rank": RANK, "head": "trained" }), json!({ "rounds": 10, "lr_a": 1e-2 }));
    testing::settings(json!({ "count": CLIENTS }), adapter, train, strategy.clone())
}

fn start(settings: &Settings) -> (Box<dyn Strategy>, Server) {
    let protection = Protection::new(settings, CLIENTS).expect("no privacy");
    let strategy = build(settings, &protection, settings.budgets(CLIENTS).expect("budgets"));
    let mut start = server(RANK, 1);
    if settings.strategy.traits().trains_weights {
        let head = vec![HeadTensor { name: "classifier.weight".into(), value: Matrix::new(3, 2, vec![0.5; 6]) }];
        start = Server::new(Adapter::of_weights(vec![Matrix::new(2, 3, vec![0.5; 6])], head));
    }
    strategy.begin(&mut start);
    (strategy, start)
}

/// What the clients of a round send, with movements as large as the numbers they move.
fn uploads(settings: &Settings, plan: &Plan, server: &Server) -> Vec<Upload> {
    // Made-up movements say nothing about whose last slots should go.
    let mut plan = plan.clone();
    plan.terms.tail = None;
    let one = |client| {
        let mut upload = sketch(&plan, &server.adapter, &settings.train, client, Choice::Widest);
        every_matrix(&mut upload).for_each(|m| m.data.iter_mut().for_each(|v| *v *= 1e3));
        upload
    };
    (0..CLIENTS).map(one).collect()
}

fn every_matrix(upload: &mut Upload) -> impl Iterator<Item = &mut Matrix> {
    let factors = upload.factors.iter_mut().flat_map(|(_, list)| list);
    let aux = upload.aux.iter_mut().flat_map(|(_, list)| list);
    factors.chain(&mut upload.weights).chain(&mut upload.head).chain(aux)
}

/// The server after its first round with these uploads.
fn after(strategy: &dyn Strategy, before: &Server, uploads: &[Upload]) -> Server {
    let mut next = before.clone();
    strategy.aggregate(&mut next, uploads).expect("aggregates");
    next.round += 1;
    next
}

/// The plans and uploads of the first two rounds.
fn two_rounds(settings: &Settings) -> Vec<(Plan, Vec<Upload>)> {
    let (strategy, mut server) = start(settings);
    let mut rounds = Vec::new();
    for _ in 0..2 {
        let plan = strategy.plan(&server);
        let sent = uploads(settings, &plan, &server);
        server = after(strategy.as_ref(), &server, &sent);
        rounds.push((plan, sent));
    }
    rounds
}

#[test]
fn plans_and_uploads_are_as_the_traits_say() {
    for strategy in all() {
        let (name, traits, settings) = (strategy.name(), strategy.traits(), settings(&strategy));
        assert_eq!(start(&settings).0.name(), name);
        let rounds = two_rounds(&settings);
        let plans = || rounds.iter().map(|(plan, _)| plan);
        let sends_more = rounds.iter().flat_map(|(_, sent)| sent).any(|upload| !upload.aux.is_empty());
        let branches = |plan: &Plan| plan.terms.branches.is_some();
        assert_eq!(traits.trains_weights, plans().any(|plan| plan.active == Active::Full), "{name}");
        assert_eq!(traits.recomputes, !plans().any(|plan| branches(plan) || plan.active == Active::Full), "{name}");
        // With whole budgets clients choose nothing, and then nothing stands against it.
        let chooses = traits.budget != BudgetUse::None;
        assert!(!traits.drops_adapter_inputs || plans().all(Plan::allows_dropout), "{name}");
        assert!(traits.drops_adapter_inputs || chooses || !plans().all(Plan::allows_dropout), "{name}");
        assert_eq!(traits.keeps_private, plans().any(|plan| !plan.private.is_nothing()), "{name}");
        assert_eq!(traits.has_global_model, !plans().any(|plan| !plan.private.factors.is_empty()), "{name}");
        assert_eq!(traits.sends_more, sends_more, "{name}");
    }
}

#[test]
fn budgets_are_used_as_the_traits_say() {
    for strategy in all().into_iter().filter(|strategy| !strategy.traits().trains_weights) {
        let (name, traits, mut settings) = (strategy.name(), strategy.traits(), settings(&strategy));
        settings.clients.budget = read(json!([1, 2, 4]));
        let refused = settings.problem().map(|problem| problem.key);
        assert_eq!(refused, (traits.budget == BudgetUse::None).then_some("clients.budget"), "{name}");
        let plan = start(&settings).0.plan(&server(RANK, 1));
        assert_eq!(traits.budget == BudgetUse::Slots, plan.selection.is_some(), "{name}");
        assert_eq!(matches!(traits.budget, BudgetUse::Ranks | BudgetUse::Drawn), plan.ranks.is_some(), "{name}");
        assert_eq!(traits.budget == BudgetUse::Drawn, plan.draw.is_some(), "{name}");
    }
}

#[test]
fn a_server_that_averages_stays_where_its_optimizer_takes_no_step_and_the_others_do_not() {
    for strategy in all() {
        let (name, traits, mut settings) = (strategy.name(), strategy.traits(), settings(&strategy));
        let (own, before) = start(&settings);
        let sent = uploads(&settings, &own.plan(&before), &before);
        let pushed = after(own.as_ref(), &before, &sent).merged.pushed;
        assert_eq!(traits.merges, pushed > 0, "{name}");
        if !traits.exchanges {
            // There is nothing to average, and a server of one client takes what it gives.
            continue;
        }
        settings.server.optimizer = ServerOptimizer::FedAvg { lr: 1e-30 };
        let (still, _) = start(&settings);
        let end = after(still.as_ref(), &before, &sent);
        // What groups have is in the state.
        let stays = (0..CLIENTS).all(|client| end.group_of(client).is_none());
        assert_eq!(traits.averages, stays && end.adapter == before.adapter && end.merged == before.merged, "{name}");
    }
}

#[test]
fn a_slot_of_one_client_moves_as_its_owner_did_or_by_its_share() {
    for strategy in all() {
        let (name, traits, settings) = (strategy.name(), strategy.traits(), settings(&strategy));
        if !traits.averages || traits.trains_weights {
            continue;
        }
        let (own, before) = start(&settings);
        let mut sent = uploads(&settings, &own.plan(&before), &before);
        let (factor, owner) = (sent[0].factors[0].0, sent[0].factors[0].1[0].clone());
        // All others have slot 0 alone; client 0 has slot 1 too.
        for upload in &mut sent[1..] {
            upload.factors.iter_mut().flat_map(|(_, list)| list).for_each(|m| *m = m.rows(&[0]));
            upload.slots = Slots::Given { rank: RANK, slots: TargetSlots::first(1, before.adapter.targets.len()) };
        }
        let end = after(own.as_ref(), &before, &sent);
        let slot = |server: &Server| server.adapter.slot_rows(factor, 0).rows(&[1]).data;
        let share = if traits.divides_by_owners { 1.0 } else { CLIENTS as f32 };
        for ((end, start), moved) in slot(&end).iter().zip(slot(&before)).zip(&owner.rows(&[1]).data) {
            assert!((end - start - moved / share).abs() < 1e-6, "{name}: {start} to {end} by {moved}");
        }
    }
}

/// The largest difference of two servers' models and states.
fn apart(x: &Server, y: &Server) -> f64 {
    let far = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
    let wide = |m: &Matrix| m.data.iter().map(|v| f64::from(*v)).collect::<Vec<f64>>();
    let (models, targets) = ((x.model(), y.model()), x.adapter.targets.len());
    let products = (0..targets).map(|t| far(&product_of(&models.0, t), &product_of(&models.1, t)));
    let head = models.0.head.iter().zip(&models.1.head).map(|(x, y)| far(&wide(&x.value), &wide(&y.value)));
    let weights = x.adapter.weights.iter().zip(&y.adapter.weights).map(|(x, y)| far(&wide(x), &wide(y)));
    let states = x.state.named().zip(y.state.named());
    let states = states.map(|((a, m), (b, n))| if a == b { far(&wide(m), &wide(n)) } else { 1.0 });
    products.chain(head).chain(weights).chain(states).fold(0.0, f64::max)
}

#[test]
fn where_secure_aggregation_serves_the_mean_of_the_uploads_is_all_that_counts() {
    for strategy in all() {
        let (name, traits, settings) = (strategy.name(), strategy.traits(), settings(&strategy));
        let (own, before) = start(&settings);
        let mut sent = uploads(&settings, &own.plan(&before), &before);
        // No two clients have as many examples, or take as many steps.
        for (k, upload) in sent.iter_mut().enumerate() {
            (upload.examples, upload.steps) = (1 + 2 * k, 4 + k);
        }
        let weights = sent.iter().map(|u| u.examples as f64).collect::<Vec<f64>>();
        let end = after(own.as_ref(), &before, &sent);
        // The same sum, and nothing of who sent what.
        let lists: Vec<Vec<Matrix>> = sent.iter_mut().map(|u| every_matrix(u).map(|m| m.clone()).collect()).collect();
        for upload in &mut sent {
            for (i, matrix) in every_matrix(upload).enumerate() {
                let weighted = |(list, w): (&Vec<Matrix>, &f64), at: usize| w * f64::from(list[i].data[at]);
                let sum = |at: usize| lists.iter().zip(&weights).map(|pair| weighted(pair, at)).sum::<f64>();
                let mean = |at: usize| sum(at) / weights.iter().sum::<f64>();
                matrix.data = (0..matrix.data.len()).map(|at| mean(at) as f32).collect();
            }
        }
        let far = apart(&end, &after(own.as_ref(), &before, &sent));
        match traits.against_secure_aggregation {
            None => assert!(far < 1e-5, "{name}: apart by {far:.1e}"),
            // Of lora-a2 the sum is enough: it is the index of chosen slots that would be seen.
            Some(_) => assert!(far > 1e-4 || name == "lora-a2", "{name}: apart by {far:.1e}"),
        }
    }
}

#[test]
fn pruning_makes_what_is_sent_depend_on_the_data() {
    let schema = serde_json::to_value(schemars::schema_for!(StrategySettings)).expect("JSON");
    for variant in schema["oneOf"].as_array().expect("one of the strategies") {
        let properties = &variant["properties"];
        let prune = json!({ "name": properties["name"]["const"], "prune": { "threshold": 0.1 } });
        let Ok(strategy) = serde_json::from_value::<StrategySettings>(prune) else {
            assert!(properties["prune"].is_null());
            continue;
        };
        assert!(strategy.prune().is_some() && strategy.traits().depends_on_data, "{}", strategy.name());
    }
}

#[test]
fn facts_that_exclude_each_other() {
    for strategy in all() {
        let StrategyTraits { averages, merges, divides_by_owners, trains_weights, budget, .. } = strategy.traits();
        assert!(!(averages && merges), "{}", strategy.name());
        assert!(averages || !divides_by_owners, "{}: it is the average that divides", strategy.name());
        assert!(!trains_weights || budget == BudgetUse::None, "{}: weights have no slots", strategy.name());
    }
}

#[test]
fn the_table_of_the_docs_says_what_the_traits_say() {
    let page = include_str!("../../../../../docs/methods.md");
    let rows: Vec<Vec<&str>> = page.lines().map(|line| line.split('|').map(str::trim).collect()).collect();
    for strategy in all() {
        let (name, traits) = (strategy.name(), strategy.traits());
        let cell = format!("`{name}`");
        let row = rows.iter().find(|row| row.len() == 10 && row[1].starts_with(&cell));
        let row = row.unwrap_or_else(|| panic!("{name} has no row in docs/methods.md"));
        let marks = row[1][cell.len()..].trim();
        assert_eq!(traits.our_form, marks == "*", "{name}: {marks}");
        assert_eq!(traits.exchanges, marks != "‡" && row[3] != "nothing" && row[4] != "nothing", "{name}");
        let ranks = match traits.budget {
            BudgetUse::Slots => "slots",
            BudgetUse::Ranks => "ranks",
            BudgetUse::Drawn => "drawn",
            BudgetUse::None if traits.trains_weights => "–",
            BudgetUse::None => "same",
        };
        assert_eq!(row[6], ranks, "{name}");
        assert_eq!(row[7] == "yes", traits.against_secure_aggregation.is_none(), "{name}: {}", row[7]);
        assert_eq!(row[8], if traits.averages { "yes" } else { "no" }, "{name}");
        let paragraph = format!("**`{name}`**");
        assert!(page.contains(&paragraph), "{name} has no paragraph in docs/methods.md");
    }
}
