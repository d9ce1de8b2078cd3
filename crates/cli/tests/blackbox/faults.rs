//! What goes wrong around a run: damaged checkpoints, changed configurations, two processes, a full disk, a folder that cannot
//! be written.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::support::{Room, Said, short};

/// A run of three rounds.
fn trained() -> Room {
    let room = Room::new();
    room.succeed(&short(&["train", "--quiet", "--out", "run"], &["--set", "train.rounds=3"]));
    room
}

fn checkpoints(room: &Room) -> Vec<PathBuf> {
    let entries = fs::read_dir(room.path("run/checkpoints")).expect("a folder").flatten();
    let mut paths: Vec<PathBuf> = entries.map(|e| e.path()).collect();
    paths.sort();
    paths
}

fn adapter(room: &Room, run: &str) -> Vec<u8> {
    fs::read(room.path(run).join("adapter/adapter_model.safetensors")).expect("readable")
}

#[test]
fn a_damaged_checkpoint_is_named_and_the_one_before_is_used() {
    let spoil: [fn(&mut Vec<u8>); 4] = [
        |bytes| bytes.truncate(bytes.len() / 2),
        |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 16;
        },
        |bytes| bytes.clear(),
        |bytes| bytes.iter_mut().for_each(|b| *b = 0),
    ];
    let room = trained();
    let whole = adapter(&room, "run");
    for spoil in spoil {
        let newest = checkpoints(&room).pop().expect("a checkpoint");
        let mut bytes = fs::read(&newest).expect("readable");
        spoil(&mut bytes);
        fs::write(&newest, bytes).expect("written");
        let said = room.succeed(&["train", "--resume", "run"]);
        assert!(said.err.contains("run/checkpoints/round-000003.bonfire"), "{}", said.err);
        assert!(said.err.contains("going on from the one before"), "{}", said.err);
        assert!(said.out.contains("going on after round 2 of 3"), "{}", said.out);
        assert_eq!(room.rounds("run").len(), 3);
        assert!(adapter(&room, "run") == whole, "round 3 is what it was");
    }
    for path in checkpoints(&room) {
        fs::write(path, "nothing of ours").expect("written");
    }
    let words = ["round-000003.bonfire is not a checkpoint", "round-000002.bonfire is not a checkpoint"];
    room.refuse(1, &words, &["train", "--resume", "run"]);
    assert_eq!(room.rounds("run").len(), 3, "nothing is lost");
}

#[test]
fn a_run_goes_back_to_any_round_that_it_kept() {
    let room = Room::new();
    room.succeed(&short(&["train", "--quiet", "--out", "run"], &["--set", "train.rounds=5", "--set", "save.keep=4"]));
    let whole = adapter(&room, "run");
    let names = |room: &Room| -> Vec<String> {
        let name = |p: &PathBuf| p.file_name().expect("a name").to_string_lossy().into_owned();
        checkpoints(room).iter().map(name).collect()
    };
    assert_eq!(names(&room), [2, 3, 4, 5].map(|round| format!("round-{round:06}.bonfire")));
    room.refuse(
        2,
        &["no checkpoint of round 1; there are those of 2, 3, 4, 5"],
        &["train", "--resume", "run", "--round", "1"],
    );
    assert_eq!(room.rounds("run").len(), 5);
    let said = room.succeed(&["train", "--resume", "run", "--round", "2"]);
    assert!(said.out.contains("going on after round 2 of 5"), "{}", said.out);
    assert_eq!(room.rounds("run").len(), 5);
    assert!(adapter(&room, "run") == whole, "rounds 3 to 5 are what they were");
    // What is to change from there on is said as ever.
    let back = ["train", "--resume", "run", "--round", "3", "--set", "train.rounds=4", "--accept-changes"];
    room.succeed(&back);
    assert_eq!(names(&room).last().map(String::as_str), Some("round-000004.bonfire"));
    assert_eq!(room.rounds("run").len(), 4);
}

