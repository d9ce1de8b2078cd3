//! Adapters in the layout of Hugging Face PEFT: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! PEFT keeps `lora_A` as `[r, in]` and `lora_B` as `[out, r]`, so both are transposed here. A classification adapter
//! must hold every parameter of the head, trained or not: PEFT's loader looks each of them up.

mod layout;
mod methods;
mod read;
mod settings;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde_json::json;

use crate::checkpoint::{replace, serialise};
use crate::head::saved_modules;
use crate::{Adapter, Matrix, ModelError, Target, TargetKind, Task};

pub(crate) use layout::Carried;
pub use layout::Layout;
pub(crate) use read::one_rank;
pub use read::{classes, note, read};

/// What the files say beside the numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct PeftMeta {
    /// Where the backbone came from; a folder or a name.
    pub base_model: String,
    /// Share of what adapters read that training dropped (`lora_dropout`).
    pub dropout: f64,
    /// What the model does, which PEFT names in words of its own (`task_type`).
    pub task: Task,
}

impl PeftMeta {
    fn task_type(&self) -> &'static str {
        match self.task {
            Task::Causal => "CAUSAL_LM",
            Task::Tag(_) => "TOKEN_CLS",
            Task::Classify(_) | Task::MultiLabel(_) | Task::Regress => "SEQ_CLS",
        }
    }
}

const PREFIX: &str = "base_model.model.";
const WEIGHTS: &str = "adapter_model.safetensors";
const CONFIG: &str = "adapter_config.json";

/// A tensor of a file: name, shape, little-endian numbers.
type Part = (String, Vec<usize>, Vec<u8>);

/// Writes `adapter` into the folder `dir`, which is made if need be. Each file is replaced as a whole, weights first,
/// so a reader never sees half a file.
///
/// # Errors
/// The folder or a file cannot be written.
pub fn write(dir: &Path, adapter: &Adapter, meta: &PeftMeta, layout: Layout) -> Result<(), ModelError> {
    assert!(adapter.core.is_empty(), "PEFT knows plain LoRA: write `Adapter::plain`");
    fs::create_dir_all(dir).map_err(|source| ModelError::Write { path: dir.to_path_buf(), source })?;
    let carried = layout.carried(adapter);
    replace(&dir.join(WEIGHTS), &serialise(parts(&carried, adapter)))?;
    replace(&dir.join(CONFIG), &config_text(&carried, adapter, meta))
}

/// Reads the files in `dir` back and compares them, key by key, with what [`write`] was to put there.
///
/// # Errors
/// The first difference.
pub fn check(dir: &Path, adapter: &Adapter, meta: &PeftMeta, layout: Layout) -> Result<(), ModelError> {
    let read = |name: &str| {
        let path = dir.join(name);
        fs::read(&path).map_err(|e| problem(dir, format!("cannot read {}: {e}", path.display())))
    };
    let carried = layout.carried(adapter);
    if read(CONFIG)? != config_text(&carried, adapter, meta) {
        return Err(problem(dir, format!("{CONFIG} is not what was written")));
    }
    let bytes = read(WEIGHTS)?;
    let found = SafeTensors::deserialize(&bytes).map_err(|e| problem(dir, format!("{WEIGHTS}: {e}")))?;
    let meant = parts(&carried, adapter);
    if let Some(name) = found.names().into_iter().find(|name| !meant.iter().any(|(n, ..)| n == name)) {
        return Err(problem(dir, format!("{WEIGHTS} holds `{name}`, which was not written")));
    }
    for (name, shape, bytes) in meant {
        let same = found
            .tensor(&name)
            .is_ok_and(|t| t.dtype() == Dtype::F32 && t.shape() == shape.as_slice() && t.data() == bytes.as_slice());
        if !same {
            return Err(problem(dir, format!("`{name}` in {WEIGHTS} is missing or not what was written")));
        }
    }
    Ok(())
}

/// A tensor by the name that PEFT gives it.
#[derive(Clone, Debug, PartialEq)]
pub struct PeftTensor {
    /// Its name in the file.
    pub name: String,
    /// Its shape there.
    pub shape: Vec<usize>,
    /// Its numbers, row by row.
    pub numbers: Vec<f32>,
}

/// The tensors that [`write`] would write.
pub fn tensors(adapter: &Adapter) -> Vec<PeftTensor> {
    let numbers =
        |bytes: Vec<u8>| bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let tensor = |(name, shape, bytes)| PeftTensor { name, shape, numbers: numbers(bytes) };
    parts(&Layout::Uniform.carried(adapter), adapter).into_iter().map(tensor).collect()
}

