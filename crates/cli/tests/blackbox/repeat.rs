//! The same seed gives the same run, whoever else is on the device.

use serde_json::Value;

use crate::support::{Room, short};

/// A run's rows without what the clock says.
fn rows(room: &Room, file: &str) -> Vec<Value> {
    let mut rows = room.rows(file);
    for row in &mut rows {
        let fields = row.as_object_mut().expect("an object");
        fields.retain(|name, _| !name.contains("seconds") && name != "times");
    }
    rows
}

#[test]
fn the_same_seed_gives_the_same_metrics_and_the_same_adapter() {
    let room = Room::new();
    for run in ["a", "b"] {
        room.succeed(&short(&["train", "--quiet", "--out", run], &[]));
    }
    assert_eq!(rows(&room, "a/metrics.jsonl"), rows(&room, "b/metrics.jsonl"));
    assert_eq!(rows(&room, "a/clients.jsonl"), rows(&room, "b/clients.jsonl"));
    let adapter =
        |run: &str| std::fs::read(room.path(run).join("adapter/adapter_model.safetensors")).expect("readable");
    assert!(adapter("a") == adapter("b"), "the adapters differ");
}

#[test]
fn another_seed_gives_another_run() {
    let room = Room::new();
    room.succeed(&short(&["train", "--quiet", "--out", "a"], &["--set", "train.rounds=1"]));
    room.succeed(&short(&["train", "--quiet", "--out", "b"], &["--set", "train.rounds=1", "--set", "train.seed=99"]));
    assert_ne!(rows(&room, "a/clients.jsonl"), rows(&room, "b/clients.jsonl"));
}

/// Trains twice, the second time with `more`, and holds the losses of every round against each other.
fn same_losses(more: &[&str]) {
    let room = Room::new();
    room.succeed(&short(&["train", "--quiet", "--out", "one"], &["--set", "engine.in_flight=1"]));
    room.succeed(&short(&["train", "--quiet", "--out", "other"], more));
    let losses = |run: &str| -> Vec<f64> {
        let rows = rows(&room, &format!("{run}/metrics.jsonl"));
        // The untrained model has none.
        rows[1..].iter().map(|row| row["train_loss"].as_f64().expect("a loss")).collect()
    };
    for (one, other) in losses("one").iter().zip(losses("other")) {
        assert!((one - other).abs() < 1e-3 * one.abs(), "{one} against {other}");
    }
}

#[test]
fn clients_in_flight_do_not_change_what_is_learnt() {
    same_losses(&["--set", "engine.in_flight=4"]);
    same_losses(&["--set", "engine.tokens_per_step=50"]);
}

#[test]
fn several_devices_do_not_change_what_is_learnt() {
    same_losses(&["--device", "cpu,cpu"]);
}

#[test]
fn a_run_folder_whose_keys_have_moved_since_is_evaluated_and_resumed() {
    let room = Room::new();
    room.succeed(&short(&["train", "--quiet", "--out", "run"], &["--set", "train.rounds=1"]));
    let config = room.read("run/config.toml");
    let old = config.lines().filter(|line| !line.starts_with("precision =") && !line.starts_with("recompute =")).map(
        |line| {
            if line == "[train]" {
                "[train]\nprecision = \"f32\"\ncheckpoint = \"none\"\nmemory_gb = 8.0"
            } else {
                line
            }
        },
    );
    room.write("run/config.toml", &old.collect::<Vec<_>>().join("\n"));
    room.succeed(&["evaluate", "run"]);
    room.succeed(&["train", "--quiet", "--resume", "run"]);
    let config = room.read("run/config.toml");
    let engine = config.split("[engine]").nth(1).expect("a section");
    assert!(engine.contains("memory_gb = 8.0") && !config.contains("checkpoint = \"none\""), "{config}");
}
