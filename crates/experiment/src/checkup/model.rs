//! A training step of small models, with adapters over a frozen backbone, against the CPU's. On the CPU the losses on
//! either side of the same point judge the gradients.

use bonfire_data::random::{Use, stream};
use bonfire_kernels::check as operations;
use bonfire_kernels::check::Part;
use bonfire_kernels::runs_on_cpu;
use bonfire_models::check::{self, Allowed, Leaves, Step};
use bonfire_models::{Architecture, ModelInfo, ModelSource, PackedBatch, Precision, TargetKind, Task, Transformer};
use burn::tensor::Device;

use super::finding::{Depth, Finding, answer};
use super::purpose::{Purpose, Small, precisions};

/// Classes of a classifier.
const CLASSES: usize = 5;

/// The small model on `device`.
fn load(small: Small, device: &Device) -> Result<Transformer, String> {
    let (mut rng, device) = (stream(0, Use::HeadInit, 0, 0, 0), device.clone().autodiff());
    let (kinds, classes) = (TargetKind::all(), Task::Classify(CLASSES));
    let (source, task) = match small {
        Small::Roberta => (Some(ModelSource::Builtin), classes),
        Small::Llama => (Some(ModelSource::BuiltinLlama), Task::Causal),
        Small::LlamaClasses => (Some(ModelSource::BuiltinLlama), classes),
        Small::Bert => (None, classes),
    };
    answer(|| {
        let loaded = match source {
            Some(source) => Transformer::load(&source, task, &kinds, &mut rng, &device),
            None => Transformer::random(small_bert(), task, &kinds, &mut rng, &device),
        };
        loaded.map_err(|e| e.to_string())
    })
}

fn small_bert() -> ModelInfo {
    ModelInfo {
        architecture: Architecture::Bert,
        hidden: 40,
        layers: 2,
        heads: 4,
        kv_heads: 4,
        head_width: 10,
        intermediate: 88,
        vocab: 120,
        positions: 64,
        token_types: 2,
        first_position: 0,
        initializer_range: 0.2,
        ..ModelInfo::minilm()
    }
}

/// A model's step on the CPU, and what is needed to do it elsewhere.
struct Reference {
    of: Small,
    model: Transformer,
    leaves: Leaves,
    batch: PackedBatch,
    step: Step,
}

/// Adds what is found on `device`; stops at the first failure.
pub fn examine(device: &Device, cpu: &Device, depth: Depth, progress: &dyn Fn(&str), findings: &mut Vec<Finding>) {
    let (models, precisions) = match depth {
        Depth::Full => (Small::ALL.to_vec(), precisions(device)),
        // The adapters' own part is f32 whatever the backbone is.
        Depth::Short(Purpose { model, precision: Precision::F32 }) => (vec![model], vec![Precision::F32]),
        Depth::Short(Purpose { model, precision }) => (vec![model], vec![Precision::F32, precision]),
    };
    for model in models {
        progress(model.name());
        if let Err(why) = one(model, &precisions, device, cpu, findings) {
            let failed = Finding::failed(model.name(), check::GRADIENTS_ALLOWED, why);
            findings.push(Finding { purpose: Some(Purpose { model, precision: Precision::F32 }), ..failed });
            return;
        }
    }
}

fn one(
    of: Small,
    precisions: &[Precision],
    device: &Device,
    cpu: &Device,
    findings: &mut Vec<Finding>,
) -> Result<(), String> {
    let model = load(of, cpu)?;
    let (leaves, batch) = (check::leaves(&model), check::batch(&model));
    let step = answer(|| check::step(&model, &leaves, &batch))?;
    let reference = Reference { of, model, leaves, batch, step };
    if runs_on_cpu(device) {
        findings.push(reference.slope()?);
        return Ok(());
    }
    let model = load(of, device)?;
    for &precision in precisions {
        let model = model.clone().computing_in(precision);
        let found = answer(|| check::step(&model, &reference.leaves, &reference.batch))?;
        findings.extend(match precision {
            Precision::F32 => reference.exact(&found),
            _ => reference.rounded(&found, precision),
        });
    }
    Ok(())
}

impl Reference {
    /// A finding on this model in `precision`.
    fn finding(&self, precision: Precision, what: &str, off: (f64, String), allowed: f64) -> Finding {
        let purpose = Purpose { model: self.of, precision };
        let name = if precision == Precision::F32 { self.of.name().into() } else { purpose.to_string() };
        Finding { purpose: Some(purpose), ..Finding::new(format!("{name}: {what}"), off, allowed) }
    }

    fn slope(&self) -> Result<Finding, String> {
        let slope = answer(|| check::slope(&self.model, &self.leaves, &self.batch, &self.step))?;
        let off = ((slope - 1.0).abs(), "slope".into());
        Ok(self.finding(Precision::F32, "gradients against losses", off, check::SLOPE_ALLOWED))
    }

    /// What a device's step in f32 says.
    fn exact(&self, found: &Step) -> Vec<Finding> {
        let Step { losses, gradients, movements } = &self.step;
        let loss = (operations::difference(&found.losses.values, &losses.values), "losses".to_string());
        let gradient = check::furthest(&found.gradients, gradients);
        let movement = check::furthest(&found.movements, movements);
        let finding = |what, off, allowed| self.finding(Precision::F32, what, off, allowed);
        vec![
            finding("losses", loss, operations::ALLOWED),
            finding("gradients", gradient, check::GRADIENTS_ALLOWED),
            finding("optimizer step", movement, check::MOVEMENTS_ALLOWED),
        ]
    }

    /// What a device's step says whose products or numbers are rounded.
    fn rounded(&self, found: &Step, precision: Precision) -> Vec<Finding> {
        let allowed = Allowed::of(precision);
        let loss = (relative(&found.losses, &self.step.losses), "losses".to_string());
        let gradient = check::furthest(&found.gradients, &self.step.gradients);
        vec![
            self.finding(precision, "losses", loss, allowed.losses),
            self.finding(precision, "gradients", gradient, allowed.gradients),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The CPU rounds where a GPU does, so what it finds is what a right GPU would: allowed with room to spare.
    #[cfg(feature = "flex")]
    #[test]
    fn what_rounding_alone_does_is_allowed() {
        let (cpu, mut tight) = (Device::flex(), Vec::new());
        for small in Small::ALL {
            let model = load(small, &cpu).expect("the small models load");
            let (leaves, batch) = (check::leaves(&model), check::batch(&model));
            let step = check::step(&model, &leaves, &batch).expect("the CPU works");
            let reference = Reference { of: small, model, leaves, batch, step };
            for precision in [Precision::Tf32, Precision::Bf16, Precision::F16] {
                let model = reference.model.clone().computing_in(precision);
                let found = check::step(&model, &reference.leaves, &reference.batch).expect("the CPU works");
                for finding in reference.rounded(&found, precision) {
                    let off = finding.off.expect("numbers");
                    println!("{}: off by {off:.1e}, allowed {:.1e}", finding.what, finding.allowed);
                    tight.extend((off == 0.0 || off > 0.7 * finding.allowed).then_some(finding));
                }
            }
        }
        assert!(tight.is_empty(), "{tight:?}");
    }
}
