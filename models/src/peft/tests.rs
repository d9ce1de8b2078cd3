use rand::SeedableRng;

use super::*;
use crate::head::HeadLinear;
use crate::{Architecture, HeadTensor, ModelInfo, Task, head};

fn info() -> ModelInfo {
    let json = br#"{"model_type":"bert","hidden_size":8,"num_hidden_layers":2,"num_attention_heads":2,
        "intermediate_size":16,"vocab_size":30,"max_position_embeddings":12,"type_vocab_size":2}"#;
    ModelInfo::parse(json, "config.json").expect("valid")
}

fn meta() -> PeftMeta {
    PeftMeta { base_model: "base".into(), dropout: 0.0, task: Task::Classify(3) }
}

fn sample(kinds: &[TargetKind]) -> Adapter {
    let info = info();
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
    let head = head::linears(&info, Task::Classify(3))
        .into_iter()
        .flat_map(|HeadLinear { module: m, d_in: i, d_out: o, .. }| {
            let weight = Matrix::new(i, o, (0..i * o).map(|v| v as f32).collect());
            [
                HeadTensor { name: format!("{m}.weight"), value: weight },
                HeadTensor { name: format!("{m}.bias"), value: Matrix::new(1, o, vec![0.5; o]) },
            ]
        })
        .collect();
    let mut adapter = Adapter::fresh(&info.targets(kinds), 3, 6.0, Default::default(), head, &mut rng);
    adapter.b[1].data.iter_mut().enumerate().for_each(|(i, v)| *v = i as f32);
    adapter
}

#[test]
fn what_is_written_is_read_back() {
    let dir = tempfile::tempdir().expect("a folder");
    for kinds in [TargetKind::all(), vec![TargetKind::Query, TargetKind::Output]] {
        let adapter = sample(&kinds);
        write(dir.path(), &adapter, &meta(), Layout::Uniform).expect("written");
        assert_eq!(read(dir.path(), &info(), Task::Classify(3)).expect("read"), adapter);
    }
    let names: Vec<_> = fs::read_dir(dir.path()).expect("listing").map(|e| e.expect("entry").file_name()).collect();
    assert_eq!(names.len(), 2, "no temporary file is left: {names:?}");
}

#[test]
fn tensors_are_those_that_are_written() {
    let dir = tempfile::tempdir().expect("a folder");
    let adapter = sample(&TargetKind::all());
    write(dir.path(), &adapter, &meta(), Layout::Uniform).expect("written");
    let bytes = fs::read(dir.path().join(WEIGHTS)).expect("there");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let tensors = tensors(&adapter);
    assert_eq!(tensors.len(), file.len());
    for PeftTensor { name, shape, numbers } in tensors {
        let there = file.tensor(&name).expect("of that name");
        let bytes: Vec<u8> = numbers.iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!((there.shape(), there.data()), (shape.as_slice(), bytes.as_slice()), "{name}");
    }
}

#[test]
fn ambiguous_suffixes_become_full_paths() {
    let names = |kinds: &[TargetKind]| target_modules(&info().targets(kinds).iter().collect::<Vec<_>>());
    assert_eq!(names(&TargetKind::all()).len(), 6);
    assert_eq!(
        names(&[TargetKind::Output]),
        ["bert.encoder.layer.0.output.dense", "bert.encoder.layer.1.output.dense"]
    );
}

#[test]
fn an_adapter_of_another_shape_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    write(dir.path(), &sample(&TargetKind::all()), &meta(), Layout::Uniform).expect("written");
    let error = read(dir.path(), &info(), Task::Classify(4)).expect_err("3 classes, not 4").to_string();
    assert!(error.contains("classifier.weight") && error.contains("classes"), "{error}");
    let architecture = Architecture::Roberta;
    let other = ModelInfo { architecture, ..info() };
    assert!(read(dir.path(), &other, Task::Classify(3)).is_err());
    fs::write(dir.path().join(CONFIG), "{}").expect("written");
    assert!(read(dir.path(), &info(), Task::Classify(3)).expect_err("no LoRA").to_string().contains("peft_type"));
    assert!(read(&dir.path().join("nowhere"), &info(), Task::Classify(3)).is_err());
}

