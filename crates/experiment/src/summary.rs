//! Sums over a run's rounds: what `summary.json` says and what the last lines compare.

use bonfire_federation::{BestBy, BestRound, EvaluateOn, Personalised, RoundMetrics, Server, Summary};
use bonfire_models::Model;
use serde::{Deserialize, Serialize};

use crate::config::RunConfig;
use crate::format::{bytes, energy, percent, seconds, sparkline};
use crate::memory;

/// What stays the same over a run.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Name of the run.
    pub name: String,
    /// Strategy name, as in the configuration.
    pub strategy: String,
    /// Seed of the run.
    pub seed: u64,
    /// The device, in words.
    pub device: String,
    /// What computes products with frozen weights, and in what.
    pub products: &'static str,
    /// Clients in the federation.
    pub clients: usize,
    /// Scalars of the global adapter, and of the head if trained: what plain LoRA at this rank uploads.
    pub trainable_params: u64,
    /// Scalars that full fine-tuning uploads: the encoder without pooler, and the head if trained.
    pub full_params: u64,
    /// Global rank of the adapter.
    pub rank: usize,
    /// By what, and on which split, the best round is chosen; `None`: none is.
    pub best: Option<(BestBy, EvaluateOn)>,
    /// Evaluations without a better one after which the run ends.
    pub patience: Option<usize>,
}

impl Identity {
    /// Of a run of `config` with `model` on `device`, whose server trains so many scalars.
    pub fn of(config: &RunConfig, device: &str, model: &dyn Model, server: &Server, trainable: u64) -> Identity {
        let head = if config.settings().trains_head() { server.adapter.head_params() } else { 0 };
        Identity {
            name: config.name().to_string(),
            strategy: config.strategy.name().to_string(),
            seed: config.train.seed,
            device: device.to_string(),
            products: config.engine.precision.products(model.device()),
            clients: config.clients.count,
            trainable_params: trainable,
            full_params: model.info().backbone_params() + head,
            rank: config.adapter.rank,
            best: config.evaluate.best.map(|by| (by, config.evaluate.on)),
            patience: config.train.stop.map(|stop| stop.patience),
        }
    }
}

/// Sums over the rounds so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    rounds: usize,
    /// Accuracy and perplexity of the untrained model, which also begin the lists below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    untrained_accuracy: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    untrained_perplexity: Option<f64>,
    uploads: u64,
    upload_params: u64,
    upload_bytes: u64,
    download_params: u64,
    download_bytes: u64,
    tokens: u64,
    train_seconds: f64,
    accuracies: Vec<f64>,
    /// Of a language model.
    perplexities: Vec<f64>,
    exact_match: Option<f64>,
    personal: Option<f64>,
    /// Where numbers are foretold, Pearson's and Spearman's correlation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    correlations: Vec<[f64; 2]>,
    /// Where words are tagged, F1 of the spans.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    f1: Vec<f64>,
    /// Of a backdoor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attack_success: Option<f64>,
    /// Of the round that was the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    personalised: Option<Personalised>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    best: Option<BestRound>,
    #[serde(default)]
    late_upload_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    simulated_seconds: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    watt_hours: Option<f64>,
}

/// The sum so far and what comes to it, where that is known.
fn plus(sum: Option<f64>, more: Option<f64>) -> Option<f64> {
    more.map(|more| sum.unwrap_or(0.0) + more).or(sum)
}

impl Totals {
    /// Notes what the untrained model was found to be.
    pub fn begin(&mut self, metrics: &RoundMetrics) {
        (self.untrained_accuracy, self.untrained_perplexity) = (metrics.test_accuracy, metrics.test_perplexity);
        self.accuracies.extend(metrics.test_accuracy);
        self.perplexities.extend(metrics.test_perplexity);
        self.exact_match = metrics.test_exact_match;
        self.personal = metrics.personal_accuracy;
        self.correlations.extend(correlations(metrics));
        self.f1.extend(metrics.test_f1.or(metrics.personal_f1));
        self.attack_success = metrics.attack_success;
    }

