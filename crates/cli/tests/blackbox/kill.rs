//! A run that is killed, again and again, and taken up each time leaves what a run leaves that was never touched.
//!
//! `BONFIRE_KILL_POINTS=500` tries more points; the figures are printed with `--nocapture`.

use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use serde_json::Value;

use crate::support::{Room, Said, short};

/// What is kept between rounds differs: slots and budgets, a log of merged updates, private parts, control variates, the
/// server's moments, and checkpoints that are further apart than rounds.
const RUNS: [&[&str]; 6] = [
    &[],
    &["--set", "strategy.name=flora", "--set", "clients.budget=full", "--set", "clients.per_round=2"],
    &["--set", "strategy.name=fedsa-lora", "--set", "clients.budget=full", "--set", "evaluate.per_client=true"],
    &[
        "--set",
        "strategy.name=fedit",
        "--set",
        "clients.budget=full",
        "--set",
        "train.scaffold=true",
        "--set",
        "save.every=2",
    ],
    &[
        "--set",
        "strategy.name=fedit",
        "--set",
        "clients.budget=full",
        "--set",
        "server.optimizer={name=\"fedadam\",lr=0.01}",
    ],
    &[
        "--set",
        "strategy.name=rolora",
        "--set",
        "clients.budget=full",
        "--set",
        "clients.dropout=0.3",
        "--set",
        "save.every=3",
    ],
];

/// The rows without what the clock says.
fn timeless(mut rows: Vec<Value>) -> Vec<Value> {
    for row in &mut rows {
        row.as_object_mut().expect("an object").retain(|name, _| !name.contains("seconds") && name != "times");
    }
    rows
}

/// Everything that a run leaves and that does not tell of time or memory.
pub fn left(room: &Room, run: &str) -> (Vec<Value>, String, Vec<Value>, Vec<u8>) {
    let mut summary = room.json(&format!("{run}/summary.json"));
    let of_the_machine =
        |name: &str| name.contains("seconds") || name.contains("per_second") || name.contains("memory");
    summary.as_object_mut().expect("an object").retain(|name, _| !of_the_machine(name));
    (
        timeless(room.rounds(run)),
        room.read(&format!("{run}/clients.jsonl")),
        vec![summary],
        std::fs::read(room.path(run).join("adapter/adapter_model.safetensors")).expect("readable"),
    )
}

/// Starts or takes up the run in `run`, and kills it after `patience`; whether it was done before that.
fn attempt(room: &Room, run: &str, options: &[&str], patience: Duration) -> bool {
    // Until its configuration is written, there is no run to be taken up.
    let begun = room.path(run).join("config.toml").exists();
    let first = if begun { ["train", "--quiet", "--resume", run] } else { ["train", "--quiet", "--out", run] };
    let more: &[&str] = if begun { &[] } else { options };
    let args = if begun { first.to_vec() } else { short(&first, &[&["--set", "train.rounds=4"], more].concat()) };
    let mut child =
        room.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    let start = Instant::now();
    while start.elapsed() < patience {
        if let Some(status) = child.try_wait().expect("asked") {
            let said = Said::from(child.wait_with_output().expect("it has ended"));
            assert!(status.success(), "{said:?}");
            return true;
        }
        sleep(Duration::from_millis(1));
    }
    child.kill().expect("SIGKILL");
    child.wait().expect("it ends");
    false
}

#[test]
fn killed_at_any_point_and_taken_up_a_run_ends_as_if_nothing_had_happened() {
    let points: usize = match std::env::var("BONFIRE_KILL_POINTS") {
        Ok(text) => text.parse().expect("BONFIRE_KILL_POINTS is a number"),
        Err(_) => 60,
    };
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(std::process::id().into());
    let mut whole = RUNS.map(|options| {
        let (room, clock) = (Room::new(), Instant::now());
        assert!(attempt(&room, "run", options, Duration::from_secs(600)));
        (left(&room, "run"), clock.elapsed())
    });
    let (mut killed, mut runs) = (0, 0);
    while killed < points {
        let (options, (whole, takes)) = (RUNS[runs % RUNS.len()], &mut whole[runs % RUNS.len()]);
        let (room, clock, mut here) = (Room::new(), Instant::now(), 0);
        // Kills come at any time within a run, and grow rarer, so that each run comes to an end.
        while !attempt(&room, "run", options, takes.mul_f64(rng.random::<f64>() * (1.0 + 0.1 * f64::from(here)))) {
            here += 1;
        }
        if here == 0 {
            *takes = clock.elapsed().min(*takes);
        }
        assert!(left(&room, "run") == *whole, "{options:?}: {here} kills changed the run");
        let leftovers = std::fs::read_dir(room.path("run")).expect("a folder").flatten();
        let names: Vec<String> = leftovers.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        assert!(names.iter().all(|name| !name.ends_with(".tmp")), "{names:?}");
        killed += usize::try_from(here).expect("not negative");
        runs += 1;
    }
    println!(
        "killed at {killed} random points of {runs} runs, taken up each time: all {runs} equal to runs never killed"
    );
}
