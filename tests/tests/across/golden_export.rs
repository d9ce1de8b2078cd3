//! The files of exports, key by key and byte by byte, against committed ones (`tests/fixtures/export/`), which PEFT,
//! Transformers and gguf have read (`scripts/checks/interop/check.py`). `BONFIRE_WRITE_GOLDEN=1` writes them anew.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bonfire_models::merged::{self, Merge};
use bonfire_models::peft::{self, Layout, PeftMeta};
use bonfire_models::{Adapter, Matrix, ModelInfo, ModelSource, TargetKind, Task, blank_head, gguf};

fn info(kind: &str) -> ModelInfo {
    let json = format!(
        r#"{{"model_type":"{kind}","hidden_size":8,"num_hidden_layers":2,"num_attention_heads":2,
        "num_key_value_heads":1,"intermediate_size":6,"vocab_size":30,"max_position_embeddings":16,"rms_norm_eps":1e-5,
        "eos_token_id":2}}"#
    );
    ModelInfo::parse(json.as_bytes(), "config.json").unwrap()
}

/// An adapter of rank 2 that counts on. In the second layer queries carry one slot and the last linear nothing.
fn adapter(info: &ModelInfo, task: Task, kinds: &[TargetKind]) -> Adapter {
    let mut n = 0;
    let mut count = |rows: usize, cols: usize| {
        let data = (0..rows * cols).map(|i| (n + i + 1) as f32 / 64.0).collect();
        n += rows * cols;
        Matrix::new(rows, cols, data)
    };
    let (rank, alpha, targets) = (2, 3.0, info.targets(kinds));
    let a = targets.iter().map(|t| count(t.d_in, rank)).collect();
    let mut b: Vec<Matrix> = targets.iter().map(|t| count(rank, t.d_out)).collect();
    let mut head = blank_head(info, task);
    head.iter_mut().for_each(|h| h.value = count(h.value.rows, h.value.cols));
    for (target, b) in targets.iter().zip(&mut b).filter(|(t, _)| t.layer == 1) {
        let keeps = match target.kind {
            TargetKind::Query => 1,
            TargetKind::Output => 0,
            _ => 2,
        };
        b.data[keeps * b.cols..].fill(0.0);
    }
    Adapter { rank, alpha, targets, a, b, core: vec![], head, weights: vec![] }
}

const KINDS: [TargetKind; 3] = [TargetKind::Query, TargetKind::Key, TargetKind::Output];

/// Compares with the committed file, or writes it.
fn golden(name: &str, bytes: &[u8]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/export").join(name);
    if std::env::var_os("BONFIRE_WRITE_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
    }
    let wanted = fs::read(&path).unwrap();
    if let (Ok(found), Ok(wanted)) = (std::str::from_utf8(bytes), std::str::from_utf8(&wanted)) {
        assert_eq!(found, wanted, "{name}");
    }
    assert!(bytes == wanted, "{name}: other bytes");
}

/// The header of a safetensors file: a line a tensor with its type, shape and place.
fn header(path: &Path) -> Vec<u8> {
    let bytes = fs::read(path).unwrap();
    let n = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&bytes[8..8 + n]).unwrap();
    let line = |(name, about): (&String, &serde_json::Value)| match name.as_str() {
        "__metadata__" => format!("{name} {about}\n"),
        _ => format!("{name} {} {} {}\n", about["dtype"], about["shape"], about["data_offsets"]),
    };
    header.iter().map(line).collect::<String>().into_bytes()
}

#[test]
fn peft_folders_are_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    for (kind, task) in [("roberta", Task::Classify(3)), ("llama", Task::Causal), ("llama", Task::Classify(3))] {
        let info = info(kind);
        let adapter = adapter(&info, task, &KINDS);
        let meta = PeftMeta { base_model: "org/base".into(), dropout: 0.0, task };
        for (layout, word) in [(Layout::Uniform, "uniform"), (Layout::Compact, "compact")] {
            peft::write(dir.path(), &adapter, &meta, layout).unwrap();
            let goal = if task == Task::Causal { "causal" } else { "classes" };
            let name = format!("{kind}-{goal}-{word}");
            let config = fs::read(dir.path().join("adapter_config.json")).unwrap();
            golden(&format!("{name}.adapter_config.json"), &config);
            golden(&format!("{name}.header.txt"), &header(&dir.path().join("adapter_model.safetensors")));
        }
    }
}

#[test]
fn gguf_files_are_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("adapter.gguf");
    for kind in ["llama", "qwen2"] {
        let info = info(kind);
        let adapter = adapter(&info, Task::Causal, &KINDS);
        for (layout, word) in [(Layout::Uniform, "uniform"), (Layout::Compact, "compact")] {
            gguf::write(&path, &adapter, &info, layout).unwrap();
            golden(&format!("{kind}-{word}.gguf"), &fs::read(&path).unwrap());
        }
    }
}

#[test]
fn an_index_of_shards_is_as_it_was() {
    let (dir, source) = (tempfile::tempdir().unwrap(), ModelSource::BuiltinLlama);
    let info = source.info().unwrap();
    let adapter = adapter(&info, Task::Causal, &[TargetKind::Query]);
    let merge = Merge { source: &source, info: &info, task: Task::Causal, adapter: &adapter, labels: None };
    merged::write(dir.path(), merge, 300_000).unwrap();
    golden("index.json", &fs::read(dir.path().join("model.safetensors.index.json")).unwrap());
}
