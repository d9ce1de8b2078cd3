//! The numbers of a round that trackers show.

use bonfire_federation::{RoundMetrics, Times};

/// A number that trackers show.
pub struct Column {
    /// In tables.
    pub name: &'static str,
    /// In TensorBoard, where the part before the stroke groups the charts.
    pub tag: &'static str,
    value: fn(&RoundMetrics, &Totals) -> Option<f64>,
}

/// Sums over the rounds so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    upload_bytes: u64,
    download_bytes: u64,
    tokens: u64,
    seconds: f64,
}

/// All of them, in the order of the table.
pub const COLUMNS: &[Column] = &[
    column("test_accuracy", "test/accuracy", |m, _| m.test_accuracy),
    column("test_loss", "test/loss", |m, _| m.test_loss),
    column("test_perplexity", "test/perplexity", |m, _| m.test_perplexity),
    column("test_exact_match", "test/exact_match", |m, _| m.test_exact_match),
    column("personal_accuracy", "test/personal_accuracy", |m, _| m.personal_accuracy),
    column("train_loss", "train/loss", |m, _| Some(m.train_loss).filter(|loss| loss.is_finite())),
    column("upload_bytes", "bytes/upload", |m, _| Some(m.upload_bytes as f64)),
    column("download_bytes", "bytes/download", |m, _| Some(m.download_bytes as f64)),
    column("upload_bytes_total", "bytes/upload_total", |_, t| Some(t.upload_bytes as f64)),
    column("download_bytes_total", "bytes/download_total", |_, t| Some(t.download_bytes as f64)),
    column("seconds", "time/round_seconds", |m, _| Some(m.seconds)),
    column("train_seconds", "time/train_seconds", |m, _| Some(m.train_seconds)),
    column("seconds_total", "time/total_seconds", |_, t| Some(t.seconds)),
    column("data_seconds", "time/data_seconds", |m, _| part(m, |t| t.data)),
    column("forward_seconds", "time/forward_seconds", |m, _| part(m, |t| t.forward)),
    column("backward_seconds", "time/backward_seconds", |m, _| part(m, |t| t.backward)),
    column("optimizer_seconds", "time/optimizer_seconds", |m, _| part(m, |t| t.optimizer)),
    column("aggregate_seconds", "time/aggregate_seconds", |m, _| part(m, |t| t.aggregate)),
    column("evaluate_seconds", "time/evaluate_seconds", |m, _| part(m, |t| t.evaluate)),
    column("other_seconds", "time/other_seconds", |m, _| part(m, |t| t.other)),
    column("tokens", "tokens/round", |m, _| Some(m.tokens as f64)),
    column("tokens_total", "tokens/total", |_, t| Some(t.tokens as f64)),
    column("tokens_per_second", "tokens/per_second", |m, _| {
        (m.train_seconds > 0.0).then(|| m.tokens as f64 / m.train_seconds)
    }),
    column("dropped", "clients/dropped", |m, _| Some(m.dropped.len() as f64)),
    column("slot_overlap", "clients/slot_overlap", |m, _| m.slot_overlap),
    column("slot_overlap_by_chance", "clients/slot_overlap_by_chance", |m, _| m.slot_overlap_by_chance),
    column("live_slots", "server/live_slots", |m, _| m.live_slots.map(|n| n as f64)),
    column("epsilon", "privacy/epsilon", |m, _| m.epsilon),
    column("delta", "privacy/delta", |m, _| m.delta),
    column("test_macro_f1", "test/macro_f1", |m, _| m.test_macro_f1),
    column("test_macro_precision", "test/macro_precision", |m, _| m.test_macro_precision),
    column("test_macro_recall", "test/macro_recall", |m, _| m.test_macro_recall),
    column("test_micro_f1", "test/micro_f1", |m, _| m.test_micro_f1),
    column("test_pearson", "test/pearson", |m, _| m.test_pearson),
    column("test_spearman", "test/spearman", |m, _| m.test_spearman),
    column("test_f1", "test/f1", |m, _| m.test_f1),
    column("test_precision", "test/precision", |m, _| m.test_precision),
    column("test_recall", "test/recall", |m, _| m.test_recall),
    column("test_matthews", "test/matthews", |m, _| m.test_matthews),
    column("validation_accuracy", "validation/accuracy", |m, _| m.validation_accuracy),
    column("validation_loss", "validation/loss", |m, _| m.validation_loss),
    column("validation_macro_f1", "validation/macro_f1", |m, _| m.validation_macro_f1),
    column("validation_pearson", "validation/pearson", |m, _| m.validation_pearson),
    column("validation_spearman", "validation/spearman", |m, _| m.validation_spearman),
    column("validation_f1", "validation/f1", |m, _| m.validation_f1),
    column("validation_matthews", "validation/matthews", |m, _| m.validation_matthews),
    column("personal_loss", "personal/loss", |m, _| m.personal_loss),
    column("personal_pearson", "personal/pearson", |m, _| m.personal_pearson),
    column("personal_spearman", "personal/spearman", |m, _| m.personal_spearman),
    column("personal_f1", "personal/f1", |m, _| m.personal_f1),
    column("attack_success", "test/attack_success", |m, _| m.attack_success),
    column("client_accuracy_mean", "clients/accuracy_mean", |m, _| m.client_accuracy.map(|spread| spread.mean)),
    column("client_accuracy_worst_decile", "clients/accuracy_worst_decile", |m, _| {
        m.client_accuracy.map(|spread| spread.worst_decile)
    }),
    column("personalised_mean", "clients/personalised_mean", |m, _| m.personalised.map(|found| found.after.mean)),
    column("personalised_worst_decile", "clients/personalised_worst_decile", |m, _| {
        m.personalised.map(|found| found.after.worst_decile)
    }),
    column("personalised_gain", "clients/personalised_gain", |m, _| m.personalised.map(|found| found.gain)),
];

/// The tags and numbers of a round's scalars that are finite, for servers that take no others.
pub fn finite(scalars: &[Option<f64>]) -> impl Iterator<Item = (&'static str, f64)> {
    let told = COLUMNS.iter().zip(scalars);
    told.filter_map(|(column, value)| Some((column.tag, value.filter(|value| value.is_finite())?)))
}

const fn column(name: &'static str, tag: &'static str, value: fn(&RoundMetrics, &Totals) -> Option<f64>) -> Column {
    Column { name, tag, value }
}

fn part(metrics: &RoundMetrics, of: fn(&Times) -> f64) -> Option<f64> {
    metrics.times.as_ref().map(of)
}

impl Totals {
    /// Adds a round.
    pub fn add(&mut self, metrics: &RoundMetrics) {
        self.upload_bytes += metrics.upload_bytes;
        self.download_bytes += metrics.download_bytes;
        self.tokens += metrics.tokens;
        self.seconds += metrics.seconds;
    }

    /// The numbers of the round added last, one for every [`COLUMNS`].
    pub fn scalars(&self, metrics: &RoundMetrics) -> Vec<Option<f64>> {
        COLUMNS.iter().map(|column| (column.value)(metrics, self)).collect()
    }
}
