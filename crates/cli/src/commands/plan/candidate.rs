//! A candidate: what it sends, how long it takes, what is known of its accuracy, and who is better in everything.

use std::fmt;

use bonfire_experiment::compare::{Rank, Spread};
use bonfire_experiment::config::{Difference, differences};
use bonfire_experiment::format::bytes;
use serde::Serialize;
use toml::{Table, Value};

use super::runs::Run;
use crate::commands::cost::Cost;

/// How far a run's uploads may be from the forecast for it to be a run of the same settings. Which clients are drawn and drop out is the
/// seed's.
const ALIKE: f64 = 0.1;

/// What is asked of the candidates.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Limits {
    /// Accuracy to be reached, 0 to 1.
    pub reach: Option<f64>,
    /// GB that may cross.
    pub max_gb: Option<f64>,
    /// Hours that it may take.
    pub max_hours: Option<f64>,
}

/// One of the settings that are planned with.
#[derive(Clone, Debug, Serialize)]
pub struct Candidate {
    pub strategy: String,
    pub rank: Rank,
    /// Rounds of the run.
    pub rounds: usize,
    /// Both ways, all clients, the whole run; measured where there are runs, else forecast, the most of it.
    pub bytes: u64,
    /// Of the whole run on the clients' devices, forecast.
    pub seconds: f64,
    /// At the run's end; `None`: nobody has run it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<Known>,
    /// Why runs of it were not used, or that there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
    /// Mean accuracy over seeds by round.
    pub curve: Vec<Reached>,
    /// Whether no other candidate is better in everything.
    pub front: bool,
    /// Rounds that the limits leave room for.
    pub rounds_within: usize,
    /// Accuracy at the last evaluation of those.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy_within: Option<f64>,
    /// Where the accuracy that is asked for is first reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reached: Option<Reached>,
}

/// An accuracy over seeds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Known {
    #[serde(flatten)]
    pub spread: Spread,
    /// Runs.
    pub seeds: usize,
}

/// A point of a run, as if its rounds were alike in bytes and time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Reached {
    pub round: usize,
    pub accuracy: f64,
    pub bytes: u64,
    pub seconds: f64,
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Known { spread: Spread { mean, deviation }, seeds } = self;
        let deviation = deviation.map_or(String::new(), |d| format!(" ± {:.1}", 100.0 * d));
        write!(f, "{:.1}{deviation}% ({seeds} seed{})", 100.0 * mean, if *seeds == 1 { "" } else { "s" })
    }
}

impl Candidate {
    /// What `cost` counts, with what `runs` have measured of it.
    pub fn of(cost: &Cost, runs: &[Run], limits: Limits) -> Candidate {
        let rank = serde_json::to_value(&cost.rank).unwrap_or_default();
        let mine: Vec<&Run> = runs.iter().filter(|run| run.variant == cost.variant && run.rank == rank).collect();
        let (mine, unknown) = match strange(cost, &mine) {
            None if mine.is_empty() => (Vec::new(), Some("no run of it is among those given".to_string())),
            None => (mine, None),
            Some(why) => (Vec::new(), Some(why)),
        };
        let mean = |of: fn(&Run) -> u64| mine.iter().map(|run| of(run) as f64).sum::<f64>() / mine.len() as f64;
        let crossed = match mine.is_empty() {
            true => cost.high.upload_bytes + cost.high.download_bytes,
            false => (mean(|run| run.upload_bytes) + mean(|run| run.download_bytes)).round() as u64,
        };
        let spread = Spread::of(mine.iter().map(|run| run.accuracy));
        let mut candidate = Candidate {
            strategy: cost.strategy.clone(),
            rank: cost.rank.clone(),
            rounds: cost.rounds,
            bytes: crossed,
            seconds: cost.high.seconds,
            accuracy: spread.map(|spread| Known { spread, seeds: mine.len() }),
            unknown,
            curve: Vec::new(),
            front: false,
            rounds_within: 0,
            accuracy_within: None,
            reached: None,
        };
        candidate.curve = candidate.mean_curve(&mine);
        candidate.answer(limits);
        candidate
    }

