//! `bonfire evaluate` and `bonfire export` on a run folder, and runs that start from an export.

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
    let last = room.rounds("run").pop().expect("a row");
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
    // Its card says what the run came to.
    let (card, summary) = (room.read("to/adapter/README.md"), room.json("run/summary.json"));
    let accuracy = format!("| test accuracy | {:.1}% |", 100.0 * summary["final_accuracy"].as_f64().expect("a number"));
    assert!(card.contains("library_name: peft") && card.contains(&accuracy), "{card}");
    let names = std::fs::read_dir(room.path("to")).expect("readable").count();
    assert_eq!(names, 1, "nothing temporary is left");
    let config = room.json("to/adapter/adapter_config.json");
    assert_eq!((config["peft_type"].as_str(), config["task_type"].as_str()), (Some("LORA"), Some("SEQ_CLS")));
}

#[test]
fn the_model_below_an_adapter_can_be_had() {
    let room = trained();
    let said = room.succeed(&["export", "run", "--out", "adapter"]);
    assert!(said.out.contains("built-in backbone: bonfire export run --base"), "{}", said.out);
    assert!(room.read("adapter/README.md").contains("`bonfire export RUN --base --out DIR`"));
    room.succeed(&["export", "run", "--base", "--out", "base"]);
    // The two together are the run's model.
    let sets = ["model.path=base", "adapter.init=adapter", "train.rounds=0"];
    let mut args = short(&["train", "--quiet", "--out", "again"], &[]);
    sets.iter().for_each(|set| args.extend(["--set", set]));
    room.succeed(&args);
    let (before, after) = (room.json("run/summary.json"), room.json("again/summary.json"));
    assert_eq!(before["final_accuracy"], after["untrained_accuracy"], "{after}");
    room.refuse(2, &["--verify"], &["export", "run", "--base", "--verify", "--out", "no"]);
    // What the strategy set stands in the run's configuration, which can be trained again as it is.
    let config = room.read("run/config.toml");
    assert!(config.contains("# train.lr_b = ") && config.contains("# clients.per_round = "), "{config}");
    room.succeed(&["config", "run/config.toml"]);
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
    let last = room.rounds("run").pop().expect("a row");
    let result: serde_json::Value =
        serde_json::from_str(&room.succeed(&["evaluate", "run", "--json"]).out).expect("one JSON object");
    for (ours, theirs) in [("accuracy", "test_accuracy"), ("loss", "test_loss")] {
        let (a, b) = (result[ours].as_f64().expect("a number"), last[theirs].as_f64().expect("a number"));
        assert!((a - b).abs() < 1e-5, "{ours}: {a} against {b}");
    }
    room.refuse(2, &["trained every weight", "run/model", "merged"], &["export", "run", "--out", "x"]);
    room.refuse(2, &["trained every weight"], &["export", "run", "--format", "gguf", "--out", "x"]);
    room.succeed(&["export", "run", "--format", "merged", "--verify", "--out", "copy"]);
    let read = |folder: &str| std::fs::read(room.path(folder).join("model.safetensors")).expect("readable");
    assert_eq!(read("run/model"), read("copy"));
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
    room.refuse(2, &["other is not a run folder", "config.toml"], &["evaluate", "other"]);
    room.refuse(2, &["nowhere is not a run folder"], &["export", "nowhere", "--out", "x"]);
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

/// The last test accuracy and loss of a run.
fn last(room: &Room, run: &str) -> (f64, f64) {
    let row = room.rounds(run).pop().expect("a row");
    (row["test_accuracy"].as_f64().expect("a number"), row["test_loss"].as_f64().expect("a number"))
}

#[test]
fn every_format_answers_as_the_run_does() {
    let room = trained();
    for (format, layout, out) in [("peft", "uniform", "a"), ("peft", "compact", "b"), ("merged", "uniform", "c")] {
        let said = room.succeed(&["export", "run", "--format", format, "--layout", layout, "--verify", "--out", out]);
        assert!(said.out.contains("verified") && said.out.contains("32 test texts"), "{}", said.out);
    }
    // A budget of one slot: most are still empty.
    let config = room.json("b/adapter_config.json");
    assert!(config["target_modules"].as_array().expect("a list").len() < 24, "{config}");
    assert!(config["rank_pattern"].as_object().is_some(), "{config}");
    // The merged model is a model like any other; its labels have names.
    assert_eq!(room.json("c/config.json")["id2label"].as_object().expect("names").len(), 4);
    assert_ne!(room.json("c/config.json")["id2label"]["0"], "LABEL_0");
    let sharded = ["export", "run", "--format", "merged", "--shard-size", "0.0002", "--out", "d"];
    room.succeed(&sharded);
    assert!(room.path("d/model.safetensors.index.json").is_file());
    let mut again = short(&["train", "--quiet", "--out", "again"], &[]);
    again.extend(["--set", "model.path=d", "--set", "train.rounds=1", "--set", "train.lr_a=1e-12"]);
    again.extend(["--set", "train.lr_head=1e-12"]);
    room.succeed(&again);
    let ((accuracy, loss), (other, other_loss)) = (last(&room, "run"), last(&room, "again"));
    // The built-in model is in f16, and so is what is merged into it.
    assert!((accuracy - other).abs() < 0.03 && (loss - other_loss).abs() < 2e-3, "{loss} and {other_loss}");
}

#[test]
fn a_format_that_the_model_does_not_go_into_is_refused() {
    let room = trained();
    room.refuse(2, &["GGUF", "roberta", "merged or peft"], &["export", "run", "--format", "gguf", "--out", "x"]);
    room.refuse(2, &["--shard-size"], &["export", "run", "--format", "merged", "--shard-size", "0", "--out", "x"]);
    room.refuse(2, &["no clients' own", "lora-a2 keep nothing"], &["export", "run", "--client", "1", "--out", "x"]);
    assert!(!room.path("x").exists());
    let decoder = ["--set", "model.path=builtin-llama"];
    room.succeed(&short(&["train", "--quiet", "--out", "llama"], &decoder));
    room.refuse(2, &["GGUF", "head", "merged or peft"], &["export", "llama", "--format", "gguf", "--out", "x"]);
    room.succeed(&["export", "llama", "--format", "merged", "--verify", "--out", "x"]);
    assert_eq!(room.json("x/config.json")["architectures"][0], "LlamaForSequenceClassification");
}

#[test]
fn an_adapter_of_another_model_is_refused() {
    let room = trained();
    // A model of three layers, not four.
    room.model();
    let weights = room.path("model/config.json");
    let config = std::fs::read_to_string(&weights)
        .expect("readable")
        .replace("\"num_hidden_layers\": 4", "\"num_hidden_layers\": 3");
    std::fs::write(&weights, config).expect("written");
    let args = ["export", "run", "--out", "x", "--set", "model.path=model"];
    room.refuse(1, &["adapter"], &args);
    assert_eq!(std::fs::read_dir(room.path("")).expect("readable").count(), 2, "only the run and the model");
}

#[test]
fn clients_that_keep_a_part_have_adapters_of_their_own() {
    let room = Room::new();
    let mut args = short(&["train", "--quiet", "--out", "run"], &[]);
    args.extend(["--set", "strategy.name=fedsa-lora", "--set", "clients.budget=full", "--set", "adapter.head=trained"]);
    room.succeed(&args);
    room.succeed(&["export", "run", "--clients", "--verify", "--out", "all"]);
    let weights = |folder: &str| std::fs::read(room.path(folder).join("adapter_model.safetensors")).expect("readable");
    let own: Vec<_> = (0..4).map(|k| weights(&format!("all/{k:04}"))).collect();
    assert!(own.iter().all(|w| *w != weights("run/adapter")) && own[0] != own[1]);
    room.succeed(&["export", "run", "--client", "2", "--out", "one"]);
    assert_eq!(weights("one"), own[2]);
    room.succeed(&["export", "run", "--client", "2", "--format", "merged", "--verify", "--out", "whole"]);
    room.refuse(2, &["client 9 has no adapter", "0000, 0001"], &["export", "run", "--client", "9", "--out", "x"]);
}

#[test]
fn predictions_are_those_that_were_counted() {
    let room = trained();
    room.succeed(&["evaluate", "run", "--predictions", "said.jsonl"]);
    let rows = room.rows("said.jsonl");
    let (accuracy, loss) = last(&room, "run");
    let n = rows.len() as f64;
    assert_eq!(n, 80.0);
    let right = rows.iter().filter(|row| row["label"] == row["prediction"]).count() as f64;
    let mean = rows.iter().map(|row| row["loss"].as_f64().expect("a number")).sum::<f64>() / n;
    assert!((right / n - accuracy).abs() < 1e-9 && (mean - loss).abs() < 1e-5);
    assert_eq!(rows[3]["logits"].as_array().expect("scores").len(), 4);
}

#[test]
fn a_run_that_starts_from_an_export_starts_where_the_other_ended() {
    let room = trained();
    room.succeed(&["export", "run", "--out", "start"]);
    for strategy in ["lora-a2", "fedit", "flora", "sora"] {
        let out = format!("on-{strategy}");
        let name = format!("strategy.name={strategy}");
        let mut args = short(&["train", "--quiet", "--out", &out, "--set", &name, "--set", "adapter.init=start"], &[]);
        args.extend(["--set", "train.rounds=1", "--set", "train.lr_a=1e-12", "--set", "train.lr_head=1e-12"]);
        args.extend(["--set", "adapter.head=trained"]);
        if strategy != "lora-a2" {
            args.extend(["--set", "clients.budget=full"]);
        }
        room.succeed(&args);
        let ((accuracy, loss), (other, other_loss)) = (last(&room, "run"), last(&room, &out));
        assert!((accuracy - other).abs() < 1e-9 && (loss - other_loss).abs() < 1e-4, "{strategy}: {loss} {other_loss}");
        assert!(room.read(&format!("{out}/config.toml")).contains("init = \"start\""));
    }
}

#[test]
fn a_start_that_is_not_what_the_settings_say_is_refused() {
    let room = trained();
    let with = |sets: &[&str], words: &[&str], init: &str| {
        let init = format!("adapter.init={init}");
        let mut args = short(&["train", "--out", "x", "--set", &init], &[]);
        sets.iter().for_each(|set| args.extend(["--set", set]));
        room.refuse(2, words, &args);
        assert!(!room.path("x").exists());
    };
    with(&["adapter.rank=3"], &["adapter.rank", "is 3", "adapter.rank = 4"], "run/adapter");
    with(&["adapter.alpha=3"], &["adapter.alpha", "adapter.alpha = 16"], "run/adapter");
    with(&["adapter.targets=[\"query\"]"], &["adapter.targets", "\"key\""], "run/adapter");
    with(&[], &["adapter.init", "kaimin", "gaussian"], "kaimin");
    with(&["data.labels=5"], &["adapter.init", "number of classes"], "run/adapter");
    with(&["model.path=builtin-llama"], &["adapter.init", "llama"], "run/adapter");
    with(&["strategy.name=full", "clients.budget=full"], &["adapter.init", "full"], "run/adapter");
    let config = room.path("run/adapter/adapter_config.json");
    let text = std::fs::read_to_string(&config).expect("readable");
    std::fs::write(&config, text.replace("\"use_dora\": false", "\"use_dora\": true")).expect("written");
    with(&[], &["adapter.init", "use_dora"], "run/adapter");
}
