//! Reading adapters. Ranks and scales that differ from module to module become one rank, by empty slots, and one alpha,
//! by putting what differs into B.

use std::fs;
use std::path::Path;

use safetensors::SafeTensors;

use super::settings::{Settings, same};
use super::{CONFIG, PREFIX, WEIGHTS, methods, problem};
use crate::head::{HeadLinear, saved_modules};
use crate::tensor_files::shown_name;
use crate::tensor_files::{is_pointer, pointer};
use crate::weights::Weights;
use crate::{Adapter, HeadTensor, Matrix, ModelError, ModelInfo, Target, TargetKind, Task, head};

/// Reads an adapter that fits the model `info` trained for `task`; rank, alpha and targets come from the folder.
/// Understood are plain LoRA, `rank_pattern` and `alpha_pattern` and rank-stabilised scales; targets may be any of the
/// model's linears, in some layers or all.
///
/// # Errors
/// A file that is missing or damaged, another kind of adapter, a tensor missing, surplus or misshapen.
pub fn read(dir: &Path, info: &ModelInfo, task: Task) -> Result<Adapter, ModelError> {
    let modules = saved_modules(&head::blank(info, task));
    let modules = if task == Task::Causal { Vec::new() } else { modules };
    let config = file(dir, CONFIG)?;
    let settings = Settings::parse(dir, &config, &modules)?;
    methods::refuse_task(&config, task).map_err(|text| problem(dir, format!("{CONFIG}: {text}")))?;
    let bytes = file(dir, WEIGHTS)?;
    let name = dir.join(WEIGHTS).display().to_string();
    let mut weights = Weights::open(&bytes, &name)?;
    let present = |t: &Target| weights.has(&format!("{PREFIX}{}.lora_A.weight", t.name));
    let targets: Vec<Target> = info.targets(&TargetKind::all()).into_iter().filter(present).collect();
    if targets.is_empty() {
        return Err(problem(dir, nothing(&weights, info)));
    }
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for t in &targets {
        let rank = settings.rank(&t.name);
        a.push(weights.take_linear(&format!("{PREFIX}{}.lora_A.weight", t.name), t.d_in, rank)?);
        b.push(weights.take_linear(&format!("{PREFIX}{}.lora_B.weight", t.name), rank, t.d_out)?);
    }
    let head = read_head(&mut weights, info, task)?;
    if let Some(name) = weights.surplus().next() {
        return Err(problem(dir, surplus(name, info)));
    }
    let scales: Vec<f64> = targets.iter().map(|t| settings.scale(&t.name)).collect();
    let (rank, scale) = one_rank(&mut a, &mut b, &scales);
    let alpha = settings.alpha(scale, rank);
    Ok(Adapter { rank, alpha, targets, a, b, core: Vec::new(), head, weights: Vec::new() })
}

/// How many outputs the head of the adapter in `dir` has, one of a model for tasks as `like`, whatever its count; `None`: it has no
/// head, as a language model's.
///
/// # Errors
/// Weights that cannot be read.
pub fn classes(dir: &Path, info: &ModelInfo, like: Task) -> Result<Option<usize>, ModelError> {
    let bytes = file(dir, WEIGHTS)?;
    let damaged =
        |e| ModelError::Safetensors { file: dir.join(WEIGHTS).display().to_string(), problem: format!("{e}") };
    let tensors = SafeTensors::deserialize(&bytes).map_err(damaged)?;
    let Some(last) = head::linears(info, like).pop() else { return Ok(None) };
    let weight = tensors.tensor(&format!("{PREFIX}{}.weight", last.module)).ok();
    Ok(weight.and_then(|weight| weight.shape().first().copied()))
}

/// What should be said of the adapter in `dir` that can be read: keys of its configuration that are set and nobody knows.
///
/// # Errors
/// A file that is missing or no configuration.
pub fn note(dir: &Path) -> Result<Option<String>, ModelError> {
    let unknown = methods::unknown(&file(dir, CONFIG)?).map_err(|text| problem(dir, format!("{CONFIG}: {text}")))?;
    let said = || format!("{}: not known, and read past: {}", dir.join(CONFIG).display(), unknown.join(", "));
    Ok((!unknown.is_empty()).then(said))
}

fn file(dir: &Path, name: &str) -> Result<Vec<u8>, ModelError> {
    let path = dir.join(name);
    let bytes = fs::read(&path).map_err(|e| {
        let other = |names: &[&str]| names.iter().find(|n| dir.join(n).exists()).map(|n| (*n).to_string());
        let what = match other(&["adapter_model.bin", "adapters.safetensors"]).filter(|_| name == WEIGHTS) {
            Some(pickle) if pickle.ends_with(".bin") => {
                format!(
                    "has {pickle} but no {WEIGHTS}: pickles can run code and are not read; convert it: {}",
                    converter(dir)
                )
            }
            Some(mlx) => format!("has {mlx} but no {WEIGHTS}: this is an adapter of MLX, not of PEFT"),
            None => format!("cannot read {}: {e}", path.display()),
        };
        problem(dir, what)
    })?;
    if is_pointer(&bytes) { Err(pointer(path.display().to_string())) } else { Ok(bytes) }
}

