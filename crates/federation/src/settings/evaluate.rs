//! `[evaluate]`: when and by what the global model is evaluated, and which round counts as the best.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Personalise;
use crate::RoundMetrics;

/// When and how the global model is evaluated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EvaluateSettings {
    /// Rounds between evaluations; the last round is always evaluated.
    #[serde(default = "every_round")]
    pub every: usize,
    /// Whether the model is also evaluated before its first round, as round 0. Left out: unless that takes longer than a round's
    /// training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<bool>,
    /// Also evaluate on each client's own test shard.
    #[serde(default)]
    pub per_client: bool,
    /// After the last round each client fine-tunes the model on its own training rows and is tested on its own test rows, beside
    /// what it had: nothing of it is sent or kept. Left out: nobody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub personalise: Option<Personalise>,
    /// The split that the best round is chosen by.
    #[serde(default)]
    pub on: EvaluateOn,
    /// What makes a round the best: its model is kept in `adapter-best`. Left out: no round is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<BestBy>,
}

fn every_round() -> usize {
    1
}

impl Default for EvaluateSettings {
    fn default() -> Self {
        EvaluateSettings {
            every: 1,
            before: None,
            per_client: false,
            personalise: None,
            on: EvaluateOn::Test,
            best: None,
        }
    }
}

/// The split that the best round is chosen by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EvaluateOn {
    /// The test split: what papers do that have no other, and a little too good.
    #[default]
    Test,
    /// The validation split, evaluated beside the test split; `data.split = { validation = 0.1 }` draws one.
    Validation,
}

impl EvaluateOn {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            EvaluateOn::Test => "test",
            EvaluateOn::Validation => "validation",
        }
    }
}

/// What makes a round the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BestBy {
    /// The highest accuracy.
    Accuracy,
    /// The lowest loss; of a language model, the lowest perplexity.
    Loss,
    /// The highest mean F1 of all classes.
    MacroF1,
    /// The highest F1 over all answers together; where every text has one label that is the accuracy.
    MicroF1,
    /// The highest correlation of Matthews.
    Matthews,
    /// Where numbers are foretold, the highest correlation of Pearson.
    Pearson,
    /// Where numbers are foretold, the highest correlation of Spearman.
    Spearman,
    /// Where words are tagged, the highest F1 of the spans.
    F1,
}

impl BestBy {
    /// The number in a round's row; `None`: it was not evaluated. Where there is no global model, the clients' own models are what is
    /// tested.
    pub fn of(self, on: EvaluateOn, row: &RoundMetrics) -> Option<f64> {
        use {BestBy as By, EvaluateOn as On};
        match (on, self) {
            (On::Test, By::Accuracy) => row.test_accuracy.or(row.personal_accuracy),
            (On::Test, By::Loss) => row.test_loss.or(row.personal_loss),
            (On::Test, By::MacroF1) => row.test_macro_f1.or(row.personal_macro_f1),
            (On::Test, By::MicroF1) => row.test_micro_f1.or(row.personal_accuracy),
            (On::Test, By::Matthews) => row.test_matthews.or(row.personal_matthews),
            (On::Test, By::Pearson) => row.test_pearson.or(row.personal_pearson),
            (On::Test, By::Spearman) => row.test_spearman.or(row.personal_spearman),
            (On::Test, By::F1) => row.test_f1.or(row.personal_f1),
            (On::Validation, By::Accuracy) => row.validation_accuracy,
            (On::Validation, By::Loss) => row.validation_loss,
            (On::Validation, By::MacroF1) => row.validation_macro_f1,
            (On::Validation, By::MicroF1) => row.validation_micro_f1,
            (On::Validation, By::Matthews) => row.validation_matthews,
            (On::Validation, By::Pearson) => row.validation_pearson,
            (On::Validation, By::Spearman) => row.validation_spearman,
            (On::Validation, By::F1) => row.validation_f1,
        }
    }

    /// Whether `new` is better than `old`; of equals the earlier round stays, and no number is better than none.
    pub fn is_better(self, new: f64, old: f64) -> bool {
        let better = if self == BestBy::Loss { new < old } else { new > old };
        better || (old.is_nan() && !new.is_nan())
    }

    /// Whether it is a score of classes.
    pub fn is_of_classes(self) -> bool {
        matches!(self, BestBy::MacroF1 | BestBy::MicroF1 | BestBy::Matthews)
    }

    /// Whether it is a score of numbers that are foretold.
    pub fn is_of_numbers(self) -> bool {
        matches!(self, BestBy::Pearson | BestBy::Spearman)
    }

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            BestBy::Accuracy => "accuracy",
            BestBy::Loss => "loss",
            BestBy::MacroF1 => "macro F1",
            BestBy::MicroF1 => "micro F1",
            BestBy::Matthews => "Matthews' correlation",
            BestBy::Pearson => "Pearson's correlation",
            BestBy::Spearman => "Spearman's correlation",
            BestBy::F1 => "F1 of spans",
        }
    }
}
