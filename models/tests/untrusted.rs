//! Models and adapters that a stranger made: whatever their files hold, reading them ends in a model or in an error that
//! names a file, and no size is believed before the bytes are there.
#![allow(clippy::unwrap_used)]

#[path = "../../tests/support/hostile.rs"]
mod hostile;
#[path = "../../tests/support/watched.rs"]
mod watched;

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use bonfire_models::peft::{self, Layout, PeftMeta};
use bonfire_models::{
    Adapter, Model, ModelError, ModelInfo, ModelSource, TargetKind, Task, Transformer, blank_head, checkpoint,
    shard_names,
};
use burn::tensor::Device;
use hostile::{config, mutated_json, mutated_within};
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// More than any of these files can need: 64 MiB.
const MODEST: usize = 1 << 26;

const BERT: &str = r#"{"model_type":"bert","hidden_size":8,"num_hidden_layers":2,"num_attention_heads":2,
    "intermediate_size":16,"vocab_size":30,"max_position_embeddings":12,"type_vocab_size":2,"pad_token_id":0}"#;
const LLAMA: &str = r#"{"model_type":"llama","hidden_size":8,"num_hidden_layers":2,"num_attention_heads":4,
    "num_key_value_heads":2,"head_dim":2,"intermediate_size":16,"vocab_size":30,"max_position_embeddings":12,
    "rms_norm_eps":1e-5,"rope_theta":10000.0,"eos_token_id":[2,3],"tie_word_embeddings":false,
    "rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,
    "original_max_position_embeddings":8}}"#;
const INDEX: &str = r#"{"metadata":{"total_size":1},
    "weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors","c":"m-1.safetensors"}}"#;
const ADAPTER: &str = r#"{"peft_type":"LORA","r":2,"lora_alpha":4.0,"bias":"none","use_rslora":false,"use_dora":false,
    "target_modules":["query"],"modules_to_save":["classifier"],"base_model_name_or_path":"x",
    "rank_pattern":{"query":2},"alpha_pattern":{"^bert.*\\.query":8.0}}"#;
const TASK: Task = Task::Classify(3);

fn info() -> ModelInfo {
    ModelInfo::parse(BERT.as_bytes(), "config.json").unwrap()
}