#[test]
fn a_changed_configuration_is_refused_unless_accepted() {
    let room = trained();
    let more = ["train", "--resume", "run", "--set", "train.rounds=4", "--set", "train.lr_a=1e-3"];
    let words = ["after round 3", "train.rounds was 3, is 4", "train.lr_a was", "--accept-changes"];
    room.refuse(2, &words, &more);
    let said = room.succeed(&[&more[..], &["--accept-changes"]].concat());
    assert!(said.err.contains("from round 4 on"), "{}", said.err);
    assert_eq!(room.rounds("run").len(), 4);
    assert!(room.read("run/config.toml").contains("rounds = 4"));
    // More rounds alone change nothing of those that are done, unless something counts them.
    let said = room.succeed(&["train", "--resume", "run", "--set", "train.rounds=5"]);
    assert!(said.err.contains("train.rounds was 4, is 5"), "{}", said.err);
    let counted =
        ["train", "--resume", "run", "--set", "train.rounds=6", "--set", "train.lr_rounds={ schedule = \"cosine\" }"];
    room.refuse(2, &["train.rounds was 5, is 6", "train.lr_rounds", "--accept-changes"], &counted);
    // How and where the work is done is nobody's business but the device's.
    let said = room.succeed(&["train", "--resume", "run", "--set", "engine.in_flight=1"]);
    assert!(said.err.contains("engine.in_flight was"), "{}", said.err);
    // What the state depends on cannot be accepted away.
    let other = ["train", "--resume", "run", "--set", "clients.count=5", "--accept-changes"];
    room.refuse(1, &["it has 4 clients, this run 5"], &other);
    // An edited file is a change like any other.
    let edited = room.read("run/config.toml").replace("epochs = 1", "epochs = 2");
    room.write("run/config.toml", &edited);
    room.refuse(2, &["train.epochs was 1, is 2"], &["train", "--resume", "run"]);
}

#[test]
fn a_folder_that_holds_no_run_is_named() {
    let room = trained();
    room.refuse(2, &["there is no run folder nix"], &["train", "--resume", "nix"]);
    fs::create_dir(room.path("empty")).expect("made");
    room.refuse(2, &["empty holds no run", "config.toml"], &["train", "--resume", "empty"]);
    room.refuse(2, &["--out"], &["train", "--resume", "run", "--out", "other"]);
    fs::remove_dir_all(room.path("run/checkpoints")).expect("removed");
    room.refuse(1, &["holds rounds but no checkpoint"], &["train", "--resume", "run"]);
    let cut = room.read("run/metrics.jsonl");
    assert_eq!(cut.lines().count(), 4, "nothing is lost");
}

#[test]
fn rows_that_are_missing_are_noticed() {
    let room = trained();
    fs::write(room.path("run/clients.jsonl"), "").expect("written");
    room.refuse(1, &["clients.jsonl has 0 bytes", "rows are missing"], &["train", "--resume", "run"]);
}

#[test]
fn two_processes_do_not_write_to_one_folder() {
    let room = Room::new();
    let args = short(&["train", "--quiet", "--out", "run"], &["--set", "train.rounds=2000"]);
    let mut first = room.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary starts");
    while !room.path("run/summary.json").exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let owner = format!("another bonfire (process {}) is writing to run", first.id());
    room.refuse(2, &[&owner], &["train", "--resume", "run"]);
    first.kill().expect("killed");
    first.wait().expect("it ends");
    // A killed process holds nothing any more.
    let mut second = room.command(&["train", "--quiet", "--resume", "run"]).spawn().expect("the binary starts");
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(second.try_wait().expect("asked").is_none(), "it trains");
    second.kill().expect("killed");
    second.wait().expect("it ends");
}

#[test]
fn a_run_that_was_stopped_says_how_to_go_on() {
    let room = Room::new();
    let diverges = ["--set", "train.lr_a=1e38", "--set", "train.lr_b=1e38"];
    let said = room.refuse(
        1,
        &["round 1, client", "skip-client", "bonfire train --resume run"],
        &short(&["train", "--out", "run"], &diverges),
    );
    assert_eq!(said.err.matches("error:").count(), 1, "{}", said.err);
    let better = ["--set", "train.lr_a=1e-3", "--set", "train.lr_b=1e-3", "--accept-changes"];
    room.succeed(&[&["train", "--quiet", "--resume", "run"][..], &better].concat());
    assert_eq!(room.rounds("run").len(), 2);
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let room = Room::new();
    room.refuse(1, &["cannot make the run folder /proc/run"], &short(&["train", "--out", "/proc/run"], &[]));
}

