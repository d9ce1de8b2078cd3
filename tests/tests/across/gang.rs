//! Runs that step together learn what each learns alone.

use std::sync::Arc;
use std::thread;

use bonfire_engine::{Gang, GangCounts, InFlight, Recompute, Seat};
use bonfire_federation::{Run, Settings};
use bonfire_models::{Adapter, Matrix, Model};
use bonfire_tests::toy::{self, Finished};

/// How far two adapters are apart, the largest number and all of them together, relative to the movement from `start`.
fn apart(x: &Adapter, y: &Adapter, start: &Adapter) -> [f64; 2] {
    fn all(adapter: &Adapter) -> Vec<&Matrix> {
        let factors = adapter.a.iter().chain(&adapter.b).chain(&adapter.core);
        factors.chain(adapter.head.iter().map(|t| &t.value)).collect()
    }
    let size = |x: &Adapter, y: &Adapter| {
        let pairs = all(x).into_iter().zip(all(y)).flat_map(|(x, y)| x.data.iter().zip(&y.data));
        let apart = pairs.map(|(x, y)| f64::from((x - y).abs()));
        apart.fold([0.0, 0.0], |[most, squares], v| [f64::max(most, v), squares + v * v])
    };
    let ([most, squares], [moved, moved_squares]) = (size(x, y), size(x, start));
    [most / moved.max(1e-12), (squares / moved_squares.max(1e-24)).sqrt()]
}

fn gang(settings: &Settings) -> Arc<Gang> {
    Gang::new(Box::new(toy::model(settings)), &settings.train, &settings.engine)
}

