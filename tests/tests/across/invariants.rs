//! The statements about federated training that must stay true, on a small real model.

use bonfire_data::Shards;
use bonfire_engine::InFlight;
use bonfire_federation::{ClientMetrics, Event, RoundMetrics, Run};
use bonfire_kernels::LowRank;
use bonfire_models::{Adapter, ClientAdapter, Factor, Matrix, Model, PackedBatch, Rounding, TargetKind};
use bonfire_tests::{fixture, load, toy};
use burn::tensor::{Distribution, Tensor};
use std::ops::ControlFlow;

/// Runs to the end; the rounds, the clients' rows, and the adapter after every round.
fn finish(run: &mut Run) -> (Vec<RoundMetrics>, Vec<ClientMetrics>, Vec<Adapter>) {
    let (rounds, rows, states) = toy::finish(run);
    (rounds, rows, states.into_iter().map(|state| state.adapter).collect())
}

fn all(adapter: &Adapter) -> Vec<&Matrix> {
    adapter.a.iter().chain(&adapter.b).chain(adapter.head.iter().map(|t| &t.value)).chain(&adapter.weights).collect()
}

/// Largest difference between two adapters, relative to the largest movement from `start`.
fn apart(x: &Adapter, y: &Adapter, start: &Adapter) -> f64 {
    let largest = |x: &Adapter, y: &Adapter| {
        let pairs = all(x).into_iter().zip(all(y)).flat_map(|(x, y)| x.data.iter().zip(&y.data));
        pairs.map(|(x, y)| f64::from((x - y).abs())).fold(0.0, f64::max)
    };
    largest(x, y) / largest(x, start).max(1e-12)
}

const STRATEGIES: [&str; 9] = [
    "[strategy]\nname = \"fedit\"\n[adapter]\nrank = 4\nhead = \"trained\"",
    "[strategy]\nname = \"ffa-lora\"",
    "[strategy]\nname = \"rolora\"\n[train]\nclip_norm = 0.05",
    "[strategy]\nname = \"lora-a2\"\n[clients]\nbudget = 1\n[adapter]\nrank = 4\nhead = \"trained\"",
    "[strategy]\nname = \"lora-a2\"\nprobe = { batches = 1, reset = false }\nnorm = \"choosers\"\n[clients]\nbudget = [1, 2, 3, 4]\n[train]\nepochs = 2\nschedule = \"cosine\"\nwarmup_steps = 2",
    "[strategy]\nname = \"fedit\"\n[train]\nflat = { rho = 0.3 }",
    "[strategy]\nname = \"lora-a2\"\n[clients]\nbudget = 2\n[train]\nflat = { rho = 0.3 }",
    "[strategy]\nname = \"full\"\n[adapter]\nhead = \"trained\"\nrank = 1\n[train]\nlr_a = 3e-4\nclip_norm = 1.0",
    "[strategy]\nname = \"fedpeptao\"\nlayers = 1",
];

#[test]
fn full_fine_tuning_moves_every_weight_and_learns() {
    let mut settings =
        toy::settings("[strategy]\nname = \"full\"\n[train]\nlr_a = 1e-3\nepochs = 4\nweight_decay = 0.0");
    settings.train.rounds = 6;
    let (rounds, rows, models) = finish(&mut toy::run(settings));
    let params = models[0].weight_params();
    let counts = |r: &RoundMetrics| (r.upload_params, r.upload_head_params, r.download_params);
    assert_eq!(counts(&rounds[0]), (4 * params, 0, 0), "weights come with the backbone");
    assert_eq!(counts(&rounds[1]), (4 * params, 0, 4 * params));
    assert_eq!(rows[0].upload_bytes, 20 + 4 * params);
    let model = load(&fixture("roberta-tiny"), toy::CLASSES, &TargetKind::all());
    assert_eq!(params, model.info().backbone_params());
    assert!(models[0].weights.iter().zip(model.weights()).all(|(x, y)| *x == y.value), "starts from the backbone");
    assert!(models[0].weights.iter().zip(&models[1].weights).all(|(x, y)| x != y), "every tensor moves");
    assert_eq!(models[0].head, models[6].head, "a frozen head stays");
    assert!(rounds[5].train_loss < 0.8 * rounds[0].train_loss, "{} {}", rounds[0].train_loss, rounds[5].train_loss);
    let accuracy = |r: &RoundMetrics| r.test_accuracy.unwrap();
    assert!(
        accuracy(&rounds[5]) > accuracy(&rounds[0]) && accuracy(&rounds[5]) > 0.5,
        "{:?}",
        rounds.iter().map(accuracy).collect::<Vec<_>>()
    );
}