/// `model.safetensors` of a small random model.
fn weights() -> Vec<u8> {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    let make = || {
        let rng = &mut ChaCha8Rng::seed_from_u64(1);
        let model = Transformer::random(info(), TASK, &TargetKind::all(), rng, &Device::flex()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("model.safetensors");
        let all = [model.weights(), model.pooler()].concat();
        checkpoint::write(&file, all.iter().map(|weight| weight.parts())).unwrap();
        fs::read(file).unwrap()
    };
    BYTES.get_or_init(make).clone()
}

/// The configuration and the weights of a small adapter.
fn adapter() -> (String, Vec<u8>) {
    let rng = &mut ChaCha8Rng::seed_from_u64(2);
    let targets = info().targets(&[TargetKind::Query, TargetKind::Output]);
    let adapter = Adapter::fresh(&targets, 2, 4.0, Default::default(), blank_head(&info(), TASK), rng);
    let dir = tempfile::tempdir().unwrap();
    peft::write(
        dir.path(),
        &adapter,
        &PeftMeta { base_model: "base".into(), dropout: 0.0, task: TASK },
        Layout::Uniform,
    )
    .unwrap();
    let json = fs::read_to_string(dir.path().join("adapter_config.json")).unwrap();
    (json, fs::read(dir.path().join("adapter_model.safetensors")).unwrap())
}

/// A folder with these files.
fn folder(files: [(&str, &[u8]); 2]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    files.iter().for_each(|(name, bytes)| fs::write(dir.path().join(name), bytes).unwrap());
    dir
}

/// Bytes of a safetensors file up to its data.
fn header(bytes: &[u8]) -> usize {
    8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize
}

/// Uses what was read as a run does before it reads weights.
fn look(parsed: Result<ModelInfo, ModelError>) {
    match parsed {
        Err(error) => assert!(error.to_string().starts_with("config.json: "), "{error}"),
        Ok(info) => {
            assert!(info.max_tokens() >= 1);
            assert!(info.backbone_params() >= info.matmul_params());
            assert!(info.targets(&TargetKind::all()).len() <= 7 * 4096);
            for rope in &info.ropes {
                assert_eq!(rope.frequencies(info.head_width).len(), info.head_width / 2);
            }
        }
    }
    watched::assert_modest(MODEST);
}

/// Whether the model could be loaded; an error names a file of its folder.
fn load(config: &[u8], weights: &[u8]) -> bool {
    let dir = folder([("config.json", config), ("model.safetensors", weights)]);
    let source = ModelSource::Folder(dir.path().to_path_buf());
    let rng = &mut ChaCha8Rng::seed_from_u64(1);
    let loaded = Transformer::load(&source, TASK, &TargetKind::all(), rng, &Device::flex());
    let error = loaded.err().map(|error| error.to_string());
    assert!(error.iter().all(|error| error.contains(&dir.path().display().to_string())), "{error:?}");
    watched::assert_modest(MODEST);
    error.is_none()
}

/// Whether the adapter could be read; an error names its folder.
fn read(config: &[u8], weights: &[u8]) -> bool {
    let dir = folder([("adapter_config.json", config), ("adapter_model.safetensors", weights)]);
    let adapter = peft::read(dir.path(), &info(), TASK).map(|adapter| assert!(adapter.rank >= 1));
    let classes = peft::classes(dir.path(), &info(), TASK);
    let errors: Vec<String> = [adapter.err(), classes.err()].into_iter().flatten().map(|e| e.to_string()).collect();
    assert!(errors.iter().all(|error| error.contains(&dir.path().display().to_string())), "{errors:?}");
    watched::assert_modest(MODEST);
    errors.is_empty()
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_config_of_an_encoder(json in mutated_json(BERT)) {
        look(ModelInfo::parse(&json, "config.json"));
    }

    #[test]
    fn any_config_of_a_decoder(json in mutated_json(LLAMA)) {
        look(ModelInfo::parse(&json, "config.json"));
    }

    #[test]
    fn any_index_of_shards(json in mutated_json(INDEX)) {
        match shard_names(&json, "index") {
            Err(error) => prop_assert!(error.to_string().starts_with("index: "), "{}", error),
            Ok(names) => for name in names {
                // Beside the index and nowhere else.
                let place = Path::new("/a/b").join(&name);
                prop_assert!(place.parent() == Some(Path::new("/a/b")) && place.file_name().is_some(), "{}", name);
            }
        }
    }

    #[test]
    fn any_weights(bytes in mutated_within(weights(), header(&weights()))) {
        load(BERT.as_bytes(), &bytes);
    }

    #[test]
    fn any_config_beside_weights(json in mutated_json(BERT)) {
        load(&json, &weights());
    }

    #[test]
    fn any_adapter_weights(bytes in mutated_within(adapter().1, header(&adapter().1))) {
        read(adapter().0.as_bytes(), &bytes);
    }

    #[test]
    fn any_adapter_config(json in mutated_json(ADAPTER)) {
        read(&json, &adapter().1);
    }
}

#[test]
fn the_samples_themselves_can_be_read() {
    assert!(load(BERT.as_bytes(), &weights()));
    assert!(read(adapter().0.as_bytes(), &adapter().1) && read(ADAPTER.as_bytes(), &adapter().1));
    assert!(ModelInfo::parse(LLAMA.as_bytes(), "x").is_ok() && shard_names(INDEX.as_bytes(), "x").unwrap().len() == 2);
}

#[test]
fn claimed_sizes_are_refused_before_anything_is_made_of_them() {
    for key in ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "max_position_embeddings"] {
        for sample in [BERT, LLAMA] {
            let mut json: serde_json::Value = serde_json::from_str(sample).unwrap();
            json[key] = (1u64 << 60).into();
            let error = ModelInfo::parse(json.to_string().as_bytes(), "config.json").unwrap_err().to_string();
            assert!(error.contains(key) && error.contains("from 1 to"), "{error}");
        }
    }
    let mut claims = weights();
    claims[..8].copy_from_slice(&(1u64 << 60).to_le_bytes());
    assert!(!load(BERT.as_bytes(), &claims));
    // A shape of 2^60 rows over the bytes of one.
    let header = br#"{"bert.embeddings.word_embeddings.weight":
        {"dtype":"F32","shape":[1152921504606846976,8],"data_offsets":[0,32]}}"#;
    let file = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 32]].concat();
    assert!(!load(BERT.as_bytes(), &file));
}

#[test]
fn patterns_that_would_take_gigabytes_are_refused() {
    let one = |pattern: &str| format!(r#"{{"peft_type":"LORA","r":2,"lora_alpha":4,"rank_pattern":{{{pattern}}}}}"#);
    let many: Vec<String> = (0..5000).map(|i| format!("\"q{i}\":2")).collect();
    for (json, word) in [(one(r#""(a{1000}){1000}":2"#), "a{1000}"), (one(&many.join(",")), "5000 patterns")] {
        let dir = folder([("adapter_config.json", json.as_bytes()), ("adapter_model.safetensors", &adapter().1)]);
        let error = peft::read(dir.path(), &info(), TASK).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
    watched::assert_modest(MODEST);
}

#[test]
fn shards_outside_the_folder_are_refused() {
    for name in ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", ".", "", "..\\x", "a/../b"] {
        let index = serde_json::json!({"weight_map": {"a": name}}).to_string();
        let error = shard_names(index.as_bytes(), "index").unwrap_err().to_string();
        assert!(error.contains("not a plain file name"), "{name}: {error}");
    }
}