/// All runs at once, over so many devices; what each left, and what the first device's gang counted.
fn together(all: &[Settings], devices: usize) -> (Vec<Finished>, GangCounts) {
    let gangs: Vec<Arc<Gang>> = (0..devices).map(|_| gang(&all[0])).collect();
    let seats: Vec<Vec<Seat>> = all.iter().map(|_| gangs.iter().map(Gang::seat).collect()).collect();
    let finished = thread::scope(|scope| {
        let run = |(settings, seats): (&Settings, Vec<Seat>)| {
            let settings = settings.clone();
            scope.spawn(move || {
                let models = (0..devices).map(|_| Box::new(toy::model(&settings)) as Box<dyn Model>).collect();
                let shards = toy::shards(settings.clients.count);
                let mut run: Run = toy::run_of(models, settings, shards);
                run.join(seats);
                toy::finish(&mut run)
            })
        };
        let threads: Vec<_> = all.iter().zip(seats).map(run).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    (finished, gangs[0].counts())
}

/// Each run by itself, one client after the other.
fn alone(settings: &Settings) -> Finished {
    toy::finish(&mut toy::run(toy::with_in_flight(settings.clone(), InFlight::Count(1))))
}

fn assert_equal(settings: &Settings, (rounds, rows, states): &Finished, (own, own_rows, own_states): &Finished) {
    let name = settings.strategy.name();
    assert_eq!(rounds.len(), own.len(), "{name}");
    for (round, (x, y)) in states.iter().zip(own_states).enumerate().skip(1) {
        let [most, together] = apart(&y.adapter, &x.adapter, &own_states[round - 1].adapter);
        // AdamW's first steps have the size of the rate whatever the gradient's, so numbers whose gradient is next to nothing may end
        // elsewhere where sums are rounded in another order; there are few of them.
        assert!(most < 2e-2 && together < 1e-3, "{name}, round {round}: apart by {most:.1e}, {together:.1e}");
    }
    for (x, y) in rounds.iter().zip(own) {
        let near = |x: f64, y: f64| (x - y).abs() < 1e-5 * y.abs().max(1.0);
        assert!(near(x.train_loss, y.train_loss), "{name}: {} and {}", x.train_loss, y.train_loss);
        assert_eq!(
            (x.upload_bytes, x.download_bytes, x.tokens),
            (y.upload_bytes, y.download_bytes, y.tokens),
            "{name}"
        );
    }
    let slots = |rows: &[bonfire_federation::ClientMetrics]| {
        rows.iter().map(|r| (r.client, r.slots.clone())).collect::<Vec<_>>()
    };
    assert_eq!(slots(rows), slots(own_rows), "{name}: the same slots are chosen");
}

/// Runs that differ in whatever may differ between runs that step together.
const DIFFERENT: [&str; 13] = [
    "[strategy]\nname = \"fedit\"\n[adapter]\nrank = 4\nhead = \"trained\"",
    "[strategy]\nname = \"fedit\"\n[adapter]\nrank = 2\nalpha = 4.0\n[train]\nlr_a = 3e-3\nbatch_size = 3\nepochs = 2",
    "[strategy]\nname = \"ffa-lora\"\n[train]\nlr_b = 2e-3\nseed = 7",
    "[strategy]\nname = \"ffa-lora\"\nprune = { threshold = 0.9, patience = 1, warmup = 1 }\n[adapter]\nalpha = 8.0",
    "[strategy]\nname = \"lora-a2\"\n[clients]\nbudget = 1\n[adapter]\nrank = 4\nhead = \"trained\"",
    "[strategy]\nname = \"lora-a2\"\nprobe = { batches = 1, reset = false }\nnorm = \"choosers\"\n[clients]\nbudget = [1, 2, 3, 4]\n[train]\nepochs = 2\nschedule = \"cosine\"\nwarmup_steps = 2",
    "[strategy]\nname = \"fedsa-lora\"\n[adapter]\nrank = 3\n[train]\nseed = 1",
    "[strategy]\nname = \"rolora\"\n[train]\nclip_norm = 0.05\naccumulate = 2\nbatch_size = 2",
    "[strategy]\nname = \"fedit\"\n[train]\nprox = 0.1\nscaffold = true\nbetas = [0.8, 0.95]",
    "[strategy]\nname = \"fslora\"\n[clients]\nbudget = 2",
    "[strategy]\nname = \"fed-sb\"\n[adapter]\nrank = 3",
    "[strategy]\nname = \"local\"\n[clients]\nper_round = 2",
    "[strategy]\nname = \"pooled\"",
];

fn settings(text: &str) -> Settings {
    let mut settings = toy::settings(text);
    settings.train.rounds = 3;
    settings
}

#[test]
fn runs_that_differ_step_together_and_learn_what_each_learns_alone() {
    let all: Vec<Settings> = DIFFERENT.into_iter().map(settings).collect();
    let (finished, counts) = together(&all, 1);
    for (settings, finished) in all.iter().zip(&finished) {
        assert_equal(settings, finished, &alone(settings));
    }
    assert!(counts.parts > 4 * counts.passes, "{counts:?}: they hardly shared a pass");
}

#[test]
fn every_strategy_steps_with_others_or_says_why_not() {
    let other = settings("[strategy]\nname = \"fedit\"\n[adapter]\nrank = 2");
    for strategy in toy::STRATEGIES {
        let own = settings(&format!("[strategy]\n{strategy}"));
        let (finished, counts) = together(&[own.clone(), other.clone()], 1);
        assert_equal(&own, &finished[0], &alone(&own));
        assert_equal(&other, &finished[1], &alone(&other));
        // Where a method merges, nothing is merged yet in its first round.
        let merges = own.strategy.traits().merges;
        let shared = counts.parts > counts.passes;
        assert_eq!(shared, own.steps_alone().is_none() || merges, "{strategy}: {counts:?}");
    }
}

#[test]
fn several_devices_recomputed_layers_and_dropout() {
    let texts = [DIFFERENT[0], DIFFERENT[4], "[strategy]\nname = \"ffa-lora\"\n[clients]\nper_round = 1"];
    let all: Vec<Settings> = texts.into_iter().map(settings).collect();
    for devices in [2, 3] {
        for (settings, finished) in all.iter().zip(&together(&all, devices).0) {
            assert_equal(settings, finished, &alone(settings));
        }
    }
    let recomputed: Vec<Settings> = all
        .iter()
        .cloned()
        .map(|mut settings| {
            settings.engine.recompute = Recompute::Block;
            settings
        })
        .collect();
    for (settings, finished) in all.iter().zip(&together(&recomputed, 1).0) {
        assert_equal(settings, finished, &alone(settings));
    }
    let texts = [DIFFERENT[0], DIFFERENT[6], "[strategy]\nname = \"ffa-lora\""];
    let dropping: Vec<Settings> = texts
        .into_iter()
        .map(|text| {
            let mut settings = settings(text);
            settings.adapter.dropout = 0.2;
            settings
        })
        .collect();
    for (settings, finished) in dropping.iter().zip(&together(&dropping, 1).0) {
        assert_equal(settings, finished, &alone(settings));
    }
}

#[test]
fn lanes_are_dealt_out_and_one_run_alone_is_the_run() {
    let own = settings(DIFFERENT[4]);
    let few = toy::with_in_flight(own.clone(), InFlight::Count(2));
    let other = toy::with_in_flight(settings(DIFFERENT[0]), InFlight::Count(2));
    let (finished, counts) = together(&[few.clone(), other], 1);
    assert_equal(&own, &finished[0], &alone(&own));
    assert!(finished.iter().all(|(rounds, ..)| rounds[0].in_flight == 1), "a pass of two clients holds one of each");
    assert!(counts.parts > counts.passes);
    // Nobody to share with: to the last bit.
    let fedit = settings("[strategy]\nname = \"fedit\"");
    let (one, counts) = together(std::slice::from_ref(&fedit), 1);
    assert_eq!(counts.parts, counts.passes);
    let (_, _, by_itself) = toy::finish(&mut toy::run(fedit));
    assert!(one[0].2.iter().zip(&by_itself).all(|(x, y)| x.adapter == y.adapter));
}

#[test]
fn a_run_that_fails_holds_nobody_up() {
    let diverges = settings("[strategy]\nname = \"fedit\"\n[train]\nlr_a = 1e30");
    let own = settings(DIFFERENT[2]);
    let gang = gang(&own);
    let (mut failing, mut running) = (toy::run(diverges), toy::run(own.clone()));
    failing.join(vec![gang.seat()]);
    running.join(vec![gang.seat()]);
    let finished = thread::scope(|scope| {
        let failed = scope.spawn(move || failing.train(&mut |_| std::ops::ControlFlow::Continue(())).unwrap_err());
        let finished = scope.spawn(move || toy::finish(&mut running));
        assert!(failed.join().unwrap().to_string().contains("not finite"));
        finished.join().unwrap()
    });
    assert_equal(&own, &finished, &alone(&own));
}

#[test]
fn what_cannot_step_with_others_says_why() {
    let why = |text: &str| toy::settings(text).steps_alone();
    assert_eq!(why("[strategy]\nname = \"lora-a2\""), None);
    assert!(why("[strategy]\nname = \"flora\"").is_some_and(|why| why.contains("merged")));
    assert!(why("[train]\nflat = {}").is_some_and(|why| why.contains("train.flat")));
    assert!(why("[strategy]\nname = \"full\"\n[adapter]\nrank = 1").is_some_and(|why| why.contains("every weight")));
}
