use rand::SeedableRng;

use super::*;
use crate::Architecture;

fn info(kind: &str) -> ModelInfo {
    let json = format!(
        r#"{{"model_type":"{kind}","hidden_size":8,"num_hidden_layers":2,"num_attention_heads":2,
        "num_key_value_heads":1,"intermediate_size":12,"vocab_size":30,"max_position_embeddings":16,"rms_norm_eps":1e-5,
        "eos_token_id":2}}"#
    );
    ModelInfo::parse(json.as_bytes(), "config.json").expect("valid")
}

fn adapter(info: &ModelInfo) -> Adapter {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
    let mut adapter =
        Adapter::fresh(&info.targets(&TargetKind::all()), 3, 6.0, Default::default(), Vec::new(), &mut rng);
    // The second layer's last slot does nothing.
    for (t, b) in adapter.targets.iter().zip(&mut adapter.b) {
        let works = (3 - t.layer) * b.cols;
        b.data.iter_mut().enumerate().for_each(|(i, v)| *v = if i < works { i as f32 + 1.0 } else { 0.0 });
    }
    adapter
}

#[test]
fn what_is_written_is_read_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("adapter.gguf");
    for kind in ["llama", "mistral", "qwen2"] {
        let (info, adapter) = (info(kind), adapter(&info(kind)));
        for layout in [Layout::Uniform, Layout::Compact] {
            write(&path, &adapter, &info, layout).expect("written");
            check(&path, &adapter, &info, layout).expect("as written");
            let back = read(&path, &info).expect("read");
            assert_eq!((back.rank, back.alpha), (3, 6.0));
            let close = |x: &Matrix, y: &Matrix| x.data.iter().zip(&y.data).all(|(x, y)| (x - y).abs() < 1e-5);
            assert!(back.b.iter().zip(&adapter.b).all(|(x, y)| close(x, y)), "{kind} {layout:?}");
        }
    }
}

#[test]
fn queries_and_keys_of_llama_pair_up_the_features_that_are_turned() {
    let order = |kind: &str, target: usize| {
        let info = info(kind);
        rows(&info, &info.targets(&TargetKind::all())[target])
    };
    assert_eq!(order("llama", 0), [0, 2, 1, 3, 4, 6, 5, 7], "two heads of four features");
    assert_eq!(order("mistral", 1), [0, 2, 1, 3], "one head of keys");
    assert_eq!(order("llama", 2), [0, 1, 2, 3], "values are not turned");
    assert_eq!(order("qwen2", 0), (0..8).collect::<Vec<_>>());
}

#[test]
fn files_that_are_damaged_or_of_another_model_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("adapter.gguf");
    let llama = info("llama");
    write(&path, &adapter(&llama), &llama, Layout::Uniform).expect("written");
    let error = |info: &ModelInfo| read(&path, info).expect_err("refused").to_string();
    assert!(error(&info("qwen2")).contains("general.architecture"));
    let narrow = ModelInfo { hidden: 6, ..llama.clone() };
    assert!(error(&narrow).contains("does not fit"));
    let bytes = fs::read(&path).expect("readable");
    for cut in [2, 20, 60, bytes.len() / 2, bytes.len() - 64] {
        fs::write(&path, &bytes[..cut]).expect("written");
        read(&path, &llama).expect_err("cut short");
    }
    let bert = ModelInfo { architecture: Architecture::Bert, decoder: None, ..llama.clone() };
    assert!(refusal(&bert, Task::Classify(2)).expect("refused").contains("merged"));
    assert!(refusal(&llama, Task::Classify(2)).expect("refused").contains("head"));
}
