//! What was tuned and compiled for GPUs and outlives a process: how much there is and where, and how it is forgotten.

use std::path::PathBuf;

use anyhow::{Context, Result};
use bonfire_experiment::checkup::admit;
use bonfire_experiment::format::bytes;
use bonfire_experiment::log::note;
use bonfire_experiment::panics::quietly;
use bonfire_kernels::runtime;
use serde::Serialize;
use serde_json::json;

use crate::console::{put, say};

/// What is kept.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Kernels {
    /// Where.
    pub folder: PathBuf,
    /// Operations whose fastest kernel is known, each at one size on one device.
    pub tuned: u64,
    /// Kernels that need not be compiled again; on WebGPU the driver compiles them, and none is kept.
    pub compiled: u64,
    /// Bytes on the disk.
    pub bytes: u64,
}

/// What is kept now; `None` in a build without GPUs.
pub fn kept() -> Option<Kernels> {
    let runtime::Kept { folder, tuned, compiled, bytes, .. } = quietly(runtime::kept).flatten()?;
    Some(Kernels { folder, tuned, compiled, bytes })
}

impl Kernels {
    /// Two lines.
    pub fn words(&self) -> String {
        let Kernels { folder, tuned, compiled, bytes: size } = self;
        let what = match size {
            0 => "none tuned or compiled for GPUs yet".to_string(),
            _ => format!("{tuned} operations tuned, {compiled} kernels compiled, {}", bytes(*size)),
        };
        format!("{:<10}{what}\n{:<10}in {}", "kernels", "", folder.display())
    }
}

/// Deletes all of it, and the verdicts on devices; says how much there was.
///
/// # Errors
/// A file cannot be deleted.
pub fn forget(as_json: bool) -> Result<()> {
    // Asked before it is gone; where a `cubecl.toml` keeps things elsewhere, they may be other programs' too.
    let elsewhere = runtime::settled_folder().filter(|folder| Some(folder) != runtime::kernels_folder().as_ref());
    let deleted = runtime::forget_kept().context("cannot delete what was tuned for GPUs")?;
    let verdicts = admit::forget()?;
    match (as_json, deleted, verdicts) {
        (true, ..) => put(json!({ "deleted_bytes": deleted, "deleted_verdicts": verdicts })),
        (false, 0, 0) => say("there was nothing to forget"),
        (false, ..) => say(format!(
            "forgot {} of tuned and compiled kernels and the verdicts on {verdicts} device{}",
            bytes(deleted),
            if verdicts == 1 { "" } else { "s" }
        )),
    }
    if let Some(folder) = elsewhere {
        note(format!("{} is left alone: a cubecl.toml keeps tuned kernels there", folder.display()));
    }
    Ok(())
}
