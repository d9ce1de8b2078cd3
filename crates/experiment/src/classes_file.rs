//! `classes.json` of a run folder: what the model of the last evaluation took for what, or how often it found each of what texts may
//! have several of.

use std::path::Path;

use anyhow::{Context, Result};
use bonfire_engine::{Confusion, Tally};
use bonfire_federation::{ByClass, RoundConfusion};
use serde::{Deserialize, Serialize};

use crate::run_folder::{CLASSES, read, replace};

/// How often each class was taken for each other, in the last round that was evaluated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassesFile {
    /// Which round.
    pub round: usize,
    /// Whether it is of the clients' own models, each on its client's test examples; else of the global model on the test split.
    pub personal: bool,
    /// The classes' names, by number; where words are tagged, the types of spans.
    pub labels: Vec<String>,
    /// `[right, said, examples]` of every pair of classes that occurs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub counts: Vec<[u64; 3]>,
    /// Where a text may have several of them: how often each label, or type of span, was there, said and both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<Tally>,
}

impl ClassesFile {
    /// Of what a run found.
    pub fn of(found: &RoundConfusion, labels: &[String]) -> ClassesFile {
        let (labels, counts, tally) = match &found.found {
            ByClass::Taken(confusion) => (labels, confusion.counts(), None),
            ByClass::Labels(tally) => (labels, Vec::new(), Some(tally.clone())),
            ByClass::Spans(types, tally) => (types.as_slice(), Vec::new(), Some(tally.clone())),
        };
        ClassesFile { round: found.round, personal: found.personal, labels: labels.to_vec(), counts, found: tally }
    }

    /// The counts as a table; `None` where there are none.
    pub fn confusion(&self) -> Option<Confusion> {
        Confusion::of_counts(&self.counts)
    }

    /// Writes them into the folder of a run.
    ///
    /// # Errors
    /// The system refuses the write.
    pub fn write(&self, run: &Path) -> Result<()> {
        let text = serde_json::to_string(self).context("cannot write classes.json")?;
        replace(&run.join(CLASSES), format!("{text}\n").as_bytes())
    }

    /// Reads those of a run; `None` for a run that left none.
    ///
    /// # Errors
    /// A file that cannot be read or is not as a run leaves it.
    pub fn read(run: &Path) -> Result<Option<ClassesFile>> {
        let path = run.join(CLASSES);
        let Some(text) = read::optional(&path)? else { return Ok(None) };
        let broken = || format!("{} is not as a run leaves it", path.display());
        serde_json::from_str(&text).with_context(broken).map(Some)
    }
}
