//! A whole model in Hugging Face layout with an adapter in its weights: what tools read that know no adapters, or no
//! adapters of classifiers.
//!
//! Tensors are copied from the source checkpoint in their own type. Those that carry an adapter become `W + s·A·B`,
//! computed in f32 and rounded to that type; the head is the adapter's. No more than one output file is in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;

use crate::checkpoint::{Described, OTHERS, described, replace};
use crate::tensor_files::{Place, TensorFiles};
use crate::weights::floats;
use crate::{Adapter, HeadTensor, Matrix, ModelError, ModelInfo, ModelSource, Task, Transformer};

/// Bytes of tensors in one file, as Transformers splits models.
pub const SHARD_BYTES: u64 = 5_000_000_000;

/// What is made, and of what.
#[derive(Clone, Copy, Debug)]
pub struct Merge<'m> {
    /// The checkpoint.
    pub source: &'m ModelSource,
    /// Its shape.
    pub info: &'m ModelInfo,
    /// What the model does.
    pub task: Task,
    /// What goes into its weights, and its head.
    pub adapter: &'m Adapter,
    /// Names of the classes, where they are known.
    pub labels: Option<&'m [String]>,
}

/// What becomes of a tensor.
enum Change {
    Copied,
    /// Gets the update of this target.
    Updated(usize),
    /// Is this tensor of the adapter's head.
    Head(usize),
}

/// A tensor of the new checkpoint.
struct Planned {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    place: Option<Place>,
    change: Change,
}

impl Planned {
    fn bytes(&self) -> u64 {
        (self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8) as u64
    }
}

/// Writes the merged model into `dir`, which is made if need be, in files of about `shard_bytes` at most. Gives the unit
/// roundoff of the coarsest type that a changed tensor was rounded to.
///
/// # Errors
/// The checkpoint cannot be read or lacks a target's weight, or a file cannot be written.
pub fn write(dir: &Path, merge: Merge, shard_bytes: u64) -> Result<f64, ModelError> {
    assert!(merge.adapter.core.is_empty(), "merge plain LoRA: `Adapter::plain`");
    fs::create_dir_all(dir).map_err(|source| ModelError::Write { path: dir.to_path_buf(), source })?;
    let mut source = TensorFiles::open(merge.source)?;
    let planned = plan(&source, merge)?;
    let roundoff = planned.iter().filter(|p| !matches!(p.change, Change::Copied)).map(|p| roundoff(p.dtype));
    let roundoff = roundoff.fold(0.0, f64::max);
    let shards = shards(planned, shard_bytes);
    let total: u64 = shards.iter().flatten().map(Planned::bytes).sum();
    let mut places = BTreeMap::new();
    for (i, shard) in shards.iter().enumerate() {
        let name = match shards.len() {
            1 => "model.safetensors".to_string(),
            n => format!("model-{:05}-of-{n:05}.safetensors", i + 1),
        };
        write_shard(&dir.join(&name), shard, &mut source, merge)?;
        places.extend(shard.iter().map(|p| (p.name.clone(), name.clone())));
    }
    if shards.len() > 1 {
        let index = json!({ "metadata": { "total_size": total }, "weight_map": places });
        let text = serde_json::to_string_pretty(&index).expect("plain JSON values");
        replace(&dir.join("model.safetensors.index.json"), format!("{text}\n").as_bytes())?;
    }
    for name in OTHERS {
        if let Some((bytes, _)) = merge.source.optional(name)? {
            replace(&dir.join(name), &bytes)?;
        }
    }
    let (config, file) = merge.source.file("config.json")?;
    let Merge { task, labels, info, .. } = merge;
    let tied = info.decoder.as_ref().is_some_and(|decoder| decoder.tied);
    let untied = tied && places.contains_key(OUTPUT) && differ(&mut source, OUTPUT, &words(info))?;
    let new = Described { architecture: info.architecture, task, labels, dtype: None, untied };
    replace(&dir.join("config.json"), &described(&config, &file, new)?)?;
    Ok(roundoff)
}

