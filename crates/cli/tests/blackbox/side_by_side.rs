//! `bonfire sweep`: every combination is the run that `train` makes, a killed sweep goes on, the worse half is dropped, and mistakes
//! are answered before anything runs.

use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Room, short};

fn sweep<'a>(first: &[&'a str], last: &[&'a str]) -> Vec<&'a str> {
    short(&[&["sweep", "--out", "swept"], first].concat(), last)
}

/// Strategies that fold their start into the backbone when they are alone, one that keeps a part private, one that chooses.
const STRATEGIES: [&str; 2] = ["--strategies", "lora-a2,fedit,ffa-lora,fedsa-lora"];
const RATES: [&str; 2] = ["--set", "train.lr_a=1e-3,4e-3"];

/// Holds the rounds of two runs to each other: what is counted exactly, what is computed as far as sums in another order allow.
fn assert_same_rounds(room: &Room, run: &str, other: &str) {
    let (rows, others) = (room.rounds(run), room.rounds(other));
    assert_eq!(rows.len(), others.len(), "{run}");
    for (x, y) in rows.iter().zip(&others) {
        for counted in ["round", "phase", "upload_bytes", "download_bytes", "tokens", "upload_params"] {
            assert_eq!(x[counted], y[counted], "{run}: {counted}");
        }
        let near = |name: &str, most: f64| match (x[name].as_f64(), y[name].as_f64()) {
            (Some(own), Some(other)) => assert!((own - other).abs() <= most, "{run}: {name} {own} and {other}"),
            (own, other) => assert_eq!(own, other, "{run}: {name}"),
        };
        near("train_loss", 1e-3);
        near("test_loss", 1e-3);
        // A text or two whose best answers are level.
        near("test_accuracy", 0.02);
        near("personal_accuracy", 0.02);
    }
}

fn cells(room: &Room) -> Vec<Value> {
    room.json("swept/compare.json")["cells"].as_array().expect("cells").clone()
}

fn run_of(cell: &Value) -> String {
    format!("swept/{}", cell["run"].as_str().expect("a folder"))
}

#[test]
fn every_cell_is_the_run_that_train_makes() {
    let room = Room::new();
    let options = [&STRATEGIES[..], &RATES[..], &["--seeds", "0,1"]].concat();
    let said = room.succeed(&sweep(&options, &[]));
    assert!(said.out.contains("8 variants × 1 rank × 1 partition × 2 seeds = 16 cells, 16 to run"), "{}", said.out);
    assert!(said.out.contains("16 cells share"), "{}", said.out);
    assert!(said.out.contains("[16/16]") && said.out.contains("written to swept"), "{}", said.out);
    let cells = cells(&room);
    assert_eq!(cells.len(), 16);
    for cell in &cells {
        assert_eq!(cell["status"], "done");
        let run = run_of(cell);
        let alone = format!("alone-{}", run.rsplit('/').next().expect("a name"));
        // One of each strategy, at either rate and seed.
        let chosen = ["lora-a2-train.lr_a-4e-3", "fedit-train.lr_a-1e-3", "ffa-lora-train.lr_a-4e-3", "fedsa"];
        if chosen.iter().any(|name| run.contains(name)) && (run.ends_with("s0") == run.contains("4e-3")) {
            let config = format!("{run}/config.toml");
            room.succeed(&["train", &config, "--quiet", "--out", &alone, "--set", "engine.in_flight=1"]);
            assert_same_rounds(&room, &run, &alone);
        }
        assert!(room.path(&format!("{run}/run.log")).is_file());
    }
    let again = room.succeed(&sweep(&options, &["--quiet"]));
    assert!(again.out.lines().all(|line| line.starts_with('|')), "{}", again.out);
    let runs: Vec<String> = cells.iter().take(3).map(run_of).collect();
    let report: Vec<&str> = ["report"].into_iter().chain(runs.iter().map(String::as_str)).collect();
    room.succeed(&[&report[..], &["--out", "page.html"]].concat());
}

#[test]
fn cells_that_cannot_share_a_pass_are_named_and_train_too() {
    let room = Room::new();
    let said = room.succeed(&sweep(&["--strategies", "flora,fedit,pooled,fedit:train.label_smoothing=0.1"], &[]));
    for words in [
        "2 cells share every pass",
        "1 cell (fedit:train.label_smoothing=0.1) shares its passes with no other",
        "1 cell by themselves, one after another (flora): what clients learn is merged into the backbone",
        "must agree within a pass",
    ] {
        assert!(said.out.contains(words), "no {words:?} in {}", said.out);
    }
    assert!(cells(&room).iter().all(|cell| cell["status"] == "done"));
}

#[test]
fn a_killed_sweep_goes_on() {
    let room = Room::new();
    let more = ["--set", "train.rounds=6", "--seeds", "0"];
    let options = [&["--strategies", "lora-a2,fedit"][..], &RATES[..], &more].concat();
    let whole = Room::new();
    whole.succeed(&sweep(&options, &["--quiet"]));
    let args = sweep(&options, &["--quiet"]);
    let mut child = room.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary starts");
    let first = "swept/runs/lora-a2-train.lr_a-1e-3-r1-a0.1-s0/metrics.jsonl";
    let begun = Instant::now();
    let rows = || std::fs::read_to_string(room.path(first)).map_or(0, |text| text.lines().count());
    // Round 0 and two more.
    while rows() < 3 && begun.elapsed() < Duration::from_secs(120) {
        sleep(Duration::from_millis(5));
    }
    child.kill().expect("killed");
    child.wait().expect("gone");
    assert!(rows() >= 3, "the sweep never began");
    let said = room.succeed(&sweep(&options, &[]));
    assert!(!said.err.contains("begins anew"), "{}", said.err);
    for (cell, other) in cells(&room).iter().zip(&cells(&whole)) {
        assert_eq!((&cell["run"], &cell["status"]), (&other["run"], &other["status"]));
        assert_eq!(cell["upload_bytes"], other["upload_bytes"]);
        let run = run_of(cell);
        std::fs::create_dir_all(room.path("whole")).expect("made");
        let copy = format!("whole/{}", run.rsplit('/').next().expect("a name"));
        std::fs::create_dir_all(room.path(&copy)).expect("made");
        std::fs::copy(whole.path(&run).join("metrics.jsonl"), room.path(&copy).join("metrics.jsonl")).expect("copied");
        assert_same_rounds(&room, &run, &copy);
    }
}

/// Of these settings the better half by the mean over seeds 0 and 1 of test accuracy after `round`; of equals the first.
fn better_half(room: &Room, settings: &[&'static str], round: usize) -> Vec<&'static str> {
    let accuracy = |rate: &str, seed: usize| {
        let row = &room.rounds(&format!("swept/runs/fedit-train.lr_a-{rate}-r1-a0.1-s{seed}"))[round - 1];
        row["test_accuracy"].as_f64().expect("evaluated")
    };
    let mean = |rate: &str| (accuracy(rate, 0) + accuracy(rate, 1)) / 2.0;
    let mut by_mean = settings.to_vec();
    by_mean.sort_by(|x, y| mean(y).total_cmp(&mean(x)));
    by_mean.truncate(settings.len().div_ceil(2));
    // In the order in which they were named.
    settings.iter().copied().filter(|rate| by_mean.contains(rate)).collect()
}

#[test]
fn the_worse_half_is_dropped_at_given_rounds() {
    let room = Room::new();
    let rates = ["1e-9", "1e-4", "2e-3", "8e-3", "2e-2"];
    let set = format!("train.lr_a={}", rates.join(","));
    let options = ["--strategies", "fedit", "--set", &set, "--seeds", "0,1", "--halving", "1,2"];
    let rounds = ["--set", "train.rounds=4", "--set", "evaluate.every=1"];
    let said = room.succeed(&sweep(&options, &rounds));
    assert!(said.out.contains("after round 1 dropped by test accuracy: "), "{}", said.out);
    assert!(said.out.contains("after round 2 dropped by test accuracy: "), "{}", said.out);
    assert!(said.err.contains("evaluate.on = \"validation\""), "{}", said.err);
    let all = cells(&room);
    let of = |status: &str| all.iter().filter(|cell| cell["status"] == status).collect::<Vec<_>>();
    let after_first = better_half(&room, &rates, 1);
    let left = better_half(&room, &after_first, 2);
    assert_eq!((after_first.len(), left.len()), (3, 2));
    for cell in &all {
        let variant = cell["variant"].as_str().expect("text");
        let rate = variant.rsplit('=').next().expect("a rate");
        let after = match (after_first.contains(&rate), left.contains(&rate)) {
            (_, true) => None,
            (true, false) => Some(2),
            (false, false) => Some(1),
        };
        assert_eq!(cell["dropped_after"].as_u64(), after, "{variant}");
        assert_eq!(cell["status"], if after.is_some() { "dropped" } else { "done" }, "{variant}");
    }
    for cell in of("dropped") {
        let rows = room.rounds(&run_of(cell));
        assert_eq!(rows.len() as u64, cell["dropped_after"].as_u64().expect("a round"), "it went on after that");
        assert_eq!(cell["final_accuracy"], rows.last().expect("a row")["test_accuracy"]);
    }
    for cell in of("done") {
        assert_eq!(room.rounds(&run_of(cell)).len(), 4);
    }
    assert!(room.read("swept/table.md").contains("dropped after 2 at "), "{}", room.read("swept/table.md"));
    // The same again decides the same, and has nothing to run.
    let again = room.succeed(&sweep(&options, &rounds));
    assert!(!again.out.contains("share every pass"), "{}", again.out);
    assert_eq!(cells(&room), all);
    // Without halving the others go on to their end.
    room.succeed(&sweep(&options[..6], &rounds));
    assert!(cells(&room).iter().all(|cell| cell["status"] == "done"));
    assert!(cells(&room).iter().all(|cell| room.rounds(&run_of(cell)).len() == 4));
}

#[test]
fn a_cell_that_fails_holds_nobody_up() {
    let room = Room::new();
    let options = ["--strategies", "fedit,ffa-lora", "--set", "train.lr_a=1e-3,1e30", "--set", "engine.in_flight=2"];
    let said = room.refuse(1, &["2 of 4 cells failed", "fedit:train.lr_a=1e30", "not finite"], &sweep(&options, &[]));
    assert!(said.out.contains("4 cells share their passes, 2 at a time"), "{}", said.out);
    let status = |cell: &Value| cell["status"].as_str().expect("text").to_string();
    // FFA-LoRA does not train A, and by its own rule B's rate is A's.
    assert_eq!(cells(&room).iter().map(status).collect::<Vec<_>>(), ["done", "failed", "done", "failed"]);
}

#[test]
fn mistakes_are_told_before_anything_runs() {
    let refused = |words: &[&str], options: &[&str]| {
        let room = Room::new();
        room.refuse(2, words, &sweep(options, &[]));
        assert!(!room.path("swept").exists(), "a refused sweep must leave nothing");
    };
    refused(&["train.lr_b is given an empty value", "--set train.lr_b=1,,2"], &["--set", "train.lr_b=1,,2"]);
    refused(&["a sweep cannot vary train.seed", "--seeds"], &["--set", "train.seed=1,2"]);
    refused(&["cannot vary data.max_length", "all cells share the data"], &["--set", "data.max_length=8,16"]);
    refused(
        &["train.lr_b", "`fedit:train.lr_b=x`", "--set train.lr_b=x"],
        &["--strategies", "fedit", "--set", "train.lr_b=x,1"],
    );
    refused(&["round 2 is not between", "from 1 to 1"], &["--set", "train.lr_b=1,2", "--halving", "2"]);
    refused(&["at least one cell"], &["--side-by-side", "0"]);
    refused(&["unknown key `lr`"], &["--set", "train.lr=1,2"]);
}
