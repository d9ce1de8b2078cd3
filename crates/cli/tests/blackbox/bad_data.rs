//! Data that cannot be used, and data that looks strange and can.

use crate::support::Room;

/// Options of a run on the room's small data folder.
const ON_DATA: [&str; 17] = [
    "train",
    "--quiet",
    "--out",
    "run",
    "--set",
    "data.path=data",
    "--set",
    "clients.count=3",
    "--set",
    "data.partition={ kind = \"iid\" }",
    "--set",
    "data.min_shard=1",
    "--set",
    "train.rounds=1",
    "--set",
    "clients.budget=1",
    "--set",
];

fn on_data(last: &str) -> Vec<&str> {
    [&ON_DATA[..], &[last]].concat()
}

#[test]
fn a_missing_folder_is_named() {
    Room::new().refuse(1, &["nowhere", "train.jsonl"], &["train", "--set", "data.path=nowhere"]);
}

#[test]
fn a_missing_file_is_named() {
    let room = Room::new();
    room.data(&[], &[]);
    std::fs::remove_file(room.path("data/test.jsonl")).expect("removed");
    room.refuse(1, &["test.jsonl"], &on_data("train.seed=1"));
}

#[test]
fn a_label_that_training_lacks_is_named_with_its_line() {
    let room = Room::new();
    room.data(&[], &[r#"{"text": "a new thing", "label": "unheard"}"#]);
    room.refuse(1, &["test.jsonl:11", "unheard"], &on_data("train.seed=1"));
}

#[test]
fn a_broken_line_is_named() {
    let room = Room::new();
    room.data(&["{\"text\": \"no label\"}"], &[]);
    room.refuse(1, &["train.jsonl:41", "label"], &on_data("train.seed=1"));
    room.data(&["not json"], &[]);
    room.refuse(1, &["train.jsonl:41"], &on_data("train.seed=1"));
    assert!(!room.path("run").exists());
}

#[test]
fn an_empty_text_is_trained_on() {
    let room = Room::new();
    room.data(&[r#"{"text": "", "label": "late"}"#], &[r#"{"text": "", "label": "lost"}"#]);
    room.succeed(&on_data("train.seed=1"));
    assert_eq!(room.rows("run/metrics.jsonl").len(), 1);
}

#[test]
fn an_empty_shard_is_refused() {
    let room = Room::new();
    room.data(&[], &[]);
    let rows = |from: usize, to: usize| (from..to).map(|row| row.to_string()).collect::<Vec<_>>().join(",");
    room.write("rows.json", &format!("[[{}],[],[{}]]", rows(0, 20), rows(20, 40)));
    let file = "data.partition={ kind = \"file\", path = \"rows.json\" }";
    room.refuse(1, &["client 1", "0 training rows"], &on_data(file));
    room.refuse(
        1,
        &["client 1 has no training examples"],
        &[&on_data(file)[..], &["--set", "data.min_shard=0"]].concat(),
    );
    assert!(!room.path("run").exists());
}