/// What [`write`] makes of `model`, for comparisons: the adapter in its weights, folded by the model itself and then rounded to
/// the types that the tensors have in the checkpoint, and the head rounded likewise.
///
/// # Errors
/// The checkpoint cannot be read or lacks a target's weight, or has tensors of a type that nothing is rounded to.
pub fn as_written(model: &Transformer, merge: Merge) -> Result<(Transformer, Vec<HeadTensor>), ModelError> {
    let source = TensorFiles::open(merge.source)?;
    let planned = plan(&source, merge)?;
    let mut types = BTreeMap::new();
    let mut head = merge.adapter.head.clone();
    for tensor in &planned {
        let round = |numbers: &[f32]| {
            let bytes = rounded(tensor.dtype, numbers);
            bytes.and_then(|bytes| floats(tensor.dtype, &bytes)).ok_or_else(|| ModelError::TensorType {
                file: source.file_of(&tensor.name).into(),
                name: tensor.name.clone(),
                dtype: format!("{:?}", tensor.dtype),
            })
        };
        match tensor.change {
            Change::Copied => {}
            Change::Updated(target) => {
                round(&[0.0])?;
                types.insert(target, tensor.dtype);
            }
            Change::Head(i) => head[i].value.data = round(&head[i].value.data)?,
        }
    }
    let round = |target: usize, numbers: Vec<f32>| {
        let dtype = types[&target];
        rounded(dtype, &numbers).and_then(|bytes| floats(dtype, &bytes)).expect("a type that was tried")
    };
    Ok((model.with_folded_as(merge.adapter, round), head))
}

/// The output embeddings.
const OUTPUT: &str = "lm_head.weight";

/// The name of the input embeddings.
fn words(info: &ModelInfo) -> String {
    let description = info.architecture.describe();
    format!("{}.{}.weight", description.prefix, description.embeddings.words)
}

/// Whether two tensors, each of which may be missing, hold different bytes.
fn differ(source: &mut TensorFiles, x: &str, y: &str) -> Result<bool, ModelError> {
    let places = [x, y].map(|name| source.places.get(name).cloned());
    let [Some(x), Some(y)] = places else { return Ok(false) };
    Ok(source.read(&x)? != source.read(&y)?)
}

/// The tensors of the new checkpoint, by name: those that the model reads.
fn plan(source: &TensorFiles, merge: Merge) -> Result<Vec<Planned>, ModelError> {
    let Merge { info, adapter, task, .. } = merge;
    let description = info.architecture.describe();
    let prefix = format!("{}.", description.prefix);
    let mut read: BTreeSet<String> = info.tensors().into_iter().map(|tensor| tensor.name).collect();
    if let Some(form) = description.pooler_of(task) {
        let modules = [Some(form.linear), form.norm];
        read.extend(modules.into_iter().flatten().flat_map(|m| ["weight", "bias"].map(|part| format!("{m}.{part}"))));
    }
    match task {
        // Tied ones too: a copy does no harm, and others than the input embeddings are the model's.
        Task::Causal => drop(read.insert(OUTPUT.into())),
        _ => drop(read.remove(OUTPUT)),
    }
    let mut planned: BTreeMap<String, Planned> = BTreeMap::new();
    for (name, place) in &source.places {
        // A backbone saved alone has names without the prefix.
        let name = if read.contains(name) { name.clone() } else { format!("{prefix}{name}") };
        if !read.contains(&name) || adapter.head.iter().any(|h| h.name == name) {
            continue;
        }
        let target = adapter.targets.iter().position(|t| name.strip_suffix(".weight") == Some(t.name.as_str()));
        let change = target.map_or(Change::Copied, Change::Updated);
        let (dtype, shape) = (place.dtype, place.shape.clone());
        planned.insert(name.clone(), Planned { name, dtype, shape, place: Some(place.clone()), change });
    }
    for target in &adapter.targets {
        let (name, expected) = (format!("{}.weight", target.name), vec![target.d_out, target.d_in]);
        if planned.get(&name).is_none_or(|p| p.shape != expected) {
            return Err(ModelError::MissingTensor { file: source.file_of(&name).into(), name, expected, hint: "" });
        }
    }
    let usual = adapter.targets.first().and_then(|t| planned.get(&format!("{}.weight", t.name))).map(|p| p.dtype);
    for (i, HeadTensor { name, value }) in adapter.head.iter().enumerate() {
        let dtype = source.places.get(name).map(|p| p.dtype).or(usual).unwrap_or(Dtype::F32);
        let shape = if name.ends_with(".bias") { vec![value.cols] } else { vec![value.cols, value.rows] };
        planned
            .insert(name.clone(), Planned { name: name.clone(), dtype, shape, place: None, change: Change::Head(i) });
    }
    Ok(planned.into_values().collect())
}

