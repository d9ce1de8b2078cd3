//! Fine-tuning by each client alone after the last round: what comes of it, and that nothing else does.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bonfire_engine::{Engine, EngineSettings, InFlight, Member, Plan, Progress};
use bonfire_federation::{Checkpoint, Event, RoundMetrics, Run, Settings, average};
use bonfire_federation::{FederationError, Norm};
use bonfire_models::{Adapter, Factor, Model};
use bonfire_tests::toy;

/// Strategies whose models differ in kind: of one factor in turns, of one factor, merged into the backbone, of a core, of gates, of parts
/// that stay with clients, of all weights.
const KINDS: &[&str] = &[
    "name = \"fedit\"",
    "name = \"lora-a2\"",
    "name = \"ffa-lora\"",
    "name = \"flora\"",
    "name = \"fed-sb\"",
    "name = \"sora\"",
    "name = \"fedsa-lora\"",
    "name = \"dfl\"",
    "name = \"full\"",
];

fn settings(strategy: &str, more: &str) -> Settings {
    toy::settings(&format!(
        "[strategy]\n{strategy}\n[adapter]\nrank = 4\nhead = \"trained\"\n\
         [train]\nrounds = 2\nbatch_size = 4\nlr_a = 1e-3\nlr_head = 1e-2\nseed = 3\n{more}"
    ))
}

fn personalising(strategy: &str, epochs: usize) -> Settings {
    settings(strategy, &format!("[evaluate]\npersonalise = {{ epochs = {epochs} }}\nper_client = true"))
}

fn untimed(row: &RoundMetrics) -> RoundMetrics {
    RoundMetrics { seconds: 0.0, train_seconds: 0.0, times: None, ..row.clone() }
}

fn tuned(run: &Run, clients: &[usize]) -> Vec<(usize, Adapter)> {
    let found = run.fine_tuned_models(clients, &mut |_| ControlFlow::Continue(())).unwrap();
    found.continue_value().expect("nobody broke off")
}

fn numbers(adapter: &Adapter) -> Vec<f32> {
    let factors = Factor::ALL.into_iter().flat_map(|factor| adapter.factor(factor));
    let all = factors.chain(adapter.head.iter().map(|t| &t.value)).chain(&adapter.weights);
    all.flat_map(|m| m.data.iter().copied()).collect()
}

