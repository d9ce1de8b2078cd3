//! What a run writes down: the rows of `metrics.jsonl` and `clients.jsonl` and the fields of `summary.json`.
//! The names are a contract with other commands and scripts. How and where they are written is the binary's business.

use bonfire_engine::{Evaluation, Slots, StepTimes, TargetSlots, Upload};
use serde::{Deserialize, Serialize};

use crate::{BestBy, EvaluateOn};

/// One row of `metrics.jsonl`: a round. Counts are of this round alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoundMetrics {
    /// Round, from 1; 0: the untrained model, of which only the evaluation is told.
    pub round: usize,
    /// What trained: `"A"`, `"B"` or `"AB"`; of round 0 `"none"`.
    pub phase: String,
    /// Mean local training loss, weighted by examples, probes not counted; not a number (`null`) where it is kept back or could
    /// not be computed.
    #[serde(deserialize_with = "number_or_null")]
    pub train_loss: f64,
    /// Mean cross-entropy of the global model on the test split, or where numbers are foretold their mean squared error; absent when
    /// not evaluated this round.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub test_loss: Option<f64>,
    /// Of a language model, `exp(test_loss)`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub test_perplexity: Option<f64>,
    /// Of a language model, the share of test responses that greedy generation gives exactly, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub test_exact_match: Option<f64>,
    /// Accuracy of the global model on the test split (of a language model: share of tokens foretold), 0 to 1; absent
    /// when not evaluated this round.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub test_accuracy: Option<f64>,
    /// Of a classifier, the mean F1 of all classes on the test split.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub test_macro_f1: Option<f64>,
    /// Of a classifier, the mean precision of all classes on the test split.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub test_macro_precision: Option<f64>,
    /// Of a classifier, the mean recall of all classes on the test split.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub test_macro_recall: Option<f64>,
    /// Of a classifier, F1 over all answers together on the test split.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub test_micro_f1: Option<f64>,
    /// Of a classifier, the correlation of Matthews on the test split.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub test_matthews: Option<f64>,
    /// Where numbers are foretold, Pearson's correlation with the right ones on the test split.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub test_pearson: Option<f64>,
    /// Where numbers are foretold, Spearman's correlation with the right ones on the test split.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub test_spearman: Option<f64>,
    /// Where words are tagged, F1 of the spans on the test split: seqeval's, over all types together.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub test_f1: Option<f64>,
    /// Their precision there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub test_precision: Option<f64>,
    /// Their recall there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub test_recall: Option<f64>,
    /// Mean cross-entropy of the global model on the validation split, where the best round is chosen by it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub validation_loss: Option<f64>,
    /// Its accuracy there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub validation_accuracy: Option<f64>,
    /// Its mean F1 there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub validation_macro_f1: Option<f64>,
    /// Its mean precision there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub validation_macro_precision: Option<f64>,
    /// Its mean recall there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub validation_macro_recall: Option<f64>,
    /// Its F1 over all answers together there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub validation_micro_f1: Option<f64>,
    /// Its correlation of Matthews there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub validation_matthews: Option<f64>,
    /// Its correlation of Pearson there, where numbers are foretold.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub validation_pearson: Option<f64>,
    /// Its correlation of Spearman there, where numbers are foretold.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub validation_spearman: Option<f64>,
    /// Where words are tagged, F1 of the spans there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub validation_f1: Option<f64>,
    /// Their precision there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub validation_precision: Option<f64>,
    /// Their recall there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub validation_recall: Option<f64>,
    /// With `evaluate.per_client`, how the global model's accuracies on the clients' own test shards are spread.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub client_accuracy: Option<ClientSpread>,
    /// With `evaluate.personalise`, in the last round: what the clients' fine-tuning by themselves gains.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub personalised: Option<Personalised>,
    /// Where clients plant a backdoor, the share of the test texts of other classes than its target that are taken for the target
    /// when they hold the trigger, 0 to 1: by the global model, or where there is none by those of the clients that mean no harm, each
    /// on its own texts.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub attack_success: Option<f64>,
    /// Uploaded scalars: adapter and head.
    pub upload_params: u64,
    /// Of these, scalars of the head.
    pub upload_head_params: u64,
    /// Of these, what a method sends besides movements: control variates, moments.
    #[serde(default)]
    pub upload_aux_params: u64,
    /// Bytes that say which slots were uploaded.
    pub upload_index_bytes: u64,
    /// Bytes of all uploads as serialised.
    pub upload_bytes: u64,
    /// Downloaded scalars.
    pub download_params: u64,
    /// Bytes of all downloads as serialised.
    pub download_bytes: u64,
    /// Of these, what was sent to clients that dropped out before they uploaded, or came too late.
    #[serde(default)]
    pub lost_download_bytes: u64,
    /// Bytes of uploads that came after the round was closed, besides `upload_bytes`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub late_upload_bytes: u64,
    /// Clients of the cohort that dropped out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<usize>,
    /// Clients whose uploads came after the round was closed, by the clock of `clients.devices`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub late: Vec<usize>,
    /// Seconds that the round would have taken on the devices and links of `clients.devices`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub simulated_seconds: Option<f64>,
    /// Watt hours that all who trained would have drawn, late ones too, where every kind of device has `watts`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub watt_hours: Option<f64>,
    /// In asynchronous rounds, how many versions of the model had been made since the clients downloaded, on average over the uploads.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub staleness: Option<f64>,
    /// Clients whose upload was left out because it was not finite, where `train.not_finite` says so, or not believed: above
    /// `server.max_norm` or `server.max_examples`, or with a norm or a loss above 10⁶. The log says which it was.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<usize>,
    /// Clients that were on a device together; 0 in rows of versions that did not say, and of a server whose clients are
    /// elsewhere.
    #[serde(default)]
    pub in_flight: usize,
    /// Clients in flight that were tried before and that a device's memory did not hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub no_room_for: Vec<usize>,
    /// Where clients keep a part of the model for themselves: the share of all test examples that the models of the
    /// clients that hold them get right, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub personal_accuracy: Option<f64>,
    /// The mean loss of those models over the same examples.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub personal_loss: Option<f64>,
    /// Their mean F1 of all classes, over all those answers together.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub personal_macro_f1: Option<f64>,
    /// Their correlation of Matthews, likewise.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub personal_matthews: Option<f64>,
    /// Their correlation of Pearson, likewise, where numbers are foretold.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub personal_pearson: Option<f64>,
    /// Their correlation of Spearman, likewise.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub personal_spearman: Option<f64>,
    /// Where words are tagged, F1 of the spans, likewise.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub personal_f1: Option<f64>,
    /// How alike clients chose their slots: the mean over pairs of clients of `|S_j ∩ S_k| / |S_j ∪ S_k|`, 0 to 1; absent where
    /// nothing is chosen or one client chose.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub slot_overlap: Option<f64>,
    /// What that is expected to be where as many slots are drawn by chance.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub slot_overlap_by_chance: Option<f64>,
    /// Slots of the whole model that still exist, where the server removes some.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub live_slots: Option<usize>,
    /// ε spent so far, where uploads are noised by what nobody can know.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub epsilon: Option<f64>,
    /// The δ beside it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub delta: Option<f64>,
    /// Whether privacy is only simulated: its noise comes from the run's seed.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub simulated_privacy: bool,
    /// Wall time of the round, evaluation included.
    pub seconds: f64,
    /// Of it, wall time of local training, probes included.
    pub train_seconds: f64,
    /// Where the wall time went; absent in runs of versions that did not say.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub times: Option<Times>,
    /// Real tokens through forward and backward, probes included; through a forward pass alone they count a third.
    pub tokens: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl RoundMetrics {
    /// Writes in what the global model was found to be on a split.
    pub(crate) fn put(&mut self, on: EvaluateOn, found: &Evaluation) {
        let (classes, numbers) = (found.classes, found.numbers);
        let [loss, accuracy] = [Some(found.loss), found.accuracy()];
        let [precision, recall] = [classes.map(|c| c.macro_precision), classes.map(|c| c.macro_recall)];
        let [macro_f1, micro_f1] = [classes.map(|c| c.macro_f1), classes.map(|c| c.micro_f1)];
        let matthews = classes.and_then(|c| c.matthews);
        let spans = [found.spans.map(|s| s.f1), found.spans.map(|s| s.precision), found.spans.map(|s| s.recall)];
        let [pearson, spearman] = [numbers.map(|n| n.pearson), numbers.map(|n| n.spearman)];
        match on {
            EvaluateOn::Test => {
                (self.test_loss, self.test_accuracy) = (loss, accuracy);
                (self.test_macro_precision, self.test_macro_recall) = (precision, recall);
                (self.test_macro_f1, self.test_micro_f1, self.test_matthews) = (macro_f1, micro_f1, matthews);
                (self.test_pearson, self.test_spearman) = (pearson, spearman);
                [self.test_f1, self.test_precision, self.test_recall] = spans;
                self.attack_success = found.attack_success;
            }
            EvaluateOn::Validation => {
                (self.validation_loss, self.validation_accuracy) = (loss, accuracy);
                (self.validation_macro_precision, self.validation_macro_recall) = (precision, recall);
                (self.validation_macro_f1, self.validation_micro_f1) = (macro_f1, micro_f1);
                self.validation_matthews = matthews;
                (self.validation_pearson, self.validation_spearman) = (pearson, spearman);
                [self.validation_f1, self.validation_precision, self.validation_recall] = spans;
            }
        }
    }

    /// Writes in what the clients' own models were found to be, each on its client's test examples.
    pub(crate) fn put_personal(&mut self, found: &Evaluation) {
        (self.personal_loss, self.personal_accuracy) = (Some(found.loss), found.accuracy());
        self.personal_macro_f1 = found.classes.map(|classes| classes.macro_f1);
        self.personal_matthews = found.classes.and_then(|classes| classes.matthews);
        self.personal_pearson = found.numbers.map(|numbers| numbers.pearson);
        self.personal_spearman = found.numbers.map(|numbers| numbers.spearman);
        self.personal_f1 = found.spans.map(|spans| spans.f1);
    }

    /// Without what is of clients: see [`crate::Publish::Minimal`]. Counts of bytes and tokens would tell how many took part.
    pub(crate) fn minimal(self) -> RoundMetrics {
        RoundMetrics {
            train_loss: f64::NAN,
            upload_params: 0,
            upload_head_params: 0,
            upload_aux_params: 0,
            upload_index_bytes: 0,
            upload_bytes: 0,
            download_params: 0,
            download_bytes: 0,
            lost_download_bytes: 0,
            late_upload_bytes: 0,
            dropped: Vec::new(),
            late: Vec::new(),
            simulated_seconds: None,
            watt_hours: None,
            staleness: None,
            skipped: Vec::new(),
            in_flight: 0,
            no_room_for: Vec::new(),
            personal_accuracy: None,
            personal_loss: None,
            personal_macro_f1: None,
            personal_matthews: None,
            personal_pearson: None,
            personal_spearman: None,
            personal_f1: None,
            client_accuracy: None,
            personalised: None,
            slot_overlap: None,
            slot_overlap_by_chance: None,
            seconds: 0.0,
            train_seconds: 0.0,
            times: None,
            tokens: 0,
            ..self
        }
    }
}

