//! `bonfire cost`: what a federation would send, from shapes alone.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::Room;

const ROBERTA_BASE: &str = r#"{"model_type": "roberta", "hidden_size": 768, "num_hidden_layers": 12,
    "num_attention_heads": 12, "intermediate_size": 3072, "vocab_size": 50265, "max_position_embeddings": 514,
    "type_vocab_size": 1, "layer_norm_eps": 1e-5, "hidden_act": "gelu", "pad_token_id": 1}"#;
const TABLE_1: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/paper/table1-banking77.toml");
const BANKING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/banking77.toml");

#[test]
fn a_config_json_is_enough_for_the_papers_counts() {
    let room = Room::new();
    room.write("config.json", ROBERTA_BASE);
    let grid = ["--strategies", "full,fedit,lora-a2", "--ranks", "8,1", "--json"];
    let said = room.succeed(&[&["cost", TABLE_1, "--set", "model.path=."][..], &grid].concat());
    let costs: Vec<Value> = serde_json::from_str(&said.out).expect("JSON");
    let sent = |strategy: &str, rank: u64, end: &str| {
        let row = costs.iter().find(|c| c["strategy"] == strategy && c["rank"] == rank).expect("a row");
        row[end]["upload_params"].as_u64().expect("a count")
    };
    assert_eq!(sent("full", 8, "low"), 186_082_560_000);
    assert_eq!((sent("fedit", 8, "low"), sent("fedit", 1, "high")), (1_990_656_000, 248_832_000));
    assert_eq!((sent("lora-a2", 1, "low"), sent("lora-a2", 1, "high")), (82_944_000, 331_776_000));
}

#[test]
fn the_quickstart_has_a_table_and_our_own_forms_are_named() {
    let said = Room::new().succeed(&["cost", "--strategies", "fedit,dfl,xgblora:layers=1", "--ranks", "4"]);
    assert!(said.out.contains("10 rounds of 10 of 10 clients") && said.out.contains("secure sum"), "{}", said.out);
    assert!(
        said.out.contains("a federated form of our own") && said.out.contains("dfl, xgblora:layers=1"),
        "{}",
        said.out
    );
}

/// Every configuration that is shipped can be planned with as it is, but for the model that it leaves to be named; a strategy that
/// one does not fit is said, and the others are told.
#[test]
fn every_shipped_configuration_has_its_costs() {
    let (room, mut refused) = (Room::new(), 0);
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let folders = [configs.clone(), configs.join("paper")];
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(folder).expect("a folder").flatten());
    let paths: Vec<PathBuf> = files.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "toml")).collect();
    assert!(paths.len() > 20, "{paths:?}");
    for path in paths {
        let text = std::fs::read_to_string(&path).expect("readable");
        let model = if text.contains("causal-lm") { "model.path=builtin-llama" } else { "model.path=builtin" };
        let targets = if text.contains("causal-lm") { "adapter.targets=all" } else { "adapter.alpha=8" };
        let config = path.display().to_string();
        let said = room.succeed(&["cost", &config, "--labels", "20", "--set", model, "--set", targets]);
        assert!(said.out.contains("secure sum") && said.out.contains("lora-a2"), "{config}: {}", said.out);
        refused += said.out.matches("Not with this configuration: full: ").count();
    }
    assert!(refused >= 3, "full fine-tuning reads no budgets and trains in f32");
    // All refused is an error, as is a name that nobody knows.
    let budget = ["--set", "adapter.rank=64", "--set", "clients.budget=uniform", "--strategies"];
    room.refuse(2, &["clients.budget"], &[&["cost"], &budget[..], &["full"]].concat());
    room.refuse(2, &["nothing"], &["cost", "--strategies", "fedit,nothing"]);
    let json = room.succeed(&[&["cost", "--json"], &budget[..], &["full,lora-a2"]].concat());
    let rows: serde_json::Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!(rows[0]["strategy"], "lora-a2");
    assert!(
        rows[1]["strategy"] == "full" && rows[1]["refused"].as_str().is_some_and(|why| why.contains("clients.budget"))
    );
}

