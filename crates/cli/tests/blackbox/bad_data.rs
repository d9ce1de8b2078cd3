//! Data that cannot be used, and data that looks strange and can.

use crate::support::Room;

/// A run of a second on the room's small data folder.
const CONFIG: &str = r#"
[model]
path = "builtin"

[data]
path = "data"
partition = { kind = "iid" }

[clients]
count = 3
budget = 1

[adapter]
rank = 2
head = "trained"

[train]
rounds = 1

[strategy]
name = "lora-a2"
"#;

/// A room with the configuration and a data folder with these further rows.
fn room(more_train: &[&str], more_test: &[&str]) -> Room {
    let room = Room::new();
    room.write("run.toml", CONFIG);
    room.data(more_train, more_test);
    room
}

const TRAIN: [&str; 5] = ["train", "run.toml", "--quiet", "--out", "run"];

#[test]
fn a_missing_folder_is_named() {
    Room::new().refuse(1, &["nowhere", "train.jsonl"], &["train", "--set", "data.path=nowhere"]);
}

#[test]
fn a_missing_file_is_named() {
    let room = room(&[], &[]);
    std::fs::remove_file(room.path("data/test.jsonl")).expect("removed");
    room.refuse(1, &["test.jsonl"], &TRAIN);
}

#[test]
fn a_label_that_training_lacks_is_named_with_its_line() {
    let room = room(&[], &[r#"{"text": "a new thing", "label": "unheard"}"#]);
    room.refuse(1, &["test.jsonl:11", "unheard"], &TRAIN);
}

#[test]
fn a_broken_line_is_named() {
    let room = room(&["{\"text\": \"no label\"}"], &[]);
    room.refuse(1, &["train.jsonl:41", "label"], &TRAIN);
    room.data(&["not json"], &[]);
    room.refuse(1, &["train.jsonl:41"], &TRAIN);
    assert!(!room.path("run").exists());
}

#[test]
fn an_empty_text_is_trained_on() {
    let room = room(&[r#"{"text": "", "label": "late"}"#], &[r#"{"text": "", "label": "lost"}"#]);
    room.succeed(&TRAIN);
    assert_eq!(room.rows("run/metrics.jsonl").len(), 1);
}

#[test]
fn an_empty_shard_is_refused() {
    let room = room(&[], &[]);
    let rows = |from: usize, to: usize| (from..to).map(|row| row.to_string()).collect::<Vec<_>>().join(",");
    room.write("rows.json", &format!("[[{}],[],[{}]]", rows(0, 20), rows(20, 40)));
    let file = "data.partition={ kind = \"file\", path = \"rows.json\" }";
    room.refuse(1, &["client 1", "0 training rows"], &[&TRAIN[..], &["--set", file]].concat());
    room.refuse(
        1,
        &["client 1 has no training examples"],
        &[&TRAIN[..], &["--set", file, "--set", "data.min_shard=0"]].concat(),
    );
    assert!(!room.path("run").exists());
}