    /// Adds a round of `run` in which `uploads` clients uploaded; gives whether it is the best so far.
    pub fn add(&mut self, run: &Identity, metrics: &RoundMetrics, uploads: usize) -> bool {
        self.rounds = metrics.round;
        self.uploads += uploads as u64;
        self.upload_params += metrics.upload_params;
        self.upload_bytes += metrics.upload_bytes;
        self.download_params += metrics.download_params;
        self.download_bytes += metrics.download_bytes;
        self.tokens += metrics.tokens;
        self.train_seconds += metrics.train_seconds;
        self.late_upload_bytes += metrics.late_upload_bytes;
        self.simulated_seconds = plus(self.simulated_seconds, metrics.simulated_seconds);
        self.watt_hours = plus(self.watt_hours, metrics.watt_hours);
        self.accuracies.extend(metrics.test_accuracy);
        self.perplexities.extend(metrics.test_perplexity);
        self.exact_match = metrics.test_exact_match.or(self.exact_match);
        self.personal = metrics.personal_accuracy.or(self.personal);
        self.correlations.extend(correlations(metrics));
        self.f1.extend(metrics.test_f1.or(metrics.personal_f1));
        self.attack_success = metrics.attack_success.or(self.attack_success);
        // A run that is given more rounds has another last one.
        self.personalised = metrics.personalised;
        run.best.is_some_and(|(by, on)| self.compare(by, on, metrics))
    }

    /// Whether the round is better than all before it, which is then remembered.
    fn compare(&mut self, by: BestBy, on: EvaluateOn, metrics: &RoundMetrics) -> bool {
        let Some(score) = by.of(on, metrics) else { return false };
        if let Some(best) = self.best.as_mut().filter(|best| !by.is_better(score, best.score)) {
            best.since += 1;
            return false;
        }
        self.best = Some(BestRound {
            round: metrics.round,
            on,
            by,
            score,
            test_accuracy: metrics.test_accuracy.or(metrics.personal_accuracy),
            test_loss: metrics.test_loss.or(metrics.personal_loss),
            since: 0,
        });
        true
    }

    /// Whether nothing has become better for as long as `run` waits.
    pub fn is_over(&self, run: &Identity) -> bool {
        run.patience.zip(self.best.as_ref()).is_some_and(|(patience, best)| best.since >= patience)
    }

    /// `best by accuracy on the validation split: round 7, 81.2%; test accuracy there 80.1%`.
    pub fn best_line(&self, run: &Identity) -> Option<String> {
        let ((by, _), best) = run.best.zip(self.best.as_ref())?;
        let score = if by == BestBy::Accuracy { percent(best.score) } else { format!("{:.4}", best.score) };
        let test = best.test_accuracy.map(|accuracy| format!("; test accuracy there {}", percent(accuracy)));
        let over = if self.is_over(run) { ", and no better since: the run ends here" } else { "" };
        Some(format!(
            "best by {} on the {} split: round {}, {score}{}{over}",
            by.name(),
            best.on.name(),
            best.round,
            test.unwrap_or_default()
        ))
    }

    /// Rounds so far.
    pub fn rounds(&self) -> usize {
        self.rounds
    }

    /// Bytes uploaded so far.
    pub fn upload_bytes(&self) -> u64 {
        self.upload_bytes
    }

    /// The run in one object.
    pub fn summary(&self, run: &Identity) -> Summary {
        Summary {
            name: run.name.clone(),
            prompt_template: None,
            strategy: run.strategy.clone(),
            seed: run.seed,
            device: run.device.clone(),
            products: run.products.into(),
            rounds: self.rounds,
            clients: run.clients,
            untrained_accuracy: self.untrained_accuracy,
            untrained_perplexity: self.untrained_perplexity,
            final_perplexity: self.perplexities.last().copied(),
            final_exact_match: self.exact_match,
            final_accuracy: self.accuracies.last().copied(),
            best_accuracy: self.best_accuracy(),
            final_pearson: self.correlations.last().map(|both| both[0]),
            final_spearman: self.correlations.last().map(|both| both[1]),
            final_f1: self.f1.last().copied(),
            final_attack_success: self.attack_success,
            best: self.best.clone(),
            stopped_early: self.is_over(run),
            personal_accuracy: self.personal,
            personalised: self.personalised,
            upload_params: self.upload_params,
            upload_bytes: self.upload_bytes,
            download_params: self.download_params,
            download_bytes: self.download_bytes,
            late_upload_bytes: self.late_upload_bytes,
            simulated_seconds: self.simulated_seconds,
            watt_hours: self.watt_hours,
            trainable_params: run.trainable_params,
            train_seconds: self.train_seconds,
            tokens_trained: self.tokens,
            tokens_per_second: if self.train_seconds > 0.0 { self.tokens as f64 / self.train_seconds } else { 0.0 },
            peak_memory_bytes: memory::peak_bytes(),
            memory: None,
        }
    }

