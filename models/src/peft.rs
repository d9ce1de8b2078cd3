//! Adapters in the layout of Hugging Face PEFT: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! PEFT keeps `lora_A` as `[r, in]` and `lora_B` as `[out, r]`, so both are transposed here. A classification adapter
//! must hold every parameter of the head, trained or not: PEFT's loader looks each of them up.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::checkpoint::{replace, serialise};
use crate::head::HeadLinear;
use crate::weights::Weights;
use crate::{Adapter, HeadTensor, Matrix, ModelError, ModelInfo, Target, TargetKind, Task, head};

/// What the files say beside the numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeftMeta {
    /// Where the backbone came from; a folder or a name.
    pub base_model: String,
}

const PREFIX: &str = "base_model.model.";
const WEIGHTS: &str = "adapter_model.safetensors";
const CONFIG: &str = "adapter_config.json";

/// Writes `adapter` into the folder `dir`, which is made if need be. Each file is replaced as a whole, weights first,
/// so a reader never sees half a file.
///
/// # Errors
/// The folder or a file cannot be written.
pub fn write(dir: &Path, adapter: &Adapter, meta: &PeftMeta) -> Result<(), ModelError> {
    assert!(adapter.core.is_empty(), "PEFT knows plain LoRA: write `Adapter::plain`");
    fs::create_dir_all(dir).map_err(|source| ModelError::Write { path: dir.to_path_buf(), source })?;
    replace(&dir.join(WEIGHTS), &tensor_bytes(adapter))?;
    let mut text = serde_json::to_vec_pretty(&config(adapter, meta)).expect("plain JSON values");
    text.push(b'\n');
    replace(&dir.join(CONFIG), &text)
}

/// The safetensors file as bytes.
fn tensor_bytes(adapter: &Adapter) -> Vec<u8> {
    let mut parts: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    let mut push = |name: String, m: &Matrix| {
        let bytes = m.data.iter().flat_map(|v| v.to_le_bytes()).collect();
        // A bias is a row on our side and a vector in the file.
        let shape = if name.ends_with(".bias") { vec![m.cols] } else { vec![m.rows, m.cols] };
        parts.push((name, shape, bytes));
    };
    for (i, target) in adapter.targets.iter().enumerate() {
        push(format!("{PREFIX}{}.lora_A.weight", target.name), &adapter.a[i].transposed());
        push(format!("{PREFIX}{}.lora_B.weight", target.name), &adapter.b[i].transposed());
    }
    for tensor in &adapter.head {
        let value = if tensor.name.ends_with(".bias") { tensor.value.clone() } else { tensor.value.transposed() };
        push(format!("{PREFIX}{}", tensor.name), &value);
    }
    serialise(parts)
}

fn config(adapter: &Adapter, meta: &PeftMeta) -> serde_json::Value {
    json!({
        "peft_type": "LORA",
        "task_type": if adapter.head.is_empty() { "CAUSAL_LM" } else { "SEQ_CLS" },
        "base_model_name_or_path": meta.base_model,
        "revision": null,
        "r": adapter.rank,
        "lora_alpha": number(adapter.alpha),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": false,
        "target_modules": target_modules(&adapter.targets),
        "modules_to_save": if adapter.head.is_empty() { json!(null) } else { json!(["classifier", "score"]) },
        "use_rslora": false,
        "use_dora": false,
        "init_lora_weights": true,
        "inference_mode": true,
    })
}

/// Older loaders want a whole number where alpha is one.
fn number(alpha: f64) -> serde_json::Value {
    if alpha.fract() == 0.0 && alpha.abs() < 1e15 { json!(alpha as i64) } else { json!(alpha) }
}

