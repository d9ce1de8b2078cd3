//! Reading adapters. Ranks and scales that differ from module to module become one rank, by empty slots, and one alpha,
//! by putting what differs into B.

use std::fs;
use std::path::Path;

use safetensors::SafeTensors;

use super::settings::{Settings, same};
use super::{CONFIG, PREFIX, WEIGHTS, problem};
use crate::head::HeadLinear;
use crate::weights::{Weights, shown};
use crate::{Adapter, HeadTensor, Matrix, ModelError, ModelInfo, Target, TargetKind, Task, head};

/// Reads an adapter that fits the model `info` trained for `task`; rank, alpha and targets come from the folder.
/// Understood are plain LoRA, `rank_pattern` and `alpha_pattern` and rank-stabilised scales; targets may be any of the
/// model's linears, in some layers or all.
///
/// # Errors
/// A file that is missing or damaged, another kind of adapter, a tensor missing, surplus or misshapen.
pub fn read(dir: &Path, info: &ModelInfo, task: Task) -> Result<Adapter, ModelError> {
    let settings = Settings::parse(dir, &file(dir, CONFIG)?)?;
    let bytes = file(dir, WEIGHTS)?;
    let name = dir.join(WEIGHTS).display().to_string();
    let mut weights = Weights::open(&bytes, &name)?;
    let present = |t: &Target| weights.has(&format!("{PREFIX}{}.lora_A.weight", t.name));
    let targets: Vec<Target> = info.targets(&TargetKind::all()).into_iter().filter(present).collect();
    if targets.is_empty() {
        return Err(problem(dir, format!("{WEIGHTS} holds no lora_A of a {} model", info.architecture.name())));
    }
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for t in &targets {
        let rank = settings.rank(&t.name);
        a.push(weights.take_linear(&format!("{PREFIX}{}.lora_A.weight", t.name), t.d_in, rank)?);
        b.push(weights.take_linear(&format!("{PREFIX}{}.lora_B.weight", t.name), rank, t.d_out)?);
    }
    let head = read_head(&mut weights, info, task)?;
    if let Some(name) = weights.surplus(|_| false) {
        return Err(problem(dir, format!("tensor `{}` belongs to no part of this model", shown(name))));
    }
    let scales: Vec<f64> = targets.iter().map(|t| settings.scale(&t.name)).collect();
    let (rank, scale) = one_rank(&mut a, &mut b, &scales);
    let alpha = settings.alpha(scale, rank);
    Ok(Adapter { rank, alpha, targets, a, b, core: Vec::new(), head, weights: Vec::new() })
}

/// How many classes the head of the adapter in `dir` tells apart; `None`: it has no head, as a language model's.
///
/// # Errors
/// Weights that cannot be read.
pub fn classes(dir: &Path, info: &ModelInfo) -> Result<Option<usize>, ModelError> {
    let bytes = file(dir, WEIGHTS)?;
    let damaged =
        |e| ModelError::Safetensors { file: dir.join(WEIGHTS).display().to_string(), problem: format!("{e}") };
    let tensors = SafeTensors::deserialize(&bytes).map_err(damaged)?;
    let last = head::linears(info, Task::Classify(1)).pop().expect("a head has a linear");
    let weight = tensors.tensor(&format!("{PREFIX}{}.weight", last.module)).ok();
    Ok(weight.and_then(|weight| weight.shape().first().copied()))
}

fn file(dir: &Path, name: &str) -> Result<Vec<u8>, ModelError> {
    let path = dir.join(name);
    fs::read(&path).map_err(|e| problem(dir, format!("cannot read {}: {e}", path.display())))
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
