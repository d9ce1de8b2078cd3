//! GGUF: models read as backbones (`gguf/backbone.rs`, their tokenizers in `gguf/vocabulary.rs`), and LoRA adapters for llama.cpp: one file (version 3) with a pair of f32 tensors for every linear.
//!
//! The file knows one alpha, and llama.cpp scales a pair by `alpha / r` with the pair's own rank, so where ranks differ
//! what is left of the scale goes into B. Weights of the architecture `llama` (Mistral's too) are stored there with the
//! rows of queries and keys in another order, which pairs up the features that are turned together: B's go along.

use std::fs;
use std::path::Path;

use crate::checkpoint::replace;
use crate::peft::{Carried, Layout, one_rank};
use crate::{Adapter, Matrix, ModelError, ModelInfo, Target, TargetKind, Task};

pub(crate) mod backbone;
mod blocks;
mod file;
pub(crate) mod vocabulary;

use file::{File, Value};

/// What stops a model's adapter from becoming a GGUF file, and what would do instead.
pub fn refusal(info: &ModelInfo, task: Task) -> Option<String> {
    let instead = "export it as merged or peft";
    let name = info.architecture.name();
    match (info.architecture.is_decoder(), task) {
        (false, _) => Some(format!("llama.cpp loads no adapters of {name} encoders; {instead}")),
        (true, Task::Causal) => None,
        (true, _) => Some(format!("a GGUF adapter has no place for a classifier's head; {instead}")),
    }
}

/// Writes `adapter` of a language model of shape `info` to `path`, which is replaced as a whole.
///
/// # Errors
/// A model that [`refusal`] speaks of, or a file that cannot be written.
pub fn write(path: &Path, adapter: &Adapter, info: &ModelInfo, layout: Layout) -> Result<(), ModelError> {
    assert!(adapter.core.is_empty(), "GGUF knows plain LoRA: write `Adapter::plain`");
    let task = if adapter.head.is_empty() { Task::Causal } else { Task::Classify(0) };
    match refusal(info, task) {
        Some(text) => Err(problem(path, text)),
        None => replace(path, &contents(adapter, info, layout).to_bytes()),
    }
}

/// Reads the file back and compares it with what [`write`] was to put there.
///
/// # Errors
/// A file that cannot be read, or the first difference.
pub fn check(path: &Path, adapter: &Adapter, info: &ModelInfo, layout: Layout) -> Result<(), ModelError> {
    let (found, meant) = (open(path)?, contents(adapter, info, layout));
    if found.values != meant.values {
        return Err(problem(path, "its metadata are not what was written"));
    }
    let names = |file: &File| file.tensors.iter().map(|t| t.name.clone()).collect::<Vec<_>>();
    if names(&found) != names(&meant) {
        return Err(problem(path, "its tensors are not those that were written"));
    }
    match found.tensors.iter().zip(&meant.tensors).find(|(x, y)| x != y) {
        Some((tensor, _)) => Err(problem(path, format!("`{}` is not what was written", tensor.name))),
        None => Ok(()),
    }
}

/// Reads an adapter for language models of shape `info`, with rows in Hugging Face's order.
///
/// # Errors
/// A file that is damaged, of another architecture, or whose tensors do not fit.
pub fn read(path: &Path, info: &ModelInfo) -> Result<Adapter, ModelError> {
    let file = open(path)?;
    let says = |key: &str, value: &str| file.value(key) == Some(&Value::Text(value.into()));
    let architecture = architecture(info);
    for (key, value) in [("general.type", "adapter"), ("adapter.type", "lora"), ("general.architecture", architecture)]
    {
        if !says(key, value) {
            return Err(problem(path, format!("{key} is not \"{value}\"")));
        }
    }
    let Some(&Value::Float(alpha)) = file.value("adapter.lora.alpha") else {
        return Err(problem(path, "adapter.lora.alpha is missing"));
    };
    let mut tensors: std::collections::BTreeMap<&str, &file::Tensor> =
        file.tensors.iter().map(|t| (t.name.as_str(), t)).collect();
    let (mut targets, mut a, mut b, mut scales) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for target in info.targets(&TargetKind::all()) {
        let name = name(&target);
        let (Some(down), Some(up)) =
            (tensors.remove(format!("{name}.lora_a").as_str()), tensors.remove(format!("{name}.lora_b").as_str()))
        else {
            continue;
        };
        let rank = down.shape[0];
        if rank == 0 || down.shape[1] != target.d_in || up.shape != [target.d_out, rank] {
            return Err(problem(path, format!("`{name}` does not fit {}", target.name)));
        }
        a.push(Matrix::new(rank, target.d_in, down.data.clone()).transposed());
        let up = Matrix::new(target.d_out, rank, up.data.clone());
        b.push(up.rows(&inverse(&rows(info, &target))).transposed());
        scales.push(f64::from(alpha) / rank as f64);
        targets.push(target);
    }
    if let Some(name) = tensors.keys().next() {
        return Err(problem(path, format!("tensor `{name}` belongs to no linear of this model, or has no partner")));
    }
    if targets.is_empty() {
        return Err(problem(path, "holds no adapter of this model"));
    }
    let (rank, scale) = one_rank(&mut a, &mut b, &scales);
    let (core, head, weights) = (Vec::new(), Vec::new(), Vec::new());
    Ok(Adapter { rank, alpha: scale * rank as f64, targets, a, b, core, head, weights })
}

