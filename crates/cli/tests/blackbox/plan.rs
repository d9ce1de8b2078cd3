//! `bonfire plan`: forecasts beside what runs have shown.

use std::path::Path;

use serde_json::Value;

use crate::support::Room;

#[test]
fn a_plan_weighs_what_was_run_and_invents_no_accuracy() {
    let room = Room::new();
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/hospitals.toml").display().to_string();
    let sets = ["--set", "train.rounds=2", "--set", "train.epochs=1", "--set", "clients.count=4"];
    let strategies = ["--strategies", "fedit,lora-a2:wire.upload=int8", "--ranks", "4"];
    room.succeed(&[&["compare", &config, "--out", "runs", "--seeds", "0,1"][..], &strategies, &sets].concat());
    let runs: Value = serde_json::from_str(&room.read("runs/compare.json")).expect("JSON");
    let plan = |more: &[&str]| -> Value {
        let strategies = ["--strategies", "fedit,lora-a2:wire.upload=int8,ffa-lora", "--ranks", "4", "--json"];
        let said = room.succeed(&[&["plan", &config][..], &strategies, &sets, more].concat());
        serde_json::from_str::<Value>(&said.out).expect("JSON")
    };
    let found = plan(&["--runs", "runs", "--reach", "0.0", "--svg", "plan.svg"]);
    let [fedit, ours, ffa] = [0, 1, 2].map(|i| found["candidates"][i].clone());
    // Accuracies and bytes are means over the runs; time is forecast for the devices.
    let of = |name: &str, variant: &str| {
        let cells = runs["cells"].as_array().expect("cells").iter().filter(|cell| cell["variant"] == variant);
        let numbers: Vec<f64> = cells.map(|cell| cell[name].as_f64().expect("a number")).collect();
        assert_eq!(numbers.len(), 2);
        numbers.iter().sum::<f64>() / 2.0
    };
    for (candidate, variant) in [(&fedit, "fedit"), (&ours, "lora-a2:wire.upload=int8")] {
        let mean = candidate["accuracy"]["mean"].as_f64().expect("an accuracy");
        assert!((mean - of("final_accuracy", variant)).abs() < 1e-12 && candidate["accuracy"]["seeds"] == 2);
        let crossed = of("upload_bytes", variant) + of("download_bytes", variant);
        assert!((candidate["bytes"].as_f64().expect("a number") - crossed).abs() <= 1.0);
        assert_eq!(candidate["reached"]["round"], 0, "{candidate}");
    }
    let costs = room.succeed(&[&["cost", &config, "--json"][..], &strategies, &sets].concat());
    let costs: Value = serde_json::from_str(&costs.out).expect("JSON");
    assert_eq!([&fedit["seconds"], &ours["seconds"]], [&costs[0]["high"]["seconds"], &costs[1]["high"]["seconds"]]);
    assert!(ours["bytes"].as_u64() < fedit["bytes"].as_u64() && ours["front"] == true);
    assert!(ffa.get("accuracy").is_none() && ffa["front"] == false && ffa["bytes"].as_u64() > Some(0), "{ffa}");
    assert!(ffa["unknown"].as_str().is_some_and(|why| why.contains("no run of it")));
    assert!(room.read("plan.svg").contains("Accuracy against what crossed"));
    // A budget for half of it leaves one of two rounds.
    let half = format!("{:.9}", fedit["bytes"].as_f64().expect("a number") / 2e9 + 1e-8);
    let within = plan(&["--runs", "runs", "--max-gb", &half]);
    assert_eq!(within["candidates"][0]["rounds_within"], 1);
    // Runs of another configuration are not used, and it is said why.
    let other = plan(&["--runs", "runs", "--set", "adapter.rank=16"]);
    let why = other["candidates"][1]["unknown"].as_str().expect("why");
    assert!(why.contains("of another configuration: adapter.rank was 8, is 16"), "{why}");
    let more_rounds = plan(&["--runs", "runs", "--set", "train.rounds=5"]);
    let why = more_rounds["candidates"][0]["unknown"].as_str().expect("why");
    assert!(why.contains("train.rounds was 2, is 5"), "{why}");
    // Devices change the time and no accuracy; without the run's folder its bytes tell.
    let slower = plan(&["--runs", "runs", "--up", "1", "--tokens-per-second", "10"]);
    assert!(slower["candidates"][0]["accuracy"] == fedit["accuracy"]);
    assert!(slower["candidates"][0]["seconds"].as_f64() > fedit["seconds"].as_f64());
    std::fs::rename(room.path("runs/runs"), room.path("gone")).expect("moved");
    assert_eq!(plan(&["--runs", "runs"])["candidates"][0]["accuracy"], fedit["accuracy"]);
    let why = plan(&["--runs", "runs", "--set", "train.rounds=5"])["candidates"][0]["unknown"].to_string();
    assert!(why.contains("it sent") && why.contains("would send"), "{why}");
    // For people; and what cannot be.
    let said =
        room.succeed(&[&["plan", &config, "--runs", "runs", "--reach", "0.99"][..], &strategies, &sets].concat());
    assert!(said.out.contains("99.0% is reached in none of the runs that are known."), "{said:?}");
    room.refuse(2, &["share of 1"], &["plan", &config, "--reach", "80"]);
    room.refuse(2, &["nothing to draw", "--runs"], &["plan", &config, "--strategies", "fedit", "--svg", "a.svg"]);
    let alpha = ["--set", "data.partition={kind=\"iid\"}", "--runs", "runs"];
    room.refuse(2, &["dealt out as"], &[&["plan", &config, "--strategies", "fedit"], &alpha[..]].concat());
    room.refuse(1, &["nowhere"], &["plan", &config, "--strategies", "fedit", "--runs", "nowhere/compare.json"]);
}
