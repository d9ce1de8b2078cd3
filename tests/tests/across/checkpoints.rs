//! Checkpoints as people have them: changed in ways that change no number, or whose numbers are known.

use std::collections::BTreeMap;
use std::fs;

use bonfire_data::{CausalTokenizer, Tokenizer, TokenizerFiles};
use bonfire_models::merged::{self, Merge};
use bonfire_models::peft::{self, Layout, PeftMeta};
use bonfire_models::{
    Adapter, ClientAdapter, Goal, Model, ModelError, ModelInfo, ModelSource, PackedBatch, Rounding, TargetKind, Task,
    Transformer, Wanted,
};
use bonfire_tests::{device, fixture};
use burn::tensor::{Tensor, TensorData};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

const CLASSES: Task = Task::Classify(5);

/// A tensor of a file.
#[derive(Clone)]
struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

type Tensors = BTreeMap<String, Stored>;

/// A copy of a fixture's model with other tensors.
fn changed(case: &str, change: impl FnOnce(&mut Tensors)) -> tempfile::TempDir {
    let (from, dir) = (fixture(case), tempfile::tempdir().unwrap());
    fs::copy(from.join("config.json"), dir.path().join("config.json")).unwrap();
    let bytes = fs::read(from.join("model.safetensors")).unwrap();
    let stored =
        |view: TensorView| Stored { dtype: view.dtype(), shape: view.shape().to_vec(), bytes: view.data().to_vec() };
    let mut tensors: Tensors =
        SafeTensors::deserialize(&bytes).unwrap().tensors().into_iter().map(|(name, t)| (name, stored(t))).collect();
    change(&mut tensors);
    let views = tensors.iter().map(|(name, t)| (name, TensorView::new(t.dtype, t.shape.clone(), &t.bytes).unwrap()));
    fs::write(dir.path().join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    dir
}

fn load(dir: &tempfile::TempDir, task: Task, new_head: bool) -> Result<Transformer, ModelError> {
    let source = ModelSource::Folder(dir.path().to_path_buf());
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let wanted = Wanted { new_head, ..Wanted::default() };
    Transformer::load_as(&source, task, &TargetKind::all(), wanted, &mut rng, &device().autodiff())
}

/// Scores of two texts, a row each or one for every token.
fn scores(model: &Transformer) -> Vec<f32> {
    let texts: [&[u32]; 2] = [&[2, 17, 40, 9, 3], &[2, 60, 3]];
    let goal = if model.task() == Task::Causal { Goal::Next(1) } else { Goal::Class(0) };
    let batch = PackedBatch::pack(&[texts.map(|text| (text, goal.clone())).to_vec()]);
    let head = model.head().iter().map(|t| {
        let data = TensorData::new(t.value.data.clone(), [1, t.value.rows, t.value.cols]);
        Tensor::<3>::from_data(data, model.device())
    });
    let client = ClientAdapter::new(vec![], head.collect());
    let logits = model.logits(&client, &batch.to_device(model.info(), Rounding::Exact, model.device()));
    logits.into_data().try_to_vec().unwrap()
}

fn as_it_is(case: &str, task: Task) -> Vec<f32> {
    scores(&load(&changed(case, |_| ()), task, false).unwrap())
}

fn apart(x: &[f32], y: &[f32]) -> f32 {
    assert_eq!(x.len(), y.len());
    x.iter().zip(y).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}

fn zeros(shape: &[usize]) -> Stored {
    Stored { dtype: Dtype::F32, shape: shape.to_vec(), bytes: vec![0; 4 * shape.iter().product::<usize>()] }
}

#[test]
fn norms_of_2018_hold_the_same_numbers() {
    let dir = changed("bert-tiny", |tensors| {
        for name in tensors.keys().cloned().collect::<Vec<_>>() {
            let old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
            let tensor = tensors.remove(&name).unwrap();
            tensors.insert(old, tensor);
        }
        assert_eq!(tensors.keys().filter(|name| name.ends_with("gamma")).count(), 5);
    });
    assert_eq!(scores(&load(&dir, CLASSES, false).unwrap()), as_it_is("bert-tiny", CLASSES));
}

#[test]
fn double_precision_is_read() {
    let dir = changed("bert-tiny", |tensors| {
        for t in tensors.values_mut() {
            let wide = t.bytes.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())));
            *t = Stored { dtype: Dtype::F64, shape: t.shape.clone(), bytes: wide.flat_map(f64::to_le_bytes).collect() };
        }
    });
    assert_eq!(scores(&load(&dir, CLASSES, false).unwrap()), as_it_is("bert-tiny", CLASSES));
}