#[test]
fn noise_on_the_weights_is_felt_and_without_size_it_is_none() {
    let states = |flat: &str| finish(&mut toy::run(toy::settings(&format!("[strategy]\nname = \"rolora\"\n{flat}")))).2;
    let (without, nothing, some) = (states(""), states("[train]\nflat = { rho = 0.0 }"), states("[train]\nflat = {}"));
    assert_eq!(without, nothing);
    assert!(apart(&without[2], &some[2], &without[1]) > 1e-3, "noise moves the clients elsewhere");
}

#[test]
fn batched_equals_one_by_one() {
    for text in STRATEGIES {
        let trained = |in_flight| {
            let mut settings = toy::settings(text);
            settings.train.rounds = 3;
            settings.engine.in_flight = in_flight;
            finish(&mut toy::run(settings))
        };
        let (one_rounds, one_rows, one) = trained(InFlight::Count(1));
        for in_flight in [InFlight::Count(2), InFlight::Count(3), InFlight::Count(100), InFlight::Auto] {
            let (rounds, rows, many) = trained(in_flight);
            for (round, (x, y)) in one.iter().zip(&many).enumerate().skip(1) {
                let apart = apart(x, y, &one[round - 1]);
                assert!(
                    apart < 2e-3,
                    "{text}\n{in_flight:?}, round {round}: apart by {apart:.1e} of the largest movement"
                );
            }
            for (x, y) in one_rounds.iter().zip(&rounds) {
                assert!(
                    (x.train_loss - y.train_loss).abs() < 1e-5 * x.train_loss.abs().max(1.0),
                    "{text}\n{in_flight:?}"
                );
                assert_eq!((x.upload_bytes, x.tokens), (y.upload_bytes, y.tokens));
            }
            let slots = |rows: &[ClientMetrics]| rows.iter().map(|r| r.slots.clone()).collect::<Vec<_>>();
            assert_eq!(slots(&one_rows), slots(&rows), "{text}\n{in_flight:?}: the same slots are chosen");
        }
    }
}

#[test]
fn several_devices_equal_one() {
    for text in [STRATEGIES[0], STRATEGIES[4]] {
        let trained_on = |devices: usize| finish(&mut toy::run_on(devices, toy::settings(text), toy::shards(4)));
        let ((one_rounds, one_rows, one), (rounds, rows, three)) = (trained_on(1), trained_on(3));
        for (round, (x, y)) in one.iter().zip(&three).enumerate().skip(1) {
            assert!(apart(x, y, &one[round - 1]) < 2e-3, "{text}, round {round}");
        }
        let told = |rounds: &[RoundMetrics]| rounds.iter().map(|r| (r.upload_bytes, r.tokens)).collect::<Vec<_>>();
        assert_eq!(told(&one_rounds), told(&rounds));
        let of_rows = |rows: &[ClientMetrics]| rows.iter().map(|r| (r.client, r.slots.clone())).collect::<Vec<_>>();
        assert_eq!(of_rows(&one_rows), of_rows(&rows), "uploads in the cohort's order");
    }
}

