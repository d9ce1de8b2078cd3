//! A training step of the built-in models, with adapters over a frozen backbone, against the CPU's. On the CPU the losses
//! on either side of the same point judge the gradients.

use bonfire_data::random::{Use, stream};
use bonfire_kernels::check as operations;
use bonfire_kernels::check::Part;
use bonfire_kernels::runs_on_cpu;
use bonfire_models::check::{self, Leaves, Step};
use bonfire_models::{ModelSource, PackedBatch, Precision, TargetKind, Task, Transformer};
use burn::tensor::Device;

use super::{Depth, Finding, answer};

/// A small model and what it is trained for.
const MODELS: [(&str, ModelSource, Task); 2] = [
    ("tiny-llama", ModelSource::BuiltinLlama, Task::Causal),
    ("tiny-roberta", ModelSource::Builtin, Task::Classify(5)),
];

/// A model's step on the CPU, and what is needed to do it elsewhere.
struct Reference {
    name: &'static str,
    model: Transformer,
    leaves: Leaves,
    batch: PackedBatch,
    step: Step,
}

/// Adds what is found on `device`; stops at the first failure.
pub fn examine(device: &Device, cpu: &Device, depth: Depth, progress: &dyn Fn(&str), findings: &mut Vec<Finding>) {
    let models = MODELS.into_iter().filter(|(name, ..)| depth == Depth::Full || *name == "tiny-roberta");
    for (name, source, task) in models {
        progress(name);
        if let Err(why) = one(name, &source, task, device, cpu, findings) {
            findings.push(Finding::failed(name, check::GRADIENTS_ALLOWED, why));
            return;
        }
    }
}

fn one(
    name: &'static str,
    source: &ModelSource,
    task: Task,
    device: &Device,
    cpu: &Device,
    findings: &mut Vec<Finding>,
) -> Result<(), String> {
    let model = load(source, task, cpu)?;
    let (leaves, batch) = (check::leaves(&model), check::batch(&model));
    let step = answer(|| check::step(&model, &leaves, &batch))?;
    let reference = Reference { name, model, leaves, batch, step };
    if runs_on_cpu(device) {
        findings.push(reference.slope()?);
        return Ok(());
    }
    let model = load(source, task, device)?;
    let found = answer(|| check::step(&model, &reference.leaves, &reference.batch))?;
    findings.extend(reference.exact(&found));
    if let Some(precision) = [Precision::Bf16, Precision::F16].into_iter().find(|p| p.runs_on(device)) {
        let found = answer(|| check::step(&model.computing_in(precision), &reference.leaves, &reference.batch))?;
        findings.extend(reference.rounded(&found, precision));
    }
    Ok(())
}

fn load(source: &ModelSource, task: Task, device: &Device) -> Result<Transformer, String> {
    let mut rng = stream(0, Use::HeadInit, 0, 0, 0);
    let device = device.clone().autodiff();
    answer(|| Transformer::load(source, task, &TargetKind::all(), &mut rng, &device).map_err(|e| e.to_string()))
}

impl Reference {
    fn slope(&self) -> Result<Finding, String> {
        let slope = answer(|| check::slope(&self.model, &self.leaves, &self.batch, &self.step))?;
        let what = format!("{}: gradients against losses", self.name);
        Ok(Finding::new(what, ((slope - 1.0).abs(), "slope".into()), check::SLOPE_ALLOWED))
    }

    /// What a device's step in f32 says.
    fn exact(&self, found: &Step) -> [Finding; 3] {
        let Step { losses, gradients, movements } = &self.step;
        let loss = (operations::difference(&found.losses.values, &losses.values), "losses".to_string());
        let gradient = check::furthest(&found.gradients, gradients);
        let movement = check::furthest(&found.movements, movements);
        [
            Finding::new(format!("{}: losses", self.name), loss, operations::ALLOWED),
            Finding::new(format!("{}: gradients", self.name), gradient, check::GRADIENTS_ALLOWED),
            Finding::new(format!("{}: optimizer step", self.name), movement, check::MOVEMENTS_ALLOWED),
        ]
    }

    /// What a device's step in half the bits says.
    fn rounded(&self, found: &Step, precision: Precision) -> [Finding; 2] {
        let word = format!("{precision:?}").to_lowercase();
        let loss = (relative(&found.losses, &self.step.losses), "losses".to_string());
        let gradient = check::furthest(&found.gradients, &self.step.gradients);
        [
            Finding::new(format!("{} in {word}: losses", self.name), loss, check::ROUNDED_LOSS_ALLOWED),
            Finding::new(format!("{} in {word}: gradients", self.name), gradient, check::ROUNDED_GRADIENTS_ALLOWED),
        ]
    }
}

/// The largest share by which an entry is off.
fn relative(found: &Part, expected: &Part) -> f64 {
    let off = |(f, e): (&f32, &f32)| {
        let off = f64::from((f - e).abs()) / f64::from(e.abs()).max(1e-6);
        if off.is_finite() { off } else { f64::INFINITY }
    };
    found.values.iter().zip(&expected.values).map(off).fold(0.0, f64::max)
}
