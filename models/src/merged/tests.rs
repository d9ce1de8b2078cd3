use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::{TargetKind, blank_head};
use safetensors::SafeTensors;

/// An adapter of the built-in encoder that does something, for three classes.
fn sample(info: &ModelInfo, task: Task) -> Adapter {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let kinds = [TargetKind::Query, TargetKind::Output];
    let mut head = blank_head(info, task);
    head.iter_mut().for_each(|h| h.value.data.iter_mut().enumerate().for_each(|(i, v)| *v = (i % 99) as f32 / 64.0));
    let mut adapter = Adapter::fresh(&info.targets(&kinds), 2, 4.0, Default::default(), head, &mut rng);
    adapter.b.iter_mut().for_each(|b| b.data.iter_mut().enumerate().for_each(|(i, v)| *v = (i % 7) as f32 - 3.0));
    adapter
}

fn merged(source: &ModelSource, task: Task, shard_bytes: u64) -> (tempfile::TempDir, Adapter, f64) {
    let (dir, info) = (tempfile::tempdir().expect("a folder"), source.info().expect("known"));
    let adapter = sample(&info, task);
    let labels = ["x", "y", "z"].map(String::from);
    let merge = Merge { source, info: &info, task, adapter: &adapter, labels: Some(&labels) };
    let roundoff = write(dir.path(), merge, shard_bytes).expect("written");
    (dir, adapter, roundoff)
}

/// All tensors as f32, with their types.
fn tensors(source: &ModelSource) -> BTreeMap<String, (Dtype, Vec<usize>, Vec<f32>)> {
    let mut all = BTreeMap::new();
    for name in source.weight_files().expect("listed") {
        let (bytes, _) = source.file(&name).expect("readable");
        for (name, view) in SafeTensors::deserialize(&bytes).expect("whole").tensors() {
            let values = floats(view.dtype(), view.data()).expect("numbers");
            all.insert(name, (view.dtype(), view.shape().to_vec(), values));
        }
    }
    all
}

#[test]
fn targets_get_their_update_and_the_rest_is_as_it_was() {
    let source = ModelSource::Builtin;
    let (dir, adapter, roundoff) = merged(&source, Task::Classify(3), SHARD_BYTES);
    let (old, new) = (tensors(&source), tensors(&ModelSource::Folder(dir.path().into())));
    let mut changed = 0;
    for (name, (dtype, shape, values)) in &new {
        if let Some(head) = adapter.head.iter().find(|h| h.name == *name) {
            let own = if name.ends_with(".bias") { head.value.clone() } else { head.value.transposed() };
            assert!(*values == own.data, "{name}");
            continue;
        }
        let (was_dtype, was_shape, was) = &old[name];
        assert_eq!((dtype, shape), (was_dtype, was_shape));
        match adapter.targets.iter().position(|t| name.strip_suffix(".weight") == Some(&t.name)) {
            None => assert!(values == was, "{name}"),
            Some(t) => {
                changed += 1;
                let update = adapter.a[t].matmul(&adapter.b[t]).transposed();
                let half = roundoff * 1.01;
                for ((new, was), update) in values.iter().zip(was).zip(update.data) {
                    let want = f64::from(*was) + adapter.scale() * f64::from(update);
                    assert!((f64::from(*new) - want).abs() <= half * want.abs() + 1e-5, "{name}: {new} and {want}");
                }
            }
        }
    }
    assert_eq!(changed, adapter.targets.len());
    let config: serde_json::Value =
        serde_json::from_slice(&fs::read(dir.path().join("config.json")).expect("readable")).expect("JSON");
    assert_eq!(config["architectures"], json!(["RobertaForSequenceClassification"]));
    assert_eq!((&config["id2label"]["1"], &config["label2id"]["z"]), (&json!("y"), &json!(2)));
    assert!(dir.path().join("tokenizer.json").is_file());
}

#[test]
fn a_model_larger_than_a_file_is_split_and_indexed() {
    let source = ModelSource::BuiltinLlama;
    let (whole, ..) = merged(&source, Task::Causal, SHARD_BYTES);
    let (split, ..) = merged(&source, Task::Causal, 40_000);
    assert!(!whole.path().join("model.safetensors.index.json").exists());
    let folders = [&whole, &split].map(|dir| ModelSource::Folder(dir.path().into()));
    assert!(folders[1].weight_files().expect("indexed").len() > 2);
    assert!(tensors(&folders[0]) == tensors(&folders[1]));
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(split.path().join("model.safetensors.index.json")).expect("readable"))
            .expect("JSON");
    let bytes: usize = tensors(&folders[1])
        .values()
        .map(|(dtype, shape, _)| shape.iter().product::<usize>() * dtype.bitsize() / 8)
        .sum();
    assert_eq!(index["metadata"]["total_size"], json!(bytes));
}

#[test]
fn numbers_are_rounded_to_the_nearest() {
    let one = |dtype, v: f32| floats(dtype, &rounded(dtype, &[v]).expect("a type of numbers")).expect("numbers")[0];
    assert_eq!(one(Dtype::BF16, 1.0 + 2f32.powi(-7) * 0.6), 1.0 + 2f32.powi(-7));
    assert_eq!(one(Dtype::F16, 1.0 + 2f32.powi(-10) * 0.4), 1.0);
    assert!(rounded(Dtype::I64, &[1.0]).is_none());
}