fn open(path: &Path) -> Result<File, ModelError> {
    let bytes = fs::read(path).map_err(|e| problem(path, format!("cannot be read: {e}")))?;
    File::parse(&bytes).map_err(|text| problem(path, text))
}

fn problem(path: &Path, problem: impl Into<String>) -> ModelError {
    ModelError::Adapter { path: path.to_path_buf(), problem: problem.into() }
}

/// What stands in the file.
fn contents(adapter: &Adapter, info: &ModelInfo, layout: Layout) -> File {
    let text = |key: &str, value: &str| (key.to_string(), Value::Text(value.into()));
    let carried = layout.carried(adapter);
    let largest = carried.iter().map(Carried::rank).max().unwrap_or(adapter.rank);
    let alpha = adapter.scale() * largest as f64;
    let values = vec![
        text("general.architecture", architecture(info)),
        text("general.type", "adapter"),
        text("adapter.type", "lora"),
        ("adapter.lora.alpha".to_string(), Value::Float(alpha as f32)),
    ];
    let mut tensors = Vec::new();
    for c in &carried {
        // llama.cpp scales by alpha / r; the adapter by alpha / largest.
        let left = (c.rank() as f64 / largest as f64) as f32;
        let up = c.b.transposed().rows(&rows(info, c.target));
        let down = c.a.transposed();
        let name = name(c.target);
        let tensor = |part: &str, m: Matrix| file::Tensor {
            name: format!("{name}.lora_{part}"),
            shape: [m.rows, m.cols],
            data: m.data,
        };
        tensors.push(tensor("a", down));
        tensors.push(tensor("b", Matrix { data: up.data.iter().map(|v| v * left).collect(), ..up }));
    }
    File { values, tensors }
}

/// What llama.cpp calls the model; an adapter must name its model's.
fn architecture(info: &ModelInfo) -> &'static str {
    info.architecture.describe().gguf.expect("decoders have a name there")
}

/// The name of a linear's weight in GGUF files.
fn name(target: &Target) -> String {
    let part = match target.kind {
        TargetKind::Query => "attn_q",
        TargetKind::Key => "attn_k",
        TargetKind::Value => "attn_v",
        TargetKind::Qkv => "attn_qkv",
        TargetKind::AttentionOutput => "attn_output",
        TargetKind::Gate => "ffn_gate",
        // Phi-3's gates lie in one tensor with what they open.
        TargetKind::Intermediate | TargetKind::GateUp => "ffn_up",
        TargetKind::Output => "ffn_down",
    };
    format!("blk.{}.{part}.weight", target.layer)
}

/// For each output row in the file, which of ours it is. Hugging Face turns feature `j` of a head with `j + w/2`,
/// llama.cpp's `llama` features `2j` and `2j + 1`.
fn rows(info: &ModelInfo, target: &Target) -> Vec<usize> {
    let turned =
        matches!(target.kind, TargetKind::Query | TargetKind::Key) && info.architecture.describe().gguf_neighbours;
    (0..target.d_out).map(|row| if turned { ours(row, info.head_width) } else { row }).collect()
}

/// The row of ours that llama.cpp's `llama` has as its `row`-th, in heads of `w` features.
fn ours(row: usize, w: usize) -> usize {
    row / w * w + row % w / 2 + row % 2 * (w / 2)
}

fn inverse(order: &[usize]) -> Vec<usize> {
    let mut back = vec![0; order.len()];
    order.iter().enumerate().for_each(|(to, &from)| back[from] = to);
    back
}

#[cfg(test)]
mod tests;
