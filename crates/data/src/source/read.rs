//! What a user may say of a data set: which files are its splits, which columns its texts and labels.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Wording;
use crate::DataError;

/// How a data set is to be read. The default reads a labelled set whose columns say themselves what they are.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// Whether rows are for a causal language model.
    pub causal: bool,
    /// Whether a row's label is a number that is foretold as such, and no class.
    pub numbers: bool,
    /// Whether a row may have any number of labels.
    pub several: bool,
    /// Whether rows are sentences whose words have tags.
    pub words: bool,
    /// With `several`: the columns of the labels, each of which says by 0 or 1 whether a row has it; none: a column lists them.
    pub label_columns: Vec<String>,
    /// The column that a natural partition splits by: any scalar, needed in every training row.
    pub group: Option<String>,
    /// How prompts and responses are made of a row's columns.
    pub wording: Option<Wording>,
    /// The column of the text, or the two of a pair; none: found out.
    pub text: Vec<String>,
    /// The column of the label; none: found out.
    pub label: Option<String>,
    /// What becomes of rows whose label no training row has.
    pub unseen: UnseenLabels,
    /// The training split, by a file, a folder or how its files begin.
    pub train: Option<String>,
    /// The validation split, likewise.
    pub validation: Option<String>,
    /// The test split, likewise.
    pub test: Option<String>,
    /// Shares of the training rows that become other splits.
    pub shares: Option<SplitShares>,
    /// By what rows are drawn for them.
    pub seed: u64,
    /// Whether this is what one site or the server of a federation has: splits may be missing, and since nobody sees all rows,
    /// labels must be listed in a file.
    pub part: bool,
}

/// What becomes of test rows whose label no training row has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum UnseenLabels {
    /// They are left out and counted.
    #[default]
    Drop,
    /// They are an error.
    Refuse,
}

/// What is scored in a conversation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Score {
    /// Every turn of the assistant's.
    #[default]
    All,
    /// The last one.
    Last,
}

/// Shares of the training rows, drawn by the seed, that become other splits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SplitShares {
    /// The share of the test split, from 0 to below 1.
    #[serde(default)]
    pub test: f64,
    /// The share of the validation split, from 0 to below 1.
    #[serde(default)]
    pub validation: f64,
}

impl SplitShares {
    /// How many of `rows` go to validation and test; at least one for a share above 0.
    ///
    /// # Errors
    /// [`DataError::Setting`] for shares that are none, and where no training row would be left.
    pub(super) fn counts(&self, rows: usize) -> Result<(usize, usize), DataError> {
        let wrong = |problem: String| DataError::Setting {
            key: "split",
            value: format!("{{ test = {}, validation = {} }}", self.test, self.validation),
            problem,
            expected: "shares from 0 to below 1 that leave rows to train on, such as { test = 0.2 }".to_owned(),
        };
        if [self.test, self.validation].iter().any(|share| !(0.0..1.0).contains(share)) {
            return Err(wrong("a share is outside 0 to 1".to_owned()));
        }
        let count = |share: f64| if share > 0.0 { ((rows as f64 * share).round() as usize).max(1) } else { 0 };
        let (validation, test) = (count(self.validation), count(self.test));
        match validation + test {
            0 => Err(wrong("both shares are 0".to_owned())),
            taken if taken >= rows => Err(wrong(format!("of {rows} training rows none would be left"))),
            _ => Ok((validation, test)),
        }
    }
}
