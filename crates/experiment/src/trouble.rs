//! A run that gets worse instead of better is told so once, with the keys that are the likeliest cause.

use bonfire_federation::{HeadMode, RoundMetrics};

use crate::config::RunConfig;
use crate::format::percent;

/// Rounds that are compared: methods that move one factor at a time need two to move both.
const APART: usize = 2;
/// A training loss so many times that of two rounds before is no noise.
const LOSS: f64 = 1.5;
/// Nor is a test accuracy so far below that of two rounds before.
const ACCURACY: f64 = 0.1;

/// Watches the rounds of a run.
pub struct Trouble {
    /// What is to be tried, likeliest first.
    remedies: String,
    /// Round, training loss and test accuracy of rounds gone by.
    past: Vec<(usize, f64, Option<f64>)>,
    warned: bool,
}

impl Trouble {
    /// Of a run of `config` at rate `lr_a` of the A factors that has done the rounds in `past`.
    pub fn new(config: &RunConfig, lr_a: f64, past: &[RoundMetrics]) -> Trouble {
        let past = past.iter().map(of).collect();
        Trouble { remedies: remedies(config, lr_a), past, warned: false }
    }

    /// What to warn of after this round; at most once.
    pub fn after(&mut self, row: &RoundMetrics) -> Option<String> {
        let found = self.worse(row);
        self.past.push(of(row));
        if self.warned {
            return None;
        }
        let found = found?;
        self.warned = true;
        Some(format!("round {}: {found}; likeliest: {}", row.round, self.remedies))
    }

    fn worse(&self, row: &RoundMetrics) -> Option<String> {
        let (round, loss, accuracy) = *self.past.iter().rev().find(|(round, ..)| round + APART <= row.round)?;
        let rounds = row.round - round;
        // Round 0 has no training loss, and a loss of nothing cannot grow.
        if loss > 0.0 && row.train_loss >= LOSS * loss {
            return Some(format!("the training loss rose from {loss:.3} to {:.3} in {rounds} rounds", row.train_loss));
        }
        let (before, now) = (accuracy?, row.test_accuracy?);
        (now <= before - ACCURACY)
            .then(|| format!("the test accuracy fell from {} to {} in {rounds} rounds", percent(before), percent(now)))
    }
}

fn of(row: &RoundMetrics) -> (usize, f64, Option<f64>) {
    (row.round, row.train_loss, row.test_accuracy)
}

/// Keys that make a run of `config` diverge, likeliest first, with what they are.
fn remedies(config: &RunConfig, lr_a: f64) -> String {
    let train = &config.train;
    let mut all = Vec::new();
    if config.attack.is_some() {
        all.push("clients that mean harm ([attack]): a robust server.aggregate".to_string());
    }
    if config.privacy.is_some() {
        all.push("the noise of [privacy]: a larger ε, more clients a round".to_string());
    }
    let b = train.lr_b.map_or(String::new(), |b| format!(", train.lr_b = {}", b.of(lr_a)));
    let head = match config.adapter.head {
        HeadMode::Trained => format!(", train.lr_head = {}", train.lr_head),
        HeadMode::Frozen => String::new(),
    };
    all.push(format!("a learning rate that is too high (train.lr_a = {lr_a}{b}{head}): try half of it"));
    if train.clip_norm.is_none() {
        all.push("gradients without a bound: train.clip_norm = 1".to_string());
    }
    if train.epochs > 1 && train.steps.is_none() {
        all.push(format!("clients that move far apart in train.epochs = {}: fewer, or train.prox", train.epochs));
    }
    all.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RunConfig;
    use crate::summary::tests::round;

    fn watch(more: &str, rows: &[(f64, Option<f64>)]) -> Vec<(usize, String)> {
        let text = format!("{}\n{more}", crate::config::QUICKSTART);
        let config = RunConfig::from_toml(&text).expect("a configuration").config;
        let mut trouble = Trouble::new(&config, 5e-4, &[]);
        let row = |(number, &(loss, accuracy)): (usize, &(f64, Option<f64>))| {
            let row = RoundMetrics { train_loss: loss, test_accuracy: accuracy, ..round(number, 0.0) };
            Some((number, trouble.after(&row)?))
        };
        rows.iter().enumerate().filter_map(row).collect()
    }

    #[test]
    fn one_warning_names_the_keys_when_a_run_gets_worse() {
        let fine = [(f64::NAN, Some(0.1)), (2.0, Some(0.5)), (1.9, Some(0.55)), (2.8, Some(0.41)), (2.0, Some(0.5))];
        // 2.8 is below 1.5 · 2.0, 0.41 above 0.5 − 0.1; the untrained model has no training loss.
        assert_eq!(watch("", &fine), []);
        let risen = [(f64::NAN, Some(0.1)), (2.0, None), (2.1, None), (3.0, None), (9.0, None)];
        let said = watch("", &risen);
        assert_eq!(said.len(), 1, "{said:?}");
        let (at, line) = &said[0];
        assert!(
            *at == 3
                && line.starts_with("round 3: the training loss rose from 2.000 to 3.000 in 2 rounds; likeliest: ")
        );
        assert!(line.contains("train.lr_a = ") && line.contains("train.clip_norm = 1"), "{line}");
        let fallen = [(f64::NAN, Some(0.1)), (2.0, Some(0.8)), (2.0, Some(0.75)), (2.0, Some(0.7))];
        let privacy = "[privacy]\nkind = \"gaussian\"\nclip = 1.0\nnoise = 1.0";
        let said = watch(privacy, &fallen);
        assert_eq!(said.len(), 1);
        assert!(
            said[0]
                .1
                .contains("the test accuracy fell from 80.0% to 70.0% in 2 rounds; likeliest: the noise of [privacy]")
        );
    }
}
