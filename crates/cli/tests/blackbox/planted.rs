//! Run folders that somebody packed to do harm, or that are taken away while a run writes them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::{Room, Said, short};

/// A run of two rounds with everything that a run writes.
fn trained() -> Room {
    let room = Room::new();
    let sets = ["--set", "track.csv=true", "--set", "track.tensorboard=true", "--set", "track.wandb=true"];
    room.succeed(&short(&["train", "--quiet", "--out", "run"], &sets));
    room.write("victim", "mine");
    fs::create_dir(room.path("folder")).expect("made");
    room
}

/// Going on for a round more.
const RESUME: [&str; 6] = ["train", "--resume", "run", "--set", "train.rounds=3", "--accept-changes"];

/// What reads a run.
const READERS: [&[&str]; 4] = [
    &RESUME,
    &["report", "run", "--out", "page.html"],
    &["evaluate", "run"],
    &["export", "run", "--format", "peft", "--out", "exported"],
];

fn untouched(room: &Room) {
    assert_eq!(room.read("victim"), "mine");
    assert_eq!(fs::read_dir(room.path("folder")).expect("there").count(), 0);
}

/// Something in the place of what a run wrote.
struct Planted {
    path: PathBuf,
    aside: Option<PathBuf>,
}

impl Planted {
    /// Puts what `new` makes in the place of `path`.
    fn at(path: PathBuf, new: impl FnOnce(&Path)) -> Planted {
        let aside = path.exists().then(|| PathBuf::from(format!("{}-aside", path.display())));
        if let Some(aside) = &aside {
            fs::rename(&path, aside).expect("moved");
        }
        new(&path);
        Planted { path, aside }
    }

    /// A link.
    fn link(path: PathBuf, to: &Path) -> Planted {
        Planted::at(path, |at| symlink(to, at).expect("linked"))
    }

    fn undo(self) {
        fs::remove_file(&self.path).expect("removed");
        if let Some(aside) = self.aside {
            fs::rename(aside, self.path).expect("moved back");
        }
    }
}

fn pipe(at: &Path) {
    assert!(Command::new("mkfifo").arg(at).status().expect("mkfifo is there").success());
}

#[test]
fn links_in_a_run_folder_are_not_followed() {
    let room = trained();
    let (victim, folder) = (room.path("victim"), room.path("folder"));
    let newest = "checkpoints/round-000002.bonfire";
    let files = ["config.toml", "metrics.jsonl", "clients.jsonl", "summary.json", "partition.json", "run.log", ".lock"];
    let more = ["metrics.csv", newest, "adapter/adapter_config.json", "adapter/adapter_model.safetensors"];
    let folders = ["adapter", "checkpoints", "tensorboard", "wandb", "clients"];
    let files = files.into_iter().chain(more).map(|name| (name, &victim));
    for (name, to) in files.chain(folders.map(|name| (name, &folder))) {
        let planted = Planted::link(room.path("run").join(name), to);
        for args in READERS {
            let said = room.run(args);
            assert!(said.code == Some(1) || said.code == Some(2), "{name}, {args:?}: {said:?}");
            assert!(said.err.contains(&format!("run/{name} is a link, which no run makes")), "{args:?}: {}", said.err);
            assert!(!said.err.contains("mine"), "{}", said.err);
            untouched(&room);
        }
        planted.undo();
    }
    // Nothing is made where a link leads to nothing yet.
    let planted = Planted::link(room.path("run/.lock"), &room.path("new"));
    room.refuse(1, &["run/.lock is a link"], &RESUME);
    assert!(!room.path("new").exists());
    planted.undo();
    room.succeed(&RESUME);
}

#[test]
fn names_that_are_written_beside_cannot_be_foreseen() {
    let room = trained();
    let names = [
        ".summary.json.tmp",
        ".config.toml.tmp",
        ".metrics.csv.tmp",
        "checkpoints/.round-000003.bonfire.tmp",
        "adapter/.adapter_model.safetensors.tmp",
    ];
    for name in names {
        Planted::link(room.path("run").join(name), &room.path("victim"));
    }
    // Inside of folders that a run makes there are no links at all.
    room.refuse(1, &["is a link, which no run makes"], &RESUME);
    for name in &names[3..] {
        fs::remove_file(room.path("run").join(name)).expect("removed");
    }
    room.succeed(&RESUME);
    untouched(&room);
    for name in names {
        assert!(!room.path("run").join(name).is_symlink(), "{name}");
    }
}