/// How a score is spread over the clients that have test rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClientSpread {
    /// Clients.
    pub clients: usize,
    /// Their mean, each counting once.
    pub mean: f64,
    /// The mean of the worst tenth of them, at least one.
    pub worst_decile: f64,
    /// Their sample standard deviation; 0 of one client.
    pub deviation: f64,
}

impl ClientSpread {
    /// Of the clients' scores; `None` where there are none.
    pub fn of(mut scores: Vec<f64>) -> Option<ClientSpread> {
        scores.sort_by(f64::total_cmp);
        let n = scores.len();
        let mean = |scores: &[f64]| scores.iter().sum::<f64>() / scores.len() as f64;
        let all = if n > 0 { mean(&scores) } else { return None };
        let squares: f64 = scores.iter().map(|score| (score - all).powi(2)).sum();
        let deviation = if n > 1 { (squares / (n - 1) as f64).sqrt() } else { 0.0 };
        Some(ClientSpread { clients: n, mean: all, worst_decile: mean(&scores[..n.div_ceil(10)]), deviation })
    }
}

/// What it gains that each client fine-tunes the last round's model on its own training rows: accuracies on the clients' own test
/// rows, 0 to 1, over the clients that have such, each counting once.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Personalised {
    /// Before, by the global model; where clients keep a part of the model, each by its own.
    pub before: ClientSpread,
    /// Each by its own, fine-tuned.
    pub after: ClientSpread,
    /// `after.mean − before.mean`.
    pub gain: f64,
    /// Clients whose accuracy is lower than before.
    pub worse: usize,
}

