//! What another front end than the command line needs (`crates/python`): from a configuration to a run, and to the two halves
//! of a federation across machines, its server and its sites. Nothing here prints, but for notes on stderr.

mod server;
mod site;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use anyhow::Result;
use bonfire_data::Dataset;
use bonfire_federation::{RoundMetrics, Summary};
use bonfire_models::Adapter;
use bonfire_models::peft::{self, Layout, PeftMeta};
use sha2::{Digest, Sha256};

use crate::args::Common;
use crate::commands::{compare, train};
use crate::config;
use crate::job;
use crate::log::{self, LogFormat};
use crate::memory;
use crate::user_error::{self, UserError};

pub use crate::config::Loaded;
pub use crate::interrupt::Interrupt;
pub use server::{OpenServer, server};
pub use site::{Holding, OpenSite, site};

/// Where a configuration comes from.
pub enum ConfigInput {
    /// The built-in quickstart.
    Quickstart,
    /// A TOML file.
    File(PathBuf),
    /// A table that was never text.
    Table(toml::Table),
}

/// Makes ready to say notes on stderr, and keeps freed memory for the next step (the caller's allocator must be mimalloc, as
/// the program's is), but not for ever: other work goes on in the process. May be called again.
pub fn begin() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        bonfire_kernels::runtime::prepare();
        memory::keep_freed_awhile();
        user_error::overhear_devices();
        log::init(LogFormat::Text, true);
    });
}

/// Reads and checks a configuration, `sets` (`section.key=value`) and the device applied.
///
/// # Errors
/// As the command line's.
pub fn load(given: ConfigInput, sets: &[String], device: Option<&str>) -> Result<Loaded> {
    let mut loaded = match given {
        ConfigInput::Quickstart => config::load(None, sets)?,
        ConfigInput::File(path) => config::load(Some(&path), sets)?,
        ConfigInput::Table(table) => config::of_table("the configuration", table, sets)?,
    };
    loaded.notices.iter().for_each(crate::console::note);
    if let Some(device) = device {
        let devices = device.parse().map_err(|what: String| UserError::new(format!("device = {what}")))?;
        loaded.config.engine.device = devices;
    }
    Ok(loaded)
}

/// What went wrong, in the lines that the command line prints.
pub fn words(error: &anyhow::Error) -> String {
    user_error::block(error)
}

/// Whether it is a mistake in the configuration or the arguments.
pub fn is_user_error(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<UserError>())
}

/// The run's name.
pub fn name(loaded: &Loaded) -> &str {
    loaded.config.name()
}

/// `bonfire train`. Gives the run's folder and its summary.
///
/// # Errors
/// As the command.
pub fn run(
    loaded: &Loaded,
    out: Option<&Path>,
    interrupt: Arc<Interrupt>,
    on_round: Box<dyn FnMut(&RoundMetrics)>,
) -> Result<(PathBuf, Summary)> {
    train::quietly_run(loaded, out, interrupt, on_round)
}

/// What `bonfire compare` is asked for; empty lists stand for the configuration's own values.
#[derive(Default)]
pub struct Comparison {
    /// The configuration's file; `None`: the built-in quickstart.
    pub config: Option<PathBuf>,
    /// `--set` texts.
    pub sets: Vec<String>,
    /// As `--device`.
    pub device: Option<String>,
    /// As `--strategies`.
    pub strategies: Option<String>,
    /// Seeds.
    pub seeds: Vec<u64>,
    /// Ranks.
    pub ranks: Vec<usize>,
    /// Concentrations of Dirichlet partitions.
    pub alphas: Vec<f64>,
    /// The folder.
    pub out: PathBuf,
}

/// `bonfire compare` into a folder, whose `compare.json` holds the result.
///
/// # Errors
/// As the command.
pub fn comparison(asked: Comparison, interrupt: Arc<Interrupt>) -> Result<()> {
    let Comparison { config, sets, device, strategies, seeds, ranks, alphas, out } = asked;
    let strategies = strategies.map(|text| text.parse().map_err(|e| UserError::new(format!("strategies: {e}"))));
    let device = device.map(|text| text.parse().map_err(|e: String| UserError::new(format!("device = {e}"))));
    let common = Common { device: device.transpose()?, sets, quiet: true, log_format: LogFormat::Text };
    let strategies = strategies.transpose()?;
    let args = compare::CompareArgs { config, strategies, seeds, ranks, alphas, out: Some(out), only_missing: false };
    compare::quietly_run(&args, &common, interrupt)
}

/// SHA-256, in hex, of a sample of the backbone's weights.
///
/// # Errors
/// A file of the model cannot be read any more.
fn weights_of(loaded: &Loaded) -> Result<String> {
    let mut hash = Sha256::new();
    job::source(&loaded.config)?.sample(&mut |bytes| hash.update(bytes))?;
    Ok(hex(hash))
}

/// SHA-256, in hex, of what server and sites must agree on: settings that change numbers, labels, tokenizer, and the
/// backbone's [weights](weights_of).
///
/// # Errors
/// A file of the model cannot be read any more.
fn fingerprint(loaded: &Loaded, data: &Dataset, weights: &str) -> Result<String> {
    let mut hash = Sha256::new();
    let mut put = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    let table = toml::Table::try_from(&loaded.config)?;
    for (key, value) in config::shared(&table) {
        put(key.as_bytes());
        put(value.to_string().as_bytes());
    }
    data.labels.iter().for_each(|label| put(label.as_bytes()));
    let source = job::source(&loaded.config)?;
    put(&source.file("config.json")?.0);
    put(&source.file("tokenizer.json")?.0);
    put(weights.as_bytes());
    Ok(hex(hash))
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn write_adapter(folder: &Path, adapter: &Adapter, base_model: &str) -> Result<()> {
    Ok(peft::write(folder, adapter, &PeftMeta { base_model: base_model.to_owned() }, Layout::Uniform)?)
}
