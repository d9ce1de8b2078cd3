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
