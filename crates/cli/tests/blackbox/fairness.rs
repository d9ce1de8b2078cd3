//! Those whom one model serves badly: clients that count more (q-FedAvg), fine-tune for themselves, or share a model with their like.

use serde_json::Value;

use crate::support::{Room, short};

/// What FedIT needs beside the settings of a short run.
const FEDIT: [&str; 6] =
    ["--set", "strategy.name=fedit", "--set", "clients.budget=full", "--set", "adapter.head=trained"];

/// What `cost` says of a strategy.
fn cost(room: &Room, strategy: &str, more: &[&str]) -> Value {
    let said = room.succeed(&short(&["cost", "--json", "--strategies", strategy], more));
    let rows: Vec<Value> = serde_json::from_str(&said.out).expect("JSON");
    let row = rows.into_iter().find(|row| row["strategy"] == strategy);
    row.unwrap_or_else(|| panic!("no {strategy}: {}", said.out))["low"].clone()
}

/// Of all rounds of a run.
fn sum(room: &Room, run: &str, key: &str) -> u64 {
    room.rounds(run).iter().map(|row| bytes(row, key)).sum()
}

fn bytes(row: &Value, key: &str) -> u64 {
    row[key].as_u64().unwrap_or_else(|| panic!("{key} in {row}"))
}

#[test]
fn clients_that_are_served_badly_count_more_and_a_bound_that_holds_the_model_still_is_warned_of() {
    let room = Room::new();
    let fair = |lipschitz: &str| format!("server.aggregate={{name=\"q-fedavg\",q=1.0{lipschitz}}}");
    let (given, left_out) = (fair(",lipschitz=1e-3"), fair(""));
    let told = room.succeed(&short(&["train", "--out", "still", "--set", &left_out], &FEDIT));
    assert!(told.err.contains("hardly move") && told.err.contains("lipschitz"), "{}", told.err);
    let told = room.succeed(&short(&["train", "--out", "fair", "--set", &given], &FEDIT));
    assert!(!told.err.contains("hardly move"), "{}", told.err);
    room.succeed(&short(&["train", "--quiet", "--out", "plain"], &FEDIT));
    let (fair, plain) = (room.rounds("fair"), room.rounds("plain"));
    assert_ne!(fair[0]["test_loss"], plain[0]["test_loss"]);
    // Every client sends its loss besides.
    for (fair, plain) in fair.iter().zip(&plain) {
        assert_eq!(bytes(fair, "upload_bytes"), bytes(plain, "upload_bytes") + 4 * 4);
        assert_eq!(bytes(fair, "download_bytes"), bytes(plain, "download_bytes"));
    }
    let cost = cost(&room, "fedit", &[&FEDIT[..], &["--set", &given]].concat());
    assert_eq!(bytes(&cost, "upload_bytes"), sum(&room, "fair", "upload_bytes"));
    let refused = short(&["train", "--out", "x", "--set", &given], &["--set", "strategy.name=hetlora"]);
    room.refuse(2, &["server.aggregate", "hetlora"], &refused);
}

#[test]
fn fine_tuning_at_the_end_is_told_everywhere_and_changes_nothing_before_it() {
    let room = Room::new();
    let personalise = ["--set", "evaluate.personalise={epochs=1}"];
    let told = room.succeed(&short(&["train", "--out", "own"], &[&FEDIT[..], &personalise].concat()));
    room.succeed(&short(&["train", "--quiet", "--out", "plain"], &FEDIT));
    let (own, plain) = (room.rounds("own"), room.rounds("plain"));
    assert!(own[0]["personalised"].is_null() && plain[1]["personalised"].is_null());
    for key in ["test_loss", "train_loss", "upload_bytes", "download_bytes"] {
        assert_eq!((&own[0][key], &own[1][key]), (&plain[0][key], &plain[1][key]), "{key}");
    }
    let found = &own[1]["personalised"];
    let mean = |when: &str| found[when]["mean"].as_f64().expect("a mean");
    assert!((mean("after") - mean("before") - found["gain"].as_f64().expect("a gain")).abs() < 1e-9, "{found}");
    assert!(mean("after") > mean("before"), "four labels, few a client: their own rows help: {found}");
    assert_eq!(&room.json("own/summary.json")["personalised"], found);
    let percent = format!("{:.1}", 100.0 * mean("after"));
    assert!(told.out.contains(&percent), "no {percent} in {}", told.out);
    room.succeed(&["report", "own", "--out", "page.html"]);
    assert!(room.read("page.html").contains("\"personalised\":{"));
    let weights =
        |run: &str| std::fs::read(room.path(run).join("adapter/adapter_model.safetensors")).expect("readable");
    assert_eq!(weights("own"), weights("plain"));
}

#[test]
fn clients_in_groups_have_their_groups_adapter_and_send_what_cost_foretells() {
    let room = Room::new();
    let clustered = ["--set", "strategy.name=clustered", "--set", "strategy.groups=2"];
    let more = [&FEDIT[2..], &clustered, &["--set", "train.rounds=3"]].concat();
    let told = room.succeed(&short(&["train", "--out", "run"], &more));
    assert!(told.out.contains("form of our own") || told.err.contains("form of our own"), "{told:?}");
    assert!(room.read("run/run.log").contains("2 groups of clients: 0"), "{}", room.read("run/run.log"));
    let rows = room.rows("run/clients.jsonl");
    let group = |client: u64| {
        let of: Vec<&Value> = rows.iter().filter(|row| row["client"] == client).map(|row| &row["group"]).collect();
        assert!(of.windows(2).all(|two| two[0] == two[1]), "client {client}: {of:?}");
        of[0].as_u64().expect("a group")
    };
    let groups: Vec<u64> = (0..4).map(group).collect();
    assert!(groups[0] == 0 && groups.contains(&1), "{groups:?}");
    let last = room.rounds("run").pop().expect("a round");
    assert!(last["test_accuracy"].is_null() && last["personal_accuracy"].is_f64(), "{last}");
    // All downloads but the first are a group's whole model, as its uploads are.
    assert_eq!(last["download_params"], last["upload_params"]);
    let cost = cost(&room, "clustered", &more);
    for key in ["upload_bytes", "download_bytes"] {
        assert_eq!(bytes(&cost, key), sum(&room, "run", key), "{key}");
    }
    room.succeed(&["export", "run", "--clients", "--verify", "--out", "all"]);
    let weights = |client: usize| {
        std::fs::read(room.path(&format!("all/{client:04}/adapter_model.safetensors"))).expect("readable")
    };
    for client in 1..4 {
        assert_eq!(weights(client) == weights(0), groups[client] == groups[0], "client {client} of {groups:?}");
    }
    let told = room.succeed(&["evaluate", "run"]);
    assert!(told.err.contains("no global model") && told.err.contains("--client"), "{}", told.err);
    let many = short(&["train", "--out", "x"], &[&more[..], &["--set", "strategy.groups=5"]].concat());
    room.refuse(2, &["strategy.groups", "which has 4"], &many);
    let both = short(&["train", "--out", "x"], &[&more[..], &["--set", "strategy.most=3"]].concat());
    room.refuse(2, &["strategy.most", "strategy.groups"], &both);
    let averaged =
        short(&["train", "--out", "x"], &[&more[..], &["--set", "server.aggregate={name=\"median\"}"]].concat());
    room.refuse(2, &["clustered"], &averaged);
}