/// The tensors of the safetensors file.
fn parts(carried: &[Carried], adapter: &Adapter) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    let mut push = |name: String, m: &Matrix| {
        let bytes = m.data.iter().flat_map(|v| v.to_le_bytes()).collect();
        // A bias is a row on our side and a vector in the file.
        let shape = if name.ends_with(".bias") { vec![m.cols] } else { vec![m.rows, m.cols] };
        parts.push((name, shape, bytes));
    };
    for Carried { target, a, b } in carried {
        push(format!("{PREFIX}{}.lora_A.weight", target.name), &a.transposed());
        push(format!("{PREFIX}{}.lora_B.weight", target.name), &b.transposed());
    }
    for tensor in &adapter.head {
        let value = if tensor.name.ends_with(".bias") { tensor.value.clone() } else { tensor.value.transposed() };
        push(format!("{PREFIX}{}", tensor.name), &value);
    }
    parts
}

/// `adapter_config.json`. Where ranks differ, each module that has not the largest gets a rank and an alpha of its own,
/// `alpha_i = s·r_i`, under its full path: PEFT takes the first key of which `^(.*\.)?(key)$` matches a module's path,
/// and a path that starts at the model's root ends no other.
fn config_text(carried: &[Carried], adapter: &Adapter, meta: &PeftMeta) -> Vec<u8> {
    let largest = carried.iter().map(Carried::rank).max().unwrap_or(adapter.rank);
    let alpha = |rank: usize| number(adapter.alpha * rank as f64 / adapter.rank as f64);
    let smaller = || carried.iter().filter(|c| c.rank() < largest);
    let ranks: BTreeMap<&str, usize> = smaller().map(|c| (c.target.name.as_str(), c.rank())).collect();
    let alphas: BTreeMap<&str, _> = smaller().map(|c| (c.target.name.as_str(), alpha(c.rank()))).collect();
    let targets: Vec<&Target> = carried.iter().map(|c| c.target).collect();
    let modules = if targets.len() == adapter.targets.len() {
        target_modules(&targets)
    } else {
        // Short names would also hit the linears that carry nothing.
        targets.iter().map(|t| t.name.clone()).collect()
    };
    let config = json!({
        "peft_type": "LORA",
        "task_type": meta.task_type(),
        "base_model_name_or_path": meta.base_model,
        "revision": null,
        "r": largest,
        "lora_alpha": alpha(largest),
        "lora_dropout": meta.dropout,
        "bias": "none",
        "fan_in_fan_out": false,
        "target_modules": modules,
        "modules_to_save": if adapter.head.is_empty() { json!(null) } else { json!(saved_modules(&adapter.head)) },
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "use_rslora": false,
        "use_dora": false,
        "init_lora_weights": true,
        "inference_mode": true,
    });
    // By name, whatever order JSON objects keep in this build.
    let sorted: BTreeMap<&String, _> = config.as_object().into_iter().flatten().collect();
    let mut text = serde_json::to_vec_pretty(&sorted).expect("plain JSON values");
    text.push(b'\n');
    text
}

/// Older loaders want a whole number where alpha is one.
fn number(alpha: f64) -> serde_json::Value {
    if alpha.fract() == 0.0 && alpha.abs() < 1e15 { json!(alpha as i64) } else { json!(alpha) }
}

/// Names for PEFT's suffix rule: short ones where they hit what we mean, full paths where `output.dense` would also
/// hit `attention.output.dense`.
fn target_modules(targets: &[&Target]) -> Vec<String> {
    let bare = |t: &Target| t.name.rsplit('.').next().unwrap_or_default().to_string();
    let short = |t: &Target| match bare(t).as_str() {
        // Linears that are all called `dense` or `Wo` go by two parts or three.
        "dense" | "Wo" => {
            let parts: Vec<&str> = t.name.rsplitn(4, '.').collect();
            let n = if parts[2] == "attention" { 3 } else { 2 };
            parts[..n].iter().rev().copied().collect::<Vec<_>>().join(".")
        }
        name => name.to_string(),
    };
    let has = |kind| targets.iter().any(|t| t.kind == kind);
    let ambiguous = |t: &Target| bare(t) == "dense" && has(TargetKind::Output) && !has(TargetKind::AttentionOutput);
    if targets.iter().any(|t| ambiguous(t)) {
        return targets.iter().map(|t| t.name.clone()).collect();
    }
    let mut names: Vec<String> = Vec::new();
    for name in targets.iter().map(|t| short(t)) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn problem(dir: &Path, problem: String) -> ModelError {
    ModelError::Adapter { path: dir.to_path_buf(), problem }
}

#[cfg(test)]
mod tests;
