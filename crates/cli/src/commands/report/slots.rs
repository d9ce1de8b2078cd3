//! Which slots clients chose, round by round, and what targets are called.

use std::path::Path;

use bonfire_experiment::run_folder::read;
use bonfire_models::TargetKind;
use serde::{Deserialize, Serialize};

use super::downsample::mean_spans;

/// Columns of the picture at most.
const COLUMNS: usize = 120;

/// Chosen slots by target and round.
#[derive(Serialize)]
pub struct SlotStory {
    /// Targets' names.
    targets: Vec<String>,
    /// Rounds of every column, first and last.
    spans: Vec<[usize; 2]>,
    /// Slots chosen by all clients together, `[column][target]`; means over the rounds of the column.
    choices: Vec<Vec<f64>>,
}

/// Counts choices as the rows of `clients.jsonl` go by.
#[derive(Default)]
pub struct Choices {
    rounds: Vec<usize>,
    counts: Vec<Vec<f64>>,
}

impl Choices {
    /// A client's chosen slots of every target.
    pub fn add(&mut self, round: usize, slots: &[Vec<usize>]) {
        if self.rounds.last() != Some(&round) {
            self.rounds.push(round);
            self.counts.push(Vec::new());
        }
        let counts = self.counts.last_mut().expect("the round's row");
        counts.resize(slots.len().max(counts.len()), 0.0);
        counts.iter_mut().zip(slots).for_each(|(count, slots)| *count += slots.len() as f64);
    }

    /// The picture; `None` when nobody chose.
    pub fn story(self, run: &Path) -> Option<SlotStory> {
        let targets = self.counts.iter().map(Vec::len).max()?;
        let (spans, choices) = mean_spans(&self.rounds, &self.counts, COLUMNS);
        Some(SlotStory { targets: names(&kinds(run), targets), spans, choices })
    }
}

/// The fields of PEFT's `adapter_config.json` that are read here.
#[derive(Deserialize)]
struct PeftConfig {
    target_modules: Vec<String>,
}

/// The linears of a layer that carry adapters, by the run's adapter, in the order of the forward pass; none where there
/// is no adapter that says.
fn kinds(run: &Path) -> Vec<String> {
    let config = read::json::<PeftConfig>(&run.join("adapter/adapter_config.json"));
    let Ok(config) = config else { return Vec::new() };
    let kind = |name: String| Some((serde_json::from_value::<TargetKind>(name.clone().into()).ok()?, name));
    let known: Option<Vec<_>> = config.target_modules.into_iter().map(kind).collect();
    let mut known = known.unwrap_or_default();
    known.sort();
    known.into_iter().map(|(_, name)| name).collect()
}

/// Layer by layer `0 query`, `0 key` …; numbers where the linears are not known.
fn names(kinds: &[String], targets: usize) -> Vec<String> {
    if !kinds.is_empty() && targets.is_multiple_of(kinds.len()) {
        (0..targets).map(|t| format!("{} {}", t / kinds.len(), kinds[t % kinds.len()])).collect()
    } else {
        (0..targets).map(|t| format!("target {t}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_counted_by_target_and_round() {
        let mut choices = Choices::default();
        choices.add(1, &[vec![0, 3], vec![]]);
        choices.add(1, &[vec![1], vec![2]]);
        choices.add(2, &[vec![], vec![2, 5]]);
        let story = choices.story(Path::new("nowhere")).expect("choices");
        assert_eq!(story.spans, [[1, 1], [2, 2]]);
        assert_eq!(story.choices, [[3.0, 1.0], [0.0, 2.0]]);
        assert_eq!(story.targets, ["target 0", "target 1"]);
        assert!(Choices::default().story(Path::new("nowhere")).is_none());
    }

    #[test]
    fn targets_are_named_in_the_order_of_the_forward_pass() {
        let folder = tempfile::tempdir().expect("a folder");
        let adapter = folder.path().join("adapter");
        std::fs::create_dir(&adapter).expect("made");
        let config = r#"{"r": 8, "target_modules": ["value", "attention.output.dense", "query"]}"#;
        std::fs::write(adapter.join("adapter_config.json"), config).expect("written");
        let kinds = kinds(folder.path());
        assert_eq!(kinds, ["query", "value", "attention.output.dense"]);
        assert_eq!(names(&kinds, 6)[3..], ["1 query", "1 value", "1 attention.output.dense"]);
        assert_eq!(names(&kinds, 4)[3], "target 3");
    }
}
