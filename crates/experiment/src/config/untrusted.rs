//! Configurations as a stranger may write them.

use std::path::Path;

use proptest::prelude::*;

use super::run_config::QUICKSTART;
use super::*;
use crate::hostile::{config, mutated};

/// A configuration with every section.
const WHOLE: &str = r#"name = "all"
model = { path = "hf:a/b@main", task = "causal-lm" }
[data]
path = "some/folder"
prompt = "{q}"
response = "{a}"
labels = 20
max_length = 32
partition.kind = "dirichlet"
partition.alpha = 0.1
[clients]
count = 10
budget = [[2, 0.5], [1, 0.5]]
dropout = 0.1
[adapter]
rank = 8
alpha = 16
targets = ["query", "value"]
[train]
rounds = 10
lr = 1e-3
seed = 9223372036854775807
[strategy]
name = "fedit"
[server]
optimizer = { name = "adam", lr = 0.1 }
aggregate = { name = "trimmed-mean", share = 0.1 }
[engine]
in_flight = "auto"
device = "cuda:0,cuda:1"
[evaluate]
every = 2
"#;

/// Reads a configuration; what can be read can be written and read again.
fn read(text: &str, sets: &[String]) {
    match parse("a.toml", text, sets) {
        Err(mistake) => {
            let place = mistake.place.unwrap_or_default();
            assert!(place.starts_with("a.toml") || place.starts_with("--set "), "{:?}: {}", mistake.what, place);
        }
        Ok(loaded) => {
            let folder = Path::new("runs").join(loaded.config.name());
            assert!(folder.parent() == Some(Path::new("runs")) && folder.file_name().is_some(), "{folder:?}");
            let written = loaded.config.to_toml();
            let again = parse("b.toml", &written, &[]).unwrap_or_else(|mistake| panic!("{mistake:?} in {written}"));
            assert_eq!(again.config, loaded.config);
        }
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_configuration(text in prop_oneof![mutated(QUICKSTART), mutated(WHOLE)]) {
        read(&String::from_utf8_lossy(&text), &[]);
    }

    #[test]
    fn any_override(set in "[a-z]{0,6}\\.?[a-z_]{0,9}=?\\PC{0,12}", value in "[0-9]{1,30}") {
        read(QUICKSTART, &[set]);
        for key in ["train.rounds", "clients.count", "adapter.rank", "data.max_length", "train.seed", "clients.budget"] {
            read(QUICKSTART, &[format!("{key}={value}")]);
        }
    }

    #[test]
    fn any_name(name in "\\PC{0,12}") {
        let set = format!("name={}", toml::Value::String(name));
        read(QUICKSTART, &[set]);
    }
}

#[test]
fn deep_nesting_is_refused() {
    let text = format!("{QUICKSTART}\n[x]\ny = {}{}", "[".repeat(100_000), "]".repeat(100_000));
    read(&text, &[]);
    read(QUICKSTART, &[format!("x.y={}", "[".repeat(100_000)), format!("{}=1", vec!["a"; 10_000].join("."))]);
}
