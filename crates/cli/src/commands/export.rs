//! `bonfire export`: a run's adapter for other tools. What is written is read back and compared before the folder gets
//! its name.

mod args;
mod card;
mod opened;
pub mod publish;
mod verify;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use bonfire_experiment::UserError;
use bonfire_experiment::config::Source;
use bonfire_experiment::run_folder::{ADAPTER, MODEL, refuse_occupied};
use bonfire_models::merged::{self, Merge};
use bonfire_models::peft::{self, Layout, PeftMeta};
use bonfire_models::{Adapter, ModelSource, gguf};

use crate::common::Common;
use crate::console::{is_quiet, say};
pub use args::ExportArgs;
use args::{Format, LayoutName};
use opened::{GGUF, OpenedRun, Task};
use publish::publish;
use verify::Verifier;

/// Runs the command.
///
/// # Errors
/// No run folder, an adapter that cannot be read or does not fit the model, a format that the model does not go into, an
/// output folder that holds something already, an export whose answers are not the run's.
pub fn run(args: &ExportArgs, common: &Common) -> Result<()> {
    let run = OpenedRun::open(&args.run, common)?;
    refuse_occupied(&args.out)?;
    if !(args.shard_size.is_finite() && args.shard_size > 0.0) {
        return Err(UserError::new("--shard-size must be a positive number of GB").into());
    }
    if run.is_whole() {
        return export_whole(&run, args);
    }
    if args.base {
        return export_base(&run, args);
    }
    let from = run.adapters(args)?;
    let first = &from[0].0;
    let task = run.task(first)?;
    if let (Format::Gguf, Some(text)) = (args.format, gguf::refusal(&run.info, task)) {
        return Err(UserError::new(format!("no GGUF for this run: {text}")).into());
    }
    let verifier = args.verify.then(|| Verifier::open(&run, task, common)).transpose()?;
    publish(&args.out, |folder| {
        for (from, below) in &from {
            let to = below.as_ref().map_or(folder.to_path_buf(), |name| folder.join(name));
            let adapter = peft::read(from, &run.info, task).context("cannot read the adapter")?;
            let roundoff = write(&run, task, &adapter, args, &to)?;
            if let Some(verifier) = &verifier {
                verifier.compare(&adapter, args.format, &to, roundoff)?;
            }
            card::write(&run, task, args.format, &to)?;
        }
        Ok(())
    })?;
    say(format!("wrote {}", args.out.display()));
    if !is_quiet() {
        if args.format != Format::Merged && matches!(run.source, ModelSource::Builtin | ModelSource::BuiltinLlama) {
            let run = args.run.display();
            say(format!("its base is the built-in backbone: bonfire export {run} --base --out DIR writes it"));
        }
        if let (Format::Peft, Source::Folder(base)) = (args.format, &run.loaded.config.model.path) {
            say(format!(
                "adapter_config.json names its base as {}, a folder of this machine: write the model's name on the Hub there for others",
                base.display()
            ));
        }
        say(format!("to publish it: hf upload ORGANIZATION/NAME {}", args.out.display()));
    }
    Ok(())
}

/// The model that the run's adapter was trained on: the merge of an adapter that adds nothing.
fn export_base(run: &OpenedRun, args: &ExportArgs) -> Result<()> {
    let from = run.folder.join(ADAPTER);
    let task = run.task(&from)?;
    let mut nothing = peft::read(&from, &run.info, task).context("cannot read the adapter")?;
    nothing.b.iter_mut().for_each(|b| b.data.fill(0.0));
    publish(&args.out, |folder| merge(run, task, &nothing, args, folder).map(|_| ()))?;
    say(format!("wrote {}", args.out.display()));
    Ok(())
}

/// Writes a whole model with `adapter` in its weights. Gives the roundoff of its numbers.
fn merge(run: &OpenedRun, task: Task, adapter: &Adapter, args: &ExportArgs, to: &Path) -> Result<f64> {
    let labels = run.labels();
    let (source, info, labels) = (&run.source, &run.info, labels.as_deref());
    Ok(merged::write(to, Merge { source, info, task, adapter, labels }, (args.shard_size * 1e9) as u64)?)
}

/// Writes one adapter in the format asked for into `to`, and reads adapters back. Gives the roundoff of the numbers.
fn write(run: &OpenedRun, task: Task, adapter: &Adapter, args: &ExportArgs, to: &Path) -> Result<f64> {
    let layout = match args.layout {
        LayoutName::Uniform => Layout::Uniform,
        LayoutName::Compact => Layout::Compact,
    };
    match args.format {
        Format::Peft => {
            let config = &run.loaded.config;
            let meta = PeftMeta { base_model: config.model.path.base_model(), dropout: config.adapter.dropout, task };
            peft::write(to, adapter, &meta, layout)?;
            peft::check(to, adapter, &meta, layout)?;
        }
        Format::Gguf => {
            fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
            let path = to.join(GGUF);
            gguf::write(&path, adapter, &run.info, layout)?;
            gguf::check(&path, adapter, &run.info, layout)?;
        }
        Format::Merged => return merge(run, task, adapter, args, to),
    }
    Ok(0.0)
}

/// A run that trained every weight holds a whole model already.
fn export_whole(run: &OpenedRun, args: &ExportArgs) -> Result<()> {
    let model = run.folder.join(MODEL);
    if args.format != Format::Merged || args.base {
        return Err(UserError::new("this run trained every weight and has no adapter to export")
            .help(format!("{} is a whole model in Hugging Face layout; --format merged copies it", model.display()))
            .into());
    }
    if args.client.is_some() || args.clients {
        return Err(opened::no_clients(run).into());
    }
    publish(&args.out, |folder| {
        copy_files(&model, folder).with_context(|| format!("cannot copy {}", model.display()))?;
        if args.verify { verify::same_files(&model, folder) } else { Ok(()) }
    })?;
    say(format!("wrote {}", args.out.display()));
    Ok(())
}

fn copy_files(from: &Path, to: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        // Not what a link leads to.
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
