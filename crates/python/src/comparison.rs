//! What `bonfire compare` does, in this process.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use bonfire_experiment::compare::{self, Asked, DEFAULT_STRATEGIES, Grid, Outputs, Variants};
use bonfire_experiment::format::shell_word;
use bonfire_experiment::{CheckedConfig, Interrupt, RunLog, UserError};
use serde_json::Value;

/// What is to be compared; empty lists stand for the configuration's own values.
pub struct Comparison {
    /// The configuration's file; `None`: the built-in quickstart.
    pub config: Option<PathBuf>,
    /// `--set` texts.
    pub sets: Vec<String>,
    /// What both come to.
    pub loaded: CheckedConfig,
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

impl Comparison {
    /// Trains what is missing in the folder and gives the cells of its `compare.json`. Pictures are left to the command line.
    pub fn run(&self, interrupt: Arc<Interrupt>) -> Result<Value> {
        let strategies: Variants = self
            .strategies
            .as_deref()
            .unwrap_or(DEFAULT_STRATEGIES)
            .parse()
            .map_err(|e| UserError::new(format!("strategies: {e}")))?;
        let asked = Asked { variants: strategies.0, seeds: &self.seeds, ranks: &self.ranks, alphas: &self.alphas };
        let grid = Grid::new(self.config.as_deref(), &self.sets, Some(&self.loaded.config.engine.device), &asked)?;
        let mut outputs = Outputs::open(&self.out, &grid, false, self.command(), |_, _| Ok(Vec::new()))?;
        let log = RunLog::default();
        log.during(|| compare::train(&mut outputs, &log, || Ok(interrupt), &mut (), &mut |_, _, _| ()))?;
        compare::check(&outputs)?;
        let path = self.out.join("compare.json");
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut all: Value = serde_json::from_str(&text).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(all["cells"].take())
    }

    /// The command line that does the same.
    fn command(&self) -> String {
        let list =
            |option: &str, values: Vec<String>| (!values.is_empty()).then(|| format!("{option} {}", values.join(",")));
        let mut words = vec!["bonfire compare".to_string()];
        words.extend(self.config.iter().map(|path| shell_word(&path.display().to_string())));
        words.extend(self.strategies.iter().map(|text| format!("--strategies {}", shell_word(text))));
        words.extend(list("--seeds", self.seeds.iter().map(u64::to_string).collect()));
        words.extend(list("--ranks", self.ranks.iter().map(usize::to_string).collect()));
        words.extend(list("--alphas", self.alphas.iter().map(f64::to_string).collect()));
        words.extend(self.sets.iter().map(|set| format!("--set {}", shell_word(set))));
        words.push(format!("--out {}", shell_word(&self.out.display().to_string())));
        words.join(" ")
    }
}