#[test]
fn the_configurations_own_strategy_is_among_them_with_its_keys() {
    let rows = |args: &[&str]| -> Vec<serde_json::Value> {
        let json = Room::new().succeed(&[&["cost", "--json"], args].concat());
        serde_json::from_str(&json.out).expect("JSON")
    };
    let up = |rows: &[serde_json::Value], name: &str| {
        let row = rows.iter().find(|row| row["strategy"] == name).unwrap_or_else(|| panic!("no {name}: {rows:?}"));
        row["low"]["upload_bytes"].as_u64().expect("a number")
    };
    let own = ["--set", "strategy.name=fedpeptao", "--set", "clients.budget=full", "--set", "strategy.layers=1"];
    let (one, half) = (rows(&own), rows(&own[..4]));
    assert!(up(&one, "fedpeptao") < up(&half, "fedpeptao"));
    assert_eq!(up(&one, "fedit"), up(&half, "fedit"));
    // A key that another strategy knows too reaches it as well, and one that it does not know is left out.
    let others = ["--strategies", "fedit,xgblora"];
    let (one, half) = (rows(&[&own[..], &others].concat()), rows(&[&own[..4], &others].concat()));
    assert_eq!((one.len(), up(&one, "fedit")), (2, up(&half, "fedit")));
    assert!(up(&one, "xgblora") < up(&half, "xgblora"));
    // What no strategy knows is a mistake.
    let nobodys = ["cost", "--set", "strategy.name=fedpeptao", "--set", "strategy.leyers=1"];
    Room::new().refuse(2, &["leyers"], &nobodys);
}

#[test]
fn what_is_missing_is_said() {
    let room = Room::new();
    room.refuse(2, &["number of labels", "--labels"], &["cost", BANKING, "--set", "model.path=builtin"]);
    let strategy = ["cost", BANKING, "--set", "model.path=builtin", "--labels", "77", "--strategies", "nothing"];
    room.refuse(2, &["nothing", "lora-a2"], &strategy);
}

#[test]
fn a_round_is_receiving_training_and_sending_on_the_devices_that_are_named() {
    let room = Room::new();
    let json = |more: &[&str]| -> Value {
        let said = room.succeed(&[&["cost", "--strategies", "fedit", "--ranks", "4", "--json"], more].concat());
        serde_json::from_str::<Value>(&said.out).expect("JSON")[0].clone()
    };
    let of = |cost: &Value| cost["low"]["longest_round"].as_f64().expect("seconds");
    // Links alone: the first round downloads A, later ones all that moved.
    let links = json(&["--up", "8", "--down", "80"]);
    let bytes = |name: &str| links["low"][name].as_u64().expect("bytes") as f64;
    let expected = 8e-6 * (bytes("largest_download") / 80.0 + bytes("largest_upload") / 8.0);
    assert!((of(&links) - expected).abs() < 1e-9 && links["with_training"] == false, "{links}");
    // Ten clients, all rounds alike but the first.
    assert_eq!(bytes("client_upload_bytes") * 10.0, bytes("upload_bytes"));
    // 100 rows of 20 tokens, once through, at 1000 tokens a second; two messages of half a second each.
    let all = ["--up", "8", "--down", "80", "--latency", "0.5", "--tokens-per-second", "1000", "--rows", "100"];
    let trained = json(&[&all[..], &["--tokens", "20", "--set", "train.epochs=3"]].concat());
    assert!((of(&trained) - (expected + 1.0 + 6.0)).abs() < 1e-9 && trained["with_training"] == true, "{trained}");
    // What a GB costs; ε and the noise it takes, without a run.
    let priced = json(&["--price-per-gb", "2", "--epsilon", "8"]);
    let sum = (priced["low"]["upload_bytes"].as_f64().expect("a number")
        + priced["low"]["download_bytes"].as_f64().expect("a number"))
        / 1e9;
    assert!((priced["price"][0].as_f64().expect("a price") - 2.0 * sum).abs() < 1e-12);
    let epsilon = priced["privacy"]["epsilon"].as_f64().expect("an epsilon");
    assert!(epsilon <= 8.0 && epsilon > 7.9 && priced["privacy"]["noise"].as_f64().expect("noise") > 1.0);
    // Dropouts and stragglers are named, and rows without tokens at hand are asked for.
    let clients = ["--set", "clients.dropout=0.2", "--set", "clients.stragglers={share=0.5}"];
    let said = room.succeed(&[&["cost", "--strategies", "fedit"], &clients[..]].concat());
    assert!(
        said.out.contains("20.0% of which drop out") && said.out.contains("50.0% manage only from 20.0%"),
        "{said:?}"
    );
    room.refuse(2, &["--up", "positive number"], &["cost", "--up", "0"]);
}

