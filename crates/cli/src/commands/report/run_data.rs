//! What the page needs to know of a run, read from its folder and no larger than can be seen.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use bonfire_experiment::classes_file::ClassesFile;
use bonfire_experiment::partition_file::PartitionFile;
use bonfire_experiment::run_folder::read;
use bonfire_experiment::trained::config_of;
use bonfire_federation::{ClientSpread, RoundMetrics, Summary};
use serde::{Deserialize, Serialize};

use super::classes::ClassesData;
use super::downsample::{mean_spans, short, spaced, thin};
use super::slots::{Choices, SlotStory};

/// Points of a curve at most.
const POINTS: usize = 600;
/// Bars of the time breakdown at most.
const BARS: usize = 80;
/// Clients and labels in the picture of the partition at most.
const HELD: usize = 200;
/// Bars of the histogram of accuracies.
const BINS: usize = 20;

/// A run.
#[derive(Serialize)]
pub struct RunData {
    label: String,
    folder: String,
    summary: Summary,
    /// Complete rounds.
    rounds: usize,
    /// Rounds of the whole run.
    planned: Option<usize>,
    /// Whether it trains a language model.
    causal: bool,
    /// Whether it foretells numbers.
    numbers: bool,
    /// Whether clients' accuracies were asked for.
    per_client: bool,
    /// Wall time of all rounds.
    seconds: f64,
    /// What the reader should know about how it was read.
    notes: Vec<String>,
    curves: BTreeMap<&'static str, Curve>,
    times: Option<TimeData>,
    clock: Option<ClockData>,
    partition: Option<PartitionData>,
    personal: Option<PersonalData>,
    /// How the global model's accuracies on the clients' own test examples were spread at the last evaluation.
    spread: Option<ClientSpread>,
    classes: Option<ClassesData>,
    slots: Option<SlotStory>,
    config: String,
}

/// A value over the rounds that have it.
#[derive(Serialize)]
struct Curve {
    rounds: Vec<usize>,
    /// Bytes uploaded up to each of them.
    uploaded: Vec<u64>,
    /// Seconds that the run would have taken up to each of them on the devices of `clients.devices`; empty where nothing is said
    /// of devices.
    clock: Vec<f64>,
    values: Vec<f64>,
    /// Every so many values are shown.
    every: usize,
}

/// Mean seconds of a round's parts.
#[derive(Serialize)]
struct TimeData {
    spans: Vec<[usize; 2]>,
    seconds: BTreeMap<&'static str, Vec<f64>>,
}

/// How long clients were at it on the devices of `clients.devices`.
#[derive(Serialize)]
struct ClockData {
    kinds: Vec<String>,
    /// Mean seconds of a client in a round, by kind.
    mean: Vec<f64>,
    /// Uploads that came too late.
    late: usize,
}

/// Who holds what.
#[derive(Serialize)]
struct PartitionData {
    labels: Vec<String>,
    /// The clients that are shown.
    clients: Vec<usize>,
    /// Whose rows they hold, where rows say.
    names: Vec<String>,
    /// Their training examples by label.
    counts: Vec<Vec<usize>>,
    /// Their training examples.
    sizes: Vec<usize>,
    all_clients: usize,
    all_labels: usize,
}

/// How many clients have which accuracy, in the last round that says.
#[derive(Serialize)]
struct PersonalData {
    round: usize,
    clients: usize,
    bins: Vec<usize>,
    least: f64,
    median: f64,
    most: f64,
}

/// The fields of a row of `clients.jsonl` that are read here.
#[derive(Deserialize)]
struct ClientRow {
    round: usize,
    slots: Option<Vec<Vec<usize>>>,
    test_accuracy: Option<f64>,
    device: Option<String>,
    simulated_seconds: Option<f64>,
}

impl RunData {
    /// Reads the run in `folder`, called `label`.
    ///
    /// # Errors
    /// No run folder; a file that is missing or damaged, with its line.
    pub fn read(folder: &Path, label: String) -> Result<RunData> {
        let path = config_of(folder)?;
        let config = read::text(&path)?;
        let table: toml::Table = toml::from_str(&config).with_context(|| format!("{} is not TOML", path.display()))?;
        let get = |section: &str, key: &str| table.get(section).and_then(|section| section.get(key));
        let summary: Summary = read::json(&folder.join("summary.json"))?;
        let mut rows: Vec<RoundMetrics> = Vec::new();
        let cut = read::rows(&folder.join("metrics.jsonl"), |row| rows.push(row))?;
        let clients = ClientData::read(&folder.join("clients.jsonl"), rows.last().map_or(0, |row| row.round))?;
        Ok(RunData {
            label,
            folder: folder.display().to_string(),
            rounds: rows.iter().filter(|row| row.round > 0).count(),
            planned: get("train", "rounds").and_then(toml::Value::as_integer).map(|n| n as usize),
            causal: get("model", "task").and_then(toml::Value::as_str) == Some("causal-lm"),
            numbers: get("model", "task").and_then(toml::Value::as_str) == Some("regression"),
            per_client: get("evaluate", "per_client").and_then(toml::Value::as_bool) == Some(true),
            seconds: rows.iter().map(|row| row.seconds).sum(),
            notes: notes(cut, clients.cut),
            curves: curves(&rows),
            times: TimeData::of(&rows),
            clock: clients.clock(&rows),
            partition: PartitionFile::read(folder)?.map(PartitionData::of),
            personal: clients.personal(),
            spread: rows.iter().rev().find_map(|row| row.client_accuracy),
            classes: ClassesFile::read(folder)?.and_then(|file| ClassesData::of(file, &summary)),
            slots: clients.choices.story(folder),
            summary,
            config,
        })
    }
}

