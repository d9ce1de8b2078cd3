//! Clients that diverge and devices that break: what is lost, and what is not.

use bonfire_engine::{DEVICE_THREAD, InFlight, NotFinite};
use bonfire_federation::{Event, RoundMetrics, Run, Settings};
use bonfire_kernels::{runs_on_cpu, widest_head};
use bonfire_models::{ModelInfo, TargetKind, Task, Transformer};
use bonfire_tests::faulty::{Fault, Faulty};
use bonfire_tests::toy;
use rand::SeedableRng;
use std::ops::ControlFlow;
use std::sync::Once;

fn settings(more: &str) -> Settings {
    toy::settings(&format!("[train]\nrounds = 3\nbatch_size = 4\nlr_a = 1e-3\n{more}"))
}

fn faulty(settings: Settings, fault: Fault) -> Run {
    let (model, shards) = (toy::model(&settings), toy::shards(settings.clients.count));
    toy::run_of(vec![Box::new(Faulty::new(model, fault))], settings, shards)
}

/// Trains to the end: rows of the rounds, and each round's clients with their losses.
fn train(run: &mut Run) -> (Vec<RoundMetrics>, Vec<Vec<(usize, f64)>>) {
    let (mut rounds, mut clients) = (Vec::new(), Vec::new());
    run.train(&mut |event| {
        if let Event::RoundEnded { metrics, clients: rows, .. } = event {
            rounds.push(metrics.clone());
            clients.push(rows.iter().map(|c| (c.client, c.train_loss)).collect());
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    (rounds, clients)
}

/// Clients with their losses: the same bits on the CPU; a GPU may tune its products to other kernels from one run to the next.
fn assert_same(found: &[(usize, f64)], expected: &[(usize, f64)]) {
    let allowed = if runs_on_cpu(&bonfire_tests::device()) { 0.0 } else { 1e-5 };
    assert_eq!(found.len(), expected.len());
    for ((client, loss), (other, wanted)) in found.iter().zip(expected) {
        assert!(client == other && (loss - wanted).abs() <= allowed * wanted, "{found:?}, expected {expected:?}");
    }
}

/// What the test harness prints of them is of no interest.
fn keep_panics_of_devices_quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if std::thread::current().name() != Some(DEVICE_THREAD) {
                hook(info);
            }
        }));
    });
}

