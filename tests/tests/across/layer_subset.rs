//! FedPepTAO's choice of layers, from the clients' batches to what crosses the wire, on a small real model.

use bonfire_engine::layer_score;
use bonfire_federation::{RoundMetrics, Run, Server, Settings};
use bonfire_models::{ClientAdapter, Matrix, Model, PackedBatch, Rounding, TargetKind};
use bonfire_tests::{fixture, load, toy};

fn settings(more: &str) -> Settings {
    toy::settings(&format!("[strategy]\nname = \"fedpeptao\"\n{more}"))
}

fn finish(run: &mut Run) -> (Vec<RoundMetrics>, Vec<Server>) {
    let (rounds, _, states) = toy::finish(run);
    (rounds, states)
}

#[test]
fn the_layers_whose_states_say_most_are_shared_and_the_others_stay_private() {
    let (rounds, states) = finish(&mut toy::run(settings("layers = 1\n[train]\nrounds = 3")));
    // The scores by hand: every client's first batch through the backbone alone.
    let model = load(&fixture("roberta-tiny"), toy::CLASSES, &TargetKind::all());
    let (texts, shards) = (toy::texts(38, 1), toy::shards(4).train);
    let mut scores = [0.0, 0.0];
    for shard in &shards {
        let batch = shard[..4].iter().map(|&i| (texts.ids[i].as_slice(), texts.goals[i].clone())).collect();
        let batch = PackedBatch::pack(&[batch]);
        let batch = batch.to_device(model.info(), Rounding::Exact, model.device());
        let states = model.layer_states(&ClientAdapter::new(vec![], vec![]), &batch);
        for (score, state) in scores.iter_mut().zip(states) {
            let [rows, cols] = state.dims();
            *score +=
                shard.len() as f64 * layer_score(&Matrix::new(rows, cols, state.into_data().try_to_vec().unwrap()));
        }
    }
    let chosen = usize::from(scores[1] > scores[0]);
    let shared = |t: usize| states[0].adapter.targets[t].layer == chosen;
    let params = |t: usize| 4 * (states[0].adapter.targets[t].d_in + states[0].adapter.targets[t].d_out) as u64;
    let all: u64 = (0..12).map(params).sum();
    let one: u64 = (0..12).filter(|&t| shared(t)).map(params).sum();
    assert_eq!(rounds[0].upload_params, 4 * (all + 2), "everything, and a score a layer");
    assert_eq!((rounds[0].upload_aux_params, rounds[1].upload_aux_params), (8, 0));
    assert_eq!((rounds[1].upload_params, rounds[2].upload_params), (4 * one, 4 * one));
    for t in 0..states[0].adapter.targets.len() {
        let moved = |round: usize| {
            let [x, y] = [round - 1, round].map(|r| &states[r].adapter);
            [x.a[t] != y.a[t], x.b[t] != y.b[t]]
        };
        assert_eq!(moved(1), [true, true]);
        assert_eq!(moved(2), [shared(t); 2], "target {t}");
    }
    assert!(rounds[0].personal_accuracy.is_none() && rounds[2].personal_accuracy.is_some());
}

#[test]
fn it_learns() {
    let last_row = |layers: usize| {
        let train =
            "[adapter]\nrank = 4\nhead = \"trained\"\n[train]\nrounds = 8\nepochs = 3\nlr_a = 5e-3\nlr_head = 2e-2";
        let (rounds, _) = finish(&mut toy::run(settings(&format!("layers = {layers}\nlr = 0.2\n{train}"))));
        let last = rounds.last().unwrap().clone();
        assert!(last.train_loss < 0.8 * rounds[0].train_loss, "{} {}", rounds[0].train_loss, last.train_loss);
        last
    };
    // With half of the layers on the clients, their own models are what has learnt; with all shared, the global one.
    let [half, all] = [last_row(1).personal_accuracy.unwrap(), last_row(2).test_accuracy.unwrap()];
    assert!(half > 0.35 && all > 0.35, "five classes: {half} {all}");
}
