//! The model before it is trained: round 0 of a run, a run without rounds, and `evaluate` without a run.

use serde_json::Value;

use crate::support::{Room, short};

const DATA: [&str; 6] = ["--set", "data.path=data", "--set", "clients.count=2", "--set", "train.seed=0"];

#[test]
fn the_untrained_model_is_measured_alike_in_three_ways() {
    let room = Room::new();
    room.data(&[], &[]);
    let said = room.succeed(&[&["train", "--out", "run", "--set", "train.rounds=1"][..], &DATA].concat());
    assert!(said.out.contains("round 0/1  the untrained model"), "{}", said.out);
    assert!(said.out.contains("  untrained "), "the curve begins there: {}", said.out);
    let rows = room.rows("run/metrics.jsonl");
    assert_eq!((rows.len(), &rows[0]["round"], &rows[0]["train_loss"]), (2, &Value::from(0), &Value::Null));
    let (loss, accuracy) = (&rows[0]["test_loss"], &rows[0]["test_accuracy"]);
    let summary = room.json("run/summary.json");
    assert_eq!((&summary["untrained_accuracy"], &summary["rounds"]), (accuracy, &Value::from(1)));

    let said = room.succeed(&[&["train", "--out", "none", "--set", "train.rounds=0"][..], &DATA].concat());
    assert!(said.out.contains("accuracy of the untrained model"), "{}", said.out);
    let rows = room.rows("none/metrics.jsonl");
    assert_eq!((rows.len(), &rows[0]["test_loss"], &rows[0]["test_accuracy"]), (1, loss, accuracy));
    let again: Value = serde_json::from_str(&room.succeed(&["evaluate", "none", "--json"]).out).expect("JSON");
    assert_eq!((&again["loss"], &again["accuracy"]), (loss, accuracy));

    let direct = room.succeed(&["evaluate", "--model", "builtin", "--data", "data", "--json"]);
    let direct: Value = serde_json::from_str(&direct.out).expect("JSON");
    assert_eq!((&direct["loss"], &direct["accuracy"]), (loss, accuracy));
    assert!(!room.path("runs").exists());
}

#[test]
fn a_language_model_is_measured_without_a_run() {
    let room = Room::new();
    std::fs::create_dir(room.path("prompts")).expect("made");
    let rows: Vec<String> =
        (0..8).map(|i| format!("{{\"prompt\": \"Say {i}\", \"response\": \" It is {i}\"}}")).collect();
    for split in ["train", "test"] {
        room.write(&format!("prompts/{split}.jsonl"), &rows.join("\n"));
    }
    let args = ["evaluate", "--model", "builtin-llama", "--data", "prompts"];
    let said = room.succeed(&[&args[..], &["--set", "model.task=causal-lm"]].concat());
    assert!(said.out.starts_with("test loss ") && said.out.contains("perplexity"), "{}", said.out);
    room.refuse(2, &["set model.task = \"causal-lm\""], &args);
    let missing = ["evaluate", "--model", "none", "--data", "prompts", "--set", "model.task=causal-lm"];
    room.refuse(2, &["`model.path`: no such file or folder: none"], &missing);
    room.refuse(2, &["--data"], &["evaluate", "--model", "builtin"]);
    room.refuse(2, &["RUN"], &["evaluate"]);
}

#[test]
fn a_comparison_has_a_line_for_the_untrained_model() {
    let room = Room::new();
    let args = short(&["compare", "--out", "cmp", "--strategies", "fedit,ffa-lora"], &["--set", "train.rounds=1"]);
    room.succeed(&args);
    let table = room.read("cmp/table.md");
    let lines: Vec<&str> = table.lines().filter(|line| line.contains("untrained")).collect();
    assert!(lines.len() == 1, "{table}");
    let cells = room.json("cmp/compare.json")["cells"].clone();
    assert_eq!(cells[0]["curve"][0]["round"], 0);
    assert_eq!(cells[0]["untrained_accuracy"], cells[1]["untrained_accuracy"], "one seed, one model");
}
