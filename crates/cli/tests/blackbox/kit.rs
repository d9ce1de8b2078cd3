//! `scripts/gpu/run.sh --tiny` on the CPU: every step is a row, with a figure or with why there is none.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::Room;

#[test]
fn every_step_is_a_row() {
    let there = |program: &str| Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success());
    if !["bash", "python3", "timeout", "tar"].into_iter().all(there) {
        println!("SKIPPED: scripts/gpu/run.sh needs bash, python3, timeout and tar");
        return;
    }
    let room = Room::new();
    // A peer that says what it was given, and its rate last.
    room.write("peer.py", "import sys\nprint(sys.argv)\nprint(1234.5)\n");
    std::fs::create_dir(room.path("texts")).expect("made");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/gpu/run.sh");
    let said = Command::new("bash")
        .arg(script)
        .args(["out", "--tiny", "--device", "cpu", "--peer", "peer.py", "--data", "texts"])
        .env("BONFIRE", env!("CARGO_BIN_EXE_bonfire"))
        .current_dir(room.path("."))
        .output()
        .expect("bash starts");
    let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert!(said.status.success(), "{out}\n{err}");
    let table = room.read("out/table.md");
    assert!(out.ends_with(&table) && table.starts_with("| what | result | command |"), "{out}\n{err}");
    assert!(room.path("out/logs.tar.gz").is_file() && !room.path("out/steps").exists());

    let results = room.json("out/results.json");
    assert!(
        results["machine"]["bonfire"].as_str().is_some_and(|v| v.starts_with("bonfire ")),
        "{}",
        results["machine"]
    );
    assert!(results["machine"]["device"].as_str().is_some_and(|v| v.starts_with("cpu (")), "{}", results["machine"]);
    let rows = results["rows"].as_array().expect("rows");
    let of = |step: &str| -> Vec<&Value> { rows.iter().filter(|row| row["step"] == step).collect() };
    for step in results["steps"].as_array().expect("steps") {
        let name = step["name"].as_str().expect("a name");
        let own = of(name);
        assert!(!own.is_empty(), "{name} has no row");
        for row in own {
            let result = row["result"].as_str().unwrap_or_default();
            assert_eq!(row["measured"] == false, result.starts_with("not measured ("), "{row}");
            assert!(row["command"].as_str().is_some_and(|line| !line.is_empty()), "{row}");
        }
    }
    let measured = |name: &str| !of(name).is_empty() && of(name).iter().all(|row| row["measured"] == true);
    for name in ["ceiling", "doctor", "self-test", "self-test-real", "step-f32", "step-f32-short", "decoder-f32"] {
        assert!(measured(name), "{name}: {:?}", of(name));
    }
    for name in ["rounds", "train", "in-flight", "scale", "peer-bf16", "peer-bf16-sliced"] {
        assert!(measured(name), "{name}: {:?}", of(name));
    }
    // What a CPU lacks says so, with what the program said.
    let half = of("step-bf16")[0]["result"].as_str().unwrap_or_default();
    assert!(half.starts_with("not measured (rc 2: error") && half.contains("bf16"), "{half}");
    assert_eq!(of("peer-bf16")[0]["result"], "1 234 tokens/s");
    assert_eq!(of("peer-bf16-packed")[0]["result"], "not measured (the peer knows no --padding-free)");
    assert_eq!(of("vulkan")[0]["result"], "not measured (--device cpu asks for no GPU)");
    for what in ["a step in f32, by the difference of 2 and 1", "a round besides its steps in f32"] {
        assert!(rows.iter().any(|row| row["what"] == what), "no {what}");
    }
}

#[test]
fn mistakes_are_named() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/gpu/run.sh");
    let Ok(probe) = Command::new("bash").arg("--version").output() else { return };
    assert!(probe.status.success());
    let room = Room::new();
    let run = |args: &[&str]| {
        let said = Command::new("bash").arg(&script).args(args).current_dir(room.path(".")).output().expect("bash");
        (said.status.code(), String::from_utf8_lossy(&said.stderr).into_owned())
    };
    for (args, word) in [
        (&["out", "--tinny"][..], "--tinny is no option"),
        (&["out", "--device"], "--device needs a value"),
        (&["out", "--peer", "no/such.py"], "no/such.py cannot be read"),
        (&["out", "--data", "no/such"], "no/such is no folder"),
        (&["out", "--seconds", "soon"], "expected a whole number"),
    ] {
        let (code, err) = run(args);
        assert!(code == Some(2) && err.starts_with("error: ") && err.contains(word), "{args:?}: {code:?} {err}");
    }
}
