//! Small random models against PyTorch, Transformers and PEFT: committed numbers of `tests/fixtures`, which are part of the
//! program. Its package holds nothing from outside its folder, so they lie in `assets/self_test` a second time.

use std::ops::ControlFlow;

use bonfire_data::random::{Use, stream};
use bonfire_engine::{Active, Engine, EngineSettings, Member, Plan, Split, Start, TrainSettings};
use bonfire_federation::{Norm, average};
use bonfire_kernels::check::{Part, exact::Format};
use bonfire_models::check::apart;
use bonfire_models::check::torch::{Files, TorchCase};
use bonfire_models::{Adapter, DeltaLog, Factor, Precision};
use burn::tensor::Device;

use super::check::{Check, Offs};

macro_rules! files {
    ($name:literal) => {
        Files {
            name: $name,
            config: include_bytes!(concat!("../../../assets/self_test/", $name, "/config.json")),
            weights: include_bytes!(concat!("../../../assets/self_test/", $name, "/model.safetensors")),
            numbers: include_bytes!(concat!("../../../assets/self_test/", $name, ".case.safetensors")),
            settings: include_bytes!(concat!("../../../assets/self_test/", $name, ".case.json")),
        }
    };
}

const CASES: [Files; 6] = [
    files!("roberta-tiny"),
    files!("bert-tiny"),
    files!("llama-tiny"),
    files!("llama3-tiny"),
    files!("qwen2-tiny"),
    files!("llama-tiny-classifier"),
];

/// Largest difference from PyTorch's scores, loss and gradients, as a share of their length.
fn allowed(format: Format) -> f64 {
    match format {
        Format::F32 => 1e-4,
        // What a few layers make of roundings of 1 in 256: eight times the 0.007 seen in half precision, and room.
        Format::Bf16 => 0.08,
        Format::F16 => 0.02,
    }
}

/// The same of texts in one batch against texts alone: both are the device's.
const PACKED_ALLOWED: f64 = 1e-5;
/// The same of the mean loss of ten AdamW steps.
const LOSSES_ALLOWED: f64 = 1e-3;
/// The same of what ten steps moved the adapter by.
const MOVEMENTS_ALLOWED: f64 = 1e-2;

/// All of them.
pub fn checks(formats: &[Format]) -> Vec<Check> {
    let mut checks = Vec::new();
    for files in &CASES {
        for &format in formats {
            let step = move |case: &TorchCase| case.step(precision(format));
            checks.push(check(files, "scores, loss and gradients", format, allowed(format), step));
        }
        let packed = |case: &TorchCase| Ok(vec![("scores".to_string(), case.packed()?)]);
        checks.push(check(files, "texts packed and alone", Format::F32, PACKED_ALLOWED, packed));
        checks.push(check(files, "losses of ten steps", Format::F32, LOSSES_ALLOWED, |case| Ok(ten_steps(case)?.0)));
        checks
            .push(check(files, "movement of ten steps", Format::F32, MOVEMENTS_ALLOWED, |case| Ok(ten_steps(case)?.1)));
    }
    for files in CASES.iter().filter(|files| !files.name.contains("bert") && !files.name.ends_with("classifier")) {
        let continued = |case: &TorchCase| Ok(vec![("scores".to_string(), case.continued()?)]);
        checks.push(check(files, "a text continued", Format::F32, PACKED_ALLOWED, continued));
    }
    checks
}

fn check(
    files: &'static Files,
    what: &str,
    format: Format,
    allowed: f64,
    of: impl Fn(&TorchCase) -> Result<Offs, String> + 'static,
) -> Check {
    let run = move |device: &Device| {
        let case = TorchCase::new(files, &mut stream(0, Use::HeadInit, 0, 0, 0), &device.clone().autodiff())?;
        of(&case)
    };
    Check {
        what: format!("PyTorch's {}: {what}", files.name),
        shape: "a small random model".into(),
        format: format.name(),
        allowed,
        run: Box::new(run),
    }
}

fn precision(format: Format) -> Precision {
    match format {
        Format::F32 => Precision::F32,
        Format::Bf16 => Precision::Bf16,
        Format::F16 => Precision::F16,
    }
}

/// Ten AdamW steps through the engine, one client whose shard is the four batches in turn: the mean of the losses, and the
/// factor whose movement is furthest off.
fn ten_steps(case: &TorchCase) -> Result<(Offs, Offs), String> {
    let turns = (0..10).map(|i| case.texts(i % 4)).collect::<Result<Vec<_>, _>>()?;
    let batch = turns[0].len();
    let (ids, goals) = turns.into_iter().flatten().unzip();
    let train = Split::new(ids, goals);
    let rows: Vec<usize> = (0..train.len()).collect();
    let (given, model) = (&case.settings, Box::new(case.model.clone()));
    let engine = Engine::new(vec![model], train, settings(case, batch)?, EngineSettings::default());
    let plan = Plan { train_head: true, ..Plan::new(1, Active::Both, given.lr, given.lr) };
    let start = Start { adapter: &case.adapter, merged: &DeltaLog::default() };
    let goes_on = &mut |_| ControlFlow::Continue(());
    let trained = engine.train(&plan, start, &[Member::new(0, &rows)], goes_on).map_err(|e| e.to_string())?;
    let uploads = trained.continue_value().map(|trained| trained.uploads).unwrap_or_default();
    let upload = uploads.into_iter().next().ok_or("the client was lost")?;
    let expected = given.losses_10_steps.iter().sum::<f64>() / given.losses_10_steps.len() as f64;
    let losses = vec![("mean loss".to_string(), (upload.loss - expected).abs() / expected)];
    let mut end = case.adapter.clone();
    average(&mut end, &[upload], Norm::All);
    let wanted = case.stage("after10.")?;
    let mut movements = Vec::new();
    for (i, target) in wanted.targets.iter().enumerate() {
        for factor in [Factor::A, Factor::B] {
            let moved = |there: &Adapter| {
                let pairs = there.factor(factor)[i].data.iter().zip(&case.adapter.factor(factor)[i].data);
                Part { name: String::new(), values: pairs.map(|(x, y)| x - y).collect() }
            };
            movements.push((format!("{factor:?} of {}", target.name), apart(&moved(&end), &moved(&wanted))));
        }
    }
    Ok((losses, movements))
}

/// The settings that PyTorch trained by.
fn settings(case: &TorchCase, batch: usize) -> Result<TrainSettings, String> {
    let (head, decay) = (case.settings.head_lr, case.settings.weight_decay);
    let text =
        format!("rounds = 1\nbatch_size = {batch}\nshuffle = false\nlr_head = {head:?}\nweight_decay = {decay:?}");
    toml::from_str(&text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fixture that is made anew is copied: `config.json`, `model.safetensors` and both files of the case.
    #[test]
    fn what_is_built_in_is_what_the_tests_read() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
        let read = |name: String| std::fs::read(root.join(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        for files in &CASES {
            let name = files.name;
            assert!(read(format!("{name}/config.json")) == files.config, "{name}");
            assert!(read(format!("{name}/model.safetensors")) == files.weights, "{name}");
            assert!(read(format!("{name}.case.safetensors")) == files.numbers, "{name}");
            assert!(read(format!("{name}.case.json")) == files.settings, "{name}");
        }
    }
}