/// The command that writes an adapter's pickle as safetensors.
fn converter(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "python -c \"import torch; from safetensors.torch import save_file; \
         save_file(torch.load('{dir}/adapter_model.bin', weights_only=True), '{dir}/{WEIGHTS}')\""
    )
}

/// Why an adapter's weights hold nothing for this model: how their names differ from those that are looked for.
fn nothing(weights: &Weights, info: &ModelInfo) -> String {
    let name = info.architecture.name();
    let targets = info.targets(&TargetKind::all());
    let wanted = targets.first().map_or(String::new(), |t| format!("{PREFIX}{}.lora_A.weight", t.name));
    let Some(found) = weights.surplus().find(|n| n.contains(".lora_A")).or(weights.surplus().next()) else {
        return format!("{WEIGHTS} holds no tensors");
    };
    let named =
        found.split(".lora_A.").nth(1).filter(|end| *end != "weight").and_then(|end| end.strip_suffix(".weight"));
    let why = match named {
        Some(adapter) => format!(
            "; its keys carry the adapter's name \"{}\", which PEFT's save_pretrained leaves out: save it with that, not \
             with torch.save of a state_dict",
            shown_name(adapter)
        ),
        None if found.starts_with(&format!("{PREFIX}{PREFIX}")) => {
            "; the prefix is there twice: it was saved from a model that was wrapped twice".into()
        }
        None if !found.starts_with(PREFIX) => format!("; PEFT's names begin with {PREFIX}"),
        None => "; is it an adapter of another model, or of a backbone saved alone?".into(),
    };
    format!(
        "{WEIGHTS} holds no lora_A of a {name} model: it has `{}`, and `{wanted}` would be right{why}",
        shown_name(found)
    )
}

/// Why a tensor has no place.
fn surplus(name: &str, info: &ModelInfo) -> String {
    let bare = name.strip_prefix(PREFIX).unwrap_or(name);
    let description = info.architecture.describe();
    let pooler = description.pooler.map_or("", |form| form.linear);
    let module = bare.split(".lora_").next().unwrap_or(bare);
    let module = module.strip_suffix(".weight").unwrap_or(module).trim_end_matches(".base_layer");
    let why = if !pooler.is_empty() && module == pooler {
        format!("adapts the pooler ({pooler}), which stays as it is here: only the linears of layers carry adapters")
    } else if bare.contains("lora_embedding") || module.ends_with(description.embeddings.words) || module == "lm_head" {
        format!("changes the embeddings ({module}), and only the linears of layers carry adapters here")
    } else if bare.contains("lora_magnitude_vector") {
        "belongs to DoRA, which is not plain LoRA".into()
    } else if bare.ends_with(".bias") && bare.contains(".lora_B") {
        "is a bias of lora_B, which plain LoRA has not".into()
    } else {
        return format!("tensor `{}` belongs to no part of this model", shown_name(name));
    };
    format!("tensor `{}` {why}; {}", shown_name(name), methods::MERGE)
}

/// Brings factors of any ranks and `scales` to one of each, and says which.
pub(crate) fn one_rank(a: &mut [Matrix], b: &mut [Matrix], scales: &[f64]) -> (usize, f64) {
    let widest = (0..a.len()).max_by_key(|&t| a[t].cols).expect("at least one target");
    let (rank, scale) = (a[widest].cols, scales[widest]);
    for (t, own) in scales.iter().enumerate() {
        if !same(*own, scale) {
            let factor = (own / scale) as f32;
            b[t].data.iter_mut().for_each(|v| *v *= factor);
        }
        a[t] = padded(&a[t].transposed(), rank).transposed();
        b[t] = padded(&b[t], rank);
    }
    (rank, scale)
}

/// Rows of zeros below, up to `rows`.
fn padded(m: &Matrix, rows: usize) -> Matrix {
    let mut data = m.data.clone();
    data.resize(rows * m.cols, 0.0);
    Matrix::new(rows, m.cols, data)
}

fn read_head(weights: &mut Weights, info: &ModelInfo, task: Task) -> Result<Vec<HeadTensor>, ModelError> {
    const HINT: &str = "; the adapter was made for another number of classes";
    let mut head = Vec::new();
    for HeadLinear { module, d_in, d_out, bias, .. } in head::linears(info, task) {
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
