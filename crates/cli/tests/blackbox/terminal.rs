//! Names and texts of others do not steer the terminal.

use std::fs;

use crate::support::{Room, Said};

/// A title, a cleared screen, a link, C1 controls, an overridden direction.
const EVIL: &str = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{1b}]8;;http://x\u{1b}\\y\u{9b}31m\u{9d}\u{202e}\r";

fn harmless(said: &Said) {
    for text in [&said.out, &said.err] {
        let steers = |c: char| (c.is_control() && c != '\n' && c != '\t') || ('\u{202a}'..='\u{202e}').contains(&c);
        assert!(!text.contains(steers), "{text:?}");
    }
    assert!(!said.err.contains("panicked"), "{}", said.err);
}

fn evil_json() -> String {
    serde_json::to_string(EVIL).expect("JSON")
}

#[test]
fn labels_and_columns_are_shown_harmless() {
    let room = Room::new();
    let evil = evil_json();
    room.data(&[], &[]);
    let rows: String = (0..40).map(|i| format!("{{\"text\": \"t {i}\", \"label\": {evil}}}\n")).collect();
    let path = room.path("data/train.jsonl");
    let others = fs::read_to_string(&path).expect("there");
    fs::write(&path, rows + &others).expect("written");
    let args =
        ["partition", "--no-svg", "--set", "data.path=data", "--set", "data.min_shard=1", "--set", "clients.count=2"];
    let said =
        room.succeed(&[&args[..], &["--set", "data.labels=3", "--set", "data.partition={ kind = \"iid\" }"]].concat());
    harmless(&said);
    assert!(said.out.contains("\\u001b]0;owned\\u0007\\u001b[2J"), "{}", said.out);
    // Errors that repeat a column, in a block and as JSON.
    fs::write(&path, format!("{{{evil}: 1}}\n")).expect("written");
    for format in ["text", "json"] {
        let said = room.run(&[&args[..], &["--log-format", format]].concat());
        assert_ne!(said.code, Some(0));
        harmless(&said);
        if format == "json" {
            said.err.lines().for_each(|line| drop(serde_json::from_str::<serde_json::Value>(line).expect("JSON")));
        }
    }
}

#[test]
fn models_names_and_files_are_shown_harmless() {
    let room = Room::new();
    let config = room.model().join("config.json");
    let text = fs::read_to_string(&config).expect("there");
    let mut value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    value["model_type"] = EVIL.into();
    fs::write(&config, value.to_string()).expect("written");
    let said = room.run(&["train", "--out", "run", "--set", "model.path=model"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    harmless(&said);
    assert!(said.err.contains("owned"), "{}", said.err);
    let set = format!("data.path={EVIL}");
    for args in
        [&["config", EVIL][..], &["train", "--set", &set, "--out", "run"], &["evaluate", EVIL], &["report", EVIL]]
    {
        let said = room.run(args);
        assert_ne!(said.code, Some(0));
        harmless(&said);
    }
    room.write("run.toml", &format!("[train]\n{} = 1\n", serde_json::to_string("\u{1b}[2Jrounds").expect("JSON")));
    let said = room.run(&["config", "run.toml"]);
    assert_eq!(said.code, Some(2));
    harmless(&said);
}

#[test]
fn the_log_of_a_run_is_harmless_too() {
    let room = Room::new();
    room.write("victim", "");
    let name = format!("run{}", &EVIL[..12]);
    room.succeed(&crate::support::short(&["train", "--out", &name], &["--set", "train.rounds=1"]));
    harmless(&Said { code: None, out: room.read(&format!("{name}/run.log")), err: String::new() });
}
