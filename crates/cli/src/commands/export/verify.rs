//! `--verify`: an export is loaded as a user would, and its answers are compared with the run's own.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use bonfire_data::random::{Use, stream};
use bonfire_engine::{Scorer, Split};
use bonfire_experiment::run_folder::CONFIG;
use bonfire_experiment::{config, device, job};
use bonfire_models::merged::{self, Merge};
use bonfire_models::{Adapter, Model, ModelSource, Precision, Task, Transformer, gguf, peft};

use super::args::Format;
use super::opened::GGUF;
use super::opened::OpenedRun;
use crate::common::Common;
use crate::console::say;
use crate::progress::Waiting;

/// Test texts that are compared.
const TEXTS: usize = 32;

/// Largest difference of two answers, as a share of the largest score, that sums in another order explain.
const TOLERANCE: f64 = 1e-4;

/// Largest difference of two answers, as a share of the largest score, of two models of so many layers whose weights were rounded to
/// `roundoff` after sums that differ in their last bits: of the weights only those near the middle of two numbers come out otherwise, a
/// share of about f32's own error, 2⁻²², of the distance of two.
fn allowance(roundoff: f64, layers: usize) -> f64 {
    if roundoff == 0.0 {
        return 0.0;
    }
    let otherwise = (2f64.powi(-22) / roundoff).min(1.0);
    4.0 * roundoff * (layers as f64 * otherwise).sqrt()
}

/// The run's model and test texts.
pub struct Verifier {
    model: Transformer,
    source: ModelSource,
    task: Task,
    seed: u64,
    test: Split,
}

impl Verifier {
    /// Loads what exports are compared with, to compute in f32 whatever the run computed in.
    ///
    /// # Errors
    /// A model or data that cannot be used any more.
    pub fn open(run: &OpenedRun, task: Task, common: &Common) -> Result<Verifier> {
        let mut loaded = config::load_of_run(&run.folder.join(CONFIG), &common.sets)?;
        loaded.config.engine.precision = Precision::F32;
        let opened = device::open(common.first_device(&loaded))?;
        let model = job::model(&loaded, &run.source, task, &opened.device)?;
        let data = job::measured(&loaded, &mut Waiting::default()).context("--verify needs the run's data")?;
        let test = job::tokens(&loaded, &data, &run.source, model.info())?.test;
        Ok(Verifier { model, source: run.source.clone(), task, seed: loaded.config.train.seed, test })
    }

    /// Compares the export in `folder` with `adapter` on the run's model; a merged model with the run's own, folded by itself and
    /// rounded to the types of the checkpoint. `roundoff` is that of the export's numbers.
    ///
    /// # Errors
    /// An export that cannot be loaded, or whose answers differ by more than rounding explains.
    pub fn compare(&self, adapter: &Adapter, format: Format, folder: &Path, roundoff: f64) -> Result<()> {
        let ours = match format {
            Format::Peft | Format::Gguf => Scorer::new(&self.model, adapter),
            Format::Merged => {
                let (source, info, task) = (&self.source, self.model.info(), self.task);
                let (model, head) =
                    merged::as_written(&self.model, Merge { source, info, task, adapter, labels: None })?;
                Scorer::new(&model, &Adapter::of_weights(Vec::new(), head))
            }
        };
        let theirs = self.load(format, folder).context("the export cannot be loaded again")?;
        let (mut apart, mut largest) = (0f64, 0f64);
        let texts = self.test.len().min(TEXTS);
        for row in 0..texts {
            let [x, y] = [&ours, &theirs].map(|scorer| scorer.scores(&self.test, &[row]));
            let (x, y) = (x?.swap_remove(0), y?.swap_remove(0));
            for (x, y) in x.data.iter().zip(&y.data) {
                let difference = f64::from((x - y).abs());
                // A difference that is no number is the largest of all.
                apart = if difference.is_nan() { f64::INFINITY } else { apart.max(difference) };
                largest = largest.max(f64::from(x.abs()));
            }
        }
        let allowed = TOLERANCE.max(allowance(roundoff, self.model.info().layers));
        let found = format!(
            "the export's scores differ from the run's by {apart:.2e} at most, of scores up to {largest:.2}, on {texts} \
             test texts"
        );
        if apart > allowed * largest {
            bail!("{found}; {:.1e} is what rounding explains", allowed * largest);
        }
        say(format!("verified: {found} (allowed: {:.1e})", allowed * largest));
        Ok(())
    }

    /// The export as a model.
    fn load(&self, format: Format, folder: &Path) -> Result<Scorer> {
        let info = self.model.info();
        let adapter = match format {
            Format::Peft => peft::read(folder, info, self.task)?,
            Format::Gguf => gguf::read(&folder.join(GGUF), info)?,
            Format::Merged => {
                let mut rng = stream(self.seed, Use::HeadInit, 0, 0, 0);
                let source = ModelSource::Folder(folder.to_path_buf());
                let model = Transformer::load(&source, self.task, &[], &mut rng, self.model.device())?;
                return Ok(Scorer::new(&model, &Adapter::of_weights(Vec::new(), model.head().to_vec())));
            }
        };
        Ok(Scorer::new(&self.model, &adapter))
    }
}