#[test]
fn what_other_tasks_left_is_set_aside_and_said() {
    let dir = changed("bert-tiny", |tensors| {
        tensors.insert("cls.predictions.bias".into(), zeros(&[120]));
        tensors.insert("qa_outputs.weight".into(), zeros(&[2, 32]));
        tensors.insert("bert.embeddings.position_ids".into(), zeros(&[1, 40]));
        tensors.insert("bert.embeddings.token_type_ids".into(), zeros(&[1, 40]));
    });
    let model = load(&dir, CLASSES, false).unwrap();
    assert_eq!(scores(&model), as_it_is("bert-tiny", CLASSES));
    let [note] = model.notes() else { panic!("{:?}", model.notes()) };
    assert!(note.contains("cls.predictions.bias, qa_outputs.weight") && !note.contains("_ids"), "{note}");
}

#[test]
fn parts_of_layers_are_not_set_aside() {
    for name in ["bert.encoder.layer.2.output.dense.weight", "bert.encoder.layer.0.crossattention.self.query.weight"] {
        let dir = changed("bert-tiny", |tensors| drop(tensors.insert(name.into(), zeros(&[2, 2]))));
        let error = load(&dir, CLASSES, false).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("with 2 layers"), "{error}");
    }
    let dir = changed("bert-tiny", |tensors| drop(tensors.remove("bert.encoder.layer.1.output.dense.weight")));
    assert!(load(&dir, CLASSES, false).unwrap_err().to_string().contains("is missing"));
}

#[test]
fn a_pooler_that_is_lacking_belongs_to_the_head() {
    let dir = changed("bert-tiny", |tensors| tensors.retain(|name, _| !name.contains("pooler")));
    let model = load(&dir, CLASSES, false).unwrap();
    let names: Vec<&str> = model.head().iter().map(|t| t.name.as_str()).collect();
    let pooler = ["bert.pooler.dense.weight", "bert.pooler.dense.bias"];
    assert_eq!(names, [pooler[0], pooler[1], "classifier.weight", "classifier.bias"]);
    assert!(model.notes()[0].contains("bert.pooler.dense") && model.pooler().is_empty());
    // Drawn as heads are: of the deviation that config.json names.
    let drawn = &model.head()[0].value.data;
    let deviation = (drawn.iter().map(|v| v * v).sum::<f32>() / drawn.len() as f32).sqrt();
    assert!((deviation - 0.02).abs() < 0.002, "{deviation}");
    // An export brings it along: the merged model is one with a pooler, and an adapter carries it.
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let mut adapter = Adapter::fresh(model.targets(), 2, 4.0, Default::default(), model.head().to_vec(), &mut rng);
    adapter.b.iter_mut().for_each(|b| b.data.iter_mut().for_each(|v| *v = 0.1));
    let (out, source) = (tempfile::tempdir().unwrap(), ModelSource::Folder(dir.path().to_path_buf()));
    let merge = Merge { source: &source, info: model.info(), task: CLASSES, adapter: &adapter, labels: None };
    merged::write(out.path(), merge, merged::SHARD_BYTES).unwrap();
    let whole = load(&out, CLASSES, false).unwrap();
    assert!(whole.notes().is_empty() && whole.pooler().len() == 2, "{:?}", whole.notes());
    assert!(apart(&scores(&whole), &scores(&model.with_folded(&adapter))) < 1e-5);
    let carried = tempfile::tempdir().unwrap();
    peft::write(
        carried.path(),
        &adapter,
        &PeftMeta { base_model: "x".into(), dropout: 0.0, task: CLASSES },
        Layout::Uniform,
    )
    .unwrap();
    let config = fs::read_to_string(carried.path().join("adapter_config.json")).unwrap();
    assert!(config.contains("\"bert.pooler.dense\""), "{config}");
    assert_eq!(peft::read(carried.path(), model.info(), CLASSES).unwrap().head, adapter.head);
}

