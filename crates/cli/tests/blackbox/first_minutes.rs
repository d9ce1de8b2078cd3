//! What somebody meets who has just installed the program.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{Room, Said};

/// The program with exactly these arguments, in a folder of the room.
fn plain(room: &Room, folder: &str, args: &[&str]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bonfire"));
    command.current_dir(room.path(folder)).args(args).output().expect("the binary starts").into()
}

#[test]
fn alone_it_says_what_to_do_next() {
    let room = Room::new();
    let said = plain(&room, ".", &[]);
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{said:?}");
    for line in ["  bonfire train ", "  bonfire new ", "  bonfire doctor ", "  bonfire --help "] {
        assert!(said.out.contains(line), "{}", said.out);
    }
    // Options without a command are a mistake all the same.
    room.refuse(2, &["requires a subcommand"], &["--quiet"]);
}

#[test]
fn a_new_folder_trains_as_it_is_and_with_rows_of_ones_own() {
    let room = Room::new();
    let said = room.succeed(&["new", "mine"]);
    assert!(said.out.contains("cd mine && bonfire train federation.toml"), "{}", said.out);
    room.refuse(2, &["mine exists and is not an empty folder"], &["new", "mine"]);

    let cpu = |args: &[&str]| plain(&room, "mine", &[args, &["--device", "cpu"]].concat());
    let short = ["train", "federation.toml", "--set", "train.rounds=1", "--set", "train.epochs=1", "--out"];
    let said = cpu(&[&short[..], &["first"]].concat());
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains("480 training and 120 test texts, 6 labels"), "{}", said.out);
    let said = cpu(&[
        "partition",
        "federation.toml",
        "--no-svg",
        "--set",
        "data.partition={kind=\"natural\", column=\"branch\"}",
        "--set",
        "clients.count=20",
    ]);
    assert_eq!(said.code, Some(0), "{said:?}");

    // Rows of one's own, as its README says.
    let rows = |count: usize| -> String {
        let row =
            |n: usize| format!("{{\"text\": \"row {n} of this kind\", \"label\": \"{}\"}}\n", ["yes", "no"][n % 2]);
        (0..count).map(row).collect()
    };
    room.write("mine/data/train.jsonl", &rows(200));
    room.write("mine/data/test.jsonl", &rows(40));
    let said = cpu(&[&short[..], &["second"]].concat());
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains("200 training and 40 test texts, 2 labels"), "{}", said.out);
}

#[test]
fn a_run_says_at_once_what_it_was_asked_for() {
    use std::io::{BufRead, BufReader};
    let room = Room::new();
    let mut command = room.command(&["train", "--set", "train.rounds=1", "--out", "run"]);
    let began = Instant::now();
    let mut run = command.stdout(std::process::Stdio::piped()).spawn().expect("the binary starts");
    let mut line = String::new();
    BufReader::new(run.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    let after = began.elapsed();
    run.kill().expect("ended");
    run.wait().expect("ended");
    assert!(line.starts_with("federation  quickstart: lora-a2, 1 round;"), "{line}");
    // Two seconds on an idle machine; others may build on this one.
    assert!(after < Duration::from_secs(20), "after {after:?}");
}

#[test]
fn a_mistyped_kind_of_configuration_is_no_file() {
    let room = crate::support::Room::new();
    room.refuse(2, &["no configuration `clasifier`", "did you mean `classifier`?"], &["config", "--init", "clasifier"]);
    assert!(!room.path("clasifier").exists());
    room.succeed(&["config", "--init", "mine.toml"]);
    room.refuse(2, &["nothing to sweep", "--seeds 0,1"], &["sweep"]);
}
