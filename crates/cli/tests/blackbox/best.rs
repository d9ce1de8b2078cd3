//! The best round: which it is, what is kept of it, and when a run ends for want of a better one.

use serde_json::Value;

use crate::support::{Room, short};

/// Four kinds of requests in a folder `data`, every fifth under a wrong name, so that no round is perfect.
fn write_data(room: &Room) {
    let kinds = ["please renew my book", "where is the reading room", "I want to pay a fine", "when do you open"];
    let row = |i: usize| {
        let label = if i.is_multiple_of(5) { i / 5 % 4 } else { i % 4 };
        format!("{{\"text\": \"{} number {}\", \"label\": \"l{label}\"}}\n", kinds[i % 4], i / 4 % 9)
    };
    std::fs::create_dir(room.path("data")).expect("made");
    room.write("data/train.jsonl", &(0..240).map(row).collect::<String>());
    room.write("data/test.jsonl", &(240..320).map(row).collect::<String>());
}

const VALIDATION: [&str; 8] = [
    "--set",
    "data.path=data",
    "--set",
    "data.split={validation=0.2}",
    "--set",
    "evaluate.on=validation",
    "--set",
    "evaluate.best=macro-f1",
];

fn adapter(room: &Room, folder: &str) -> Vec<u8> {
    std::fs::read(room.path(folder).join("adapter_model.safetensors")).expect("an adapter")
}

#[test]
fn the_best_round_is_that_of_the_rows_and_its_adapter_is_kept_and_measured() {
    let room = Room::new();
    write_data(&room);
    room.succeed(&short(
        &["train", "--quiet", "--out", "run"],
        &[&VALIDATION[..], &["--set", "train.rounds=4"]].concat(),
    ));
    let rows = room.rounds("run");
    let score = |row: &Value| row["validation_macro_f1"].as_f64().expect("a score");
    let best =
        rows.iter().max_by(|a, b| score(a).total_cmp(&score(b)).then(b["round"].as_u64().cmp(&a["round"].as_u64())));
    let best = best.expect("a round");
    let summary: Value = serde_json::from_str(&room.read("run/summary.json")).expect("JSON");
    let said = &summary["best"];
    assert_eq!((&said["round"], &said["on"], &said["by"]), (&best["round"], &"validation".into(), &"macro-f1".into()));
    assert_eq!((said["score"].as_f64(), &said["test_accuracy"]), (Some(score(best)), &best["test_accuracy"]));

    let measured = |more: &[&str]| -> Value {
        let out = room.succeed(&[&["evaluate", "run", "--json"][..], more].concat()).out;
        serde_json::from_str(&out).expect("JSON")
    };
    let near = |found: &Value, row: &Value| {
        let (found, row) = (found.as_f64().expect("a number"), row.as_f64().expect("a number"));
        assert!((found - row).abs() < 1e-6, "{found}, the row says {row}");
    };
    near(&measured(&["--best"])["accuracy"], &best["test_accuracy"]);
    near(&measured(&["--best", "--split", "validation"])["macro_f1"], &best["validation_macro_f1"]);
    let last = measured(&["--classes"]);
    near(&last["macro_f1"], &rows[3]["test_macro_f1"]);
    near(&last["matthews"], &rows[3]["test_matthews"]);
    let examples = |row: &Value| row["examples"].as_u64().expect("a count");
    let classes = last["classes"].as_array().expect("classes");
    assert_eq!(classes.iter().map(examples).sum::<u64>(), last["examples"].as_u64().expect("a count"));
    for class in classes {
        let wrong: u64 = class["taken_for"].as_array().expect("a list").iter().map(examples).sum();
        let recall = 1.0 - wrong as f64 / examples(class).max(1) as f64;
        assert!(examples(class) == 0 || (class["recall"].as_f64().expect("a share") - recall).abs() < 1e-9, "{class}");
    }
}

#[test]
fn a_run_ends_when_nothing_becomes_better_and_stays_ended() {
    let room = Room::new();
    // A rate of nothing: the first round is the best one.
    let set =
        ["train.rounds=9", "train.lr_a=0", "train.lr_head=0", "evaluate.best=accuracy", "train.stop={patience=2}"];
    let sets: Vec<&str> = set.iter().flat_map(|set| ["--set", set]).collect();
    let said = room.succeed(&short(&["train", "--out", "run"], &sets));
    assert!(said.out.contains("round 1") && said.out.contains("no better since: the run ends here"), "{}", said.out);
    assert!(!said.err.contains("go on with"), "{}", said.err);
    assert_eq!(room.rounds("run").len(), 3);
    let summary: Value = serde_json::from_str(&room.read("run/summary.json")).expect("JSON");
    assert_eq!((&summary["stopped_early"], &summary["best"]["since"]), (&true.into(), &2.into()));
    room.succeed(&["train", "--quiet", "--resume", "run"]);
    assert_eq!(room.rounds("run").len(), 3, "it has ended");
}

#[test]
fn a_cut_run_remembers_its_best_round() {
    let room = Room::new();
    write_data(&room);
    let four = [&VALIDATION[..], &["--set", "train.rounds=4"]].concat();
    room.succeed(&short(&["train", "--quiet", "--out", "whole"], &four));
    room.succeed(&short(
        &["train", "--quiet", "--out", "cut"],
        &[&VALIDATION[..], &["--set", "train.rounds=2"]].concat(),
    ));
    room.succeed(&["train", "--quiet", "--resume", "cut", "--accept-changes", "--set", "train.rounds=4"]);
    assert_eq!(adapter(&room, "whole/adapter-best"), adapter(&room, "cut/adapter-best"));
    let best = |run: &str| -> Value {
        let summary: Value = serde_json::from_str(&room.read(&format!("{run}/summary.json"))).expect("JSON");
        summary["best"].clone()
    };
    assert_eq!(best("whole"), best("cut"));
}

#[test]
fn what_cannot_be_chosen_by_is_refused_with_the_way_out() {
    let room = Room::new();
    room.refuse(
        2,
        &["there is no validation split", "data.split = { validation = 0.1 }"],
        &short(&["train", "--out", "run"], &["--set", "evaluate.on=validation"]),
    );
    room.refuse(
        2,
        &["train.stop", "evaluate.best"],
        &short(&["train", "--out", "run"], &["--set", "train.stop={patience=2}"]),
    );
    room.succeed(&short(&["train", "--quiet", "--out", "run"], &["--set", "train.rounds=1"]));
    room.refuse(2, &["has no best round", "evaluate.best"], &["evaluate", "run", "--best"]);
}