#[test]
fn pipes_and_devices_are_not_read() {
    let room = trained();
    for name in ["metrics.jsonl", "config.toml", "clients.jsonl", "summary.json", "checkpoints/round-000002.bonfire"] {
        for plant in [pipe as fn(&Path), |at| symlink("/dev/zero", at).expect("linked")] {
            let planted = Planted::at(room.path("run").join(name), plant);
            for args in READERS {
                let begin = Instant::now();
                let said = room.run(args);
                assert!(said.code == Some(1) || said.code == Some(2), "{name}, {args:?}: {said:?}");
                assert!(said.err.contains(&format!("run/{name} is ")), "{args:?}: {}", said.err);
                assert!(begin.elapsed() < Duration::from_secs(60));
            }
            planted.undo();
        }
    }
}

#[test]
fn a_comparison_follows_no_links_either() {
    let room = Room::new();
    let grid = short(&["compare", "--out", "cmp", "--strategies", "ffa-lora,fedit"], &[]);
    room.succeed(&grid);
    fs::create_dir(room.path("folder")).expect("made");
    room.write("victim", "mine");
    let runs: Vec<PathBuf> = fs::read_dir(room.path("cmp/runs")).expect("there").flatten().map(|e| e.path()).collect();
    for (path, to) in
        [(runs[0].clone(), "folder"), (room.path("cmp/runs"), "folder"), (runs[1].join("summary.json"), "victim")]
    {
        let planted = Planted::link(path, &room.path(to));
        let said = room.run(&grid);
        assert!(said.code == Some(1) || said.code == Some(2), "{said:?}");
        assert!(said.err.contains("is in the way") || said.err.contains("is a link"), "{}", said.err);
        untouched(&room);
        planted.undo();
    }
    room.succeed(&grid);
}

/// Starts a run that would take minutes, and waits for its first round.
fn running(room: &Room) -> std::process::Child {
    let args = short(&["train", "--out", "run"], &["--set", "train.rounds=5000"]);
    let child = room.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    let begin = Instant::now();
    while !fs::read_to_string(room.path("run/metrics.jsonl")).is_ok_and(|text| text.lines().count() > 0) {
        assert!(begin.elapsed() < Duration::from_secs(300), "it takes too long");
        sleep(Duration::from_millis(10));
    }
    child
}

/// How a folder goes.
type Taking = fn(&Room);

#[test]
fn a_run_whose_folder_goes_stops() {
    let takes: [(&str, Taking); 4] = [
        ("all", |room| {
            while fs::remove_dir_all(room.path("run")).is_err() {
                sleep(Duration::from_millis(1));
            }
        }),
        ("rows", |room| fs::remove_file(room.path("run/metrics.jsonl")).expect("removed")),
        ("replaced", |room| {
            fs::copy(room.path("run/clients.jsonl"), room.path("copy")).expect("copied");
            fs::rename(room.path("copy"), room.path("run/clients.jsonl")).expect("moved");
        }),
        ("renamed", |room| fs::rename(room.path("run"), room.path("moved")).expect("moved")),
    ];
    for (what, take) in takes {
        let room = Room::new();
        let child = running(&room);
        take(&room);
        let (begin, said) = (Instant::now(), Said::from(child.wait_with_output().expect("it ends")));
        assert!(begin.elapsed() < Duration::from_secs(120), "{what}");
        assert_eq!(said.code, Some(1), "{what}: {said:?}");
        assert!(said.err.contains("error: the run stopped"), "{what}: {}", said.err);
        if what != "all" {
            assert!(!said.err.contains("go on with"), "{what}: {}", said.err);
            assert!(said.err.contains("is not the folder any more that it wrote"), "{what}: {}", said.err);
            assert!(said.err.contains("deleted, renamed or replaced while the run went on"), "{what}: {}", said.err);
        }
    }
}

#[test]
fn a_run_that_was_moved_goes_on_where_it_is_now() {
    let room = Room::new();
    let child = running(&room);
    fs::rename(room.path("run"), room.path("moved")).expect("moved");
    let said = Said::from(child.wait_with_output().expect("it ends"));
    assert_eq!(said.code, Some(1), "{said:?}");
    let rows = room.rounds("moved").len();
    let rounds = format!("train.rounds={}", rows + 1);
    room.succeed(&["train", "--quiet", "--resume", "moved", "--set", &rounds, "--accept-changes"]);
    assert_eq!(room.rounds("moved").len(), rows + 1);
}
