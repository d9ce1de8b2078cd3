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
fn what_is_missing_is_said() {
    let room = Room::new();
    room.refuse(2, &["number of labels", "--labels"], &["cost", BANKING, "--set", "model.path=builtin"]);
    let strategy = ["cost", BANKING, "--set", "model.path=builtin", "--labels", "77", "--strategies", "nothing"];
    room.refuse(2, &["nothing", "lora-a2"], &strategy);
}