fn notes(metrics: bool, clients: bool) -> Vec<String> {
    let files = [(metrics, "metrics.jsonl"), (clients, "clients.jsonl")];
    let line = |name| format!("The last line of {name} is cut and left out: the run was killed while it wrote.");
    files.into_iter().filter(|(cut, _)| *cut).map(|(_, name)| line(name)).collect()
}

/// What `clients.jsonl` says.
#[derive(Default)]
struct ClientData {
    choices: Choices,
    /// Accuracies of the last round that has any.
    accuracies: (usize, Vec<f64>),
    cut: bool,
    /// Sum and number of seconds by kind of device.
    seconds: BTreeMap<String, (f64, usize)>,
}

impl ClientData {
    /// Reads the rows up to round `last`: a killed run may have written clients of a round that is not complete.
    fn read(path: &Path, last: usize) -> Result<ClientData> {
        let mut story = ClientData::default();
        let cut = read::rows(path, |row: ClientRow| {
            if row.round > last {
                return;
            }
            if let Some(slots) = &row.slots {
                story.choices.add(row.round, slots);
            }
            if let Some((kind, seconds)) = row.device.zip(row.simulated_seconds) {
                let (sum, number) = story.seconds.entry(kind).or_default();
                (*sum, *number) = (*sum + seconds, *number + 1);
            }
            if let Some(accuracy) = row.test_accuracy {
                if story.accuracies.0 != row.round {
                    story.accuracies = (row.round, Vec::new());
                }
                story.accuracies.1.push(accuracy);
            }
        })?;
        story.cut = cut;
        Ok(story)
    }

    fn clock(&self, rows: &[RoundMetrics]) -> Option<ClockData> {
        // A configuration may name any number of kinds.
        let shown = || self.seconds.iter().take(HELD);
        let mean = shown().map(|(_, (sum, number))| short(sum / *number as f64)).collect();
        let (kinds, late) = (shown().map(|(kind, _)| kind.clone()).collect(), rows.iter().map(|r| r.late.len()).sum());
        (!self.seconds.is_empty()).then_some(ClockData { kinds, mean, late })
    }

    fn personal(&self) -> Option<PersonalData> {
        let (round, mut accuracies) = self.accuracies.clone();
        accuracies.sort_by(f64::total_cmp);
        let (least, most) = (*accuracies.first()?, *accuracies.last()?);
        let middle = accuracies.len() / 2;
        let median = match accuracies.len() % 2 {
            1 => accuracies[middle],
            _ => (accuracies[middle - 1] + accuracies[middle]) / 2.0,
        };
        let mut bins = vec![0; BINS];
        // 100 % belongs to the last.
        accuracies.iter().for_each(|a| bins[((a * BINS as f64) as usize).min(BINS - 1)] += 1);
        Some(PersonalData { round, clients: accuracies.len(), bins, least, median, most })
    }
}