    /// The rounds that all runs evaluated.
    fn mean_curve(&self, runs: &[&Run]) -> Vec<Reached> {
        let Some(first) = runs.first() else { return Vec::new() };
        let at = |run: &Run, round: usize| run.curve.iter().find(|p| p.round == round).map(|p| p.accuracy);
        let mean = |round: usize| {
            let all: Option<Vec<f64>> = runs.iter().map(|run| at(run, round)).collect();
            all.map(|all| all.iter().sum::<f64>() / all.len() as f64)
        };
        let rounds = first.curve.iter().map(|point| point.round);
        rounds.filter_map(|round| Some(self.at(round, mean(round)?))).collect()
    }

    fn at(&self, round: usize, accuracy: f64) -> Reached {
        let part = round as f64 / self.rounds.max(1) as f64;
        let bytes = (self.bytes as f64 * part).round() as u64;
        Reached { round, accuracy, bytes, seconds: self.seconds * part }
    }

    /// Holds the candidate against what is asked.
    fn answer(&mut self, limits: Limits) {
        let rounds = self.rounds.max(1) as f64;
        // A round that just fits does, whatever the last bit says.
        let fit = |most: Option<f64>, all: f64| match most {
            Some(most) if all > 0.0 => (most * (1.0 + 1e-12) / (all / rounds)).floor() as usize,
            _ => usize::MAX,
        };
        let in_bytes = fit(limits.max_gb.map(|gb| gb * 1e9), self.bytes as f64);
        let in_time = fit(limits.max_hours.map(|hours| hours * 3600.0), self.seconds);
        self.rounds_within = in_bytes.min(in_time).min(self.rounds);
        let within = |point: &&Reached| point.round <= self.rounds_within;
        self.accuracy_within = self.curve.iter().rev().find(within).map(|point| point.accuracy);
        let reach = limits.reach.unwrap_or(f64::INFINITY);
        self.reached = self.curve.iter().find(|point| point.accuracy >= reach).copied();
    }

    /// Whether this one is at least as good in all three, and better in one. What was not run is neither better nor worse than what
    /// was.
    fn beats(&self, other: &Candidate) -> bool {
        let accuracy = |c: &Candidate| c.accuracy.map(|known| known.spread.mean);
        let (mine, theirs) = match (accuracy(self), accuracy(other)) {
            (Some(mine), Some(theirs)) => (mine, theirs),
            _ => return false,
        };
        let as_good = self.bytes <= other.bytes && self.seconds <= other.seconds && mine >= theirs;
        as_good && (self.bytes < other.bytes || self.seconds < other.seconds || mine > theirs)
    }
}

/// Why these runs are not of the settings that `cost` counts.
fn strange(cost: &Cost, runs: &[&Run]) -> Option<String> {
    let other = |run: &Run, why: String| format!("its run of seed {} was of another configuration: {why}", run.seed);
    for run in runs {
        if let Some(difference) = run.config.as_ref().and_then(|config| difference(cost, config)) {
            return Some(other(run, difference.to_string()));
        }
        // Where the run's folder is gone, what it sent still tells. Which slots are left, and how well numbers pack, shows when it runs.
        let low = if cost.about || cost.bounded { 0.0 } else { (1.0 - ALIKE) * cost.low.upload_bytes as f64 };
        let high = (1.0 + ALIKE) * cost.high.upload_bytes as f64;
        if !(low..=high).contains(&(run.upload_bytes as f64)) {
            let (sent, would) = (bytes(run.upload_bytes), bytes(cost.high.upload_bytes));
            return Some(other(run, format!("it sent {sent}, and this one would send {would}")));
        }
    }
    None
}

