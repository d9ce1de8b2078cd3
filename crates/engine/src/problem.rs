//! A setting that cannot be: which key it is, and what would be right.

/// The first thing wrong with some settings. Reads as a sentence: `train.epochs` "must be at least 1".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, as `section.key`.
    pub key: &'static str,
    /// What is wrong with it and what would be right.
    pub what: String,
}

impl Problem {
    /// `what` is wrong with `key`.
    pub fn new(key: &'static str, what: impl Into<String>) -> Problem {
        Problem { key, what: what.into() }
    }

    /// The first of these checks `(key, whether it is fine, what it must be)` that is not fine.
    pub fn first(checks: impl IntoIterator<Item = (&'static str, bool, &'static str)>) -> Option<Problem> {
        let (key, _, want) = checks.into_iter().find(|(_, fine, _)| !fine)?;
        Some(Problem::new(key, format!("must be {want}")))
    }
}