/// Names for PEFT's suffix rule: short ones where they hit what we mean, full paths where `output.dense` would also
/// hit `attention.output.dense`.
fn target_modules(targets: &[Target]) -> Vec<String> {
    let bare = |t: &Target| t.name.rsplit('.').next().unwrap_or_default().to_string();
    let short = |t: &Target| match bare(t).as_str() {
        // The encoders' linears that are all called `dense` go by two parts or three.
        "dense" => {
            let parts: Vec<&str> = t.name.rsplitn(4, '.').collect();
            let n = if parts[2] == "attention" { 3 } else { 2 };
            parts[..n].iter().rev().copied().collect::<Vec<_>>().join(".")
        }
        name => name.to_string(),
    };
    let has = |kind| targets.iter().any(|t| t.kind == kind);
    let ambiguous = |t: &Target| bare(t) == "dense" && has(TargetKind::Output) && !has(TargetKind::AttentionOutput);
    if targets.iter().any(ambiguous) {
        return targets.iter().map(|t| t.name.clone()).collect();
    }
    let mut names: Vec<String> = Vec::new();
    for name in targets.iter().map(short) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Reads an adapter that fits the model `info` trained for `task`; rank, alpha and targets come from the folder.
///
/// # Errors
/// A file that is missing or damaged, another kind of adapter than plain LoRA, a tensor missing, surplus or misshapen.
pub fn read(dir: &Path, info: &ModelInfo, task: Task) -> Result<Adapter, ModelError> {
    let file = |name: &str| {
        let path = dir.join(name);
        fs::read(&path).map_err(|e| problem(dir, format!("cannot read {}: {e}", path.display())))
    };
    let config: serde_json::Value =
        serde_json::from_slice(&file(CONFIG)?).map_err(|e| problem(dir, format!("{CONFIG} is not JSON: {e}")))?;
    let (rank, alpha) = plain_lora(dir, &config)?;
    let bytes = file(WEIGHTS)?;
    let name = dir.join(WEIGHTS).display().to_string();
    let mut weights = Weights::open(&bytes, &name)?;
    let present = |t: &Target| weights.has(&format!("{PREFIX}{}.lora_A.weight", t.name));
    let targets: Vec<Target> = info.targets(&TargetKind::all()).into_iter().filter(present).collect();
    if targets.is_empty() {
        return Err(problem(dir, format!("{WEIGHTS} holds no lora_A of a {} model", info.architecture.name())));
    }
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for t in &targets {
        a.push(weights.take_linear(&format!("{PREFIX}{}.lora_A.weight", t.name), t.d_in, rank)?);
        b.push(weights.take_linear(&format!("{PREFIX}{}.lora_B.weight", t.name), rank, t.d_out)?);
    }
    let head = read_head(&mut weights, info, task)?;
    if let Some(name) = weights.surplus(|_| false) {
        return Err(problem(dir, format!("tensor `{name}` belongs to no part of this model")));
    }
    Ok(Adapter { rank, alpha, targets, a, b, core: Vec::new(), head, weights: Vec::new() })
}

fn problem(dir: &Path, problem: String) -> ModelError {
    ModelError::Adapter { path: dir.to_path_buf(), problem }
}

/// Rank and alpha of an adapter that is plain LoRA with one rank.
fn plain_lora(dir: &Path, config: &serde_json::Value) -> Result<(usize, f64), ModelError> {
    let bad = |text: &str| problem(dir, format!("{CONFIG}: {text}"));
    if config["peft_type"] != "LORA" {
        return Err(bad("peft_type is not \"LORA\""));
    }
    for key in ["use_rslora", "use_dora", "lora_bias"] {
        if config[key] == true {
            return Err(bad(&format!("{key} is true; only plain LoRA can be read")));
        }
    }
    for key in ["rank_pattern", "alpha_pattern"] {
        if config[key].as_object().is_some_and(|o| !o.is_empty()) {
            return Err(bad(&format!("{key} is not empty; only one rank for all targets can be read")));
        }
    }
    let rank = config["r"]
        .as_u64()
        .filter(|&r| (1..=65_536).contains(&r))
        .ok_or_else(|| bad("r must be a whole number from 1"))?;
    let alpha =
        config["lora_alpha"].as_f64().filter(|a| a.is_finite()).ok_or_else(|| bad("lora_alpha must be a number"))?;
    Ok((rank as usize, alpha))
}

fn read_head(weights: &mut Weights, info: &ModelInfo, task: Task) -> Result<Vec<HeadTensor>, ModelError> {
    const HINT: &str = "; the adapter was made for another number of classes";
    let mut head = Vec::new();
    for HeadLinear { module, d_in, d_out, bias } in head::linears(info, task) {
        let weight = format!("{module}.weight");
        let value = weights.take_linear_with(&format!("{PREFIX}{weight}"), d_in, d_out, HINT)?;
        head.push(HeadTensor { name: weight, value });
        if bias {
            let bias = format!("{module}.bias");
            let row = weights.take_with(&format!("{PREFIX}{bias}"), &[d_out], HINT)?;
            head.push(HeadTensor { name: bias, value: Matrix::new(1, d_out, row) });
        }
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Architecture;
    use rand::SeedableRng;

    fn info() -> ModelInfo {
        let json = br#"{"model_type":"bert","hidden_size":8,"num_hidden_layers":2,"num_attention_heads":2,
            "intermediate_size":16,"vocab_size":30,"max_position_embeddings":12,"type_vocab_size":2}"#;
        ModelInfo::parse(json, "config.json").expect("valid")
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
            write(dir.path(), &adapter, &PeftMeta { base_model: "base".into() }).expect("written");
            assert_eq!(read(dir.path(), &info(), Task::Classify(3)).expect("read"), adapter);
        }
        let names: Vec<_> = fs::read_dir(dir.path()).expect("listing").map(|e| e.expect("entry").file_name()).collect();
        assert_eq!(names.len(), 2, "no temporary file is left: {names:?}");
    }

    #[test]
    fn ambiguous_suffixes_become_full_paths() {
        let names = |kinds: &[TargetKind]| target_modules(&info().targets(kinds));
        assert_eq!(names(&TargetKind::all()).len(), 6);
        assert_eq!(
            names(&[TargetKind::Output]),
            ["bert.encoder.layer.0.output.dense", "bert.encoder.layer.1.output.dense"]
        );
    }

    #[test]
    fn an_adapter_of_another_shape_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        write(dir.path(), &sample(&TargetKind::all()), &PeftMeta { base_model: "base".into() }).expect("written");
        let error = read(dir.path(), &info(), Task::Classify(4)).expect_err("3 classes, not 4").to_string();
        assert!(error.contains("classifier.weight") && error.contains("classes"), "{error}");
        let architecture = Architecture::Roberta;
        let other = ModelInfo { architecture, ..info() };
        assert!(read(dir.path(), &other, Task::Classify(3)).is_err());
        fs::write(dir.path().join(CONFIG), "{}").expect("written");
        assert!(read(dir.path(), &info(), Task::Classify(3)).expect_err("no LoRA").to_string().contains("peft_type"));
        assert!(read(&dir.path().join("nowhere"), &info(), Task::Classify(3)).is_err());
    }
}