/// The first key in which a run differs from what `cost` counts and that has a part in its accuracy.
fn difference(cost: &Cost, run: &Table) -> Option<Difference> {
    let mine: Table = cost.config.parse().ok()?;
    // Devices tell how long it takes, and with one of these who is heard.
    let closes = |table: &Table| {
        let clients = table.get("clients").and_then(|clients| clients.as_table());
        let devices = clients.and_then(|clients| clients.get("devices")?.as_array());
        let rare = |kind: &Value| match kind.get("availability") {
            None | Some(Value::String(_)) => false,
            Some(availability) => availability.as_float().is_none_or(|chance| chance < 1.0),
        };
        let server = table.get("server").and_then(|server| server.as_table());
        server.is_some_and(|server| server.contains_key("asynchronous"))
            || clients.is_some_and(|c| c.contains_key("deadline") || c.contains_key("over_select"))
            || devices.is_some_and(|kinds| kinds.iter().any(rare))
    };
    let devices_matter = closes(&mine) || closes(run);
    let has_no_part = |key: &str| {
        key == "train.seed"
            || key.starts_with("evaluate.")
            || (key == "clients.devices" && !devices_matter)
            || (key.starts_with("data.") && !cost.has_data)
    };
    differences(run, &mine).into_iter().find(|difference| difference.matters() && !has_no_part(&difference.key))
}

/// Marks those that none of the others beats; what was not run is not marked.
pub fn mark_front(candidates: &mut [Candidate]) {
    let beaten: Vec<bool> = candidates.iter().map(|one| candidates.iter().any(|other| other.beats(one))).collect();
    for (candidate, beaten) in candidates.iter_mut().zip(beaten) {
        candidate.front = candidate.accuracy.is_some() && !beaten;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(strategy: &str, bytes: u64, seconds: f64, accuracies: &[f64]) -> Candidate {
        let accuracy = Spread::of(accuracies.iter().copied()).map(|spread| Known { spread, seeds: accuracies.len() });
        Candidate {
            strategy: strategy.into(),
            rank: Rank::Same(4),
            rounds: 10,
            bytes,
            seconds,
            accuracy,
            unknown: None,
            curve: Vec::new(),
            front: false,
            rounds_within: 0,
            accuracy_within: None,
            reached: None,
        }
    }

    #[test]
    fn the_front_is_whom_nobody_beats_in_everything() {
        let mut all = [
            candidate("cheap", 100, 10.0, &[0.7, 0.72]),
            candidate("good", 300, 30.0, &[0.8]),
            candidate("beaten", 300, 31.0, &[0.8]),
            candidate("worse", 200, 20.0, &[0.7]),
            candidate("soon", 400, 5.0, &[0.5]),
            candidate("not run", 1, 1.0, &[]),
        ];
        mark_front(&mut all);
        let front: Vec<&str> = all.iter().filter(|c| c.front).map(|c| c.strategy.as_str()).collect();
        // What nobody has run beats nobody, however little it sends.
        assert_eq!(front, ["cheap", "good", "soon"]);
        assert_eq!(all[0].accuracy.expect("known").to_string(), "71.0 ± 1.4% (2 seeds)");
    }

    #[test]
    fn limits_leave_whole_rounds_and_goals_are_reached_where_a_curve_first_is() {
        let mut one = candidate("one", 1_000_000_000, 36_000.0, &[0.8]);
        let curve = [(0, 0.1), (2, 0.5), (4, 0.75), (6, 0.74), (10, 0.8)];
        one.curve = curve.into_iter().map(|(round, accuracy)| one.at(round, accuracy)).collect();
        // 0.1 GB and an hour a round.
        one.answer(Limits { reach: Some(0.74), max_gb: Some(0.55), max_hours: None });
        assert_eq!((one.rounds_within, one.accuracy_within), (5, Some(0.75)));
        let reached = one.reached.expect("reached");
        assert_eq!((reached.round, reached.bytes, reached.seconds), (4, 400_000_000, 14_400.0));
        one.answer(Limits { reach: Some(0.9), max_gb: Some(9.0), max_hours: Some(3.0) });
        assert_eq!((one.rounds_within, one.accuracy_within, one.reached), (3, Some(0.5), None));
        one.answer(Limits { max_gb: Some(0.3), ..Limits::default() });
        assert_eq!(one.rounds_within, 3);
    }
}