impl Personalised {
    /// Of every client's accuracy before and after; `None` where there are none.
    pub fn of(pairs: &[[f64; 2]]) -> Option<Personalised> {
        let spread = |at: usize| ClientSpread::of(pairs.iter().map(|pair| pair[at]).collect());
        let (before, after) = (spread(0)?, spread(1)?);
        let worse = pairs.iter().filter(|[before, after]| after < before).count();
        Some(Personalised { before, after, gain: after.mean - before.mean, worse })
    }
}

/// The best round of a run so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BestRound {
    /// Which.
    pub round: usize,
    /// The split that it was chosen by.
    pub on: EvaluateOn,
    /// The score that it was chosen by.
    pub by: BestBy,
    /// What that was.
    pub score: f64,
    /// The test accuracy of the same round; where there is no global model, that of the clients' own models.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub test_accuracy: Option<f64>,
    /// The test loss of the same round, likewise.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub test_loss: Option<f64>,
    /// Evaluations since that were no better.
    pub since: usize,
}

/// Where the wall time of a round goes, in seconds. Parts of training are means over the devices where there are several.
/// On GPUs, where work is queued, every 16th step alone is clocked and its shares are taken for the whole pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// Waiting for packed batches and putting them on the device.
    pub data: f64,
    /// Forward passes of training, probes included.
    pub forward: f64,
    /// Backward passes, layers that are computed again included.
    pub backward: f64,
    /// The clients' optimizer steps.
    pub optimizer: f64,
    /// The server's work with the uploads.
    pub aggregate: f64,
    /// Evaluation of the global model, and of the clients' own.
    pub evaluate: f64,
    /// The rest: folding, choosing slots, reading and counting uploads.
    pub other: f64,
}

