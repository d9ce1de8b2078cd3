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
fn decoders_are_measured_by_what_their_vocabulary_costs_too() {
    let room = Room::new();
    let decoder =
        ["bench", "step", "--shape", "tiny-decoder", "--clients", "2", "--rank", "2", "--steps", "1", "--repeats", "1"];
    let last = ["--lengths", "8", "--tokens", "64", "--peak-tflops", "0.5", "--json", "a.json"];
    let said = room.succeed(&[&decoder[..], &last].concat());
    assert!(said.out.contains("of the peak") && !said.out.contains("apply_lora"), "{}", said.out);
    let report = room.json("a.json");
    assert_eq!(report["options"]["batch"], 4, "64 tokens of two clients are four texts of eight");
    let device = &report["devices"][0];
    // Two layers of 9,216 parameters; a vocabulary of 257 x 32 for seven of eight tokens.
    let flops = 4.0 * (2.0 * 9216.0 + 257.0 * 32.0 * 7.0 / 8.0);
    assert_eq!(device["step"]["flops_a_token"], flops);
    for row in device["step"]["rows"].as_array().expect("rows") {
        let rate = row["tokens_per_second"].as_f64().expect("a rate");
        let share = row["peak_fraction"].as_f64().expect("a share");
        assert!((share - rate * flops / 0.5e12).abs() < 1e-9 * share, "{row}");
    }
    let gemm = &device["gemm"];
    let of = |value: &Value, key: &str| value[key].as_f64().expect("a number");
    assert!((of(gemm, "peak_fraction") - of(gemm, "flops_per_second") / 0.5e12).abs() < 1e-12, "{gemm}");

    let classify = ["--task", "classify", "--lengths", "4-9", "--batch", "2", "--json", "b.json"];
    room.succeed(&[&decoder[..], &classify].concat());
    let report = room.json("b.json");
    assert_eq!(
        (&report["model"]["classes"], &report["devices"][0]["step"]["flops_a_token"]),
        (&77.into(), &73728.0.into())
    );
}

#[test]
fn ceilings_are_of_what_the_device_computes_in() {
    let room = Room::new();
    room.succeed(&bench(&["ceiling", "--quiet"], &["--json", "a.json"]));
    let ceiling = room.json("a.json")["devices"][0]["ceiling"].clone();
    let products = ceiling["products"].as_array().expect("products");
    assert_eq!((products.len(), &products[0]["precision"]), (1, &"f32".into()), "a CPU computes in f32 alone");
    let side = products[0]["side"].as_f64().expect("a side");
    let rate = 2.0 * side.powi(3) / products[0]["seconds"]["best"].as_f64().expect("seconds");
    assert!((products[0]["flops_per_second"].as_f64().expect("a rate") / rate - 1.0).abs() < 1e-9);
    assert!(positive(&ceiling["bytes_per_second"]), "{ceiling}");
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
    refuse(&["--task causal", "encoder"], &["bench", "step", "--task", "causal"]);
    refuse(
        &["burn-apply-lora", "tiny-decoder"],
        &["bench", "step", "--shape", "tiny-decoder", "--ways", "burn-apply-lora"],
    );
    refuse(&["--data", "language model"], &["bench", "step", "--shape", "tiny-decoder", "--data", "x"]);
    refuse(&["--tokens", "--batch"], &["bench", "step", "--tokens", "9", "--batch", "2"]);
    refuse(&["--precision", "f8"], &["bench", "step", "--precision", "f8"]);
    refuse(&["--set"], &["bench", "step", "--set", "train.rounds=2"]);
    refuse(&["--json", "no folder"], &["bench", "step", "--json", "no/such/a.json"]);
    refuse(&["--device and --devices"], &["bench", "step", "--devices", "cpu"]);
}
