//! Whether a device computes right: every operation and a small model's training step against the CPU's. `bonfire doctor`
//! shows the whole of it; before the first training on a GPU a short form decides (`checkup/admit.rs`).

pub mod admit;
mod model;

use std::fmt;

use anyhow::Result;
use bonfire_kernels::check::{self, Case, Way};
use bonfire_models::Precision;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

pub use self::model::Small;
use crate::config::RunConfig;
use crate::device::Opened;
use crate::format::table::three;
use crate::job;
use crate::panics::quietly;
use crate::user_error::UserError;
use crate::watch::Watch;

/// What a device is to train. A verdict on one says nothing of another: an encoder uses none of a decoder's operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purpose {
    /// The small model that computes as the run's does.
    pub model: Small,
    /// What the run computes in.
    pub precision: Precision,
}

impl Purpose {
    /// What `config` trains.
    ///
    /// # Errors
    /// The model's `config.json` cannot be had or read.
    pub fn of(config: &RunConfig, watch: &mut dyn Watch) -> Result<Purpose> {
        let model = Small::like(&job::info(config, watch)?, config.model.task);
        Ok(Purpose { model, precision: config.engine.precision })
    }

    /// Everything that can be trained on `device`.
    pub fn every(device: &Device) -> Vec<Purpose> {
        let precisions = model::precisions(device);
        Small::ALL
            .iter()
            .flat_map(|&model| precisions.iter().map(move |&precision| Purpose { model, precision }))
            .collect()
    }

    /// Whether a finding on `other` counts: adapters and head are f32 in every precision.
    fn asks(self, other: Purpose) -> bool {
        self.model == other.model && [Precision::F32, self.precision].contains(&other.precision)
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.model.name(), self.precision.name())
    }
}

/// How much is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Everything.
    Full,
    /// Some operations and one model: a few seconds on a GPU.
    Short(Purpose),
}

/// One thing that was checked.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// What.
    pub what: String,
    /// How far it is off at most; `None`: infinitely, or nothing came back.
    pub off: Option<f64>,
    /// How far it may be.
    pub allowed: f64,
    /// The tensor that is furthest off.
    pub furthest: String,
    /// Whether training does this; what it does not do decides nothing.
    pub used: bool,
    /// What does this; `None`: whatever is trained.
    #[serde(skip)]
    pub purpose: Option<Purpose>,
    /// Why nothing came back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// What is to be made of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Verdict {
    /// It computes right.
    Good,
    /// It computes right, on the CPU.
    Slow,
    /// It computes wrong.
    Wrong {
        /// What, and by how much.
        because: String,
    },
    /// Nobody asked.
    Unchecked,
    /// It cannot be opened, or failed on the way.
    Silent {
        /// What happened.
        because: String,
    },
}

impl Verdict {
    /// Whether nothing speaks against training there.
    pub fn is_fit(&self) -> bool {
        matches!(self, Verdict::Good | Verdict::Slow | Verdict::Unchecked)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Good => write!(f, "good"),
            Verdict::Slow => write!(f, "slow: software rasteriser"),
            Verdict::Unchecked => write!(f, "not checked"),
            Verdict::Wrong { because } => write!(f, "WRONG: {because}"),
            Verdict::Silent { because } => write!(f, "does not answer: {because}"),
        }
    }
}

impl Finding {
    fn new(what: impl Into<String>, (off, furthest): (f64, String), allowed: f64) -> Finding {
        let off = Some(off).filter(|off| off.is_finite());
        Finding { what: what.into(), off, allowed, furthest, used: true, purpose: None, failure: None }
    }

    fn failed(what: impl Into<String>, allowed: f64, why: String) -> Finding {
        let (what, furthest) = (what.into(), String::new());
        Finding { what, off: None, allowed, furthest, used: true, purpose: None, failure: Some(why) }
    }

    /// Whether it is near enough.
    pub fn is_good(&self) -> bool {
        self.off.is_some_and(|off| off <= self.allowed)
    }

    /// How far off, for a table.
    pub fn off_words(&self) -> String {
        match (&self.failure, self.off) {
            (Some(_), _) => "failed".into(),
            (None, Some(off)) => three(off),
            (None, None) => "not a number".into(),
        }
    }
}

/// The verdict on a device of which these are all the findings: for one purpose, or for all.
pub fn verdict(findings: &[Finding], purpose: Option<Purpose>, software: bool) -> Verdict {
    let counts = |finding: &&Finding| match (purpose, finding.purpose) {
        (Some(purpose), Some(found)) => finding.used && purpose.asks(found),
        _ => finding.used,
    };
    let deciding = || findings.iter().filter(counts);
    if let Some((finding, why)) = deciding().find_map(|f| Some((f, f.failure.as_ref()?))) {
        return Verdict::Silent { because: format!("{}: {why}", finding.what) };
    }
    let wrong: Vec<&Finding> = deciding().filter(|finding| !finding.is_good()).collect();
    match wrong.first() {
        None if software => Verdict::Slow,
        None => Verdict::Good,
        Some(first) => {
            let more = match wrong.len() {
                1 => String::new(),
                n => format!("; {} more checks fail", n - 1),
            };
            let (what, part, allowed) = (&first.what, &first.furthest, three(first.allowed));
            Verdict::Wrong {
                because: format!("{what}: {part} differs by {}, allowed are {allowed}{more}", first.off_words()),
            }
        }
    }
}