impl Times {
    /// Of a round of `seconds`.
    pub fn new(steps: StepTimes, aggregate: f64, evaluate: f64, seconds: f64) -> Times {
        let StepTimes { data, forward, backward, optimizer } = steps;
        let other = (seconds - steps.total() - aggregate - evaluate).max(0.0);
        Times { data, forward, backward, optimizer, aggregate, evaluate, other }
    }
}

/// One row of `clients.jsonl`: a client in a round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClientMetrics {
    /// Round, from 1.
    pub round: usize,
    /// Client, from 0.
    pub client: usize,
    /// Examples in its shard.
    pub examples: usize,
    /// Local optimizer steps, probe not counted.
    pub steps: usize,
    /// Mean loss over its local steps.
    #[serde(deserialize_with = "number_or_null")]
    pub train_loss: f64,
    /// Uploaded scalars.
    pub upload_params: u64,
    /// Bytes of its upload as serialised.
    pub upload_bytes: u64,
    /// The chosen slots of every target, in target order; absent when nothing was selected.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub slots: Option<TargetSlots>,
    /// Accuracy of the new global model on the client's own test shard, when asked for and not empty.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub test_accuracy: Option<f64>,
    /// What kind of `clients.devices` it is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub device: Option<String>,
    /// Seconds that it would have been at it there: download, training, upload.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub simulated_seconds: Option<f64>,
    /// In asynchronous rounds, how many versions of the model had been made since it downloaded.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub staleness: Option<usize>,
    /// Where clients are in groups, the number of its own after this round, from 0.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub group: Option<usize>,
}

impl ClientMetrics {
    /// Of an upload of so many `bytes`; not evaluated.
    pub fn of(round: usize, upload: &Upload, bytes: u64) -> ClientMetrics {
        ClientMetrics {
            round,
            client: upload.client,
            examples: upload.examples,
            steps: upload.steps,
            train_loss: upload.loss,
            upload_params: upload.sent_scalars(),
            upload_bytes: bytes,
            slots: match &upload.slots {
                Slots::Chosen { slots, .. } => Some(slots.clone()),
                Slots::All { .. } | Slots::Given { .. } => None,
            },
            test_accuracy: None,
            device: None,
            simulated_seconds: None,
            staleness: None,
            group: None,
        }
    }
}