#[test]
fn a_client_that_diverges_stops_the_run_unless_told_otherwise() {
    let error =
        faulty(settings(""), Fault::NanInLane(1)).train(&mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
    assert!(error.contains("round 1, client 1") && error.contains("not_finite = \"skip-client\""), "{error}");
}

#[test]
fn skipped_clients_are_counted_and_disturb_nobody() {
    for strategy in ["lora-a2", "fedit", "ffa-lora"] {
        let skip = |in_flight| {
            let mut settings = settings(&format!("[strategy]\nname = \"{strategy}\""));
            (settings.train.not_finite, settings.engine.in_flight) = (NotFinite::SkipClient, in_flight);
            settings
        };
        let (rounds, clients) = train(&mut faulty(skip(InFlight::Count(100)), Fault::NanInLane(1)));
        assert_eq!(rounds.len(), 3);
        for (round, clients) in rounds.iter().zip(&clients) {
            assert_eq!(round.skipped, [1], "{strategy}");
            assert_eq!(clients.iter().map(|(c, _)| *c).collect::<Vec<_>>(), [0, 2, 3], "{strategy}");
            assert!(round.train_loss.is_finite() && round.test_loss.unwrap().is_finite(), "{strategy}");
        }
        // In the first round the others learn exactly what they learn beside a healthy client.
        let (_, healthy) = train(&mut toy::run(skip(InFlight::Count(100))));
        let others: Vec<_> = healthy[0].iter().filter(|(c, _)| *c != 1).copied().collect();
        assert_same(&clients[0], &others);
    }
}

#[test]
fn whoever_takes_the_place_of_a_skipped_client_starts_clean() {
    // One place: client 0 diverges at its first step, and clients 1, 2 and 3 follow in its place.
    let one = |strategy: &str| {
        let mut settings = settings(&format!("[strategy]\nname = \"{strategy}\""));
        (settings.train.not_finite, settings.engine.in_flight) = (NotFinite::SkipClient, InFlight::Count(1));
        settings
    };
    for strategy in ["lora-a2", "fedit"] {
        let (rounds, clients) = train(&mut faulty(one(strategy), Fault::NanAtStep(0)));
        assert_eq!(rounds[0].skipped, [0], "{strategy}");
        assert!(rounds[1].skipped.is_empty() && rounds[2].skipped.is_empty(), "{strategy}");
        let (_, healthy) = train(&mut toy::run(one(strategy)));
        assert_same(&clients[0], &healthy[0][1..]);
    }
}

#[test]
fn a_round_in_which_everybody_diverges_ends_the_run() {
    let mut settings = settings("");
    (settings.train.not_finite, settings.train.lr_a) = (NotFinite::SkipClient, Some(1e38));
    let mut run = toy::run(settings);
    let error = run.train(&mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
    assert!(error.contains("every client"), "{error}");
    assert!(run.server().adapter.is_finite());
}

#[test]
fn a_device_that_breaks_is_an_error_and_the_last_round_is_kept() {
    keep_panics_of_devices_quiet();
    let (whole, _) = train(&mut toy::run(settings("")));
    for step in [0, 5, 10] {
        let mut run = faulty(settings(""), Fault::BreaksAtStep(step));
        let mut before = 0;
        let error = run
            .train(&mut |event| {
                if let Event::RoundEnded { metrics, .. } = event {
                    before = metrics.round;
                }
                ControlFlow::Continue(())
            })
            .unwrap_err()
            .to_string();
        assert!(error.contains("the device failed") && error.contains("the device is lost"), "{error}");
        assert_eq!(run.server().round, before);
        // The device answers again: the rest is as if nothing had happened.
        let (rest, _) = train(&mut run);
        let numbers = |r: &RoundMetrics| (r.round, r.train_loss, r.test_loss, r.download_bytes, r.upload_bytes);
        assert_eq!(
            rest.iter().map(numbers).collect::<Vec<_>>(),
            whole[before..].iter().map(numbers).collect::<Vec<_>>()
        );
    }
}

/// Methods that probe first, that keep a part with the client, that send a second vector, and plain ones.
const METHODS: [&str; 4] = [
    "[strategy]\nname = \"lora-a2\"\n[clients]\ncount = 4\nbudget = 1",
    "[strategy]\nname = \"fedsa-lora\"",
    "scaffold = true\n[strategy]\nname = \"fedit\"",
    "[strategy]\nname = \"fedit\"",
];

/// With so many clients in flight.
fn in_flight(method: &str, count: usize) -> Settings {
    toy::with_in_flight(settings(method), InFlight::Count(count))
}

/// What must not depend on what failed on the way.
fn numbers(r: &RoundMetrics) -> (usize, f64, Option<f64>, u64, u64) {
    (r.round, r.train_loss, r.test_loss, r.upload_bytes, r.download_bytes)
}

#[test]
fn memory_that_runs_out_halves_the_clients_in_flight() {
    keep_panics_of_devices_quiet();
    // The second step is in the middle of a probe, or of the first round's training.
    let on_cpu = runs_on_cpu(&bonfire_tests::device());
    // Software GPUs are slow.
    let methods = if on_cpu { &METHODS[..] } else { &METHODS[3..] };
    for fault in [Fault::NoRoomAbove(2), Fault::NoRoomAtStep(1)] {
        for method in methods {
            let (expected, clients) = train(&mut toy::run(in_flight(method, 2)));
            let (found, same) = train(&mut faulty(in_flight(method, 100), fault.clone()));
            // Four clients are the whole cohort.
            assert_eq!((found[0].in_flight, &found[0].no_room_for[..]), (2, &[4][..]), "{method} {fault:?}");
            for (round, wanted) in found.iter().zip(&expected) {
                assert_eq!(round.in_flight, 2, "{method} {fault:?}");
                assert!(round.round == 1 || round.no_room_for.is_empty(), "what failed is not tried again");
                if on_cpu {
                    assert_eq!(numbers(round), numbers(wanted), "{method} {fault:?}");
                }
            }
            clients.iter().zip(&same).for_each(|(wanted, found)| assert_same(found, wanted));
        }
    }
}

#[test]
fn one_device_of_two_that_runs_out_of_memory_halves_both() {
    keep_panics_of_devices_quiet();
    let settings = in_flight(METHODS[0], 100);
    let fault = |most| -> Box<dyn bonfire_models::Model> {
        Box::new(Faulty::new(toy::model(&settings), Fault::NoRoomAbove(most)))
    };
    let shards = toy::shards(settings.clients.count);
    let (found, clients) = train(&mut toy::run_of(vec![fault(100), fault(1)], settings.clone(), shards.clone()));
    let (_, expected) = train(&mut toy::run_on(2, in_flight(METHODS[0], 1), shards));
    assert_eq!((found[0].in_flight, &found[0].no_room_for[..]), (1, &[2][..]));
    clients.iter().zip(&expected).for_each(|(found, wanted)| assert_same(found, wanted));
}

#[test]
fn a_device_that_holds_not_even_one_client_ends_the_run_in_words() {
    keep_panics_of_devices_quiet();
    for (method, tried) in [(METHODS[0], 100), (METHODS[3], 1), ("[strategy]\nname = \"full\"", 100)] {
        let mut run = faulty(in_flight(method, tried), Fault::NoRoomAbove(0));
        let error = run.train(&mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
        for words in ["even one client in flight", "allocating 1048576 bytes)", "train.batch_size", "data.max_length"] {
            assert!(error.contains(words), "no {words:?} in {error}");
        }
        assert!(error.contains("engine.recompute = \"block\"") && error.contains("\"bf16\""), "{error}");
        assert_eq!((run.server().round, error.lines().count()), (0, 1), "{error}");
    }
}

#[test]
fn texts_that_are_evaluated_are_halved_too() {
    keep_panics_of_devices_quiet();
    // Twenty texts of 4 to 9 tokens, evaluated after every round.
    let (expected, _) = train(&mut toy::run(settings("")));
    let (found, _) = train(&mut faulty(settings(""), Fault::NoRoomToEvaluate(40)));
    for (found, wanted) in found.iter().zip(&expected) {
        let (found_loss, wanted_loss) = (found.test_loss.unwrap(), wanted.test_loss.unwrap());
        assert!((found_loss - wanted_loss).abs() < 1e-6 * wanted_loss, "{found_loss}, expected {wanted_loss}");
        assert_eq!(found.test_accuracy, wanted.test_accuracy);
    }
    let mut run = faulty(settings(""), Fault::NoRoomToEvaluate(3));
    let error = run.train(&mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
    assert!(error.contains("one text to be evaluated") && error.contains("data.max_length"), "{error}");
}

#[test]
fn where_memory_is_not_known_steps_begin_small_and_grow() {
    let mut settings = settings("[strategy]\nname = \"fedit\"");
    // A mean batch is counted as 512 texts of 8 tokens, though no client holds as many: 4,096 tokens.
    (settings.train.batch_size, settings.engine.in_flight) = (512, InFlight::Auto);
    let (rounds, _) = train(&mut toy::run(settings));
    let device = bonfire_tests::device();
    let expected = if bonfire_kernels::device_memory(&device).is_none() {
        [1, 2, 4]
    } else if runs_on_cpu(&device) {
        [1, 1, 1]
    } else {
        [4, 4, 4]
    };
    assert_eq!(rounds.iter().map(|round| round.in_flight).collect::<Vec<_>>(), expected);
}

/// For GPUs, whose kernels have a limit; `.ci/run` runs it on wgpu.
#[test]
fn on_any_device_heads_too_wide_for_it_are_refused_before_a_weight_is_read() {
    let device = bonfire_tests::device();
    let load = |head_width: usize| {
        let sizes = ModelInfo { layers: 1, intermediate: 8, vocab: 20, ..ModelInfo::minilm() };
        let info = ModelInfo { hidden: head_width, heads: 1, kv_heads: 1, head_width, ..sizes };
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(0);
        Transformer::random(info, Task::Classify(2), &TargetKind::all(), &mut rng, &device)
    };
    load(256).expect("heads of 256 features run everywhere");
    match load(257) {
        Ok(_) => assert!(runs_on_cpu(&device) && widest_head(&device) == usize::MAX),
        Err(error) => {
            let (error, gpu) = (error.to_string(), !runs_on_cpu(&device));
            assert!(gpu && error.contains("257 features") && error.contains("--device cpu"), "{error}");
        }
    }
}
