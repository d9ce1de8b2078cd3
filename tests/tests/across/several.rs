//! Words with tags and texts with several labels, with every strategy: they learn, many clients in flight do as each alone, a step's loss
//! is the mean that Transformers takes, and weights of classes are PyTorch's.

use bonfire_engine::{InFlight, Recompute};
use bonfire_federation::{Run, Settings};
use bonfire_models::{ClientAdapter, Goal, Model, PackedBatch, Rounding, Tag, Task};
use bonfire_tests::toy::{self, Finished, STRATEGIES, finish};
use bonfire_tests::{fixture, load_for};
use burn::tensor::Tensor;

type Make = fn(Settings) -> Run;

const RUNS: [(&str, Make); 2] = [("tags", toy::tag_run), ("labels", toy::label_run)];

fn settings(strategy: &str, more: &str) -> Settings {
    let train =
        if more.contains("[train]") { "" } else { "[train]\nrounds = 8\nepochs = 3\nlr_a = 5e-3\nlr_head = 2e-2" };
    toy::settings(&format!("[strategy]\n{strategy}\n[adapter]\nrank = 4\nhead = \"trained\"\n{train}\n{more}"))
}

/// DFL pushes two distributions over classes apart, and labels have none.
fn composes(strategy: &str, what: &str) -> bool {
    what == "tags" || !strategy.contains("dfl")
}

#[test]
fn every_strategy_learns_tags_and_labels() {
    for (what, run) in RUNS {
        for strategy in STRATEGIES.iter().chain(&["name = \"full\""]).filter(|strategy| composes(strategy, what)) {
            let (rounds, ..) = finish(&mut run(settings(strategy, "")));
            let (first, last) = (&rounds[0], rounds.last().unwrap());
            assert!(
                last.train_loss < first.train_loss,
                "{strategy}, {what}: {} to {}",
                first.train_loss,
                last.train_loss
            );
            match what {
                "tags" => assert!(last.test_f1.or(last.personal_f1).is_some(), "{strategy}"),
                _ => assert!(last.test_micro_f1.or(last.personal_macro_f1).is_some(), "{strategy}"),
            }
            assert!(last.test_matthews.is_none() && last.test_perplexity.is_none(), "{strategy}, {what}");
        }
    }
}

#[test]
fn all_together_equal_one_by_one_also_recomputed() {
    for (what, run) in RUNS {
        for strategy in STRATEGIES.iter().filter(|strategy| composes(strategy, what)) {
            let trained = |in_flight, recompute: bool| {
                let mut settings = settings(strategy, "[train]\nrounds = 3\nlr_a = 1e-3");
                settings.engine.in_flight = in_flight;
                if recompute && settings.strategy.traits().recomputes {
                    settings.engine.recompute = Recompute::Block;
                }
                finish(&mut run(settings))
            };
            let (one, all): (Finished, Finished) =
                (trained(InFlight::Count(1), false), trained(InFlight::Count(100), true));
            for (x, y) in one.0.iter().zip(&all.0) {
                let apart = (x.train_loss - y.train_loss).abs();
                assert!(apart < 2e-4 * x.train_loss.abs().max(1.0), "{strategy}, {what}: {x:?} {y:?}");
                assert_eq!((x.upload_bytes, x.tokens), (y.upload_bytes, y.tokens), "{strategy}, {what}");
            }
        }
    }
}

fn numbers<const D: usize>(t: Tensor<D>) -> Vec<f32> {
    t.into_data().try_to_vec().unwrap()
}