#[test]
fn a_head_of_another_size_is_refused_unless_a_new_one_is_asked_for() {
    let dir = changed("bert-tiny", |_| ());
    let error = load(&dir, Task::Classify(3), false).unwrap_err().to_string();
    assert!(error.contains("classifier.weight") && error.contains("model.new_head = true"), "{error}");
    let model = load(&dir, Task::Classify(3), true).unwrap();
    assert_eq!(model.head()[0].value.cols, 3);
    assert!(model.notes().is_empty(), "{:?}", model.notes());
    // One of the right size is drawn anew too.
    assert_ne!(load(&dir, CLASSES, true).unwrap().head(), load(&dir, CLASSES, false).unwrap().head());
}

#[test]
fn output_embeddings_that_differ_are_used_whatever_the_configuration_says() {
    let words = "model.embed_tokens.weight";
    let alike = changed("llama-tiny", |tensors| {
        let tied = tensors[words].clone();
        tensors.insert("lm_head.weight".into(), tied);
    });
    let model = load(&alike, Task::Causal, false).unwrap();
    assert_eq!(scores(&model), as_it_is("llama-tiny", Task::Causal));
    assert!(model.notes().is_empty() && !model.weights().iter().any(|w| w.name == "lm_head.weight"));
    let doubled = changed("llama-tiny", |tensors| {
        let twice = tensors[words].bytes.chunks_exact(4).map(|b| 2.0 * f32::from_le_bytes(b.try_into().unwrap()));
        let own = Stored { bytes: twice.flat_map(f32::to_le_bytes).collect(), ..tensors[words].clone() };
        tensors.insert("lm_head.weight".into(), own);
    });
    let model = load(&doubled, Task::Causal, false).unwrap();
    let expected: Vec<f32> = as_it_is("llama-tiny", Task::Causal).iter().map(|v| 2.0 * v).collect();
    assert!(apart(&scores(&model), &expected) < 1e-4);
    assert!(model.notes()[0].contains("tie_word_embeddings"), "{:?}", model.notes());
    // What is exported says so in words that older versions of Transformers understand too.
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let adapter = Adapter::fresh(model.targets(), 2, 4.0, Default::default(), vec![], &mut rng);
    let (out, source) = (tempfile::tempdir().unwrap(), ModelSource::Folder(doubled.path().to_path_buf()));
    let merge = Merge { source: &source, info: model.info(), task: Task::Causal, adapter: &adapter, labels: None };
    merged::write(out.path(), merge, merged::SHARD_BYTES).unwrap();
    let merged = load(&out, Task::Causal, false).unwrap();
    assert!(!merged.info().decoder.as_ref().unwrap().tied && apart(&scores(&merged), &expected) < 1e-4);
}

#[test]
fn output_embeddings_that_are_missing_are_told_of_with_the_key() {
    let dir = changed("qwen2-tiny", |tensors| drop(tensors.remove("lm_head.weight")));
    let error = load(&dir, Task::Causal, false).unwrap_err().to_string();
    assert!(error.contains("lm_head.weight") && error.contains("tie_word_embeddings"), "{error}");
}