#[test]
fn surplus_rows_change_nothing() {
    let model = load(&fixture("roberta-tiny"), toy::CLASSES, &TargetKind::all());
    let texts = toy::texts(7, 3);
    let example = |i: usize| (texts.ids[i].as_slice(), texts.goals[i].clone());
    let batch = PackedBatch::pack(&[(0..2).map(example).collect(), vec![], (2..7).map(example).collect()]);
    let device = model.device();
    let random = |shape: [usize; 3]| Tensor::<3>::random(shape, Distribution::Normal(0.0, 0.2), device).require_grad();
    let updates: Vec<_> = model.targets().iter().map(|t| (random([3, 2, t.d_in]), random([3, 2, t.d_out]))).collect();
    let head: Vec<_> = model.head().iter().map(|t| random([3, t.value.rows, t.value.cols])).collect();
    let step_numbers = |rounding| {
        let lowrank = |(a, b): &(Tensor<3>, Tensor<3>)| LowRank { a: a.clone(), b: b.clone(), used: None, scale: 1.0 };
        let adapter = ClientAdapter::new(updates.iter().map(|u| Some(lowrank(u))).collect(), head.clone());
        let losses = model.loss(&adapter, &batch.to_device(model.info(), rounding, device));
        let grads = losses.clone().sum().backward();
        let leaves = updates.iter().flat_map(|(a, b)| [a, b]).chain(&head);
        let mut numbers: Vec<f32> = losses.into_data().try_to_vec().unwrap();
        assert_eq!(numbers[1], 0.0, "a client without examples has no loss");
        leaves.for_each(|leaf| numbers.extend(leaf.grad(&grads).unwrap().into_data().try_to_vec::<f32>().unwrap()));
        numbers
    };
    let (exact, few) = (step_numbers(Rounding::Exact), step_numbers(Rounding::Few));
    let largest = exact.iter().fold(0f32, |m, v| m.max(v.abs()));
    assert!(exact.iter().zip(&few).all(|(x, y)| (x - y).abs() <= 1e-5 * largest));
}

#[test]
fn same_seed_same_bits_and_another_seed_another_run() {
    let end = |seed: u64| {
        let mut settings = toy::settings(STRATEGIES[3]);
        settings.train.seed = seed;
        finish(&mut toy::run(settings)).2.pop().unwrap()
    };
    assert_eq!(end(7), end(7));
    assert_ne!(end(7), end(8));
}

#[test]
fn permuting_clients_permutes_what_they_do() {
    let order = [2, 0, 3, 1];
    for text in ["[strategy]\nname = \"fedit\"", "[strategy]\nname = \"lora-a2\"\n[clients]\nbudget = 2"] {
        let trained_in = |order: &[usize]| {
            let mut settings = toy::settings(text);
            settings.train.shuffle = false; // a shuffle belongs to the client's number
            let base = toy::shards(4);
            let train = order.iter().map(|&k| base.train[k].clone()).collect();
            finish(&mut toy::run_with(settings, Shards { train, test: base.test }))
        };
        let (straight, permuted) = (trained_in(&[0, 1, 2, 3]), trained_in(&order));
        for (row, x) in permuted.1.iter().enumerate() {
            let y = &straight.1[row / 4 * 4 + order[row % 4]];
            assert_eq!((x.examples, x.steps, &x.slots), (y.examples, y.steps, &y.slots));
            assert!((x.train_loss - y.train_loss).abs() < 1e-5);
        }
        assert!(
            apart(&straight.2[2], &permuted.2[2], &straight.2[1]) < 2e-3,
            "the aggregate does not depend on the order"
        );
    }
}

#[test]
fn the_frozen_factor_is_bit_identical_and_phases_alternate() {
    for text in [STRATEGIES[2], STRATEGIES[3]] {
        let mut settings = toy::settings(text);
        settings.train.rounds = 4;
        let (rounds, _, adapters) = finish(&mut toy::run(settings));
        assert_eq!(rounds.iter().map(|r| r.phase.as_str()).collect::<Vec<_>>(), ["B", "A", "B", "A"]);
        for (round, pair) in adapters.windows(2).enumerate() {
            let (moves, frozen) = if round % 2 == 0 { (Factor::B, Factor::A) } else { (Factor::A, Factor::B) };
            assert_eq!(pair[0].factor(frozen), pair[1].factor(frozen), "round {}", round + 1);
            assert_ne!(pair[0].factor(moves), pair[1].factor(moves), "round {}", round + 1);
        }
    }
    let (_, _, adapters) = finish(&mut toy::run(toy::settings(STRATEGIES[1])));
    assert!(adapters.windows(2).all(|pair| pair[0].a == pair[1].a), "ffa-lora never moves A");
}