    /// `on the devices of clients.devices: 3.2 h` and what else the clock says; `None` where there is none.
    pub fn clock_line(&self) -> Option<String> {
        let simulated = self.simulated_seconds?;
        let late = match self.late_upload_bytes {
            0 => String::new(),
            late => format!(", {} more came too late", bytes(late)),
        };
        let energy = self.watt_hours.map_or(String::new(), |wh| format!(", {} drawn", energy(wh)));
        Some(format!("on the clients' devices (clients.devices): {}{late}{energy}", seconds(simulated)))
    }

    /// `backdoor: 97.0% of the texts of other labels are taken for its target`; `None` where there is none.
    pub fn attack_line(&self) -> Option<String> {
        let share = percent(self.attack_success?);
        Some(format!("backdoor: {share} of the texts of other labels are taken for its target"))
    }

    /// `fine-tuned on their own rows, clients go from 71.0% to 80.0% on average, the worst tenth from 40.0% to 52.0%; 1 of 12 loses`;
    /// `None` where that was not asked for.
    pub fn personalised_line(&self) -> Option<String> {
        let Personalised { before, after, worse, .. } = self.personalised?;
        let [mean, worst] = [[before.mean, after.mean], [before.worst_decile, after.worst_decile]]
            .map(|pair| pair.map(percent).join(" to "));
        let lose = if worse == 1 { "loses" } else { "lose" };
        Some(format!(
            "fine-tuned on their own rows, clients go from {mean} on average, the worst tenth from {worst}; {worse} of {} {lose}",
            after.clients
        ))
    }

    fn best_accuracy(&self) -> Option<f64> {
        self.accuracies.iter().copied().max_by(f64::total_cmp)
    }

    /// `accuracy ▁▄█  untrained 5.0%  best 80.0%  last 79.0%`, or the like of a language model's perplexity; `first` where the
    /// untrained model was not evaluated. `None` when nothing was.
    pub fn accuracy_line(&self) -> Option<String> {
        if let (Some(first), Some(last)) = (self.perplexities.first(), self.perplexities.last()) {
            let best = self.perplexities.iter().copied().fold(f64::INFINITY, f64::min);
            let curve = sparkline(&self.perplexities, 60);
            return Some(match (self.untrained_perplexity, self.rounds) {
                (Some(untrained), 0) => format!("perplexity of the untrained model {untrained:.3}"),
                (untrained, _) => {
                    let start = if untrained.is_some() { "untrained" } else { "first" };
                    format!("perplexity {curve}  {start} {first:.3}  best {best:.3}  last {last:.3}")
                }
            });
        }
        if let (Some([first, _]), Some([last, spearman])) = (self.correlations.first(), self.correlations.last()) {
            let pearson: Vec<f64> = self.correlations.iter().map(|both| both[0]).collect();
            let best = pearson.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            return Some(match self.rounds {
                0 => format!("Pearson of the untrained model {first:.3}"),
                _ => format!(
                    "Pearson {}  first {first:.3}  best {best:.3}  last {last:.3}; Spearman {spearman:.3}",
                    sparkline(&pearson, 60)
                ),
            });
        }
        if let (Some(first), Some(last)) = (self.f1.first(), self.f1.last()) {
            let best = self.f1.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let [first, best, last] = [*first, best, *last].map(percent);
            let accuracy = self.accuracies.last().or(self.personal.as_ref()).copied().map(percent);
            let tokens = accuracy.map(|share| format!("; {share} of the words right")).unwrap_or_default();
            return Some(match self.rounds {
                0 => format!("F1 of the untrained model {first}{tokens}"),
                _ => format!("F1 {}  first {first}  best {best}  last {last}{tokens}", sparkline(&self.f1, 60)),
            });
        }
        let (first, last, best) = (self.accuracies.first()?, self.accuracies.last()?, self.best_accuracy()?);
        let curve = sparkline(&self.accuracies, 60);
        Some(match (self.untrained_accuracy, self.rounds) {
            (Some(untrained), 0) => format!("accuracy of the untrained model {}", percent(untrained)),
            (untrained, _) => {
                let start = if untrained.is_some() { "untrained" } else { "first" };
                let (first, best, last) = (percent(*first), percent(best), percent(*last));
                format!("accuracy {curve}  {start} {first}  best {best}  last {last}")
            }
        })
    }

