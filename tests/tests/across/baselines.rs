//! The two lines that a federation is to lie between: each client alone, and all rows in one place.

use bonfire_data::Shards;
use bonfire_federation::{Choice, Coordinator, Settings, forecast};
use bonfire_models::{Model, TargetKind, Task};
use bonfire_tests::toy::{self, finish};

fn settings(strategy: &str, more: &str) -> Settings {
    let train = "[train]\nrounds = 4\nepochs = 3\nbatch_size = 4\nlr_a = 5e-3\nlr_head = 2e-2";
    toy::settings(&format!(
        "[strategy]\nname = \"{strategy}\"\n[adapter]\nrank = 4\nhead = \"trained\"\n{train}\n{more}"
    ))
}

/// The largest difference of what two adapters do to the weights, and of their heads, as a share of the largest number.
fn apart(x: &bonfire_models::Adapter, y: &bonfire_models::Adapter) -> f64 {
    let (x, y) = (x.plain(), y.plain());
    let products =
        |m: &bonfire_models::Adapter| (0..m.targets.len()).map(|t| m.a[t].matmul(&m.b[t])).collect::<Vec<_>>();
    let heads = |m: &bonfire_models::Adapter| m.head.iter().map(|t| t.value.clone()).collect::<Vec<_>>();
    let pairs = [(products(&x), products(&y)), (heads(&x), heads(&y))];
    let of = |(x, y): &(Vec<bonfire_models::Matrix>, Vec<bonfire_models::Matrix>)| {
        let numbers = x.iter().flat_map(|m| &m.data).zip(y.iter().flat_map(|m| &m.data));
        let (far, size) = numbers.fold((0f32, 0f32), |(far, size), (x, y)| (far.max((x - y).abs()), size.max(x.abs())));
        f64::from(far / size)
    };
    pairs.iter().map(of).fold(0.0, f64::max)
}

#[test]
fn a_client_alone_learns_what_a_federation_of_it_would() {
    let mut run = toy::run(settings("local", ""));
    let (rounds, rows, states) = finish(&mut run);
    let all = toy::shards(4);
    let first = Shards { train: vec![all.train[0].clone()], test: vec![all.test[0].clone()] };
    let mut alone = toy::run_with(settings("fedit", "[clients]\ncount = 1"), first);
    finish(&mut alone);
    let (_, own) = run.personal_models().next().expect("client 0");
    let far = apart(&own, &alone.server().model());
    assert!(far < 1e-4, "apart by {far:.1e}");
    assert_eq!(states[0].adapter, states[4].adapter, "nothing reaches the server");
    assert!(rounds.iter().all(|r| r.upload_bytes + r.download_bytes + r.upload_params + r.download_params == 0));
    assert!(rows.iter().all(|row| row.upload_bytes == 0 && row.upload_params == 0));
    assert!(rounds.iter().all(|r| r.test_accuracy.is_none() && r.personal_accuracy.is_some()));
}

#[test]
fn pooled_makes_the_federations_steps_over_all_rows() {
    const SOME: &str = "[clients]\ncount = 4\nper_round = 3\ndropout = 0.3\nstragglers = { share = 0.5, least = 0.2 }";
    for clients in ["", SOME] {
        let (_, federated, _) = finish(&mut toy::run(settings("fedit", clients)));
        let (rounds, rows, _) = finish(&mut toy::run(settings("pooled", clients)));
        assert_eq!(rows.len(), 4);
        for (round, row) in rounds.iter().zip(&rows) {
            let steps: usize = federated.iter().filter(|r| r.round == round.round).map(|r| r.steps).sum();
            assert_eq!((row.client, row.steps), (0, steps), "round {}", round.round);
            assert_eq!(row.examples, toy::shards(4).train.concat().len());
            assert_eq!(round.upload_bytes + round.download_bytes, 0);
            assert!(round.test_accuracy.is_some() && round.dropped.is_empty());
        }
    }
}

#[test]
fn one_client_is_its_own_pool() {
    let of = |strategy| {
        let mut run = toy::run(settings(strategy, "[clients]\ncount = 1"));
        finish(&mut run);
        run.server().adapter.clone()
    };
    assert_eq!(of("pooled"), of("fedit"));
}

#[test]
fn nothing_is_forecast_and_machines_apart_cannot_pool() {
    let model = bonfire_tests::load(&bonfire_tests::fixture("roberta-tiny"), toy::CLASSES, &TargetKind::all());
    for strategy in ["local", "pooled"] {
        let told =
            forecast(&settings(strategy, ""), model.info(), Task::Classify(toy::CLASSES), Choice::Widest).unwrap();
        assert_eq!(told, bonfire_federation::Forecast::default());
    }
    let server = Coordinator::new(settings("pooled", ""), &model, 4).and_then(Coordinator::with_known_cohorts);
    let error = server.err().expect("refused").to_string();
    assert!(error.contains("strategy.name") && error.contains("one place"), "{error}");
}