#[test]
fn every_client_uploads_exactly_its_budget() {
    let (_, rows, _) = finish(&mut toy::run(toy::settings(STRATEGIES[4])));
    for row in rows {
        let budget = [1, 2, 3, 4][row.client];
        let slots = row.slots.unwrap();
        assert_eq!(slots.len(), 12, "six linears in each of two layers");
        assert_eq!(slots.iter().map(Vec::len).sum::<usize>(), budget * 12);
    }
}

#[test]
fn unselected_entries_are_bit_identical_under_weight_decay() {
    let mut settings = toy::settings(
        "[strategy]\nname = \"lora-a2\"\n[clients]\ncount = 1\nbudget = 1\n[train]\nrounds = 4\nweight_decay = 0.5\nepochs = 3",
    );
    settings.train.batch_size = 2;
    let (rounds, rows, adapters) = finish(&mut toy::run(settings));
    for (round, row) in rounds.iter().zip(rows) {
        let factor = if round.phase == "A" { Factor::A } else { Factor::B };
        let (before, after) = (&adapters[round.round - 1], &adapters[round.round]);
        for (t, chosen) in row.slots.unwrap().iter().enumerate() {
            let by_slot = |a: &Adapter| a.slot_rows(factor, t);
            let (x, y) = (by_slot(before), by_slot(after));
            for slot in 0..before.rank {
                let same = x.data[slot * x.cols..(slot + 1) * x.cols] == y.data[slot * y.cols..(slot + 1) * y.cols];
                assert_eq!(same, !chosen.contains(&slot), "round {}, target {t}, slot {slot}", round.round);
            }
        }
    }
}

#[test]
fn a_budget_of_the_whole_rank_is_alternation_without_a_mask() {
    let train = "[train]\nrounds = 3\nlr_b = 5e-3";
    let (_, _, full) = finish(&mut toy::run(toy::settings(&format!("[strategy]\nname = \"lora-a2\"\n{train}"))));
    let (_, _, rolora) = finish(&mut toy::run(toy::settings(&format!("[strategy]\nname = \"rolora\"\n{train}"))));
    assert_eq!(full, rolora);
    // A client with the full budget beside one with less goes through probe and mask: the same again, to tolerance.
    let mut masked =
        toy::settings(&format!("[strategy]\nname = \"lora-a2\"\n{train}\n[clients]\ncount = 2\nbudget = [4, 3]"));
    masked.train.rounds = 1;
    let (_, rows, _) = finish(&mut toy::run(masked));
    let mut free = toy::settings(&format!("[strategy]\nname = \"rolora\"\n{train}\n[clients]\ncount = 2"));
    free.train.rounds = 1;
    let (_, free_rows, _) = finish(&mut toy::run(free));
    assert!((rows[0].train_loss - free_rows[0].train_loss).abs() < 1e-5);
}

#[test]
fn with_one_factor_frozen_the_mean_of_products_is_the_product_with_the_mean() {
    let mut settings = toy::settings("[strategy]\nname = \"rolora\"\n[clients]\ncount = 3");
    settings.train.rounds = 1;
    settings.train.shuffle = false; // a shuffle belongs to the client's number, and here each is once number 0
    let shards = toy::shards(3);
    let (_, _, together) = finish(&mut toy::run(settings.clone()));
    let total: usize = shards.train.iter().map(Vec::len).sum();
    let target = 3;
    let global = together[1].a[target].matmul(&together[1].b[target]);
    let mut mean = vec![0f64; global.data.len()];
    for k in 0..3 {
        let mut alone = settings.clone();
        alone.clients.count = 1;
        let shard = Shards { train: vec![shards.train[k].clone()], test: vec![vec![]] };
        let mut run = toy::run_with(alone, shard);
        let (_, _, adapters) = finish(&mut run);
        let product = adapters[1].a[target].matmul(&adapters[1].b[target]);
        let weight = shards.train[k].len() as f64 / total as f64;
        mean.iter_mut().zip(&product.data).for_each(|(m, &p)| *m += weight * f64::from(p));
    }
    let norm = global.data.iter().map(|v| v.abs()).fold(0f32, f32::max);
    for (g, m) in global.data.iter().zip(mean) {
        assert!((f64::from(*g) - m).abs() < 1e-4 * f64::from(norm), "{g} and {m}");
    }
}

