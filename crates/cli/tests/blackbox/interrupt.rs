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
    let done = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill is there");
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
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.err.contains("finishing round") && said.err.contains("stopped after"), "{}", said.err);
    assert!(said.err.contains("go on with: bonfire train --resume run"), "{}", said.err);
    assert!(said.out.contains("uploaded"), "{}", said.out);
    let rounds = assert_whole(&room);
    assert!((1..2000).contains(&rounds));
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
    // A fast round may end between the presses.
    assert!(matches!(said.code, Some(130) | Some(0)), "{said:?}");
    assert_whole(&room);
}

#[test]
fn a_cut_before_the_first_round_ends_is_fine() {
    let room = Room::new();
    let child = start(&room);
    wait_until(|| room.path("run/summary.json").exists());
    interrupt(&child);
    let said = Said::from(child.wait_with_output().expect("it ends"));
    assert_eq!(said.code, Some(0), "{said:?}");
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
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.err.contains("1 of 2 cells are not complete"), "{}", said.err);
    let cells = room.json("cmp/compare.json")["cells"].clone();
    assert_eq!((cells[0]["status"].as_str(), cells[1]["status"].as_str()), (Some("done"), Some("missing")));

    // So that the rows waited for are those of the second call.
    std::fs::remove_file(room.path(run).join("metrics.jsonl")).expect("removed");
    let child = room.command(&short(&grid, &[])).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.expect("the binary starts");
    wait_until(|| std::fs::read_to_string(room.path(run).join("metrics.jsonl")).is_ok_and(|text| !text.is_empty()));
    interrupt(&child);
    let said = Said::from(child.wait_with_output().expect("it ends"));
    assert!(said.out.contains("2 cells, 1 to run"), "{}", said.out);
}