    /// What was uploaded beside what the same clients would have uploaded as plain LoRA and as whole models
    /// (four bytes a scalar); `None` before the first round ended.
    pub fn upload_line(&self, run: &Identity) -> Option<String> {
        let rounds = format!("{} round{}", self.rounds, if self.rounds == 1 { "" } else { "s" });
        if run.strategy == "full" {
            return (self.upload_bytes > 0)
                .then(|| format!("uploaded {} in {rounds} of full fine-tuning", bytes(self.upload_bytes)));
        }
        let compare = |params: u64| -> Option<(String, String)> {
            let other = self.uploads * params * 4;
            Some((ratio(self.upload_bytes, other)?, bytes(other)))
        };
        let (lora, lora_bytes) = compare(run.trainable_params)?;
        let (full, full_bytes) = compare(run.full_params)?;
        if run.strategy == "fedit" && lora == AS_MUCH {
            // It is LoRA at this rank.
            return Some(format!(
                "uploaded {} in {rounds}: {full} full fine-tuning ({full_bytes})",
                bytes(self.upload_bytes)
            ));
        }
        Some(format!(
            "uploaded {} in {rounds}: {lora} LoRA at rank {} ({lora_bytes}), {full} full fine-tuning ({full_bytes})",
            bytes(self.upload_bytes),
            run.rank,
        ))
    }
}

/// Pearson's and Spearman's correlation of a round: of the global model, or where there is none of the clients' own.
fn correlations(metrics: &RoundMetrics) -> Option<[f64; 2]> {
    let own = || metrics.personal_pearson.zip(metrics.personal_spearman);
    metrics.test_pearson.zip(metrics.test_spearman).or_else(own).map(|(pearson, spearman)| [pearson, spearman])
}

const AS_MUCH: &str = "as much as";