fn farthest(one: &Adapter, other: &Adapter) -> f32 {
    let pairs = numbers(one).into_iter().zip(numbers(other));
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The rows of rounds, the rows of clients and the states are those of a run without it; the last row alone tells of it.
#[test]
fn the_run_is_the_one_without_it_bit_for_bit() {
    for strategy in KINDS {
        let mut with = toy::run(personalising(strategy, 1));
        let (rounds, clients, states) = toy::finish(&mut with);
        let (plain_rounds, plain_clients, plain_states) =
            toy::finish(&mut toy::run(settings(strategy, "[evaluate]\nper_client = true")));
        assert_eq!(states, plain_states, "{strategy}");
        assert_eq!(clients, plain_clients, "{strategy}");
        let bare = |row: &RoundMetrics| RoundMetrics { personalised: None, ..untimed(row) };
        let [bare_rows, plain]: [Vec<_>; 2] = [&rounds, &plain_rounds].map(|rows| rows.iter().map(bare).collect());
        assert_eq!(bare_rows, plain, "{strategy}");
        assert_eq!(rounds[0].personalised, None, "{strategy}: it comes after the last round");
        let found = rounds[1].personalised.unwrap_or_else(|| panic!("{strategy}: nothing was found"));
        assert_eq!(found.after.clients, 4, "{strategy}");
        assert!((found.gain - (found.after.mean - found.before.mean)).abs() < 1e-15, "{strategy}");
        if let Some(global) = rounds[1].client_accuracy.filter(|_| rounds[1].personal_accuracy.is_none()) {
            assert_eq!(found.before, global, "{strategy}: before is what every client has of the global model");
        }
    }
}

/// With plain gradient steps over whole shards no order of rows matters, so a client's fine-tuned model is the global one plus what an
/// engine of its own learns from there with that client alone, by orders of an ordinary round.
#[test]
fn a_client_trains_from_the_final_model_on_its_own_rows() {
    for (strategy, active) in [("fedit", "AB"), ("rolora", "AB"), ("lora-a2", "AB"), ("ffa-lora", "B")] {
        let sgd = "optimizer = { name = \"sgd\" }\nweight_decay = 0.0\nlr_b = 0.02";
        let text = format!(
            "[strategy]\nname = \"{strategy}\"\n[adapter]\nrank = 4\nhead = \"trained\"\n\
             [train]\nrounds = 2\nbatch_size = 100\nlr_a = 0.01\nlr_head = 0.05\n{sgd}\n\
             [evaluate]\npersonalise = {{ epochs = 3 }}"
        );
        let settings = toy::settings(&text);
        let mut run = toy::run(settings.clone());
        let (rounds, ..) = toy::finish(&mut run);
        let shards = toy::shards(4);
        let data = toy::data(&shards);
        let models: Vec<Box<dyn Model>> = vec![Box::new(toy::model(&settings))];
        let engine = Engine::new(models, data.train, settings.train.clone(), EngineSettings::default());
        let kind = if active == "B" { bonfire_engine::Active::B } else { bonfire_engine::Active::Both };
        let plan = Plan { train_head: true, ..Plan::new(1, kind, 0.01, 0.02) };
        let mut accuracies = Vec::new();
        for (client, model) in tuned(&run, &[0, 1, 2, 3]) {
            let member = Member { steps: Some(3), ..Member::new(client, &shards.train[client]) };
            let go_on = &mut |_: Progress| ControlFlow::Continue(());
            let trained = engine.train(&plan, run.server().start(), &[member], go_on).unwrap();
            let uploads = trained.continue_value().expect("nobody broke off").uploads;
            let mut expected = run.server().adapter.clone();
            average(&mut expected, &uploads, Norm::All);
            let (off, moved) = (farthest(&model, &expected), farthest(&model, &run.server().adapter));
            assert!(moved > 1e-3, "{strategy}: client {client} moved by {moved}");
            // Rows in another order are summed in another order.
            assert!(off < 1e-6, "{strategy}: client {client} is off by {off}");
            let a_moved = model.a != run.server().adapter.a;
            assert_eq!(a_moved, active == "AB", "{strategy}");
            let rows = &shards.test[client];
            let evaluated = engine.evaluate_rows(&model, &data.test, rows).unwrap();
            accuracies.push(bonfire_engine::summarise(&evaluated, rows).accuracy);
        }
        let found = rounds[1].personalised.expect("the last round's");
        let mean = accuracies.iter().sum::<f64>() / 4.0;
        let worst = accuracies.iter().copied().fold(1.0, f64::min);
        assert!((found.after.mean - mean).abs() < 1e-12, "{strategy}");
        assert!((found.after.worst_decile - worst).abs() < 1e-12, "{strategy}");
    }
}

/// As many steps as its epochs ask for, in an order of rows of its own: in the same orders it would be the round again.
#[test]
fn its_steps_are_its_own_epochs_and_its_order_is_no_rounds() {
    let mut run = toy::run(personalising("name = \"fedit\"", 3));
    toy::finish(&mut run);
    // Shards of 5, 8, 11 and 14 rows in batches of four: 2 + 2 + 3 + 4 steps an epoch.
    let mut total = 0;
    let found = run.fine_tuned_models(&[0, 1, 2, 3], &mut |progress| {
        total = progress.total;
        ControlFlow::Continue(())
    });
    assert!(found.unwrap().is_continue());
    assert_eq!(total, 3 * 11);
    let settings = personalising("name = \"fedit\"", 1);
    let mut run = toy::run(settings.clone());
    toy::finish(&mut run);
    let shards = toy::shards(4);
    let models: Vec<Box<dyn Model>> = vec![Box::new(toy::model(&settings))];
    let engine = Engine::new(models, toy::data(&shards).train, settings.train.clone(), EngineSettings::default());
    let go_on = &mut |_: Progress| ControlFlow::Continue(());
    let plan = Plan { train_head: true, ..Plan::new(2, bonfire_engine::Active::Both, 1e-3, 1e-3) };
    let members = [Member::new(3, &shards.train[3])];
    let alike = |plan: &Plan| {
        let mut adapter = run.server().adapter.clone();
        let trained = engine.train(plan, run.server().start(), &members, &mut *go_on).unwrap();
        average(&mut adapter, &trained.continue_value().expect("nobody broke off").uploads, Norm::All);
        adapter
    };
    let [(_, model)] = <[_; 1]>::try_from(tuned(&run, &[3])).expect("one client");
    let mut alike = alike;
    let off = farthest(&model, &alike(&plan));
    assert!(off > 1e-5, "the order of rows is that of round 2: {off}");
    let off = farthest(&model, &alike(&Plan { alone: true, ..plan }));
    assert!(off < 1e-6, "{off}");
}

#[test]
fn who_is_in_flight_and_asked_for_changes_nothing() {
    for strategy in KINDS {
        let with = |in_flight| toy::with_in_flight(personalising(strategy, 2), in_flight);
        let mut all = toy::run(with(InFlight::Auto));
        toy::finish(&mut all);
        let mut one = toy::run(with(InFlight::Count(1)));
        one.resume(Checkpoint::read(&all.checkpoint(&BTreeMap::new())).unwrap()).unwrap();
        let together = tuned(&all, &[0, 1, 2, 3]);
        let apart: Vec<_> = [0, 1, 2, 3].iter().flat_map(|&client| tuned(&one, &[client])).collect();
        for ((client, together), (other, apart)) in together.iter().zip(&apart) {
            assert_eq!(client, other);
            let off = farthest(together, apart);
            // Steps of AdamW, whose first have the size of the rate however small the gradient.
            assert!(off < 2e-5, "{strategy}: client {client} is off by {off}");
        }
    }
}

#[test]
fn it_is_the_same_after_a_resume() {
    for strategy in ["name = \"fedit\"", "name = \"lora-a2\"", "name = \"fedsa-lora\"", "name = \"flora\""] {
        let settings = || personalising(strategy, 1);
        let (expected, ..) = toy::finish(&mut toy::run(settings()));
        let mut before = toy::run(settings());
        before
            .train(&mut |event| match event {
                Event::RoundEnded { .. } => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            })
            .unwrap();
        let mut after = toy::run(settings());
        after.resume(Checkpoint::read(&before.checkpoint(&BTreeMap::new())).unwrap()).unwrap();
        let (rest, ..) = toy::finish(&mut after);
        assert_eq!(rest.iter().map(untimed).collect::<Vec<_>>(), [untimed(&expected[1])], "{strategy}");
    }
}

/// Broken off while clients fine-tune, the round is given up as any other, and another call makes it again.
#[test]
fn a_break_gives_the_last_round_up() {
    for strategy in ["name = \"fedit\"", "name = \"fedsa-lora\""] {
        let (expected, _, states) = toy::finish(&mut toy::run(personalising(strategy, 1)));
        let mut run = toy::run(personalising(strategy, 1));
        let (mut round, mut steps, mut ended) = (0, 0, 0);
        run.train(&mut |event| {
            match event {
                Event::RoundStarted { round: now, .. } => (round, steps) = (now, 0),
                Event::Progress(_) => steps += 1,
                Event::RoundEnded { .. } => ended += 1,
                Event::Before { .. } => {}
            }
            // All clients are in flight: the longest shard takes 4 steps, and then 4 more alone.
            if round == 2 && steps == 6 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
        assert_eq!((ended, run.server()), (1, &states[1]), "{strategy}: the state after round 1 is kept");
        let (rest, ..) = toy::finish(&mut run);
        assert_eq!(rest.iter().map(untimed).collect::<Vec<_>>(), [untimed(&expected[1])], "{strategy}");
        assert_eq!(run.server(), &states[2], "{strategy}");
    }
}

/// Who has no training rows keeps the global model, and who has no test rows is not asked.
#[test]
fn clients_without_rows_keep_what_they_had() {
    let settings = toy::settings(
        "[evaluate]\npersonalise = { epochs = 1 }\n[clients]\ncount = 3\nper_round = 1\n[train]\nrounds = 1\nlr_a = 1e-3\nbatch_size = 4",
    );
    let mut shards = toy::shards(3);
    let cohort = toy::run(settings.clone()).cohort(1)[0];
    let [idle, untested] = <[usize; 2]>::try_from((0..3).filter(|k| *k != cohort).collect::<Vec<_>>()).unwrap();
    shards.test[untested].clear();
    let mut run = toy::run_with(settings.clone(), shards.clone());
    assert!(tuned(&run, &[0, 1, 2]).len() == 3);
    shards.train[idle].clear();
    run = Run::new(
        settings.clone(),
        vec![Box::new(toy::model(&settings)) as Box<dyn Model>],
        toy::data(&toy::shards(3)),
        shards,
    )
    .unwrap();
    let (rounds, ..) = toy::finish(&mut run);
    let found = rounds[0].personalised.expect("two clients with test rows");
    assert_eq!((found.before.clients, found.after.clients), (2, 2));
    assert_eq!(tuned(&run, &[idle]), []);
}

#[test]
fn it_is_refused_by_name_where_it_makes_no_sense() {
    let asked = "[evaluate]\npersonalise = { epochs = 1 }";
    let refused = |text: &str| {
        let problem = toy::settings(text).problem().unwrap_or_else(|| panic!("not refused: {text}"));
        (problem.key, problem.what)
    };
    let (key, what) = refused("[evaluate]\npersonalise = { epochs = 0 }");
    assert_eq!((key, what.as_str()), ("evaluate.personalise.epochs", "is 0; must be at least 1"));
    for (text, named) in [
        ("[strategy]\nname = \"local\"", "in local nothing is shared"),
        ("[strategy]\nname = \"pooled\"", "in pooled all rows are in one place"),
        ("[train]\nrounds = 3\nstop = { patience = 1 }", "train.stop"),
        ("[train]\nrounds = 0", "train.rounds = 0 has none"),
        ("[privacy]\nkind = \"gaussian\"\nclip = 1.0\nnoise = 1.0\npublish = \"minimal\"", "privacy.publish"),
    ] {
        let (key, what) = refused(&format!("{text}\n{asked}"));
        assert!(key == "evaluate.personalise" && what.contains(named), "{key} {what}");
    }
    let settings = toy::settings(asked);
    let coordinator = bonfire_federation::Coordinator::new(settings.clone(), &toy::model(&settings), 4).unwrap();
    for error in [
        coordinator.with_known_cohorts().err().expect("a server's clients are elsewhere"),
        bonfire_federation::Site::new(
            settings.clone(),
            vec![Box::new(toy::model(&settings))],
            toy::data(&toy::shards(4)),
            toy::shards(4),
            vec![0],
        )
        .err()
        .expect("a site"),
    ] {
        let FederationError::Setting { key, problem } = error else { panic!("{error}") };
        assert!(key == "evaluate.personalise" && problem.contains("one process"), "{problem}");
    }
}