/// Runs a shell script as root of a mount namespace of its own, where a file system of a few hundred kB can be mounted; `None`
/// where the system allows none.
#[cfg(target_os = "linux")]
fn in_namespace(room: &Room, script: &str) -> Option<Said> {
    let run = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]);
        command.current_dir(room.path("")).env("BONFIRE", env!("CARGO_BIN_EXE_bonfire")).output()
    };
    let allowed = run("mount -t tmpfs none /mnt").is_ok_and(|output| output.status.success());
    if !allowed {
        println!("SKIPPED: no mount namespaces here, so no disk can be made full");
        return None;
    }
    Some(run(script).expect("a shell").into())
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_loses_no_round_that_was_saved() {
    let room = Room::new();
    fs::create_dir(room.path("small")).expect("made");
    let options = short(&["train", "--quiet", "--device", "cpu"], &["--set", "train.rounds=6"]).join(" ");
    // Room for the adapter and one checkpoint, not for a second; then the disk grows, and the run goes on where it was.
    let script = format!(
        "mount -t tmpfs -o size=420k none small && \"$BONFIRE\" {options} --out small/run; echo code $? >&2
        wc -l < small/run/metrics.jsonl >&2; ls -A small/run small/run/checkpoints small/run/adapter >&2
        mount -o remount,size=100m small && \"$BONFIRE\" train --quiet --device cpu --resume small/run && cp -r small/run whole"
    );
    let Some(said) = in_namespace(&room, &script) else { return };
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.err.contains("code 1") && said.err.contains("No space left on device"), "{}", said.err);
    assert!(said.err.contains("cannot save the run") && said.err.contains("small/run"), "{}", said.err);
    assert!(!said.err.contains(".tmp"), "{}", said.err);
    room.succeed(&short(&["train", "--quiet", "--out", "run"], &["--set", "train.rounds=6"]));
    assert!(adapter(&room, "whole") == adapter(&room, "run"), "as if the disk had never been full");
}

#[cfg(target_os = "linux")]
#[test]
fn a_read_only_disk_is_told_before_anything_trains() {
    let room = Room::new();
    fs::create_dir(room.path("disk")).expect("made");
    let options = short(&["train", "--quiet", "--device", "cpu", "--out", "disk/run"], &[]).join(" ");
    let script = format!("mount -t tmpfs -o ro none disk && \"$BONFIRE\" {options}");
    let Some(said) = in_namespace(&room, &script) else { return };
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("cannot make the run folder disk/run"), "{}", said.err);
    assert!(said.err.contains("Read-only file system"), "{}", said.err);
}

#[cfg(target_os = "linux")]
#[test]
fn a_round_whose_rows_do_not_fit_is_not_counted() {
    let room = Room::new();
    fs::create_dir(room.path("small")).expect("made");
    room.succeed(&short(&["train", "--quiet", "--out", "run"], &["--set", "train.rounds=1"]));
    // Rows of clients go to a file system of one page.
    let script = "mount -t tmpfs -o size=4k none small && cp run/clients.jsonl small && mount --bind small/clients.jsonl run/clients.jsonl &&
        \"$BONFIRE\" train --quiet --device cpu --resume run --set train.rounds=40 --accept-changes";
    let Some(said) = in_namespace(&room, script) else { return };
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("No space left on device") && said.err.contains("run/clients.jsonl"), "{}", said.err);
    let whole = room.rounds("run").len();
    assert!(whole > 1 && said.err.contains(&format!("holds the state after round {whole};")), "{whole}: {}", said.err);
    assert_eq!(room.json("run/summary.json")["rounds"].as_u64(), Some(whole as u64));
}
