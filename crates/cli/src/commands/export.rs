//! `bonfire export`: a run's adapter for other tools.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use safetensors::SafeTensors;

use super::evaluate::config_of;
use crate::args::{ExportArgs, Format};
use crate::console::say;
use crate::mistake::Mistake;
use crate::run_folder::{ADAPTER, MODEL, refuse_occupied};

/// Runs the command.
///
/// # Errors
/// No run folder, an adapter that cannot be read, or an output folder that holds something already.
pub fn run(args: &ExportArgs) -> Result<()> {
    config_of(&args.run)?;
    let model = args.run.join(MODEL);
    if model.is_dir() {
        return Err(Mistake::new("this run trained every weight and has no adapter to export")
            .help(format!("{} is a whole model in Hugging Face layout already", model.display()))
            .into());
    }
    refuse_occupied(&args.out)?;
    match args.format {
        Format::Peft => export_peft(&args.run.join(ADAPTER), &args.out)?,
    }
    say(format!("wrote {}", args.out.display()));
    Ok(())
}

/// The run keeps its adapter in this layout already: check it, then copy its files.
fn export_peft(from: &Path, out: &Path) -> Result<()> {
    check(from).context("cannot read the adapter")?;
    let beside = sibling(out);
    copy_files(from, &beside)
        .and_then(|()| {
            // Renaming onto an empty folder fails on some systems.
            if out.exists() {
                fs::remove_dir(out)?;
            }
            fs::rename(&beside, out)
        })
        .inspect_err(|_| drop(fs::remove_dir_all(&beside)))
        .with_context(|| format!("cannot write {}", out.display()))
}

/// Refuses files that were damaged since the run wrote them. Whether they fit a model is seen where they are loaded.
fn check(adapter: &Path) -> Result<()> {
    let read = |name: &str| -> Result<Vec<u8>> {
        let path = adapter.join(name);
        fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    serde_json::from_slice::<serde_json::Value>(&read("adapter_config.json")?)
        .context("adapter_config.json is damaged")?;
    SafeTensors::deserialize(&read("adapter_model.safetensors")?).context("adapter_model.safetensors is damaged")?;
    Ok(())
}

/// A name beside `out`, on the same disk, that is renamed to `out` when all is written.
fn sibling(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or("export".as_ref()).to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    out.with_file_name(name)
}

fn copy_files(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
