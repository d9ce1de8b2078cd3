//! `bonfire evaluate` and `bonfire export` on a run folder.

use crate::support::{Room, short};

fn trained() -> Room {
    let room = Room::new();
    room.succeed(&short(&["train", "--quiet", "--out", "run"], &[]));
    room
}

#[test]
fn evaluate_finds_what_training_measured_last() {
    let room = trained();
    let said = room.succeed(&["evaluate", "run", "--json"]);
    let result: serde_json::Value = serde_json::from_str(&said.out).expect("one JSON object");
    let last = room.rows("run/metrics.jsonl").pop().expect("a row");
    for (ours, theirs) in [("accuracy", "test_accuracy"), ("loss", "test_loss")] {
        let (a, b) = (result[ours].as_f64().expect("a number"), last[theirs].as_f64().expect("a number"));
        assert!((a - b).abs() < 1e-5, "{ours}: {a} against {b}");
    }
    let words = room.succeed(&["evaluate", "run"]).out;
    assert!(words.contains("accuracy") && words.contains("80 texts"), "{words}");
}

#[test]
fn export_writes_the_adapter_in_peft_layout() {
    let room = trained();
    let said = room.succeed(&["export", "run", "--format", "peft", "--out", "to/adapter"]);
    assert!(said.out.contains("wrote to/adapter"), "{}", said.out);
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        let read = |folder: &str| std::fs::read(room.path(folder).join(name)).expect("readable");
        assert_eq!(read("run/adapter"), read("to/adapter"));
    }
    let names = std::fs::read_dir(room.path("to")).expect("readable").count();
    assert_eq!(names, 1, "nothing temporary is left");
    let config = room.json("to/adapter/adapter_config.json");
    assert_eq!((config["peft_type"].as_str(), config["task_type"].as_str()), (Some("LORA"), Some("SEQ_CLS")));
}

#[test]
fn a_run_that_trained_every_weight_holds_a_whole_model() {
    let room = Room::new();
    let full = ["strategy.name=full", "clients.budget=full", "train.lr_a=1e-4", "train.rounds=2"];
    let mut args = short(&["train", "--out", "run"], &[]);
    full.iter().for_each(|set| args.extend(["--set", set]));
    let said = room.succeed(&args);
    assert!(said.out.contains("of full fine-tuning"), "{}", said.out);
    assert!(!room.path("run/adapter").exists());
    let last = room.rows("run/metrics.jsonl").pop().expect("a row");
    let result: serde_json::Value =
        serde_json::from_str(&room.succeed(&["evaluate", "run", "--json"]).out).expect("one JSON object");
    for (ours, theirs) in [("accuracy", "test_accuracy"), ("loss", "test_loss")] {
        let (a, b) = (result[ours].as_f64().expect("a number"), last[theirs].as_f64().expect("a number"));
        assert!((a - b).abs() < 1e-5, "{ours}: {a} against {b}");
    }
    room.refuse(2, &["trained every weight", "run/model"], &["export", "run", "--out", "x"]);
    // The folder can be the backbone of another run.
    let mut again = short(&["train", "--quiet", "--out", "again"], &[]);
    again.extend(["--set", "model.path=run/model"]);
    room.succeed(&again);
}

#[test]
fn export_refuses_a_folder_that_holds_something() {
    let room = trained();
    room.refuse(2, &["run exists and is not an empty folder"], &["export", "run", "--out", "run"]);
    std::fs::create_dir(room.path("empty")).expect("made");
    room.succeed(&["export", "run", "--out", "empty"]);
}

#[test]
fn a_folder_that_is_no_run_is_refused() {
    let room = Room::new();
    std::fs::create_dir(room.path("other")).expect("made");
    room.refuse(1, &["other is not a run folder", "config.toml"], &["evaluate", "other"]);
    room.refuse(1, &["nowhere is not a run folder"], &["export", "nowhere", "--out", "x"]);
}

#[test]
fn a_damaged_adapter_is_refused() {
    let room = trained();
    let weights = room.path("run/adapter/adapter_model.safetensors");
    let bytes = std::fs::read(&weights).expect("readable");
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).expect("written");
    room.refuse(1, &["adapter_model.safetensors"], &["evaluate", "run"]);
    room.refuse(1, &["adapter_model.safetensors"], &["export", "run", "--out", "x"]);
    assert!(!room.path("x").exists());
}
