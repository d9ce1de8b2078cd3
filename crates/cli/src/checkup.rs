//! Whether a device computes right: every operation and a small model's training step against the CPU's. `bonfire doctor`
//! shows the whole of it; before the first training on a GPU a short form decides (`checkup/admit.rs`).

pub mod admit;
mod model;

use bonfire_kernels::check::{self, Case, Way};
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::commands::bench::table::three;
use crate::device::Opened;
use crate::mistake::{Mistake, quietly};

/// How much is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Everything.
    Full,
    /// Some operations and one model: a few seconds on a GPU.
    Short,
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

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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
        Finding { what: what.into(), off, allowed, furthest, used: true, failure: None }
    }

    fn failed(what: impl Into<String>, allowed: f64, why: String) -> Finding {
        Finding { what: what.into(), off: None, allowed, furthest: String::new(), used: true, failure: Some(why) }
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

/// The verdict on a device of which these are all the findings.
pub fn verdict(findings: &[Finding], software: bool) -> Verdict {
    let deciding = || findings.iter().filter(|finding| finding.used);
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
pub fn examine(opened: &Opened, depth: Depth, progress: &dyn Fn(&str)) -> Result<Vec<Finding>, Mistake> {
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
fn reference() -> Result<Device, Mistake> {
    #[cfg(feature = "flex")]
    return Ok(Device::flex());
    #[cfg(not(feature = "flex"))]
    Err(Mistake::new("this build has no CPU backend to check devices against")
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
fn answer<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
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
        assert_eq!(verdict(std::slice::from_ref(&right), false), Verdict::Good);
        assert_eq!(verdict(std::slice::from_ref(&right), true), Verdict::Slow);
        let said = verdict(&[right.clone(), wrong], true);
        assert!(!said.is_fit());
        assert_eq!(said.to_string(), "WRONG: linear: gradient of A 0 differs by 0.500, allowed are 1.0e-4");

        let nothing = Finding::new(
            "linear",
            check::largest(&[part("result", f32::NAN), part("gradient of A 0", 0.25)], &expected),
            check::ALLOWED,
        );
        assert!(verdict(&[nothing], false).to_string().contains("result differs by not a number"));
        let failed = Finding::failed("norm", check::ALLOWED, "the device failed: lost".into());
        let aside = Finding { used: false, ..failed.clone() };
        assert_eq!(verdict(&[right.clone(), aside], false), Verdict::Good);
        assert_eq!(verdict(&[right, failed], false).to_string(), "does not answer: norm: the device failed: lost");
    }

    #[cfg(feature = "flex")]
    #[test]
    fn the_cpu_is_found_good() {
        let opened = crate::device::open(crate::device::DeviceChoice::Cpu).expect("the CPU");
        let short = examine(&opened, Depth::Short, &|_| ()).expect("compiled in");
        let full = examine(&opened, Depth::Full, &|_| ()).expect("compiled in");
        assert!(short.len() < full.len());
        assert_eq!(verdict(&full, false), Verdict::Good, "{full:?}");
    }
}
