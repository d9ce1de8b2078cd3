//! Real tokenizers and data sets, where a folder of them is there.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use bonfire_data::{Dataset, Partition, Tokenizer, label_table};

/// The folder with models/, data/ and reference/: beside the workspace, or named by the environment.
fn shared() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let folder = env::var_os("BONFIRE_SHARED").map_or_else(beside, PathBuf::from);
    let found = folder.join("models").is_dir() && folder.join("data").is_dir();
    if !found {
        println!("skipped: {} has no models/ and data/; set BONFIRE_SHARED", folder.display());
    }
    found.then_some(folder)
}

#[test]
fn ids_equal_the_recorded_ones() {
    let Some(shared) = shared() else { return };
    let fixture = fs::read(shared.join("reference/fixtures/tok_minilm.json")).unwrap();
    let fixture: Vec<serde_json::Value> = serde_json::from_slice(&fixture).unwrap();
    let texts: Vec<&str> = fixture.iter().map(|case| case["text"].as_str().unwrap()).collect();
    let expected: Vec<Vec<u32>> =
        fixture.iter().map(|case| serde_json::from_value(case["ids"].clone()).unwrap()).collect();
    let tokenizer = Tokenizer::from_file(&shared.join("models/minilm-l6-roberta/tokenizer.json")).unwrap();
    assert_eq!(tokenizer.vocab_size(), 30522);
    assert_eq!(tokenizer.encode(&texts, 64).unwrap(), expected);
}

#[test]
fn real_sets_are_read_and_split() {
    let Some(shared) = shared() else { return };
    for (name, train, test, labels, empty) in [("banking77", 10_003, 3_080, 77, 0), ("20news", 11_314, 7_532, 20, 24)] {
        let data = Dataset::read(&shared.join("data").join(name), &bonfire_data::Reading::default()).unwrap();
        assert_eq!(data.name, name);
        assert_eq!((data.train.len(), data.test.len(), data.labels.len()), (train, test, labels));
        assert_eq!(data.train.iter().filter(|example| example.text().is_empty()).count(), empty);
        for alpha in [0.5, 0.1, 0.01] {
            let shards = Partition::Dirichlet { alpha }.split(&data, 30, 1, 0).unwrap();
            let sizes: Vec<usize> = shards.train.iter().map(Vec::len).collect();
            let classes = label_table(&data, &shards.train);
            let classes: Vec<usize> =
                classes.iter().map(|counts| counts.iter().filter(|count| **count > 0).count()).collect();
            let range = |of: &[usize]| (of.iter().copied().min().unwrap(), of.iter().copied().max().unwrap());
            println!("{name}, alpha {alpha}: rows {:?}, classes {:?}", range(&sizes), range(&classes));
            assert_eq!(sizes.iter().sum::<usize>(), train);
        }
    }
}