#[test]
fn gguf_files_hold_the_same_models() {
    for case in ["llama-tiny", "llama3-tiny", "qwen2-tiny", "qwen3-tiny", "smollm3-tiny", "gemma3-tiny"] {
        let source = ModelSource::Gguf { file: fixture(&format!("{case}.gguf")), tokenizer: None };
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let load = |source: &ModelSource, rng: &mut ChaCha8Rng| {
            Transformer::load(source, Task::Causal, &TargetKind::all(), rng, &device().autodiff()).unwrap()
        };
        let (found, expected) = (load(&source, &mut rng), load(&ModelSource::Folder(fixture(case)), &mut rng));
        assert!(found.notes().is_empty(), "{:?}", found.notes());
        for (x, y) in found.weights().iter().zip(expected.weights()) {
            // Gemma's gains lie there plus 1, which rounds them.
            let allowed = if case == "gemma3-tiny" && x.name.contains("norm") { 1e-6 } else { 0.0 };
            assert!(x.name == y.name && apart(&x.value.data, &y.value.data) <= allowed, "{case}: {}", x.name);
        }
        // What GGUF does not say: that of the fixtures' few layers other ones than usual look far (Gemma) or go by distance.
        if !["gemma3-tiny", "smollm3-tiny"].contains(&case) {
            // The floor of norms lies there as f32.
            assert!((found.info().eps - expected.info().eps).abs() < 1e-12);
            assert_eq!(&ModelInfo { eps: expected.info().eps, ..found.info().clone() }, expected.info());
            assert!(apart(&scores(&found), &scores(&expected)) < 1e-5, "{case}");
        }
    }
}

/// The tokenizer inside a GGUF file gives the tokens that the library gives which the vocabulary comes from (tokenizers,
/// SentencePiece: `scripts/fixtures/make_fixtures.py`).
#[test]
fn tokenizers_inside_gguf_files() {
    let expected: serde_json::Value = serde_json::from_slice(&fs::read(fixture("vocabularies.json")).unwrap()).unwrap();
    let texts: Vec<&str> = expected["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    for (name, tokens) in expected["tokens"].as_object().unwrap() {
        let file = fixture(&format!("vocabulary-{name}.gguf"));
        let source = ModelSource::Gguf { file, tokenizer: None };
        let (bytes, shown) = source.file("tokenizer.json").unwrap();
        let tokenizer = Tokenizer::from_bytes(&bytes, &shown).unwrap();
        let tokenizer_config = source.optional("tokenizer_config.json").unwrap();
        let config: serde_json::Value = serde_json::from_slice(&tokenizer_config.as_ref().unwrap().0).unwrap();
        assert_eq!(config.get("chat_template").is_some(), !name.starts_with("spm"), "{name}");
        let files = TokenizerFiles { tokenizer_config, ..Default::default() };
        let tokenizer = CausalTokenizer::new(tokenizer, &files).unwrap();
        assert_eq!(tokenizer.eos(), 2);
        for (text, tokens) in texts.iter().zip(tokens.as_array().unwrap()) {
            let tokens: Vec<u32> = tokens.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
            let found = tokenizer.prompt(text).unwrap();
            // SentencePiece puts the space before a text that begins with a token of its own before that token, llama.cpp and
            // Transformers behind it.
            if text.starts_with("<|") && name == "spm" {
                continue;
            }
            assert_eq!(
                found,
                tokens[..tokens.iter().rposition(|id| *id != 2).map_or(0, |last| last + 1)],
                "{name}: {text:?}"
            );
            let begin = usize::from(tokens.first() == Some(&0) && name == "llama-bpe" || name.starts_with("spm"));
            // Of special tokens there is no text.
            if !text.contains("<|") && name != "qwen2" && !text.is_empty() {
                assert_eq!(tokenizer.continuation(&[], &found[begin..]).unwrap(), *text, "{name}");
            }
        }
    }
}

