//! `bonfire doctor`, and what training makes of its verdicts.

use serde_json::Value;

use crate::support::{Room, Said, short};

/// Runs the binary with a cache folder of its own.
fn run(room: &Room, args: &[&str]) -> Said {
    room.command(args).env("XDG_CACHE_HOME", room.path("cache")).output().expect("the binary starts").into()
}

#[test]
fn the_cpu_is_good() {
    let room = Room::new();
    let said = run(&room, &["doctor"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    for words in [
        "burn#5257",
        "backends  flex",
        "linear, A and B train",
        "tiny-roberta",
        "tiny-llama, classes",
        "GB/s",
        "GFLOP/s",
    ] {
        assert!(said.out.contains(words), "no {words:?} in {}", said.out);
    }
    assert!(said.out.ends_with("cpu  good\n"), "{}", said.out);
    let wide = said.out.lines().find(|line| line.chars().count() > 80);
    assert!(wide.is_none(), "{wide:?}");

    let said = run(&room, &["doctor", "--json", "--quiet"]);
    let report: Value = serde_json::from_str(&said.out).expect("one JSON object");
    assert!(said.err.is_empty(), "{}", said.err);
    let device = &report["devices"][0];
    assert_eq!((&device["device"], &device["verdict"]), (&"cpu".into(), &"good".into()));
    assert_eq!(device["products"], serde_json::json!(["f32 by gemm (Flex)"]), "the CPU is offered nothing else");
    assert_eq!(device["speed"]["kernel"], "gemm");
    assert!(device["speed"]["flops_per_second"].as_f64().is_some_and(|rate| rate > 0.0), "{device}");
    for check in device["checks"].as_array().expect("checks") {
        assert!(check["off"].as_f64() <= check["allowed"].as_f64(), "{check}");
    }
    assert!(!room.path("cache").exists(), "the CPU needs no verdict");

    let said = run(&room, &["doctor", "--quiet"]);
    assert_eq!(said.out, "cpu  good\n");
}

#[test]
fn the_cpu_opens_and_keeps_no_kernels() {
    let room = Room::new();
    let said = run(&room, &short(&["train", "--out", "run"], &[]));
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(!room.path("cache").exists());
    let said = run(&room, &["doctor", "--list", "--json"]);
    let report: Value = serde_json::from_str(&said.out).expect("one JSON object");
    let kernels = &report["kernels"];
    assert_eq!((&kernels["tuned"], &kernels["compiled"], &kernels["bytes"]), (&0.into(), &0.into(), &0.into()));
    assert!(!room.path("cache").exists());
}

#[test]
fn what_was_kept_is_forgotten() {
    let room = Room::new();
    std::fs::create_dir_all(room.path("cache/bonfire/kernels")).expect("made");
    let fill = || {
        room.write("cache/bonfire/kernels/default.db", &"x".repeat(1_500));
        room.write("cache/bonfire/kernels/default.db-wal", &"x".repeat(500));
        let good = serde_json::json!({ "verdict": "good" });
        room.write(
            "cache/bonfire/doctor.json",
            &serde_json::json!({ "devices": { "a": good, "b": good } }).to_string(),
        );
    };
    fill();
    room.write("cache/bonfire/other", "not ours to forget");
    let said = run(&room, &["doctor", "--forget"]);
    assert_eq!(said.out, "forgot 2.0 kB of tuned and compiled kernels and the verdicts on 2 devices\n", "{said:?}");
    let left = || room.path("cache/bonfire/kernels").exists() || room.path("cache/bonfire/doctor.json").exists();
    assert!(said.code == Some(0) && !left() && room.path("cache/bonfire/other").exists());
    assert_eq!(run(&room, &["doctor", "--forget"]).out, "there was nothing to forget\n");

    std::fs::create_dir_all(room.path("cache/bonfire/kernels")).expect("made");
    fill();
    let said: Value = serde_json::from_str(&run(&room, &["doctor", "--forget", "--json"]).out).expect("an object");
    assert_eq!(said, serde_json::json!({ "deleted_bytes": 2_000, "deleted_verdicts": 2 }));
    assert!(!left());
    room.refuse(2, &["--list"], &["doctor", "--forget", "--list"]);
}

/// A measurement on wgpu's first device that tunes a handful of products, with the room's cache folder.
fn products(room: &Room) -> std::process::Command {
    let args =
        ["bench", "gemm", "--shape", "builtin", "--clients", "2", "--batch", "2", "--steps", "1", "--repeats", "1"];
    let mut command = room.command(&[&args[..], &["--device", "wgpu", "--json", "a.json"]].concat());
    command.env("XDG_CACHE_HOME", room.path("cache")).env("XDG_RUNTIME_DIR", room.path(""));
    command
}

/// What the doctor says is kept: tuned operations and bytes.
fn kept(room: &Room) -> (u64, u64) {
    let report: Value = serde_json::from_str(&run(room, &["doctor", "--list", "--json"]).out).expect("an object");
    let of = |name: &str| report["kernels"][name].as_u64().expect("a number");
    (of("tuned"), of("bytes"))
}

fn done(mut command: std::process::Command) -> Said {
    let said: Said = command.output().expect("the binary starts").into();
    assert_eq!(said.code, Some(0), "{said:?}");
    for word in ["panicked", "internal error"] {
        assert!(!said.err.contains(word), "{word:?} in: {}", said.err);
    }
    said
}

#[test]
fn what_is_tuned_outlives_the_process() {
    type Spoil = fn(Vec<u8>) -> Vec<u8>;
    let room = Room::new();
    if run(&room, &["doctor", "--list", "--device", "wgpu"]).code != Some(0) {
        println!("SKIPPED: no wgpu device answers, so nothing can be tuned");
        return;
    }
    // Two processes at once, in an empty folder.
    let both = [products(&room), products(&room)].map(|mut command| command.spawn().expect("the binary starts"));
    for mut child in both {
        assert!(child.wait().expect("it ends").success());
    }
    let (tuned, bytes) = kept(&room);
    assert!(tuned > 0 && bytes > 0);
    // A third finds all of it.
    let said = done(products(&room));
    assert!(!said.err.contains("tuned"), "{}", said.err);
    assert_eq!(kept(&room).0, tuned, "nothing was tuned again");

    // What is no database, one with a log that is riddled, and one whose log was cut short: one line, and it tunes again.
    let damages: [(&str, Spoil); 3] = [
        ("default.db", |_| b"this is no database".to_vec()),
        ("default.db-wal", |mut log| {
            log.iter_mut().skip(4_096).step_by(7).for_each(|byte| *byte = !*byte);
            log
        }),
        ("default.db-wal", |log| log[..log.len() / 2 + 13].to_vec()),
    ];
    for (file, spoil) in damages {
        let path = room.path("cache/bonfire/kernels").join(file);
        std::fs::write(&path, spoil(std::fs::read(&path).expect("a file"))).expect("written");
        let said = done(products(&room));
        let lines = said.err.lines().filter(|line| line.contains("was damaged")).count();
        // A log that was cut is whole up to the cut, as far as its reader can tell.
        assert!(lines == 1 || (lines == 0 && file == "default.db-wal"), "{file}: {}", said.err);
        assert!(lines == 0 || kept(&room).0 == tuned, "{file}");
        let said = done(products(&room));
        assert!(!said.err.contains("was damaged"), "{}", said.err);
    }

    // A place where no folder can be.
    assert!(run(&room, &["doctor", "--forget"]).out.contains("of tuned and compiled kernels"));
    room.write("cache/bonfire/kernels", "a file");
    let said = done(products(&room));
    assert_eq!(said.err.lines().filter(|line| line.contains("cannot be kept")).count(), 1, "{}", said.err);
    std::fs::remove_file(room.path("cache/bonfire/kernels")).expect("removed");

    // Where the user's own file says.
    room.write("cubecl.toml", "[environment]\npath = { directory = \"mine\" }\n[autotune]\nlevel = \"minimal\"\n");
    done(products(&room));
    assert!(room.path("mine").is_dir() && !room.path("cache/bonfire/kernels").exists());
    let said = run(&room, &["doctor", "--forget"]);
    assert!(said.err.contains("mine is left alone"), "{said:?}");
    assert!(room.path("mine/default.db").exists());
}

#[test]
fn devices_that_are_not_there_are_said() {
    let room = Room::new();
    room.refuse(2, &["no `cuda` device", "--features cuda"], &["doctor", "--device", "cuda"]);
    room.refuse(2, &["reads no configuration"], &["doctor", "--set", "train.rounds=2"]);
    let said = run(&room, &["doctor", "--device", "cpu,wgpu:99"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.contains("cpu      good") && said.out.contains("wgpu:99  does not answer: "), "{}", said.out);
    assert!(said.err.contains("1 of 2 devices"), "{}", said.err);
}

#[test]
fn a_device_known_to_be_wrong_is_refused() {
    let room = Room::new();
    // Listing says whether a driver is there, and checks nothing.
    let said = run(&room, &["doctor", "--list", "--device", "wgpu", "--json", "--quiet"]);
    if said.code != Some(0) {
        println!("SKIPPED: no wgpu device answers, so there is none to refuse: {}", said.out);
        return;
    }
    let report: Value = serde_json::from_str(&said.out).expect("one JSON object");
    assert_eq!(report["devices"][0]["verdict"], "unchecked");
    let text = |value: &Value| value.as_str().expect("text").to_string();
    let (version, drivers) = (text(&report["bonfire"]), text(&report["drivers"]));
    // Both commands below train the built-in encoder in f32.
    let key = format!("bonfire {version}, {}, {drivers}; tiny-roberta in f32", text(&report["devices"][0]["name"]));
    let because = "linear: gradient of A 0 differs by 0.5, allowed are 1.0e-4";
    let kept = serde_json::json!({ "devices": { key: { "verdict": "wrong", "because": because } } });
    std::fs::create_dir_all(room.path("cache/bonfire")).expect("made");
    room.write("cache/bonfire/doctor.json", &kept.to_string());

    for args in [&["train", "--device", "wgpu", "--out", "run"][..], &["compare", "--device", "wgpu", "--out", "table"]]
    {
        let said = run(&room, &short(args, &[]));
        assert_eq!(said.code, Some(1), "{said:?}");
        for words in ["error: nothing is trained on wgpu (", because, "`bonfire doctor`", "--device cpu"] {
            assert!(said.err.contains(words), "no {words:?} in {}", said.err);
        }
        assert!(!room.path("run/metrics.jsonl").exists());
    }
    let said = run(&room, &["doctor", "--list", "--device", "wgpu"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.contains(because), "{}", said.out);
}