/// Deals tensors out to files; one that is larger than a file alone gets one of its own.
fn shards(planned: Vec<Planned>, shard_bytes: u64) -> Vec<Vec<Planned>> {
    let mut shards: Vec<Vec<Planned>> = vec![Vec::new()];
    let mut filled = 0;
    for tensor in planned {
        let bytes = tensor.bytes();
        if filled > 0 && filled + bytes > shard_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        shards.last_mut().expect("one at least").push(tensor);
    }
    shards
}

fn write_shard(path: &Path, shard: &[Planned], source: &mut TensorFiles, merge: Merge) -> Result<(), ModelError> {
    let contents = shard.iter().map(|p| contents(p, source, merge)).collect::<Result<Vec<_>, _>>()?;
    let views = shard.iter().zip(&contents).map(|(p, bytes)| {
        let view = TensorView::new(p.dtype, p.shape.clone(), bytes).expect("as many bytes as the shape says");
        (p.name.as_str(), view)
    });
    let about = [("format".to_string(), "pt".to_string())].into();
    let bad = |source| ModelError::Write { path: path.to_path_buf(), source };
    safetensors::serialize_to_file(views, Some(about), path).map_err(|e| bad(std::io::Error::other(e)))?;
    readable(path).map_err(bad)
}

/// The library keeps what it writes to the owner; a model is for whoever may read its folder.
#[cfg(unix)]
fn readable(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn readable(_: &Path) -> std::io::Result<()> {
    Ok(())
}

/// The bytes of a tensor of the new checkpoint.
fn contents(planned: &Planned, source: &mut TensorFiles, merge: Merge) -> Result<Vec<u8>, ModelError> {
    let source_name = source.file_of(&planned.name).to_string();
    let old = planned.place.as_ref().map(|place| source.read(place)).transpose()?.unwrap_or_default();
    let unknown = || ModelError::TensorType {
        file: source_name.clone(),
        name: planned.name.clone(),
        dtype: format!("{:?}", planned.dtype),
    };
    let new = match planned.change {
        Change::Copied => return Ok(old),
        Change::Updated(t) => {
            let mut weight = floats(planned.dtype, &old).ok_or_else(unknown)?;
            let adapter = merge.adapter;
            add_update(&mut weight, &adapter.a[t].transposed(), &adapter.b[t], adapter.scale() as f32);
            weight
        }
        Change::Head(i) => {
            let HeadTensor { name, value } = &merge.adapter.head[i];
            if name.ends_with(".bias") { value.data.clone() } else { value.transposed().data }
        }
    };
    rounded(planned.dtype, &new).ok_or_else(unknown)
}

/// Adds `s·A·B` to a weight `[d_out, d_in]`; `down` is `[r, d_in]` and `up` `[r, d_out]`.
fn add_update(weight: &mut [f32], down: &Matrix, up: &Matrix, scale: f32) {
    let mut update = vec![0f32; down.cols];
    for (o, row) in weight.chunks_mut(down.cols).enumerate() {
        update.fill(0.0);
        for (slot, a) in down.data.chunks(down.cols).enumerate() {
            let b = up.data[slot * up.cols + o];
            update.iter_mut().zip(a).for_each(|(u, a)| *u += a * b);
        }
        row.iter_mut().zip(&update).for_each(|(w, u)| *w += scale * u);
    }
}

/// Numbers in the type of a file.
fn rounded(dtype: Dtype, numbers: &[f32]) -> Option<Vec<u8>> {
    Some(match dtype {
        Dtype::F64 => numbers.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect(),
        Dtype::F32 => numbers.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Dtype::F16 => numbers.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        Dtype::BF16 => numbers.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
        _ => return None,
    })
}

/// Largest relative error of rounding to a type.
fn roundoff(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::BF16 => 2f64.powi(-8),
        Dtype::F16 => 2f64.powi(-11),
        _ => 2f64.powi(-24),
    }
}

#[cfg(test)]
mod tests;
