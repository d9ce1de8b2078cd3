//! Accuracy against bytes, a line for each candidate that was run.

use anyhow::Result;
use bonfire_experiment::UserError;
use bonfire_experiment::config::RunConfig;
use bonfire_experiment::format::bytes;

use super::candidate::Candidate;
use crate::commands::compare::figure::{self, Axis, Dot, Figure, Line, Panel, Scale};

/// The picture.
///
/// # Errors
/// Nothing was run.
pub fn draw(config: &RunConfig, candidates: &[Candidate]) -> Result<String> {
    let known: Vec<&Candidate> = candidates.iter().filter(|c| c.accuracy.is_some()).collect();
    if known.is_empty() {
        return Err(UserError::new("there is nothing to draw: no accuracy is known")
            .help("give runs of this very configuration with --runs compare.json (without --svg it is said why a run does not count), or leave --svg out")
            .into());
    }
    let name = |c: &&Candidate| format!("{}{}, rank {}", if c.front { "* " } else { "" }, c.strategy, c.rank);
    let line = |(series, c): (usize, &&Candidate)| {
        let dot = |p: &super::candidate::Reached| Dot { x: p.bytes as f64, y: 100.0 * p.accuracy, deviation: 0.0 };
        // A logarithmic axis has no place for the start.
        Line { series, points: c.curve.iter().filter(|p| p.bytes > 0).map(dot).collect() }
    };
    let lines = known.iter().enumerate().map(line).collect();
    figure::draw(&Figure {
        title: config.name().to_string(),
        x: Axis {
            words: "both ways, all clients (logarithmic)",
            scale: Scale::Log,
            show: |count| bytes(count.round() as u64),
        },
        y: "test accuracy, %",
        percent: true,
        names: known.iter().map(name).collect(),
        rows: vec![vec![Panel { title: "Accuracy against what crossed".into(), lines }]],
    })
}