#[test]
fn cohorts_depend_on_seed_and_round_alone() {
    let settings = |rounds| {
        let mut s = toy::settings("[clients]\ncount = 9\nper_round = 3");
        s.train.rounds = rounds;
        s
    };
    let run = toy::run(settings(1));
    let cohorts: Vec<_> = (1..20).map(|r| run.cohort(r)).collect();
    let (_, rows, _) = finish(&mut toy::run(settings(3)));
    for (round, cohort) in (1..=3).zip(&cohorts) {
        let seen: Vec<usize> = rows.iter().filter(|r| r.round == round).map(|r| r.client).collect();
        assert_eq!(&seen, cohort);
    }
    let mut met: Vec<usize> = cohorts.concat();
    met.sort_unstable();
    met.dedup();
    assert_eq!(met.len(), 9, "every client is drawn sooner or later");
}

#[test]
fn a_diverging_client_stops_the_run_and_the_last_good_state_is_kept() {
    let mut settings = toy::settings("[train]\nrounds = 4\nlr_a = 1e38\nlr_b = 1e38");
    settings.train.epochs = 3;
    let mut run = toy::run(settings);
    let mut last = run.server().clone();
    let error = run
        .train(&mut |event| {
            if let Event::RoundEnded { run, .. } = event {
                last = run.server().clone();
            }
            ControlFlow::Continue(())
        })
        .unwrap_err()
        .to_string();
    assert!(error.contains("round") && error.contains("client") && error.contains("lr_a"), "{error}");
    assert_eq!(run.server(), &last);
    assert!(run.server().adapter.is_finite());
}

#[test]
fn stopping_inside_a_round_gives_the_round_up_and_after_it_keeps_it() {
    let settings = || toy::settings("[train]\nrounds = 3\nscaffold = true");
    for devices in [1, 2] {
        let mut run = toy::run_on(devices, settings(), toy::shards(4));
        let stop_at = |run: &mut Run, is_it: &dyn Fn(&Event) -> bool| {
            let mut stopped = false;
            run.train(&mut |event| {
                assert!(!stopped, "who has broken off hears of nothing more");
                stopped = is_it(&event);
                if stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .unwrap();
            assert!(stopped);
        };
        stop_at(&mut run, &|event| matches!(event, Event::RoundEnded { .. }));
        assert_eq!(run.server().round, 1);
        let kept = run.checkpoint(&Default::default());
        stop_at(&mut run, &|event| matches!(event, Event::RoundStarted { .. }));
        stop_at(&mut run, &|event| matches!(event, Event::Progress(_)));
        stop_at(&mut run, &|event| matches!(event, Event::Progress(progress) if progress.done == progress.total));
        assert!(
            run.checkpoint(&Default::default()) == kept,
            "the server's state, the ledger and the clients' memories"
        );
        // Going on gives what an undisturbed run gives.
        let (_, _, rest) = finish(&mut run);
        let (_, _, whole) = finish(&mut toy::run_on(devices, settings(), toy::shards(4)));
        assert_eq!(rest.last(), whole.last());
    }
}

#[test]
fn the_tiny_run_keeps_its_golden_curve() {
    let mut settings =
        toy::settings("[strategy]\nname = \"lora-a2\"\n[clients]\nbudget = 2\n[adapter]\nrank = 4\nhead = \"trained\"");
    settings.train.rounds = 6;
    settings.train.lr_head = 1e-2;
    settings.train.epochs = 2;
    let (rounds, _, _) = finish(&mut toy::run(settings));
    let found: Vec<[f64; 2]> = rounds.iter().map(|r| [r.train_loss, r.test_loss.unwrap()]).collect();
    let path = bonfire_tests::fixture("golden-curve.json");
    if std::env::var_os("BONFIRE_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, serde_json::to_vec(&found).unwrap()).unwrap();
    }
    let golden: Vec<[f64; 2]> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    for (round, (f, g)) in found.iter().zip(&golden).enumerate() {
        assert!((f[0] - g[0]).abs() < 2e-5 && (f[1] - g[1]).abs() < 2e-5, "round {}: {f:?}, golden {g:?}", round + 1);
    }
    assert!(found[5][1] < found[0][1], "the curve goes down");
}