/// An adapter of which some slots, and some linears, do nothing.
fn pruned() -> Adapter {
    let mut adapter = sample(&TargetKind::all());
    for (t, b) in adapter.b.iter_mut().enumerate() {
        // Rank 3: the first linear carries nothing, the others one slot to three.
        let works = if t == 0 { 0 } else { 1 + t % 3 };
        let cols = b.cols;
        b.data.iter_mut().enumerate().for_each(|(i, v)| *v = if i / cols < works { (i + t) as f32 + 1.0 } else { 0.0 });
    }
    adapter
}

#[test]
fn a_compact_adapter_is_the_same_function() {
    let dir = tempfile::tempdir().expect("a folder");
    let adapter = pruned();
    write(dir.path(), &adapter, &meta(), Layout::Compact).expect("written");
    check(dir.path(), &adapter, &meta(), Layout::Compact).expect("as written");
    let back = read(dir.path(), &info(), Task::Classify(3)).expect("read");
    assert_eq!(back.targets, adapter.targets[1..], "the linear that carries nothing is gone");
    assert_eq!((back.rank, back.alpha, &back.head), (3, 6.0, &adapter.head));
    for t in 1..adapter.targets.len() {
        assert_eq!(back.b[t - 1], adapter.b[t], "slots were cut and padded again");
        assert_eq!(back.a[t - 1].matmul(&back.b[t - 1]), adapter.a[t].matmul(&adapter.b[t]));
    }
    let config: serde_json::Value =
        serde_json::from_slice(&fs::read(dir.path().join(CONFIG)).expect("readable")).expect("JSON");
    let modules = config["target_modules"].as_array().expect("a list");
    assert_eq!(modules.len(), adapter.targets.len() - 1, "full paths, one a module");
    let name = &adapter.targets[3].name;
    assert_eq!((&config["rank_pattern"][name], &config["alpha_pattern"][name]), (&json!(1), &json!(2)));
    assert_eq!(config["rank_pattern"].get(&adapter.targets[2].name), None, "the largest rank is `r`");
}

#[test]
fn an_adapter_that_does_nothing_keeps_a_slot() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut adapter = sample(&[TargetKind::Query]);
    adapter.b.iter_mut().for_each(|b| b.data.fill(0.0));
    write(dir.path(), &adapter, &meta(), Layout::Compact).expect("written");
    let back = read(dir.path(), &info(), Task::Classify(3)).expect("read");
    assert_eq!((back.rank, back.alpha, back.targets.len()), (1, 2.0, 1));
}

#[test]
fn other_scales_are_put_into_b() {
    let dir = tempfile::tempdir().expect("a folder");
    let adapter = sample(&TargetKind::all());
    write(dir.path(), &adapter, &meta(), Layout::Uniform).expect("written");
    let edit = |change: &dyn Fn(&mut serde_json::Value)| {
        let path = dir.path().join(CONFIG);
        let mut config = serde_json::from_slice(&fs::read(&path).expect("readable")).expect("JSON");
        change(&mut config);
        fs::write(&path, config.to_string()).expect("written");
        read(dir.path(), &info(), Task::Classify(3)).expect("read")
    };
    let other = edit(&|config| config["alpha_pattern"] = json!({"layer.0.attention.self.key": 12}));
    assert_eq!((other.rank, other.alpha), (3, 6.0));
    let doubled: Vec<f32> = adapter.b[1].data.iter().map(|v| 2.0 * v).collect();
    assert_eq!((&other.b[1].data, &other.b[2]), (&doubled, &adapter.b[2]));
    let stable = edit(&|config| {
        config["alpha_pattern"] = json!({});
        config["use_rslora"] = json!(true);
    });
    assert!((stable.alpha - 6.0 * 3f64.sqrt()).abs() < 1e-12);
    assert_eq!(stable.b, adapter.b);
}

#[test]
fn a_file_that_changed_after_writing_is_noticed() {
    let dir = tempfile::tempdir().expect("a folder");
    let adapter = sample(&TargetKind::all());
    write(dir.path(), &adapter, &meta(), Layout::Uniform).expect("written");
    let again = || check(dir.path(), &adapter, &meta(), Layout::Uniform);
    again().expect("as written");
    assert_eq!(classes(dir.path(), &info(), Task::Classify(1)).expect("readable"), Some(3));
    let path = dir.path().join(WEIGHTS);
    let mut bytes = fs::read(&path).expect("readable");
    *bytes.last_mut().expect("not empty") ^= 1;
    fs::write(&path, bytes).expect("written");
    assert!(again().expect_err("a bit differs").to_string().contains("not what was written"));
}