/// All values over rounds that some of them have.
fn curves(rows: &[RoundMetrics]) -> BTreeMap<&'static str, Curve> {
    type Value = fn(&RoundMetrics) -> Option<f64>;
    let values: [(&'static str, Value); 22] = [
        ("train_loss", |row| Some(row.train_loss).filter(|loss| loss.is_finite())),
        ("test_loss", |row| row.test_loss),
        ("accuracy", |row| row.test_accuracy),
        ("macro_f1", |row| row.test_macro_f1),
        ("matthews", |row| row.test_matthews),
        ("pearson", |row| row.test_pearson),
        ("spearman", |row| row.test_spearman),
        ("f1", |row| row.test_f1),
        ("micro_f1", |row| row.test_micro_f1),
        ("personal_macro_f1", |row| row.personal_macro_f1),
        ("personal_pearson", |row| row.personal_pearson),
        ("personal_spearman", |row| row.personal_spearman),
        ("personal_f1", |row| row.personal_f1),
        ("personal_loss", |row| row.personal_loss),
        ("client_mean", |row| row.client_accuracy.map(|spread| spread.mean)),
        ("client_worst", |row| row.client_accuracy.map(|spread| spread.worst_decile)),
        ("attack_success", |row| row.attack_success),
        ("perplexity", |row| row.test_perplexity),
        ("exact_match", |row| row.test_exact_match),
        ("personal_accuracy", |row| row.personal_accuracy),
        ("slot_overlap", |row| row.slot_overlap),
        ("slot_overlap_by_chance", |row| row.slot_overlap_by_chance),
    ];
    let curve = |(name, value): (&'static str, Value)| Some((name, Curve::of(rows, value)?));
    values.into_iter().filter_map(curve).collect()
}

impl Curve {
    fn of(rows: &[RoundMetrics], value: impl Fn(&RoundMetrics) -> Option<f64>) -> Option<Curve> {
        let (mut uploaded, mut simulated) = (0, 0.0);
        let mut points = Vec::new();
        for row in rows {
            uploaded += row.upload_bytes;
            simulated += row.simulated_seconds.unwrap_or(0.0);
            points.extend(value(row).map(|value| (row.round, uploaded, short(value), short(simulated))));
        }
        let (every, points) = thin(points, POINTS);
        let curve = Curve {
            rounds: points.iter().map(|p| p.0).collect(),
            uploaded: points.iter().map(|p| p.1).collect(),
            clock: if simulated > 0.0 { points.iter().map(|p| p.3).collect() } else { Vec::new() },
            values: points.iter().map(|p| p.2).collect(),
            every,
        };
        (!curve.rounds.is_empty()).then_some(curve)
    }
}

impl TimeData {
    /// `None` for runs of versions that did not say.
    fn of(rows: &[RoundMetrics]) -> Option<TimeData> {
        const PARTS: [&str; 7] = ["data", "forward", "backward", "optimizer", "aggregate", "evaluate", "other"];
        let timed = rows.iter().filter_map(|row| row.times.map(|t| (row.round, t)));
        let parts = timed.map(|(round, t)| {
            (round, vec![t.data, t.forward, t.backward, t.optimizer, t.aggregate, t.evaluate, t.other])
        });
        let (rounds, parts): (Vec<usize>, Vec<Vec<f64>>) = parts.unzip();
        let (spans, means) = mean_spans(&rounds, &parts, BARS);
        let column = |(p, name): (usize, &&'static str)| (*name, means.iter().map(|row| row[p]).collect());
        (!spans.is_empty()).then(|| TimeData { spans, seconds: PARTS.iter().enumerate().map(column).collect() })
    }
}

impl PartitionData {
    fn of(partition: PartitionFile) -> PartitionData {
        let (labels, train) = (partition.kinds().to_vec(), partition.train);
        let clients = spaced(train.len(), HELD);
        let names = clients.iter().filter_map(|&client| partition.clients.get(client).cloned()).collect();
        let total = |label: usize| train.iter().map(|row| row[label]).sum::<usize>();
        let mut kept: Vec<usize> = (0..labels.len()).collect();
        if kept.len() > HELD {
            kept.sort_by_key(|&label| std::cmp::Reverse(total(label)));
            kept.truncate(HELD);
            kept.sort_unstable();
        }
        PartitionData {
            labels: kept.iter().map(|&label| labels[label].clone()).collect(),
            counts: clients.iter().map(|&client| kept.iter().map(|&label| train[client][label]).collect()).collect(),
            sizes: clients.iter().map(|&client| train[client].iter().sum()).collect(),
            all_clients: train.len(),
            all_labels: labels.len(),
            names,
            clients,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accuracies_are_of_the_last_round_that_has_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("clients.jsonl");
        let row = |round: usize, accuracy: &str| format!("{{\"round\": {round}, \"client\": 0{accuracy}}}\n");
        let accuracy = |a: f64| format!(", \"test_accuracy\": {a}");
        let text =
            row(1, &accuracy(0.1)) + &row(2, &accuracy(1.0)) + &row(2, &accuracy(0.52)) + &row(2, "") + &row(3, "");
        std::fs::write(&path, text.clone() + &row(4, &accuracy(0.9))).expect("written");
        let personal = ClientData::read(&path, 3).expect("fine").personal().expect("accuracies");
        assert_eq!((personal.round, personal.clients, personal.least, personal.most), (2, 2, 0.52, 1.0));
        assert_eq!((personal.bins[10], personal.bins[19], personal.bins.iter().sum::<usize>()), (1, 1, 2));
        assert!((personal.median - 0.76).abs() < 1e-9);
    }

    #[test]
    fn many_clients_and_labels_are_thinned() {
        let labels: Vec<String> = (0..300).map(|label| format!("l{label}")).collect();
        let train = (0..1000).map(|client| (0..300).map(|label| usize::from(label > 150) + client % 2).collect());
        let story = PartitionData::of(PartitionFile {
            labels,
            strata: Vec::new(),
            clients: (0..1000).map(|client| format!("c{client}")).collect(),
            train: train.collect(),
            test: vec![0; 1000],
        });
        assert_eq!(
            (story.clients.len(), story.labels.len(), story.all_clients, story.all_labels),
            (200, 200, 1000, 300)
        );
        assert_eq!(story.clients[..3], [0, 5, 10]);
        assert_eq!(story.names[..3], ["c0", "c5", "c10"]);
        assert_eq!(story.labels[0], "l0", "ties keep their order");
        assert_eq!(story.labels[199], "l299");
    }
}