/// Two clients in one batch against each alone: on the CPU every row is computed as if it were the only one.
#[test]
fn clients_in_one_batch_have_their_own_losses_and_gradients_bit_by_bit() {
    for (task, model, split) in [
        (Task::Tag(toy::CLASSES), "roberta-tiny-tokens", toy::tagged(9, 3)),
        (Task::Tag(toy::CLASSES), "llama-tiny-tokens", toy::tagged(9, 3)),
        (Task::MultiLabel(toy::CLASSES), "roberta-tiny-labels", toy::of_labels(9, 3)),
    ] {
        let model = load_for(task, &fixture(model), &[]);
        let text = |row: usize| (split.ids[row].as_slice(), split.goals[row].clone());
        let shards: [Vec<usize>; 2] = [(0..4).collect(), (4..9).collect()];
        let found = |clients: &[&Vec<usize>]| {
            let head: Vec<Tensor<3>> = model
                .head()
                .iter()
                .map(|t| {
                    let (rows, cols) = (t.value.rows, t.value.cols);
                    let one =
                        Tensor::<1>::from_floats(t.value.data.as_slice(), model.device()).reshape([1, rows, cols]);
                    one.repeat_dim(0, clients.len()).require_grad()
                })
                .collect();
            let batch = PackedBatch::pack(
                &clients.iter().map(|rows| rows.iter().map(|&row| text(row)).collect()).collect::<Vec<_>>(),
            );
            let batch = batch.to_device(model.info(), Rounding::Exact, model.device());
            let losses = model.loss(&ClientAdapter::new(vec![], head.clone()), &batch);
            let gradients = losses.clone().sum().backward();
            let of_client = |client: usize| {
                head.iter()
                    .flat_map(|t| {
                        let gradient = t.grad(&gradients).unwrap();
                        let [_, rows, cols] = gradient.dims();
                        numbers(gradient.slice([client..client + 1, 0..rows, 0..cols]))
                    })
                    .collect::<Vec<f32>>()
            };
            (numbers(losses), (0..clients.len()).map(of_client).collect::<Vec<_>>())
        };
        let (losses, gradients) = found(&[&shards[0], &shards[1]]);
        for client in 0..2 {
            let (loss, gradient) = found(&[&shards[client]]);
            assert_eq!((losses[client], &gradients[client]), (loss[0], &gradient[0]), "{task:?}");
        }
    }
}

/// The mean is over the words of the whole batch, whatever sentence they are in, and weights of classes are PyTorch's: the weighted sum
/// over the sum of the weights. Against loops over scores.
#[test]
fn a_loss_is_the_mean_over_words_and_weighs_classes_as_pytorch_does() {
    let model = load_for(Task::Tag(toy::CLASSES), &fixture("roberta-tiny-tokens"), &[]);
    let tags = |tags: &[(usize, usize)]| {
        Goal::Tags(tags.iter().map(|&(token, class)| Tag { word: token, token, class }).collect())
    };
    let asked: [&[(usize, usize)]; 3] = [&[(1, 4), (2, 0), (3, 2)], &[(2, 1)], &[(1, 0)]];
    let texts = [&[0u32, 60, 61, 62, 2][..], &[0, 70, 71, 2], &[0, 80, 2]];
    let text = |i: usize| (texts[i], tags(asked[i]));
    let packed = PackedBatch::pack(&[vec![text(0), text(1)], vec![text(2)]]);
    let head: Vec<Tensor<3>> = model
        .head()
        .iter()
        .map(|t| {
            Tensor::<1>::from_floats(t.value.data.as_slice(), model.device()).reshape([1, t.value.rows, t.value.cols])
        })
        .collect();
    let client = ClientAdapter::new(vec![], head);
    let mut batch = packed.to_device(model.info(), Rounding::Exact, model.device());
    let scores: Vec<f64> = numbers(model.logits(&client, &batch)).into_iter().map(f64::from).collect();
    let classes: Vec<usize> = asked.iter().flat_map(|tags| tags.iter().map(|(_, class)| *class)).collect();
    let loss = |row: usize| {
        let row_scores = &scores[row * toy::CLASSES..(row + 1) * toy::CLASSES];
        row_scores.iter().map(|s| s.exp()).sum::<f64>().ln() - row_scores[classes[row]]
    };
    let close = |found: &[f32], expected: [f64; 2]| {
        for (f, e) in found.iter().zip(expected) {
            assert!((f64::from(*f) - e).abs() < 1e-5, "{found:?}, {expected:?}");
        }
    };
    close(&numbers(model.loss(&client, &batch)), [(0..4).map(loss).sum::<f64>() / 4.0, loss(4)]);
    let weights = [0.5, 2.0, 1.25, 1.0, 3.0];
    batch.objective = packed.objective(0.0, Some(&weights), model.device());
    let sum = |rows: std::ops::Range<usize>| rows.map(|row| weights[classes[row]] * loss(row)).sum::<f64>();
    let all = |rows: std::ops::Range<usize>| rows.map(|row| weights[classes[row]]).sum::<f64>();
    close(&numbers(model.loss(&client, &batch)), [sum(0..4) / all(0..4), loss(4)]);
}