/// Checks a device; `progress` hears what comes next.
///
/// # Errors
/// This build has no CPU backend, which is the reference.
pub fn examine(opened: &Opened, depth: Depth, progress: &dyn Fn(&str)) -> Result<Vec<Finding>, UserError> {
    let cpu = reference()?;
    let mut findings = Vec::new();
    for case in check::cases().iter().filter(|case| depth == Depth::Full || case.short) {
        progress(case.operation);
        findings.push(Finding { used: case.used, ..operation(case, &opened.device, &cpu) });
        // A device that failed once may hang at the next question.
        if findings.iter().any(|finding| finding.used && finding.failure.is_some()) {
            return Ok(findings);
        }
    }
    model::examine(&opened.device, &cpu, depth, progress, &mut findings);
    Ok(findings)
}

/// The device that all others are held against.
fn reference() -> Result<Device, UserError> {
    #[cfg(feature = "flex")]
    return Ok(Device::flex());
    #[cfg(not(feature = "flex"))]
    Err(UserError::new("this build has no CPU backend to check devices against")
        .help("build it with the Cargo feature `flex`"))
}

/// One operation against its reference on the CPU.
fn operation(case: &Case, device: &Device, cpu: &Device) -> Finding {
    let what = format!("{} ({})", case.operation, case.shape);
    let found = answer(|| case.outcome(device, Way::Operation));
    let expected = answer(|| case.outcome(cpu, Way::Reference));
    match (found, expected) {
        (Ok(found), Ok(expected)) => Finding::new(what, check::largest(&found, &expected), check::ALLOWED),
        (Err(why), _) => Finding::failed(what, check::ALLOWED, why),
        (_, Err(why)) => Finding::failed(what, check::ALLOWED, format!("the reference on the CPU: {why}")),
    }
}

/// Runs what may panic inside a driver.
///
/// # Errors
/// The work's own, or that it panicked.
pub fn answer<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    quietly(work).unwrap_or_else(|| Err("the backend gave up".into()))
}

#[cfg(test)]
mod tests {
    use bonfire_kernels::check::Part;

    use super::*;

    #[test]
    fn wrong_numbers_are_a_wrong_device() {
        let part = |name: &str, value| Part { name: name.into(), values: vec![value] };
        let expected = [part("result", 0.5), part("gradient of A 0", 0.25)];
        let found = [part("result", 0.5), part("gradient of A 0", 0.75)];
        let right = Finding::new("norm", check::largest(&expected, &expected), check::ALLOWED);
        let wrong = Finding::new("linear", check::largest(&found, &expected), check::ALLOWED);
        assert!(right.is_good() && !wrong.is_good());
        assert_eq!(verdict(std::slice::from_ref(&right), None, false), Verdict::Good);
        assert_eq!(verdict(std::slice::from_ref(&right), None, true), Verdict::Slow);
        let said = verdict(&[right.clone(), wrong], None, true);
        assert!(!said.is_fit());
        assert_eq!(said.to_string(), "WRONG: linear: gradient of A 0 differs by 0.500, allowed are 1.0e-4");

        let nothing = Finding::new(
            "linear",
            check::largest(&[part("result", f32::NAN), part("gradient of A 0", 0.25)], &expected),
            check::ALLOWED,
        );
        assert!(verdict(&[nothing], None, false).to_string().contains("result differs by not a number"));
        let failed = Finding::failed("norm", check::ALLOWED, "the device failed: lost".into());
        let aside = Finding { used: false, ..failed.clone() };
        assert_eq!(verdict(&[right.clone(), aside], None, false), Verdict::Good);
        assert_eq!(
            verdict(&[right, failed], None, false).to_string(),
            "does not answer: norm: the device failed: lost"
        );
    }

    #[cfg(feature = "flex")]
    #[test]
    fn the_cpu_is_found_good() {
        let opened = crate::device::open(crate::device::DeviceChoice::Cpu).expect("the CPU");
        let full = examine(&opened, Depth::Full, &|_| ()).expect("compiled in");
        assert_eq!(verdict(&full, None, false), Verdict::Good, "{full:?}");
        for purpose in Purpose::every(&opened.device) {
            let short = examine(&opened, Depth::Short(purpose), &|_| ()).expect("compiled in");
            assert!(short.len() < full.len());
            let of: Vec<Purpose> = short.iter().filter_map(|finding| finding.purpose).collect();
            assert_eq!(of, [purpose], "the model of the run and no other");
        }
    }

    #[test]
    fn what_is_wrong_in_one_purpose_is_no_verdict_on_another() {
        let of = |model, precision| Purpose { model, precision };
        let finding = |purpose: Purpose, off: f64| Finding {
            purpose: Some(purpose),
            ..Finding::new(purpose.to_string(), (off, "gradients".into()), 0.1)
        };
        let findings = [
            finding(of(Small::Roberta, Precision::F32), 0.0),
            finding(of(Small::Roberta, Precision::Bf16), 0.5),
            finding(of(Small::Llama, Precision::F32), 0.5),
            finding(of(Small::Llama, Precision::Bf16), 0.0),
        ];
        let good = |model, precision| verdict(&findings, Some(of(model, precision)), false) == Verdict::Good;
        assert!(good(Small::Roberta, Precision::F32) && !good(Small::Roberta, Precision::Bf16));
        // Half precision needs f32 beside it.
        assert!(!good(Small::Llama, Precision::F32) && !good(Small::Llama, Precision::Bf16));
        assert!(!verdict(&findings, None, false).is_fit());
        // What is no model's is everybody's.
        let common = [Finding::new("AdamW", (0.5, "movement".into()), 0.1)];
        assert!(!verdict(&common, Some(of(Small::Bert, Precision::F32)), false).is_fit());
    }
}
