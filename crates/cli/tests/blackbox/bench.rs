//! `bonfire bench`: the figures it writes, the picture, what it says to mistakes. Never how fast anything is.

use serde_json::Value;

use crate::support::Room;

/// The smallest work.
const SMALL: [&str; 8] = ["--clients", "2", "--batch", "2", "--steps", "1", "--repeats", "1"];

fn bench<'a>(first: &[&'a str], last: &[&'a str]) -> Vec<&'a str> {
    [&["bench"], first, &SMALL, last].concat()
}

fn positive(value: &Value) -> bool {
    value.as_f64().is_some_and(|number| number > 0.0)
}

#[test]
fn step_names_its_ways_and_their_rates() {
    let room = Room::new();
    let said = room.succeed(&bench(&["step", "--shape", "builtin"], &["--json", "a.json", "--svg", "a.svg"]));
    assert!(said.out.contains("all 2 in flight") && said.out.contains("apply_lora"), "{}", said.out);

    let report = room.json("a.json");
    assert!(report["machine"]["threads"].is_number() && report["burn"].is_string(), "{report}");
    let device = &report["devices"][0];
    assert!(positive(&device["gemm"]["flops_per_second"]), "{device}");
    let rows = device["step"]["rows"].as_array().expect("rows");
    let ids: Vec<&str> = rows.iter().filter_map(|row| row["id"].as_str()).collect();
    assert_eq!(ids, ["all-in-flight", "one-in-flight", "burn-apply-lora"]);
    for row in rows {
        for key in ["tokens_per_second", "client_steps_per_second", "floor_fraction", "against_one"] {
            assert!(positive(&row[key]), "{key}: {row}");
        }
        assert_eq!((&row["done"]["steps"], &row["done"]["tokens"]), (&2.into(), &rows[0]["done"]["tokens"]));
    }

    let svg = room.read("a.svg");
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
    for word in ["GFLOP/s", "real tokens/s", "floor"] {
        assert!(svg.contains(word), "no {word}");
    }
}

#[test]
fn the_other_parts_give_their_figures() {
    let room = Room::new();
    let last = ["--strategy", "lora-a2", "--examples", "4", "--json", "a.json", "--svg", "a.svg"];
    let said = room.succeed(&bench(&["kernels", "round", "scale"], &last));
    assert!(!said.out.contains("WRONG"), "{}", said.out);
    let report = room.json("a.json");
    let device = &report["devices"][0];

    for row in device["kernels"]["rows"].as_array().expect("rows") {
        assert!(row["agrees"] == true && positive(&row["forward"]["ours"]["best"]), "{row}");
    }
    let rounds = device["round"]["rounds"].as_array().expect("rounds");
    let phases: Vec<&str> = rounds.iter().filter_map(|round| round["phase"].as_str()).collect();
    assert_eq!(phases, ["B", "A", "B", "A"], "a warm-up and a reading of each");
    assert!(rounds.iter().all(|round| positive(&round["probe_seconds"])), "{rounds:?}");
    let clients: Vec<u64> = device["scale"]["clients"]
        .as_array()
        .expect("points")
        .iter()
        .filter_map(|point| point["clients"].as_u64())
        .collect();
    assert_eq!(clients, [1, 2, 4]);
    assert!(device["gemm"].is_null() && device["step"].is_null());
}

#[test]
fn texts_of_a_folder_are_trained_on_by_the_rows_given() {
    let room = Room::new();
    room.data(&[], &[]);
    room.write("rows.json", "[[0, 1], [2, 3]]");
    let model = room.model();
    let model = model.to_string_lossy();
    let data = ["--shape", &model, "--data", "data", "--rows", "rows.json", "--ways", "auto", "--json", "a.json"];
    room.succeed(&bench(&["step", "--quiet"], &data));
    let rows = room.json("a.json")["devices"][0]["step"]["rows"].clone();
    assert_eq!((rows.as_array().map(Vec::len), &rows[0]["id"]), (Some(1), &"auto".into()));

    room.write("rows.json", "[[0, 1], [2]]");
    room.refuse(2, &["rows.json", "client 1 has 1 rows"], &bench(&["step"], &data));
}

#[test]
fn mistakes_are_named() {
    let room = Room::new();
    let refuse = |words: &[&str], args: &[&str]| {
        let said = room.refuse(2, words, args);
        let first = said.err.lines().next().unwrap_or_default();
        assert!(first.starts_with("error: ") && words.iter().any(|word| first.contains(word)), "{}", said.err);
    };
    refuse(&["fast", "kernels"], &["bench", "fast"]);
    refuse(&["--clients", "from 1"], &["bench", "step", "--clients", "0"]);
    refuse(&["--rank", "from 1"], &["bench", "step", "--rank", "0"]);
    refuse(&["--rank 129", "128 features"], &["bench", "step", "--rank", "129"]);
    refuse(&["no-such", "roberta-base"], &["bench", "step", "--shape", "no-such"]);
    refuse(&["--budget", "1 to 8"], &["bench", "round", "--budget", "9"]);
    refuse(&["100 tokens", "at most 64"], &["bench", "step", "--lengths", "100"]);
    refuse(&["tokenizer", "minilm"], &["bench", "step", "--shape", "minilm", "--data", "x"]);
    refuse(&["--set"], &["bench", "step", "--set", "train.rounds=2"]);
    refuse(&["--json", "no folder"], &["bench", "step", "--json", "no/such/a.json"]);
    refuse(&["--device and --devices"], &["bench", "step", "--devices", "cpu"]);
}
