//! Run folders that somebody else may have written to.

use std::fs;

use proptest::prelude::*;

use super::folder::{State, state};
use super::results::Measured;
use crate::hostile::{config, mutated, mutated_json};

const SUMMARY: &str = r#"{"name":"a","strategy":"fedit","seed":1,"device":"cpu","rounds":2,"clients":3,
    "final_accuracy":0.5,"best_accuracy":0.5,"upload_params":1,"upload_bytes":100,"download_params":1,
    "download_bytes":100,"trainable_params":1,"train_seconds":1.5,"tokens_trained":10,"tokens_per_second":6.6}"#;
const ROWS: &str = "{\"round\":1,\"test_accuracy\":0.25,\"upload_bytes\":18446744073709551615}\n\
    {\"round\":2,\"test_accuracy\":0.5,\"personal_accuracy\":0.5,\"upload_bytes\":50}\n";
const CONFIG: &str = "a = 1\n[train]\nrounds = 2\n";

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_results(summary in mutated_json(SUMMARY), rows in mutated(ROWS)) {
        let dir = tempfile::tempdir().expect("a folder");
        for (name, bytes) in [("summary.json", &summary), ("metrics.jsonl", &rows)] {
            fs::write(dir.path().join(name), bytes).expect("written");
        }
        if let Err(error) = Measured::read(dir.path()) {
            prop_assert!(error.to_string().contains(&dir.path().display().to_string()), "{}", error);
        }
    }

    #[test]
    fn any_folder_of_a_cell(text in mutated(CONFIG), summary in mutated_json(SUMMARY)) {
        let dir = tempfile::tempdir().expect("a folder");
        for (name, bytes) in [("config.toml", text.as_slice()), ("summary.json", summary.as_slice())] {
            fs::write(dir.path().join(name), bytes).expect("written");
        }
        match state(dir.path(), CONFIG, 2) {
            Ok(found) => prop_assert!(found != State::Absent),
            Err(error) => prop_assert!(error.to_string().contains(&dir.path().display().to_string()), "{}", error),
        }
    }
}
