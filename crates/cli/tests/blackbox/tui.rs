//! The dashboard on a terminal, which `script` of util-linux makes: it opens, hears keys, and gives the terminal back.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::{Room, Said, short};

const ENTER: &str = "\u{1b}[?1049h";
const LEAVE: &str = "\u{1b}[?1049l";

/// Starts a run of minutes on a terminal of 100 columns; `None` where there is no `script`.
fn start(room: &Room) -> Option<Child> {
    let args = short(&["train", "--tui", "--out", "run", "--device", "cpu"], &["--set", "train.rounds=2000"]);
    let line = format!("stty rows 30 cols 100; exec {} {}", env!("CARGO_BIN_EXE_bonfire"), args.join(" "));
    let mut script = Command::new("env");
    // Tests that were started by `nohup` have SIGHUP ignored, and a program keeps that: its terminal could be closed unheard.
    script.args(["--default-signal=HUP", "script"]);
    script.args(["-qec", &line, "/dev/null"]).current_dir(room.path("")).stdin(Stdio::piped());
    if Command::new("script").arg("--version").output().is_err() {
        println!("SKIPPED: no `script` to make a terminal with");
        return None;
    }
    script.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().ok()
}

/// Waits until the run has ended a round.
fn wait_for_a_round(room: &Room, child: &mut Child) {
    let start = Instant::now();
    while !std::fs::read_to_string(room.path("run/metrics.jsonl")).is_ok_and(|text| text.lines().count() > 1) {
        assert!(start.elapsed() < Duration::from_secs(300), "it takes too long");
        assert!(child.try_wait().is_ok_and(|ended| ended.is_none()), "the run goes on");
        sleep(Duration::from_millis(20));
    }
}

fn press(child: &mut Child, key: &[u8]) {
    let mut keys = child.stdin.as_ref().expect("a pipe");
    keys.write_all(key).and_then(|()| keys.flush()).expect("pressed");
}

#[test]
fn q_finishes_the_round_and_the_result_stands_on_the_terminal_as_it_was() {
    let room = Room::new();
    let Some(mut child) = start(&room) else { return };
    wait_for_a_round(&room, &mut child);
    sleep(Duration::from_millis(300));
    press(&mut child, b"q");
    let said = Said::from(child.wait_with_output().expect("it ends"));
    assert_eq!(said.code, Some(130), "{said:?}");
    let (_, drawn) = said.out.split_once(ENTER).expect("the dashboard opens");
    let (drawn, after) = drawn.split_once(LEAVE).expect("the dashboard closes");
    for words in ["quickstart", "lora-a2", "tokens/s", "accuracy", "examples"] {
        assert!(drawn.contains(words), "no {words:?} on the dashboard");
    }
    assert!(after.contains("stopped after") && after.contains("uploaded"), "{after}");
    assert!(room.read("run/run.log").contains("finishing round"));
    assert!(room.rounds("run").len() < 2000);
}

#[test]
fn control_c_twice_leaves_at_once_and_gives_the_terminal_back() {
    let room = Room::new();
    let Some(mut child) = start(&room) else { return };
    wait_for_a_round(&room, &mut child);
    press(&mut child, b"\x03\x03");
    let said = Said::from(child.wait_with_output().expect("it ends"));
    assert_eq!(said.code, Some(130), "{said:?}");
    assert!(said.out.contains(LEAVE), "the terminal is as it was");
    let summary = room.json("run/summary.json");
    assert_eq!(summary["rounds"].as_u64(), Some(room.rounds("run").len() as u64));
}

#[test]
fn a_terminal_that_is_closed_stops_the_run_after_its_round() {
    let room = Room::new();
    let Some(mut child) = start(&room) else { return };
    wait_for_a_round(&room, &mut child);
    child.kill().expect("the terminal goes");
    child.wait().expect("gone");
    let lock = std::fs::File::open(room.path("run/.lock")).expect("a run");
    let start = Instant::now();
    while lock.try_lock().is_err() {
        assert!(start.elapsed() < Duration::from_secs(60), "the program does not end");
        sleep(Duration::from_millis(50));
    }
    let rounds = room.rounds("run").len();
    assert!((1..2000).contains(&rounds));
    assert_eq!(room.json("run/summary.json")["rounds"].as_u64(), Some(rounds as u64));
    assert!(room.read("run/run.log").contains("finishing round"));
}