/// Compares the files of two folders byte by byte.
///
/// # Errors
/// A file that differs or cannot be read.
pub fn same_files(from: &Path, to: &Path) -> Result<()> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if path.is_file() && read(&path)? != read(&to.join(name))? {
            bail!("{} was not copied as it is", path.display());
        }
    }
    say("verified: every file is the run's own, byte by byte");
    Ok(())
}

#[cfg(test)]
mod tests {
    use bonfire_models::Goal;
    use bonfire_models::peft::{Layout, PeftMeta};
    use burn::tensor::Device;

    use super::*;

    /// An adapter whose whole effect is less than rounding all weights to 16 bits may change.
    #[test]
    fn a_wrong_merge_of_a_small_adapter_fails() {
        let mut rng = stream(1, Use::HeadInit, 0, 0, 0);
        let (task, device) = (Task::Classify(3), Device::flex().autodiff());
        let kinds = bonfire_models::TargetKind::all();
        let source = ModelSource::Builtin;
        let model = Transformer::load(&source, task, &kinds, &mut rng, &device).expect("loads");
        let untrained = Adapter::fresh(model.targets(), 2, 4.0, Default::default(), model.head().to_vec(), &mut rng);
        let mut adapter = untrained.clone();
        adapter.b.iter_mut().flat_map(|b| &mut b.data).enumerate().for_each(|(i, v)| *v = 2e-4 * (i % 7) as f32);
        let info = model.info().clone();
        let test = Split::new(vec![vec![0, 50, 60, 70, 80, 2]; 2], vec![Goal::Class(0); 2]);
        let verifier = Verifier { model, source: source.clone(), task, seed: 1, test };
        let write = |adapter: &Adapter| {
            let dir = tempfile::tempdir().expect("a folder");
            let merge = Merge { source: &source, info: &info, task, adapter, labels: None };
            let roundoff = merged::write(dir.path(), merge, merged::SHARD_BYTES).expect("written");
            (dir, roundoff)
        };
        let (right, roundoff) = write(&adapter);
        assert_eq!(roundoff, 2f64.powi(-11), "the built-in checkpoint is in f16");
        verifier.compare(&adapter, Format::Merged, right.path(), roundoff).expect("the same");
        let (wrong, _) = write(&untrained);
        let error =
            verifier.compare(&adapter, Format::Merged, wrong.path(), roundoff).expect_err("not merged").to_string();
        let apart: f64 = error
            .split("differ from the run's by ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next()?.parse().ok())
            .expect("a number");
        let largest: f64 = error
            .split("of scores up to ")
            .nth(1)
            .and_then(|rest| rest.split(',').next()?.parse().ok())
            .expect("a number");
        // What was allowed when the run's answers were not rounded: 4 units of roundoff for each of √layers.
        let before = 4.0 * roundoff * (info.layers as f64).sqrt() * largest;
        assert!(apart < before, "an adapter small enough to have passed: {apart} < {before}");
    }

    #[test]
    fn an_export_that_answers_otherwise_fails() {
        let mut rng = stream(1, Use::HeadInit, 0, 0, 0);
        let (task, device) = (Task::Classify(3), Device::flex().autodiff());
        let kinds = bonfire_models::TargetKind::all();
        let model = Transformer::load(&ModelSource::Builtin, task, &kinds, &mut rng, &device).expect("loads");
        let head = model.head().to_vec();
        let adapter = Adapter::fresh(model.targets(), 2, 4.0, Default::default(), head, &mut rng);
        let test = Split::new(vec![vec![0, 50, 60, 2]; 2], vec![Goal::Class(0); 2]);
        let verifier = Verifier { model, source: ModelSource::Builtin, task, seed: 1, test };
        let dir = tempfile::tempdir().expect("a folder");
        let write = |adapter: &Adapter| {
            let meta = PeftMeta { base_model: "builtin".into(), dropout: 0.0, task };
            peft::write(dir.path(), adapter, &meta, Layout::Uniform).expect("written");
        };
        write(&adapter);
        verifier.compare(&adapter, Format::Peft, dir.path(), 0.0).expect("the same");
        let mut other = adapter.clone();
        other.b[0].data[0] = 5.0;
        write(&other);
        let error = verifier.compare(&adapter, Format::Peft, dir.path(), 0.0).expect_err("another").to_string();
        assert!(error.contains("differ"), "{error}");
        other.b[0].data[0] = f32::NAN;
        write(&other);
        verifier.compare(&adapter, Format::Peft, dir.path(), 0.0).expect_err("no numbers");
    }
}
