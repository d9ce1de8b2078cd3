//! What was found, as a table and as JSON.

use bonfire_experiment::checkup::{Finding, Verdict};
use bonfire_experiment::device::{DeviceChoice, Opened};
use bonfire_experiment::format::table::{aligned, row, size, three};
use bonfire_experiment::panics::quietly;
use bonfire_models::Precision;
use serde::Serialize;

use super::kernels::Kernels;
use super::speed::Speed;
use super::system::System;

/// The whole of `--json`.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The machine and the build.
    #[serde(flatten)]
    pub system: System,
    /// One entry a device.
    pub devices: Vec<Patient>,
    /// What was tuned and compiled; absent in a build without GPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernels: Option<Kernels>,
}

/// One device.
#[derive(Debug, Serialize)]
pub struct Patient {
    /// What to give to `--device`.
    pub device: String,
    /// Backend and part.
    pub name: Option<String>,
    /// Whether the CPU does its work.
    pub software: bool,
    /// Memory, where the device tells.
    pub memory_bytes: Option<u64>,
    /// What computes products with frozen weights, in each precision that can be trained in there.
    pub products: Vec<&'static str>,
    /// What is to be made of it.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// What was checked.
    pub checks: Vec<Finding>,
    /// About how fast it is.
    pub speed: Option<Speed>,
}

impl Patient {
    /// A device that was checked.
    pub fn new(choice: DeviceChoice, opened: &Opened, verdict: Verdict, checks: Vec<Finding>) -> Patient {
        Patient {
            device: choice.to_string(),
            name: Some(opened.name.clone()),
            software: opened.software,
            memory_bytes: None,
            products: products(opened),
            verdict,
            checks,
            speed: None,
        }
    }

    /// A device that could not be opened.
    pub fn silent(choice: DeviceChoice, because: String) -> Patient {
        Patient {
            device: choice.to_string(),
            name: None,
            software: false,
            memory_bytes: None,
            products: Vec::new(),
            verdict: Verdict::Silent { because },
            checks: Vec::new(),
            speed: None,
        }
    }

    /// The table of its checks, its figures and its verdict.
    pub fn words(&self) -> String {
        let mut lines = vec![format!("{}: {}", self.device, self.name.as_deref().unwrap_or("no answer"))];
        if !self.checks.is_empty() {
            let mut rows = vec![row(["against the CPU's reference", "off by", "allowed", ""])];
            for check in &self.checks {
                let mark = match (check.is_good(), check.used) {
                    (true, _) => "",
                    (false, true) => "WRONG",
                    (false, false) => "not used",
                };
                rows.push(row([&check.what, &check.off_words(), &three(check.allowed), mark]));
            }
            lines.push(aligned(&rows));
        }
        if self.name.is_some() {
            lines.push(format!("memory            {}", size(self.memory_bytes)));
            let heads = std::iter::once("products").chain(std::iter::repeat(""));
            lines.extend(heads.zip(&self.products).map(|(head, by)| format!("{head:<18}{by}")));
        }
        lines.extend(self.speed.as_ref().map(Speed::words));
        lines.join("\n")
    }
}

/// What can be trained in on a device, in words; asking may wake a driver that panics.
fn products(opened: &Opened) -> Vec<&'static str> {
    let offered = [Precision::F32, Precision::Tf32, Precision::Bf16];
    let of = || offered.into_iter().filter(|p| p.runs_on(&opened.device)).map(|p| p.products(&opened.device)).collect();
    quietly(of).unwrap_or_default()
}

impl Report {
    /// One line a device.
    pub fn verdicts(&self) -> String {
        let width = self.devices.iter().map(|patient| patient.device.len()).max().unwrap_or(0);
        let line = |patient: &Patient| format!("{:<width$}  {}", patient.device, patient.verdict);
        self.devices.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}
