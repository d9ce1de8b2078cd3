//! What a configuration says of local training: counts of steps, batches that make one step together, rates over rounds, and the
//! objective; each against a run that says the same in another way.

use bonfire_federation::{ClientMetrics, RoundMetrics};
use bonfire_models::Adapter;
use bonfire_tests::toy;

type Finished = (Vec<RoundMetrics>, Vec<ClientMetrics>, Vec<Adapter>);

fn trained(strategy: &str, text: &str) -> Finished {
    let settings = format!("[strategy]\n{strategy}\n[adapter]\nrank = 4\nhead = \"trained\"\n{text}");
    let (rounds, clients, states) = toy::finish(&mut toy::run(toy::settings(&settings)));
    (rounds, clients, states.into_iter().map(|state| state.adapter).collect())
}

/// Largest difference between two adapters, relative to how far the first has moved from `start`.
fn apart(x: &Adapter, y: &Adapter, start: &Adapter) -> f64 {
    let numbers = |m: &Adapter| -> Vec<f32> {
        m.a.iter().chain(&m.b).chain(m.head.iter().map(|t| &t.value)).flat_map(|m| m.data.clone()).collect()
    };
    let largest = |x: &Adapter, y: &Adapter| {
        numbers(x).iter().zip(numbers(y)).map(|(x, y)| f64::from((x - y).abs())).fold(0.0, f64::max)
    };
    largest(x, y) / largest(x, start).max(1e-12)
}

#[test]
fn batches_of_one_step_are_one_batch() {
    for strategy in ["name = \"fedit\"", "name = \"rolora\"", "name = \"dfl\"\napart = 0.1", "name = \"full\""] {
        for more in [
            "",
            "label_smoothing = 0.1\nclass_weights = [1.0, 0.5, 2.0, 1.5, 0.25]",
            "clip_norm = 0.05\nschedule = \"linear\"\nprox = 0.1",
        ] {
            let run = |batch: usize, accumulate: usize| {
                let rates = "rounds = 2\nepochs = 2\nlr_a = 5e-4\nlr_head = 1e-3";
                trained(strategy, &format!("[train]\n{rates}\nbatch_size = {batch}\naccumulate = {accumulate}\n{more}"))
            };
            let ((one, rows, large), (many, parts, summed)) = (run(6, 1), run(2, 3));
            for (x, y) in one.iter().zip(&many) {
                let off = (x.train_loss - y.train_loss).abs();
                assert!(off < 1e-5 * x.train_loss, "{strategy}, {more}: {} and {}", x.train_loss, y.train_loss);
                assert_eq!(x.tokens, y.tokens);
            }
            let steps = |rows: &[ClientMetrics]| rows.iter().map(|r| r.steps).collect::<Vec<_>>();
            assert_eq!(steps(&rows), steps(&parts), "as many steps");
            let off = apart(&large[1], &summed[1], &large[0]);
            assert!(off < 5e-3, "{strategy}, {more}: apart by {off:.1e}");
        }
    }
}

#[test]
fn clients_make_as_many_steps_as_asked() {
    // Shards of 5, 8, 11 and 14 examples in batches of 4: two to four steps an epoch.
    for steps in [1, 3, 10] {
        let (_, rows, _) =
            trained("name = \"fedit\"", &format!("[train]\nrounds = 1\nbatch_size = 4\nlr_a = 1e-3\nsteps = {steps}"));
        assert!(rows.iter().all(|row| row.steps == steps), "{steps}");
    }
    // An epoch is that many steps.
    let text = |key: &str| format!("[train]\nrounds = 2\nbatch_size = 14\nlr_a = 1e-3\n{key}");
    let ((x, ..), (y, ..)) =
        (trained("name = \"fedit\"", &text("epochs = 3")), trained("name = \"fedit\"", &text("steps = 3")));
    assert_eq!(x[1].train_loss, y[1].train_loss);
}

#[test]
fn clients_end_when_their_tokens_are_spent() {
    let run = |more: &str| {
        trained("name = \"fedit\"", &format!("[train]\nrounds = 1\nbatch_size = 2\nlr_a = 1e-3\nepochs = 4\n{more}"))
    };
    let ((_, all, _), (round, few, _)) = (run(""), run("max_tokens = 60"));
    // Four clients; a batch has two texts of 11 tokens at most.
    assert!((4 * 60..4 * (60 + 22)).contains(&round[0].tokens), "{}", round[0].tokens);
    for (all, few) in all.iter().zip(&few) {
        assert!(few.steps < all.steps && few.train_loss.is_finite());
    }
}

#[test]
fn rates_move_from_round_to_round() {
    let run =
        |train: &str| trained("name = \"fedit\"", &format!("[train]\nbatch_size = 4\nweight_decay = 0.01\n{train}"));
    // Linear to nothing in the last of four rounds: 3/4, 1/2, 1/4, 0.
    let scheduled =
        run("rounds = 4\nlr_a = 8e-4\nlr_head = 4e-3\nlr_rounds = { schedule = \"linear\", reached = true }").2;
    let plain = run("rounds = 4\nlr_a = 6e-4\nlr_head = 3e-3").2;
    assert!(apart(&plain[1], &scheduled[1], &plain[0]) < 1e-4, "the first round at three quarters");
    assert_eq!(scheduled[3], scheduled[4], "the last round at none");
    assert_ne!(scheduled[2], scheduled[3]);
}

#[test]
fn the_servers_rate_moves_from_round_to_round() {
    let run = |server: &str| {
        trained("name = \"fedit\"", &format!("[train]\nrounds = 2\nbatch_size = 4\nlr_a = 1e-3\n[server]\n{server}")).2
    };
    let scheduled = run("schedule = { schedule = \"linear\", reached = true }");
    let half = run("optimizer = { name = \"fedavg\", lr = 0.5 }");
    assert_eq!((&scheduled[1], &scheduled[2]), (&half[1], &half[1]), "half, then nothing");
    let adam = "optimizer = { name = \"fedadam\", lr = 0.01 }";
    let warm = run(&format!("{adam}\nschedule = {{ schedule = \"constant\", warmup = 2 }}"));
    let plain = run("optimizer = { name = \"fedadam\", lr = 0.005 }");
    assert_eq!(warm[1], plain[1]);
    assert_ne!(warm[2], plain[2]);
}

#[test]
fn objectives_are_felt_in_training_and_not_in_evaluation() {
    for run in [toy::run, toy::causal_run] {
        let losses = |more: &str| {
            // No step changes anything, so losses tell of the objective alone.
            let text = format!("[train]\nrounds = 1\nbatch_size = 4\nlr_a = 0.0\n{more}");
            let (rounds, ..) = toy::finish(&mut run(toy::settings(&text)));
            (rounds[0].train_loss, rounds[0].test_loss)
        };
        let (plain, smooth) = (losses(""), losses("label_smoothing = 0.2"));
        assert!((plain.0 - smooth.0).abs() > 1e-3, "{plain:?}, smoothed {smooth:?}");
        assert_eq!(plain.1, smooth.1, "evaluation is plain cross-entropy");
    }
}

#[test]
fn weights_of_classes_are_one_a_label() {
    let settings = toy::settings("[train]\nrounds = 1\nlr_a = 1e-3\nclass_weights = [1.0, 2.0]");
    let models: Vec<Box<dyn bonfire_models::Model>> = vec![Box::new(toy::model(&settings))];
    let refused = bonfire_federation::Coordinator::new(settings, models[0].as_ref(), 4).err().unwrap().to_string();
    assert!(refused.contains("train.class_weights") && refused.contains("2 numbers for 5 labels"), "{refused}");
}
