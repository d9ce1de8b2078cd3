//! Ctrl-C: once to finish the round, twice to leave at once; the run folder is whole either way.

use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::{Room, Said, short};

/// Starts a run that would take minutes.
fn start(room: &Room) -> Child {
    let args = short(&["train", "--out", "run"], &["--set", "train.rounds=2000"]);
    room.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts")
}

fn interrupt(child: &Child) {
    signal(child, "-INT");
}

fn signal(child: &Child, name: &str) {
    let done = Command::new("kill").args([name, &child.id().to_string()]).status().expect("kill is there");
    assert!(done.success());
}

/// Waits until `ready`, for minutes at most.
fn wait_until(ready: impl Fn() -> bool) {
    let start = Instant::now();
    while !ready() {
        assert!(start.elapsed() < Duration::from_secs(300), "it takes too long");
        sleep(Duration::from_millis(10));
    }
}

fn rounds_written(room: &Room) -> usize {
    // The first row is the untrained model's.
    let rows = std::fs::read_to_string(room.path("run/metrics.jsonl")).map_or(0, |text| text.lines().count());
    rows.saturating_sub(1)
}

/// The files agree about the number of rounds, and the adapter can be measured.
fn assert_whole(room: &Room) -> usize {
    let rounds = room.rounds("run").len();
    assert_eq!(room.json("run/summary.json")["rounds"].as_u64(), Some(rounds as u64));
    assert_eq!(room.rows("run/clients.jsonl").len(), 4 * rounds);
    room.succeed(&["evaluate", "run"]);
    rounds
}

#[test]
fn the_first_press_finishes_the_round() {
    let room = Room::new();
    let child = start(&room);
    wait_until(|| rounds_written(&room) >= 1);
    interrupt(&child);
    let said = Said::from(child.wait_with_output().expect("it ends"));
    assert_eq!(said.code, Some(130), "{said:?}");
    assert!(said.err.contains("finishing round") && said.err.contains("stopped after"), "{}", said.err);
    assert!(said.err.contains("go on with: bonfire train --resume run"), "{}", said.err);
    assert!(said.out.contains("uploaded"), "{}", said.out);
    let rounds = assert_whole(&room);
    assert!((1..2000).contains(&rounds));
}

/// SIGTERM does not wait for the round: a run whose first round would take minutes is saved within seconds, and goes on.
#[test]
fn a_request_to_end_saves_within_seconds() {
    let room = Room::new();
    // 2000 epochs: nobody waits for that.
    let long = ["--set", "train.epochs=2000", "--set", "train.log_every=0.2"];
    let args = short(&["train", "--out", "run"], &long);
    let child = room.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    wait_until(|| std::fs::read_to_string(room.path("run/metrics.jsonl")).is_ok_and(|text| text.lines().count() == 1));
    sleep(Duration::from_millis(1500));
    signal(&child, "-TERM");
    let asked = Instant::now();
    let said = Said::from(child.wait_with_output().expect("it ends"));
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
    assert_eq!(said.code, Some(143), "{said:?}");
    assert!(said.err.contains("SIGTERM: round 1 is given up") && !said.err.contains("press"), "{}", said.err);
    assert!(said.err.contains("stopped after 0 of 2 rounds; go on with: bonfire train --resume run"), "{}", said.err);
    let line = said.out.lines().find(|line| line.contains("clients done")).expect("a line on the way");
    assert!(
        line.starts_with("round 1/2  ") && line.contains(" of 4 clients done") && line.contains("tokens/s"),
        "{line}"
    );
    assert_eq!(assert_whole(&room), 0);
    let on = ["train", "--resume", "run", "--set", "train.epochs=1", "--set", "train.log_every=9", "--accept-changes"];
    room.succeed(&on);
    assert_eq!(assert_whole(&room), 2);
}

/// What `nohup` starts outlives its terminal.
#[test]
fn a_run_that_ignores_hangups_goes_on() {
    let room = Room::new();
    let args = short(&["train", "--quiet", "--out", "run", "--device", "cpu"], &["--set", "train.rounds=2000"]);
    let mut shell = Command::new("sh");
    shell
        .current_dir(room.path("."))
        .args(["-c", "trap '' HUP; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_bonfire")])
        .args(&args);
    let child = shell.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("sh is there");
    wait_until(|| rounds_written(&room) >= 1);
    signal(&child, "-HUP");
    let before = rounds_written(&room);
    if std::path::Path::new("/proc/self/status").exists() {
        wait_until(|| rounds_written(&room) >= before + 2);
    }
    signal(&child, "-TERM");
    let said = Said::from(child.wait_with_output().expect("it ends"));
    assert!(said.code == Some(143) && !said.err.contains("SIGHUP"), "{said:?}");
    assert_whole(&room);
}

#[test]
fn the_second_press_leaves_at_once() {
    let room = Room::new();
    let child = start(&room);
    wait_until(|| rounds_written(&room) >= 1);
    interrupt(&child);
    // Signals that come together count once.
    sleep(Duration::from_millis(5));
    interrupt(&child);
    let said = Said::from(child.wait_with_output().expect("it ends"));
    assert!(said.code == Some(130), "{said:?}");
    assert_whole(&room);
}

#[test]
fn a_cut_before_the_first_round_ends_is_fine() {
    let room = Room::new();
    let child = start(&room);
    wait_until(|| room.path("run/summary.json").exists());
    interrupt(&child);
    let said = Said::from(child.wait_with_output().expect("it ends"));
    assert_eq!(said.code, Some(130), "{said:?}");
    assert!(assert_whole(&room) <= 3);
}

#[test]
fn a_comparison_stops_and_goes_on_where_it_was() {
    let room = Room::new();
    let grid = ["compare", "--out", "cmp", "--strategies", "ffa-lora,fedit:train.rounds=2000"];
    let child = room.command(&short(&grid, &[])).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.expect("the binary starts");
    let run = "cmp/runs/fedit-train.rounds-2000-r1-a0.1-s1";
    wait_until(|| std::fs::read_to_string(room.path(run).join("metrics.jsonl")).is_ok_and(|text| !text.is_empty()));
    interrupt(&child);
    let said = Said::from(child.wait_with_output().expect("it ends"));
    assert_eq!(said.code, Some(130), "{said:?}");
    assert!(said.err.contains("1 of 2 cells are not complete"), "{}", said.err);
    let cells = room.json("cmp/compare.json")["cells"].clone();
    assert_eq!((cells[0]["status"].as_str(), cells[1]["status"].as_str()), (Some("done"), Some("missing")));

    let rows = room.read(&format!("{run}/metrics.jsonl"));
    let child = room.command(&short(&grid, &[])).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.expect("the binary starts");
    wait_until(|| {
        std::fs::read_to_string(room.path(run).join("metrics.jsonl")).is_ok_and(|text| text.len() > rows.len())
    });
    interrupt(&child);
    let said = Said::from(child.wait_with_output().expect("it ends"));
    assert!(said.out.contains("2 cells, 1 to run"), "{}", said.out);
    assert!(room.read(&format!("{run}/metrics.jsonl")).starts_with(&rows), "the run began anew");
}
