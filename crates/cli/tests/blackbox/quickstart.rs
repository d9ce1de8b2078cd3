//! `bonfire train` without a configuration, shortened.

use crate::support::{Room, short};

#[test]
fn a_run_leaves_the_promised_files_with_the_promised_fields() {
    let room = Room::new();
    let said = room.succeed(&short(&["train", "--out", "run"], &[]));
    for words in [
        "strategy    lora-a2: rank 4",
        "training    2 rounds of 4 of 4 clients",
        "round 0/2  the untrained model",
        "round 1/2",
        "round 2/2",
        "accuracy ",
        "uploaded ",
        "full fine-tuning",
        "memory: about ",
    ] {
        assert!(said.out.contains(words), "no {words:?} in: {}", said.out);
    }

    let metrics = room.rounds("run");
    assert_eq!(metrics.len(), 2);
    let fields = [
        "round",
        "train_loss",
        "test_loss",
        "test_accuracy",
        "upload_params",
        "upload_bytes",
        "download_params",
        "download_bytes",
        "seconds",
        "tokens",
        "in_flight",
    ];
    for (row, (round, phase)) in metrics.iter().zip([(1, "B"), (2, "A")]) {
        assert_eq!((row["round"].as_u64(), row["phase"].as_str()), (Some(round), Some(phase)));
        for field in fields {
            assert!(row[field].is_number(), "{field} in {row}");
        }
    }

    let clients = room.rows("run/clients.jsonl");
    assert_eq!(clients.len(), 8);
    for row in &clients {
        let slots: usize =
            row["slots"].as_array().expect("slots").iter().map(|s| s.as_array().expect("a list").len()).sum();
        let targets = row["slots"].as_array().expect("slots").len();
        assert_eq!(slots, targets, "budget 1 means as many slots as targets: {row}");
    }

    let summary = room.json("run/summary.json");
    for field in [
        "rounds",
        "clients",
        "seed",
        "final_accuracy",
        "best_accuracy",
        "upload_params",
        "upload_bytes",
        "download_params",
        "download_bytes",
        "trainable_params",
        "train_seconds",
        "tokens_trained",
        "tokens_per_second",
    ] {
        assert!(summary[field].is_number(), "{field} in {summary}");
    }
    assert_eq!((summary["name"].as_str(), summary["strategy"].as_str()), (Some("quickstart"), Some("lora-a2")));
    assert_eq!(summary["rounds"], 2);
    assert_eq!(summary["products"], "f32 by gemm (Flex)");
    assert!(summary["memory"]["estimated"].is_number(), "{summary}");
    assert_eq!(summary["memory"]["peak"].is_number(), cfg!(target_os = "linux"), "{summary}");
    assert!(summary["device"].as_str().is_some_and(|device| device.starts_with("cpu")));
    let sum: u64 = metrics.iter().map(|row| row["upload_bytes"].as_u64().expect("a count")).sum();
    assert_eq!(summary["upload_bytes"].as_u64(), Some(sum));
    let clients_sum: u64 = clients.iter().map(|row| row["upload_bytes"].as_u64().expect("a count")).sum();
    assert_eq!(clients_sum, sum);

    assert_eq!(room.json("run/adapter/adapter_config.json")["r"], 4);
    assert!(room.path("run/adapter/adapter_model.safetensors").is_file());
}

#[test]
fn without_out_the_folder_is_named_after_the_run_and_the_time() {
    let room = Room::new();
    room.succeed(&short(&["train", "--set", "name=mine"], &["--set", "train.rounds=1"]));
    let names: Vec<String> = std::fs::read_dir(room.path("runs"))
        .expect("the folder is there")
        .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(names.len(), 1);
    let stamp = names[0].strip_prefix("mine-").expect("the name comes first");
    assert_eq!((stamp.len(), stamp.as_bytes()[8]), (15, b'-'), "{stamp}");
}

#[test]
fn quiet_prints_one_line() {
    let room = Room::new();
    let said = room.succeed(&short(&["train", "--quiet", "--out", "run"], &[]));
    assert_eq!(said.out.lines().count(), 1, "{}", said.out);
    assert!(said.out.contains("accuracy") && said.out.contains("uploaded"), "{}", said.out);
    assert!(said.err.is_empty(), "{}", said.err);
}

#[test]
fn the_stored_configuration_runs_again_and_gives_the_same() {
    let room = Room::new();
    room.succeed(&short(&["train", "--quiet", "--out", "first"], &[]));
    room.succeed(&["train", "first/config.toml", "--quiet", "--out", "second"]);
    assert_eq!(room.read("first/config.toml"), room.read("second/config.toml"));
    let accuracy = |run: &str| room.json(&format!("{run}/summary.json"))["final_accuracy"].clone();
    assert_eq!(accuracy("first"), accuracy("second"));
}

#[test]
fn every_strategy_runs() {
    for strategy in ["lora-a2", "fedit", "ffa-lora", "rolora"] {
        let room = Room::new();
        let set = format!("strategy.name={strategy}");
        room.succeed(&short(&["train", "--quiet", "--out", "run", "--set", &set], &["--set", "clients.budget=full"]));
        assert_eq!(room.json("run/summary.json")["strategy"], strategy);
    }
}
