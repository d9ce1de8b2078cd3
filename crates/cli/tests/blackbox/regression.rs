//! A number of every pair of texts: training, its scores, predictions, exports, and what is refused.

use serde_json::Value;

use crate::support::{Room, short};

/// Pairs of texts that share so many of their four words, in a folder `data`; numbers from 0 to 5, some of them equal. The test
/// split is unlabelled as the Hub's, so that the validation split takes its place.
fn write_data(room: &Room) {
    let words = ["book", "library", "card", "fine", "room", "desk", "loan", "shelf"];
    let row = |i: usize| {
        let shared = i * 7 % 5;
        let text = |from: usize| -> String {
            let own = (0..4).map(|w| if w < shared { words[w] } else { words[(from + w + i) % 8] });
            own.collect::<Vec<_>>().join(" ")
        };
        let score = 1.25 * shared as f64;
        format!("{{\"first\": \"{}\", \"second\": \"{}\", \"score\": {score}}}\n", text(0), text(3))
    };
    std::fs::create_dir(room.path("data")).expect("made");
    room.write("data/train.jsonl", &(0..160).map(row).collect::<String>());
    room.write("data/validation.jsonl", &(160..200).map(row).collect::<String>());
    let unlabelled = "{\"first\": \"a book\", \"second\": \"a card\", \"score\": -1.0}\n";
    room.write("data/test.jsonl", &unlabelled.repeat(3));
}

const NUMBERS: [&str; 14] = [
    "--set",
    "model.task=regression",
    "--set",
    "data.path=data",
    "--set",
    "data.text=[\"first\", \"second\"]",
    "--set",
    "data.label=score",
    "--set",
    "data.partition={kind=\"iid\"}",
    "--set",
    "data.labels=none",
    "--set",
    "adapter.head=trained",
];

fn near(found: &Value, expected: f64) {
    let found = found.as_f64().expect("a number");
    assert!((found - expected).abs() < 1e-5, "{found}, expected {expected}");
}

/// Pearson's correlation by its other formula.
fn pearson(x: &[f64], y: &[f64]) -> f64 {
    let n = x.len() as f64;
    let sum = |list: &mut dyn Iterator<Item = f64>| list.sum::<f64>();
    let (sx, sy) = (sum(&mut x.iter().copied()), sum(&mut y.iter().copied()));
    let (xx, yy) = (sum(&mut x.iter().map(|v| v * v)), sum(&mut y.iter().map(|v| v * v)));
    let xy = sum(&mut x.iter().zip(y).map(|(x, y)| x * y));
    (n * xy - sx * sy) / ((n * xx - sx * sx) * (n * yy - sy * sy)).sqrt()
}

#[test]
fn numbers_are_learnt_measured_predicted_and_exported() {
    let room = Room::new();
    write_data(&room);
    let more = ["--set", "train.rounds=4", "--set", "train.lr_a=2e-3", "--set", "evaluate.best=pearson"];
    let said = room.succeed(&short(&["train", "--out", "run"], &[&NUMBERS[..], &more].concat()));
    assert!(said.out.contains("Pearson") && said.out.contains("a number each"), "{}", said.out);
    assert!(said.err.contains("no test row has a label"), "{}", said.err);
    let rows = room.rounds("run");
    let (first, last) = (&rows[0], &rows[3]);
    assert!(last.get("test_accuracy").is_none() && last.get("test_macro_f1").is_none(), "{last}");
    assert!(last["train_loss"].as_f64() < first["train_loss"].as_f64(), "{first} {last}");
    let summary = room.json("run/summary.json");
    assert_eq!(summary["final_pearson"], last["test_pearson"]);
    let best = rows.iter().filter_map(|row| row["test_pearson"].as_f64()).fold(-1.0, f64::max);
    near(&summary["best"]["score"], best);

    let out = room.succeed(&["evaluate", "run", "--json", "--predictions", "said.jsonl"]).out;
    let measured: Value = serde_json::from_str(&out).expect("JSON");
    assert!(measured.get("accuracy").is_none(), "{measured}");
    let said = room.rows("said.jsonl");
    assert_eq!(said.len(), 40);
    let column = |name: &str| said.iter().map(|row| row[name].as_f64().expect("a number")).collect::<Vec<_>>();
    let (right, found) = (column("value"), column("predicted_value"));
    let expected = pearson(&right, &found);
    for one in [&measured["pearson"], &last["test_pearson"]] {
        near(one, expected);
    }
    let error = right.iter().zip(&found).map(|(r, f)| (r - f).powi(2)).sum::<f64>() / 40.0;
    assert!((measured["loss"].as_f64().expect("a loss") - error).abs() < 1e-4 * error);

    let out = room.succeed(&["predict", "run", "--rows", "data/validation.jsonl", "--json"]).out;
    let values: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(values.len(), 40);
    for (value, found) in values.iter().zip(&found) {
        assert!((value["value"].as_f64().expect("a number") - found).abs() < 1e-4, "{value}, {found}");
    }

    room.succeed(&["export", "run", "--format", "merged", "--out", "merged", "--verify"]);
    let config = room.json("merged/config.json");
    assert_eq!((&config["problem_type"], &config["id2label"]["0"]), (&"regression".into(), &"LABEL_0".into()));
    room.succeed(&["report", "run", "--out", "page.html"]);
}

#[test]
fn clients_that_keep_a_part_are_measured_by_their_own_models() {
    let room = Room::new();
    write_data(&room);
    let more = ["--set", "strategy.name=fedsa-lora", "--set", "clients.budget=full", "--set", "evaluate.best=spearman"];
    room.succeed(&short(&["train", "--quiet", "--out", "run"], &[&NUMBERS[..], &more].concat()));
    let rows = room.rounds("run");
    assert!(rows.iter().all(|row| row["personal_pearson"].is_f64() && row["personal_loss"].is_f64()), "{rows:?}");
    let best = &room.json("run/summary.json")["best"];
    let round = best["round"].as_u64().expect("a round") as usize;
    assert_eq!(best["score"], rows[round - 1]["personal_spearman"]);
    assert!(room.path("run/clients-best/0003/adapter_model.safetensors").is_file());
}

#[test]
fn what_is_no_number_and_what_needs_classes_is_refused() {
    let room = Room::new();
    write_data(&room);
    let refused = |words: &[&str], more: &[&str]| {
        room.refuse(2, words, &short(&["train", "--out", "run"], &[&NUMBERS[..], more].concat()));
    };
    refused(&["evaluate.best", "pearson"], &["--set", "evaluate.best=accuracy"]);
    refused(&["train.label_smoothing"], &["--set", "train.label_smoothing=0.1"]);
    refused(&["train.class_weights"], &["--set", "train.class_weights=[1.0, 2.0]"]);
    refused(&["data.partition", "dirichlet"], &["--set", "data.partition={kind=\"dirichlet\", alpha=0.5}"]);
    let bad = "{\"first\": \"a\", \"second\": \"b\", \"score\": \"high\"}\n";
    room.write("data/train.jsonl", bad);
    let args = short(&["train", "--out", "run"], &NUMBERS);
    room.refuse(1, &["train.jsonl:1", "\"high\"", "a finite number"], &args);
}
