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
    Room::new().refuse(2, &["nowhere", "no such file or folder"], &["train", "--set", "data.path=nowhere"]);
}

#[test]
fn a_missing_file_is_named() {
    let room = room(&[], &[]);
    std::fs::remove_file(room.path("data/test.jsonl")).expect("removed");
    room.refuse(2, &["data: no test file; there is: train.jsonl", "data.split = { test = 0.2 }"], &TRAIN);
}

#[test]
fn a_label_that_training_lacks_is_left_out_or_refused() {
    let room = room(&[], &[r#"{"text": "a new thing", "label": "Lost"}"#]);
    room.refuse(
        1,
        &["test.jsonl:11", "\"Lost\"", "did you mean \"lost\"?"],
        &[&TRAIN[..], &["--set", "data.unseen_labels=refuse"]].concat(),
    );
    let said = room.succeed(&["partition", "run.toml", "--no-svg"]);
    assert!(
        said.err.contains("1 test rows have labels that no training row has and are left out: \"Lost\" (1)"),
        "{}",
        said.err
    );
    assert!(said.out.contains("splits of data: 40 train, 10 test"), "{}", said.out);
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
    assert_eq!(room.rounds("run").len(), 1);
}

#[test]
fn an_empty_shard_is_refused() {
    let room = room(&[], &[]);
    let rows = |from: usize, to: usize| (from..to).map(|row| row.to_string()).collect::<Vec<_>>().join(",");
    room.write("rows.json", &format!("[[{}],[],[{}]]", rows(0, 20), rows(20, 40)));
    let file = "data.partition={ kind = \"file\", path = \"rows.json\" }";
    room.refuse(2, &["client 1", "0 training rows"], &[&TRAIN[..], &["--set", file]].concat());
    room.refuse(
        2,
        &["client 1 has no training examples"],
        &[&TRAIN[..], &["--set", file, "--set", "data.min_shard=0"]].concat(),
    );
    assert!(!room.path("run").exists());
}

#[test]
fn the_quickstart_trains_on_all_of_other_data() {
    // Its own labels = 20 and min_shard = 16 are for the built-in texts; three labels and four rows a client are enough here.
    let room = room(&[r#"{"text": "where is it", "label": "found"}"#], &[]);
    let short = ["--set", "train.rounds=1", "--set", "data.partition={ kind = \"iid\" }"];
    let said = room.succeed(&[&["train", "--out", "run", "--set", "data.path=data"][..], &short].concat());
    assert!(said.err.contains("left out, since they are for the built-in texts: data.labels"), "{}", said.err);
    let config = room.read("run/config.toml");
    assert!(!config.contains("labels = 20") && config.contains("min_shard = 1"), "{config}");
}

#[test]
fn pairs_shares_and_the_validation_split_work_from_end_to_end() {
    let room = room(&[], &[]);
    let rows: String = (0..60)
        .map(|i| {
            format!(
                "it rains {i};{} now;{}\n",
                if i % 2 == 0 { "wet" } else { "dry" },
                if i % 2 == 0 { "yes" } else { "no" }
            )
        })
        .collect();
    room.write("pairs.csv", &format!("premise;hypothesis;entails\n{rows}"));
    let sets = [
        "--set",
        "data.path=pairs.csv",
        "--set",
        "data.text=[\"premise\", \"hypothesis\"]",
        "--set",
        "data.label=entails",
        "--set",
        "data.split={ test = 0.2, validation = 0.1 }",
        "--set",
        "data.max_length=8",
    ];
    let said = room.succeed(&[&["train", "run.toml", "--out", "run"][..], &sets].concat());
    assert!(said.err.contains("12 of the training rows are the test split"), "{}", said.err);
    assert!(said.err.contains("54 of 54 texts are longer than data.max_length = 8 tokens and are cut"), "{}", said.err);
    let said = room.succeed(&["evaluate", "run", "--split", "validation"]);
    assert!(said.out.starts_with("validation loss") && said.out.contains("on 6 texts of pairs.csv"), "{}", said.out);
    let said = room.succeed(&["partition", "run/config.toml", "--no-svg"]);
    assert!(said.out.contains("splits of pairs.csv: 42 train, 6 validation, 12 test"), "{}", said.out);
    room.refuse(
        1,
        &["has no validation split"],
        &["evaluate", "run", "--split", "validation", "--set", "data.split={ test = 0.2 }"],
    );
}

#[test]
fn rows_are_on_the_lines_that_an_editor_shows() {
    for (ending, name) in [("\n", "unix"), ("\r\n", "windows")] {
        let room = Room::new();
        room.write("run.toml", CONFIG);
        let lines = ["text,label", "one,a", "two,b", "three,a", "four,"];
        room.write("rows.csv", &lines.map(|line| format!("{line}{ending}")).concat());
        let set = ["--set", "data.path=rows.csv", "--set", "data.split.test=0.2"];
        let said = room.run(&[&["train", "run.toml", "--out", "run"][..], &set].concat());
        assert!(said.err.contains("rows.csv:5: no label"), "{name}: {}", said.err);
    }
}

#[test]
fn a_column_that_is_not_there_is_named_with_its_key() {
    let room = room(&[], &[]);
    let with = |set: &'static str| [&TRAIN[..], &["--set", set]].concat();
    let near = ["no field \"txet\"", "data.text", "--set data.text=txet", "did you mean data.text = \"text\"?"];
    room.refuse(2, &near, &with("data.text=txet"));
    room.refuse(2, &["no field \"zzz\"", "data.label", "text", "row of names"], &with("data.label=zzz"));
}