/// `41x less than`, `1.3x more than` or `as much as`; `None` when nothing was uploaded.
pub fn ratio(ours: u64, theirs: u64) -> Option<String> {
    if ours == 0 || theirs == 0 {
        return None;
    }
    let less = theirs as f64 / ours as f64;
    Some(match less {
        // Headers and slot numbers are no difference worth a factor.
        0.95..1.05 => AS_MUCH.to_string(),
        1.05..9.95 => format!("{less:.1}x less than"),
        9.95.. => format!("{less:.0}x less than"),
        _ => format!("{:.1}x more than", 1.0 / less),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A round with this accuracy.
    pub fn round(round: usize, accuracy: f64) -> RoundMetrics {
        RoundMetrics {
            round,
            phase: "B".into(),
            train_loss: 1.0,
            test_loss: Some(1.0),
            test_perplexity: None,
            test_exact_match: None,
            test_accuracy: Some(accuracy),
            test_macro_f1: None,
            test_macro_precision: None,
            test_macro_recall: None,
            test_micro_f1: None,
            test_pearson: None,
            test_spearman: None,
            test_f1: None,
            test_precision: None,
            test_recall: None,
            test_matthews: None,
            validation_loss: None,
            validation_accuracy: None,
            validation_macro_f1: None,
            validation_macro_precision: None,
            validation_macro_recall: None,
            validation_micro_f1: None,
            validation_pearson: None,
            validation_spearman: None,
            validation_f1: None,
            validation_precision: None,
            validation_recall: None,
            validation_matthews: None,
            client_accuracy: None,
            personalised: None,
            attack_success: None,
            upload_params: 20,
            upload_head_params: 0,
            upload_aux_params: 0,
            upload_index_bytes: 4,
            upload_bytes: 100,
            download_params: 30,
            download_bytes: 120,
            lost_download_bytes: 0,
            late_upload_bytes: 0,
            dropped: vec![],
            late: vec![],
            simulated_seconds: None,
            watt_hours: None,
            staleness: None,
            skipped: vec![],
            in_flight: 2,
            no_room_for: vec![],
            slot_overlap: None,
            slot_overlap_by_chance: None,
            personal_accuracy: None,
            personal_loss: None,
            personal_macro_f1: None,
            personal_matthews: None,
            personal_pearson: None,
            personal_spearman: None,
            personal_f1: None,
            live_slots: None,
            epsilon: None,
            delta: None,
            simulated_privacy: false,
            seconds: 2.0,
            train_seconds: 1.5,
            times: None,
            tokens: 300,
        }
    }

    fn run() -> Identity {
        Identity {
            name: "a".into(),
            strategy: "lora-a2".into(),
            seed: 1,
            device: "cpu".into(),
            products: "f32 by gemm (Flex)",
            clients: 2,
            trainable_params: 100,
            full_params: 10_000,
            rank: 8,
            best: None,
            patience: None,
        }
    }

    #[test]
    fn sums_and_last_lines() {
        let mut totals = Totals::default();
        totals.add(&run(), &round(1, 0.1), 2);
        totals.add(&run(), &round(2, 0.5), 2);
        totals.add(&run(), &round(3, 0.4), 2);
        let summary = totals.summary(&run());
        assert_eq!((summary.rounds, summary.upload_bytes, summary.tokens_trained), (3, 300, 900));
        assert_eq!((summary.final_accuracy, summary.best_accuracy), (Some(0.4), Some(0.5)));
        assert_eq!(summary.tokens_per_second, 200.0);
        assert_eq!(
            totals.upload_line(&run()).as_deref(),
            Some(
                "uploaded 300 B in 3 rounds: 8.0x less than LoRA at rank 8 (2.4 kB), 800x less than full fine-tuning (240 kB)"
            )
        );
        assert_eq!(totals.accuracy_line().as_deref(), Some("accuracy ▁█▆  first 10.0%  best 50.0%  last 40.0%"));
    }

    #[test]
    fn lora_is_not_compared_with_itself() {
        let fedit = Identity { strategy: "fedit".into(), trainable_params: 12, ..run() };
        let mut totals = Totals::default();
        totals.add(&fedit, &round(1, 0.1), 2);
        // Two clients of 12 numbers each: 96 bytes, and the messages' heads.
        let of = |run: &Identity| totals.upload_line(run).expect("a line");
        assert_eq!(of(&fedit), "uploaded 100 B in 1 round: 800x less than full fine-tuning (80 kB)");
        assert!(of(&Identity { strategy: "hetlora".into(), ..fedit.clone() }).contains("as much as LoRA at rank 8"));
        // Short messages are worth a word.
        assert!(of(&Identity { trainable_params: 48, ..fedit }).contains("3.8x less than LoRA at rank 8"));
    }

    #[test]
    fn the_untrained_model_is_where_a_curve_begins() {
        let mut totals = Totals::default();
        totals.begin(&round(0, 0.05));
        assert_eq!(totals.accuracy_line().as_deref(), Some("accuracy of the untrained model 5.0%"));
        assert_eq!(totals.summary(&run()).final_accuracy, Some(0.05));
        totals.add(&run(), &round(1, 0.5), 2);
        let summary = totals.summary(&run());
        assert_eq!((summary.untrained_accuracy, summary.final_accuracy, summary.rounds), (Some(0.05), Some(0.5), 1));
        assert_eq!(totals.accuracy_line().as_deref(), Some("accuracy ▁█  untrained 5.0%  best 50.0%  last 50.0%"));
    }

    #[test]
    fn the_best_round_is_remembered_and_patience_ends() {
        let run = Identity { best: Some((BestBy::Accuracy, EvaluateOn::Test)), patience: Some(2), ..run() };
        let mut totals = Totals::default();
        let scores = [0.3, 0.5, 0.5, 0.4];
        let better: Vec<bool> = (1..).zip(scores).map(|(n, score)| totals.add(&run, &round(n, score), 2)).collect();
        // Of equals the earlier stays.
        assert_eq!(better, [true, true, false, false]);
        let best = totals.summary(&run).best.expect("a best round");
        assert_eq!(
            (best.round, best.score, best.since, best.by, best.on),
            (2, 0.5, 2, BestBy::Accuracy, EvaluateOn::Test)
        );
        assert!(totals.is_over(&run) && totals.summary(&run).stopped_early);
        assert!(!totals.add(&run, &RoundMetrics { test_accuracy: None, ..round(5, 0.0) }, 2), "not evaluated");
        assert!(totals.add(&run, &round(6, 0.6), 2) && !totals.is_over(&run));
    }

    #[test]
    fn a_run_without_rounds_has_a_summary_and_no_comparison() {
        let totals = Totals::default();
        assert_eq!(totals.summary(&run()).final_accuracy, None);
        assert_eq!(totals.upload_line(&run()), None);
        assert_eq!(ratio(300, 299).as_deref(), Some("as much as"));
        assert_eq!(ratio(300, 200).as_deref(), Some("1.5x more than"));
    }
}