/// llama.cpp's own vocabularies with texts and their tokens (`models/ggml-vocab-*.gguf`, `.inp` and `.out` of its sources).
#[test]
fn tokenizers_of_llama_cpps_vocabularies() {
    let Some(folder) = std::env::var_os("LLAMA_CPP_MODELS").map(std::path::PathBuf::from) else {
        println!("SKIPPED: LLAMA_CPP_MODELS does not name the folder `models` of llama.cpp's sources");
        return;
    };
    for name in ["gpt-2", "llama-bpe", "qwen2", "llama-spm", "phi-3"] {
        let file = folder.join(format!("ggml-vocab-{name}.gguf"));
        let beside = |end: &str| fs::read_to_string(file.with_extension(format!("gguf.{end}"))).unwrap();
        let (texts, tokens) = (beside("inp"), beside("out"));
        let (bytes, shown) = ModelSource::Gguf { file: file.clone(), tokenizer: None }.file("tokenizer.json").unwrap();
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let mut bare = json.clone();
        bare["post_processor"] = serde_json::Value::Null;
        let tokenizer = Tokenizer::from_bytes(bare.to_string().as_bytes(), &shown).unwrap();
        let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
        let found = tokenizer.encode(&texts, 100_000).unwrap();
        let all: Vec<&str> = tokens.lines().collect();
        let mut differ = 0;
        for ((text, found), tokens) in texts.iter().zip(&found).zip(&all) {
            let tokens: Vec<u32> = tokens.split_whitespace().map(|id| id.parse().unwrap()).collect();
            if *found != tokens {
                println!("{name}: {text:?}: {found:?}, expected {tokens:?}");
                differ += 1;
            }
        }
        println!("{name}: {} texts, {differ} differ", all.len());
        assert_eq!(differ, 0, "{name}");
    }
}

#[test]
fn gguf_files_that_cannot_be_used_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let whole = fs::read(fixture("llama-tiny.gguf")).unwrap();
    let refusal = |bytes: &[u8]| {
        let file = dir.path().join("x.gguf");
        fs::write(&file, bytes).unwrap();
        let source = ModelSource::Gguf { file, tokenizer: None };
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let loaded = Transformer::load(&source, Task::Causal, &[], &mut rng, &device());
        loaded.map(drop).unwrap_err().to_string()
    };
    for cut in [0, 3, 20, 200, whole.len() / 2] {
        let said = refusal(&whole[..cut]);
        assert!(said.contains("x.gguf") && (said.contains("ends") || said.contains("not a GGUF")), "{cut}: {said}");
    }
    assert!(refusal(b"GGML....").contains("not a GGUF file"));
    let mut other = whole.clone();
    let at = other.windows(5).position(|window| window == b"llama").unwrap();
    other[at..at + 5].copy_from_slice(b"mamba");
    assert!(refusal(&other).contains("general.architecture is mamba"));
    let source = ModelSource::Gguf { file: dir.path().join("x.gguf"), tokenizer: None };
    let lacks = source.file("tokenizer.json").unwrap_err().to_string();
    assert!(lacks.contains("tokenizer.ggml.model is missing") && lacks.contains("model.tokenizer"), "{lacks}");
    let mut other = fs::read(fixture("vocabulary-smollm.gguf")).unwrap();
    let at = other.windows(6).position(|window| window == b"smollm").unwrap();
    other[at..at + 6].copy_from_slice(b"falcon");
    fs::write(dir.path().join("x.gguf"), &other).unwrap();
    let unknown = source.file("tokenizer.json").unwrap_err().to_string();
    assert!(unknown.contains("tokenizer.ggml.pre is falcon; \"gpt-2\", \"smollm\""), "{unknown}");
    // Wavelengths stretched as no Llama's are.
    let mut other = fs::read(fixture("llama3-tiny.gguf")).unwrap();
    let eight = other.windows(4).rposition(|window| window == 8.0f32.to_le_bytes()).unwrap();
    other[eight..eight + 4].copy_from_slice(&9.0f32.to_le_bytes());
    assert!(refusal(&other).contains("rope_freqs.weight stretches"));
}