/// JSON has no infinities and no NaN; they are written as `null`, and read back as NaN.
fn number_or_null<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// `summary.json`: the run in one object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Name of the run.
    pub name: String,
    /// Where a language model learnt prompts and responses: what a row becomes, its columns in braces; or, in words, whose template
    /// makes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_template: Option<String>,
    /// Strategy name.
    pub strategy: String,
    /// Seed of the run.
    pub seed: u64,
    /// The device, in words.
    pub device: String,
    /// What computed products with frozen weights, and in what: `f32 by gemm (Flex)`. Empty in a run of an older version.
    #[serde(default)]
    pub products: String,
    /// Rounds done.
    pub rounds: usize,
    /// Clients in the federation.
    pub clients: usize,
    /// Test accuracy of the untrained model, 0 to 1, where it was evaluated.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub untrained_accuracy: Option<f64>,
    /// Of a language model, the untrained model's test perplexity.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub untrained_perplexity: Option<f64>,
    /// Of a language model, the test perplexity at the last evaluation.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub final_perplexity: Option<f64>,
    /// Of a language model, the share of test responses that greedy generation gives exactly at the last evaluation.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub final_exact_match: Option<f64>,
    /// Test accuracy at the last evaluation, 0 to 1.
    pub final_accuracy: Option<f64>,
    /// Best test accuracy at any evaluation, 0 to 1.
    pub best_accuracy: Option<f64>,
    /// Where numbers are foretold, Pearson's correlation at the last evaluation: of the global model, or where there is none of the
    /// clients' own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub final_pearson: Option<f64>,
    /// Spearman's, likewise.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub final_spearman: Option<f64>,
    /// Where words are tagged, F1 of the spans at the last evaluation, likewise.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub final_f1: Option<f64>,
    /// Where clients plant a backdoor, how often it was answered at the last evaluation, 0 to 1: `attack_success` of that round.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub final_attack_success: Option<f64>,
    /// The best round by `evaluate.best`, whose model is in `adapter-best`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub best: Option<BestRound>,
    /// Whether the run ended before its last round because `train.stop` says so.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub stopped_early: bool,
    /// Last accuracy of the clients' own models, where they keep a part for themselves, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub personal_accuracy: Option<f64>,
    /// With `evaluate.personalise`, what the clients' fine-tuning after the last round gains.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub personalised: Option<Personalised>,
    /// Uploaded scalars over the run.
    pub upload_params: u64,
    /// Uploaded bytes over the run, as serialised.
    pub upload_bytes: u64,
    /// Downloaded scalars over the run.
    pub download_params: u64,
    /// Downloaded bytes over the run, as serialised.
    pub download_bytes: u64,
    /// Bytes of uploads that came after their round was closed, besides `upload_bytes`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub late_upload_bytes: u64,
    /// Seconds that the run would have taken on the devices and links of `clients.devices`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub simulated_seconds: Option<f64>,
    /// Watt hours that the clients would have drawn there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub watt_hours: Option<f64>,
    /// Scalars of the global adapter (and the head, if trained).
    pub trainable_params: u64,
    /// Wall time of local training, seconds, probes included.
    pub train_seconds: f64,
    /// Real tokens through forward and backward, probes included; through a forward pass alone they count a third.
    pub tokens_trained: u64,
    /// `tokens_trained / train_seconds`.
    pub tokens_per_second: f64,
    /// Peak memory of the process, where known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub peak_memory_bytes: Option<u64>,
    /// The devices' memory, where it is known; absent where the clients are elsewhere.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub memory: Option<MemoryUse>,
}

/// What a run was expected to need of a device's memory, and what it took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemoryUse {
    /// Bytes, from above, of the round with most clients in flight.
    pub estimated: u64,
    /// On the CPU the largest size of the whole process, texts and program included; on GPUs the most that was taken from the
    /// device after a round, memory kept for reuse included.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub peak: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fine_tuning_gains_is_told_client_by_client() {
        assert_eq!(Personalised::of(&[]), None);
        let found = Personalised::of(&[[0.5, 0.75], [0.25, 0.5], [0.75, 0.5]]).expect("clients");
        assert_eq!((found.before.mean, found.before.worst_decile, found.before.clients), (0.5, 0.25, 3));
        assert_eq!((found.after.worst_decile, found.worse), (0.5, 1));
        // 1.75/3 − 1.5/3.
        assert!((found.gain - 0.25 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn a_spread_is_mean_worst_tenth_and_sample_deviation() {
        assert_eq!(ClientSpread::of(vec![]), None);
        let one = ClientSpread::of(vec![0.25]).expect("a client");
        assert_eq!((one.clients, one.mean, one.worst_decile, one.deviation), (1, 0.25, 0.25, 0.0));
        // Eleven clients: the worst tenth are two.
        let scores = [0.9, 0.1, 0.8, 0.2, 0.7, 0.6, 0.5, 0.4, 0.3, 1.0, 0.0];
        let spread = ClientSpread::of(scores.to_vec()).expect("clients");
        assert!((spread.mean - 0.5).abs() < 1e-12 && (spread.worst_decile - 0.05).abs() < 1e-12);
        // 0, 0.1, … 1: the sum of squares is 1.1, over ten.
        assert!((spread.deviation - 0.11f64.sqrt()).abs() < 1e-12);
    }
}
