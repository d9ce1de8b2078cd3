//! The untrained model as round 0: what a run says of it is what the model answers before anything trains.

use std::ops::ControlFlow;

use bonfire_engine::{evaluate_rows, summarise};
use bonfire_federation::{Event, RoundMetrics};
use bonfire_tests::toy;

/// Round 0 of a run, and the numbers of the rounds that followed.
fn rows(evaluate: &str) -> (Option<RoundMetrics>, Vec<usize>) {
    let mut run = toy::run(toy::settings(evaluate));
    let (mut before, mut rounds) = (None, Vec::new());
    run.train(&mut |event| {
        match event {
            Event::Before { metrics, .. } => before = Some(metrics.clone()),
            Event::RoundEnded { metrics, .. } => rounds.push(metrics.round),
            _ => {}
        }
        ControlFlow::Continue(())
    })
    .expect("the run ends well");
    (before, rounds)
}

#[test]
fn round_0_is_the_untrained_model() {
    for strategy in ["", "[strategy]\nname = \"local\"\n"] {
        let text = format!("{strategy}[evaluate]\nbefore = true\n");
        let (before, rounds) = rows(&text);
        let before = before.expect("evaluated");
        assert_eq!(rounds, [1, 2]);
        let run = toy::run(toy::settings(&text));
        let test = toy::texts(20, 2);
        let all: Vec<usize> = (0..test.len()).collect();
        let found = evaluate_rows(run.model(), &run.server().model(), &test, &all).expect("evaluated");
        let found = summarise(&found, &all);
        let accuracy = if strategy.is_empty() {
            assert_eq!((before.test_loss, before.personal_accuracy), (Some(found.loss), None));
            before.test_accuracy
        } else {
            before.personal_accuracy
        };
        assert_eq!(accuracy, Some(found.accuracy), "{strategy}");
        assert_eq!((before.round, before.upload_bytes, before.tokens), (0, 0, 0));
        assert!(before.train_loss.is_nan() && before.phase == "none", "{before:?}");
    }
}

#[test]
fn it_is_left_out_where_that_is_said_or_it_is_dear() {
    assert!(rows("[evaluate]\nbefore = false\n").0.is_none());
    // 20 test texts, and 5, 8, 11, … training texts of the same lengths that the clients hold.
    let settings = |clients: &str| {
        let mut settings = toy::settings(clients);
        settings.evaluate.before = None;
        settings
    };
    let evaluated = |settings| {
        let mut heard = false;
        let mut listen = |event: Event<'_>| {
            heard |= matches!(event, Event::Before { .. });
            ControlFlow::Break(())
        };
        toy::run(settings).train(&mut listen).expect("broken off");
        heard
    };
    assert!(evaluated(settings("")));
    // One client of two a round trains on 6.5 texts on average, about a third of the test texts; the one client that there is on 5.
    assert!(evaluated(settings("[clients]\ncount = 1\n[train]\nrounds = 2\nepochs = 2\n")));
    assert!(!evaluated(settings("[clients]\ncount = 1\n[train]\nrounds = 2\n")));
}

#[test]
fn a_run_without_rounds_measures_and_trains_nothing() {
    let (before, rounds) = rows("[train]\nrounds = 0\nbatch_size = 4\n[evaluate]\nbefore = true\n");
    assert!(before.is_some_and(|row| row.test_accuracy.is_some()) && rounds.is_empty());
}
