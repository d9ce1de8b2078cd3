//! What was checked, what came of it, and what is made of that.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::purpose::Purpose;
use crate::format::table::three;
use crate::panics::quietly;

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
    pub(super) fn new(what: impl Into<String>, (off, furthest): (f64, String), allowed: f64) -> Finding {
        let off = Some(off).filter(|off| off.is_finite());
        Finding { what: what.into(), off, allowed, furthest, used: true, purpose: None, failure: None }
    }

    pub(super) fn failed(what: impl Into<String>, allowed: f64, why: String) -> Finding {
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

/// Runs what may panic inside a driver.
///
/// # Errors
/// The work's own, or that it panicked.
pub fn answer<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    quietly(work).unwrap_or_else(|| Err("the backend gave up".into()))
}
