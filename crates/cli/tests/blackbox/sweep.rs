//! Every system call by which a run changes its folder, made to fail: whatever it was, the run ends in words or by its own death, and
//! taken up again it leaves what a run leaves to which nothing happened.
//!
//! `BONFIRE_FAULT_POINTS=all` tries every call in every way instead of a few; the figures are printed with `--nocapture`.

use std::path::PathBuf;
use std::process::Command;

use crate::kill::left;
use crate::support::{Room, Said, short};

const WAYS: [&str; 4] = ["eio", "full", "kill", "killed"];

/// The library of `examples/faulty_disk.rs`, which `cargo test` has built beside the program.
fn library() -> Option<PathBuf> {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_bonfire"));
    let path = program.parent()?.join("examples/libfaulty_disk.so");
    path.exists().then_some(path)
}

/// Three rounds, all of whose rows, adapters and checkpoints are written; or what is left of such a run.
fn command(room: &Room, library: &PathBuf, fault: &str) -> Command {
    let begun = room.path("run/config.toml").exists();
    let args = if begun {
        vec!["train", "--quiet", "--resume", "run"]
    } else {
        short(&["train", "--quiet", "--out", "run"], &["--set", "train.rounds=3", "--set", "track.csv=true"])
    };
    let mut command = room.command(&args);
    if !fault.is_empty() {
        let folder = room
            .path("run")
            .canonicalize()
            .unwrap_or_else(|_| room.path(".").canonicalize().expect("the room is there").join("run"));
        command.env("LD_PRELOAD", library).env("BONFIRE_FAULT", format!("{fault}:{}", folder.display()));
        command.env("BONFIRE_FAULT_REPORT", room.path("happened"));
    }
    command
}

fn run(mut command: Command) -> Said {
    command.output().expect("the binary starts").into()
}

#[test]
fn whatever_call_fails_nothing_is_lost() {
    let Some(library) = library() else {
        println!("SKIPPED: examples/libfaulty_disk.so is not built beside the program");
        return;
    };
    let room = Room::new();
    assert_eq!(run(command(&room, &library, "count:0")).code, Some(0));
    let calls: usize = room.read("happened").parse().expect("a number");
    let whole = left(&room, "run");
    // Opening, writing, bringing to disk and renaming of a dozen files, three rounds, and what is cleared away.
    assert!(calls > 60, "only {calls} calls were seen: the program reaches the disk past the library");
    let points: Vec<(usize, &str)> = match std::env::var("BONFIRE_FAULT_POINTS").as_deref() {
        Ok("all") => (1..=calls).flat_map(|call| WAYS.map(|way| (call, way))).collect(),
        // A few of them, each way in all parts of a run; which, differs from one machine to the next only if the calls do.
        _ => (0..24).map(|i| (1 + (i * calls + calls / 2) / 24, WAYS[i % WAYS.len()])).collect(),
    };
    let mut ended = [0; 3];
    for (call, way) in &points {
        let room = Room::new();
        let said = run(command(&room, &library, &format!("{way}:{call}")));
        assert!(room.path("happened").exists(), "call {call} of {calls} was not made: {said:?}");
        match said.code {
            // Such as an old checkpoint that cannot be removed.
            Some(0) => ended[0] += 1,
            None => ended[1] += 1,
            Some(_) => {
                ended[2] += 1;
                assert!(said.err.lines().any(|line| line.starts_with("error: ")), "{way} at call {call}: {}", said.err);
                for word in ["panicked", "internal error"] {
                    assert!(!said.err.contains(word), "{way} at call {call}: {}", said.err);
                }
            }
        }
        let said = run(command(&room, &library, ""));
        assert_eq!(said.code, Some(0), "after {way} at call {call}: {said:?}");
        assert!(left(&room, "run") == whole, "{way} at call {call} changed what the run leaves");
        let entries = std::fs::read_dir(room.path("run")).expect("a folder").flatten();
        let names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        assert!(names.iter().all(|name| !name.ends_with(".tmp")), "after {way} at call {call}: {names:?}");
    }
    let [went_on, died, refused] = ended;
    println!(
        "{} faults at {calls} calls: {refused} runs ended in words, {died} were killed, {went_on} went on; all left the same in the end",
        points.len()
    );
}

#[test]
fn learning_rates_are_tried_side_by_side() {
    let room = Room::new();
    let said = room.succeed(&short(&["train", "--find-lr"], &[]));
    for words in
        ["9 rates", "1e-5", "1e-1", "training loss", "test loss", "lowest test loss: --set train.lr_a=", "find-lr.svg"]
    {
        assert!(said.out.contains(words), "no {words:?} in {}", said.out);
    }
    // The rate that is named has the lowest loss of the table.
    let rows = said.out.lines().filter_map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [rate, _, loss] if rate.starts_with(['1', '3']) && rate.contains("e-") => {
            Some((loss.parse::<f64>().ok()?, rate.to_owned()))
        }
        _ => None,
    });
    let (_, best) = rows.min_by(|x, y| x.0.total_cmp(&y.0)).expect("rates with losses");
    assert!(said.out.contains(&format!("--set train.lr_a={best}\n")), "{best}: {}", said.out);
    assert!(room.path("find-lr/quickstart/find-lr.svg").exists());
    room.refuse(2, &["--find-lr tries rates of its own"], &["train", "--find-lr", "--set", "train.lr_a=1e-3"]);
}