#[test]
fn a_run_takes_as_long_on_its_devices_as_was_forecast() {
    let room = Room::new();
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/hospitals.toml").display().to_string();
    let sets = ["--set", "train.rounds=2", "--set", "clients.budget=8", "--set", "train.epochs=1"];
    let costs = room.succeed(&[&["cost", &config, "--strategies", "lora-a2", "--json"], &sets[..]].concat());
    let costs: Value = serde_json::from_str(&costs.out).expect("JSON");
    let said = room.succeed(&[&["train", &config, "--out", "run"], &sets[..]].concat());
    assert!(said.out.contains("on the clients' devices (clients.devices): "), "{said:?}");
    let summary: Value = serde_json::from_str(&room.read("run/summary.json")).expect("JSON");
    let (told, found) = (&costs[0]["low"], &summary["simulated_seconds"]);
    assert!(
        (told["seconds"].as_f64().expect("a number") - found.as_f64().expect("a number")).abs() < 1e-6,
        "{told} {found}"
    );
    assert!(
        (told["watt_hours"].as_f64().expect("a number") - summary["watt_hours"].as_f64().expect("a number")).abs()
            < 1e-9
    );
    // The report has a picture of it.
    room.succeed(&["report", "run", "--out", "page.html"]);
    assert!(room.read("page.html").contains("\"slow hospital\""));
}

#[test]
fn texts_are_no_longer_than_they_are_cut() {
    let room = Room::new();
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/hospitals.toml").display().to_string();
    let seconds = |tokens: &str| {
        let args = ["cost", &config, "--strategies", "fedit", "--rows", "100", "--tokens", tokens, "--json"];
        let said = room.succeed(&args);
        let costs: Value = serde_json::from_str(&said.out).expect("JSON");
        (costs[0]["low"]["seconds"].as_f64().expect("a number"), said.err.contains("texts are cut at data.max_length"))
    };
    let ((short, quiet), (longest, still), (cut, told)) = (seconds("10"), seconds("64"), seconds("900"));
    assert!(short < longest && longest == cut, "{short} {longest} {cut}");
    assert_eq!((quiet, still, told), (false, false, true));
    // Of a model its config.json is enough, with or without a word on texts.
    std::fs::create_dir(room.path("model")).expect("made");
    room.write(
        "model/config.json",
        &std::fs::read_to_string(
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/assets/tiny-roberta/config.json"),
        )
        .expect("an asset"),
    );
    let said = room.succeed(&["cost", &config, "--strategies", "fedit", "--set", "model.path=model"]);
    assert!(said.err.contains("pass --rows N --tokens N"), "{}", said.err);
    // The plan has the price and the noise too.
    let said = room.succeed(&["plan", &config, "--strategies", "fedit", "--price-per-gb", "0.09", "--epsilon", "8"]);
    assert!(said.out.contains("price") && said.out.contains("[privacy]: ε = 8.00"), "{}", said.out);
    let both = ["cost", &config, "--epsilon", "8", "--set", "privacy.kind=laplace"];
    room.refuse(2, &["--epsilon asks for noise of its own", "privacy.kind=laplace"], &both);
}
