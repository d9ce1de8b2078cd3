//! `bonfire doctor`: what devices are there, whether each computes right, and about how fast it is.

mod kernels;
mod report;
mod speed;
mod system;

use anyhow::{Result, bail};
use bonfire_experiment::UserError;
use bonfire_experiment::checkup::{self, Depth, Purpose, Verdict, admit};
use bonfire_experiment::device::{self, DeviceChoice, Opened, Tried};
use bonfire_experiment::log::note;
use bonfire_experiment::panics::quietly;
use bonfire_kernels::{device_memory, runs_on_cpu};
use clap::Args;

use self::report::{Patient, Report};
use self::system::System;
use crate::common::Common;
use crate::console::{put, say};

/// Options of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Say what is there, and of GPUs what was found before; check nothing
    #[arg(long)]
    pub list: bool,
    /// Delete what was tuned and compiled for GPUs and what was said of devices before, and check nothing
    #[arg(long, conflicts_with = "list")]
    pub forget: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// A device is not compiled in; or one of those checked computes wrong or does not answer.
pub fn run(args: &DoctorArgs, common: &Common) -> Result<()> {
    common.refuse_sets("doctor", "leave it out")?;
    if args.forget {
        return kernels::forget(args.json);
    }
    let devices = devices(common)?;
    let system = System::ask();
    let shown = !args.json && !common.quiet;
    if shown {
        say(system.words());
    }
    let mut report = Report { system, devices: Vec::new(), kernels: None };
    for (choice, opened) in devices {
        let patient = if args.list { list(choice, opened) } else { visit(choice, opened, common.quiet)? };
        if shown {
            say(format!("\n{}", patient.words()));
        }
        report.devices.push(patient);
    }
    report.kernels = kernels::kept();
    if let Some(kernels) = report.kernels.as_ref().filter(|_| shown) {
        say(format!("\n{}", kernels.words()));
    }
    if args.json {
        put(serde_json::to_string_pretty(&report)?)
    } else {
        say(format!("{}{}", if shown { "\n" } else { "" }, report.verdicts()))
    }
    match report.devices.iter().filter(|patient| !patient.verdict.is_fit()).count() {
        0 => Ok(()),
        n => bail!("{n} of {} devices cannot be trained on", report.devices.len()),
    }
}

/// Those of `--device`, else all of every backend.
fn devices(common: &Common) -> Result<Vec<Tried>, UserError> {
    let Some(asked) = &common.device else { return Ok(device::every()) };
    let one = |&choice: &DeviceChoice| match device::open(choice) {
        Err(mistake) if !choice.is_compiled_in() => Err(mistake),
        opened => Ok((choice, opened)),
    };
    asked.choices().iter().map(one).collect()
}

/// What is known of a device without checking it.
fn list(choice: DeviceChoice, opened: Result<Opened, UserError>) -> Patient {
    let opened = match opened {
        Ok(opened) => opened,
        Err(mistake) => return Patient::silent(choice, mistake.what),
    };
    let known = admit::remembered_of(&opened.name, &Purpose::every(&opened.device)).unwrap_or(Verdict::Unchecked);
    Patient { memory_bytes: memory(&opened), ..Patient::new(choice, &opened, known, Vec::new()) }
}

fn memory(opened: &Opened) -> Option<u64> {
    quietly(|| device_memory(&opened.device)).flatten()
}

/// Checks one device and remembers the verdict for `train`.
fn visit(choice: DeviceChoice, opened: Result<Opened, UserError>, quiet: bool) -> Result<Patient, UserError> {
    let opened = match opened {
        Ok(opened) => opened,
        Err(mistake) => return Ok(Patient::silent(choice, mistake.what)),
    };
    let progress = |what: &str| {
        if !quiet {
            note(format!("{choice}: {what}"));
        }
    };
    if opened.software && !quiet {
        note(format!("{choice}: a software rasteriser; the first check compiles and tunes kernels for minutes"));
    }
    let checks = checkup::examine(&opened, Depth::Full, &progress)?;
    let verdict = checkup::verdict(&checks, None, opened.software);
    // The CPU is the reference, which `train` does not ask about.
    if !runs_on_cpu(&opened.device) {
        let of = |purpose| (purpose, checkup::verdict(&checks, Some(purpose), opened.software));
        // After a failure the rest was not looked at.
        let seen = |purpose: &Purpose| checks.iter().any(|check| check.purpose == Some(*purpose));
        let said: Vec<_> = Purpose::every(&opened.device).into_iter().filter(seen).map(of).collect();
        admit::remember(&opened.name, &said);
    }
    let mut patient = Patient::new(choice, &opened, verdict, checks);
    // A device that failed may hang at the next question.
    if !matches!(patient.verdict, Verdict::Silent { .. }) {
        patient.memory_bytes = memory(&opened);
        progress("speed");
        patient.speed = speed::measure(&opened);
    }
    Ok(patient)
}
