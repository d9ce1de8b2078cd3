//! The sections of a configuration that belong to the binary: where the model and the data come from, and the device.
//! The other sections belong to the crates that act on them.

use std::borrow::Cow;
use std::path::PathBuf;

use bonfire_data::{Partition, Score, SplitShares, UnseenLabels};
use bonfire_engine::{EngineSettings, InFlight, Recompute};
use bonfire_models::{ModelDropout, Precision};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::device::Devices;
use crate::repo_name::RepoName;

/// Where weights or data come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Source {
    /// What is embedded in the binary.
    Builtin,
    /// The embedded decoder.
    BuiltinLlama,
    /// A folder that the user must still name: `"?"` in a shipped configuration.
    Unset,
    /// A folder, relative to the current directory.
    Folder(PathBuf),
    /// A repository of the Hugging Face Hub, as `org/name` or `org/name@revision`: `"hf:org/name"`.
    Hub(String),
}

impl Source {
    /// Whether a repository of the Hub is named as one must be.
    pub fn is_well_named(&self) -> bool {
        !matches!(self, Source::Hub(name) if RepoName::parse(name).is_none())
    }

    /// Whether a data set of the Hub is named as one must be, with a folder of it behind or not.
    pub fn is_well_named_data(&self) -> bool {
        !matches!(self, Source::Hub(name) if RepoName::parse_data(name).is_none())
    }

    /// Whether no control character is in it.
    pub fn is_printable(&self) -> bool {
        !String::from(self.clone()).contains(char::is_control)
    }

    /// What PEFT calls the model that an adapter belongs to: a repository's name alone, without `hf:` and revision.
    pub fn base_model(&self) -> String {
        match self {
            Source::Hub(name) => RepoName::parse(name).map_or_else(|| name.clone(), |name| name.id().to_owned()),
            other => String::from(other.clone()),
        }
    }
}

impl From<String> for Source {
    fn from(text: String) -> Self {
        if let Some(name) = text.strip_prefix("hf:") {
            return Source::Hub(name.into());
        }
        match text.as_str() {
            "builtin" => Source::Builtin,
            "builtin-llama" => Source::BuiltinLlama,
            "?" => Source::Unset,
            _ => Source::Folder(text.into()),
        }
    }
}

impl From<Source> for String {
    fn from(source: Source) -> Self {
        match source {
            Source::Builtin => "builtin".into(),
            Source::BuiltinLlama => "builtin-llama".into(),
            Source::Unset => "?".into(),
            Source::Folder(path) => path.display().to_string(),
            Source::Hub(name) => format!("hf:{name}"),
        }
    }
}

impl JsonSchema for Source {
    fn schema_name() -> Cow<'static, str> {
        "Source".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "\"builtin\", a folder relative to the current one, or a repository of the Hugging Face Hub: \
                            \"hf:org/name\" or \"hf:org/name@revision\". \"?\": must be given with --set.",
            "type": "string",
            "examples": ["builtin", "builtin-llama", "hf:org/name"],
        })
    }
}

/// `[model]`: the frozen backbone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelSection {
    /// `"builtin"`, `"builtin-llama"`, a folder in Hugging Face layout, a GGUF file, or `"hf:org/name"`.
    pub path: Source,
    /// For a GGUF file: a folder with its `tokenizer.json`; left out: it lies beside the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// What it learns.
    #[serde(default)]
    pub task: TaskKind,
    /// For a classifier: draw a head even where the checkpoint has one, which may be for other classes.
    #[serde(default, skip_serializing_if = "is_false")]
    pub new_head: bool,
    /// Shares that the model drops in local training; left out: none, whatever its `config.json` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropout: Option<ModelDropout>,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// What a model learns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TaskKind {
    /// A text's label.
    #[default]
    Classification,
    /// Any number of labels of a text, each for itself (`problem_type = "multi_label_classification"` elsewhere): the loss is the mean
    /// binary cross-entropy of texts and labels, and said is what has a probability above 0.5.
    MultiLabel,
    /// A number of a text or of a pair of texts, such as how alike two sentences are: the head has one output, its loss is the mean
    /// squared error, and scores are Pearson's and Spearman's correlation.
    Regression,
    /// A tag for every word of a sentence, such as the names in it: the head reads the first token of a word, the loss is the mean
    /// cross-entropy of the words, and scores are those of spans, as seqeval finds them.
    TokenClassification,
    /// The tokens of a text, or of the answer to a prompt, each from those before it.
    CausalLm,
}

/// `[data]`: the texts and how they are dealt out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataSection {
    /// `"builtin"`, a folder with train and test as JSONL, JSON, CSV, TSV or Parquet, one such file, or
    /// `"hf:org/name"`, or a folder of it, `"hf:org/name/folder"`.
    pub path: Source,
    /// For a classifier: the column of the text, or the two of a pair, `["premise", "hypothesis"]`; for a causal language model the
    /// column of plain texts; for tagged words the column of the words, by its number from 1 in files without a header. Dots lead into
    /// nested fields. Left out: `text`, or the one column that can be meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<TextColumns>,
    /// The column of the label, or of the words' tags; with `model.task = "multi-label"` also several columns, each 0 or 1. Left out:
    /// `label`, or the one column that can be meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<LabelColumns>,
    /// The training split, as a file or folder in `path`, or how its files' names begin. Left out: what is called train.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train: Option<String>,
    /// The validation split, likewise. Left out: what is called validation, valid, val, dev or eval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<String>,
    /// The test split, likewise. Left out: what is called test; where there is none, the validation split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<String>,
    /// Shares of the training rows, drawn by `train.seed`, that become other splits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<SplitShares>,
    /// What becomes of test rows whose label no training row has.
    #[serde(default)]
    pub unseen_labels: UnseenLabels,
    /// For a causal language model: the prompt, with columns in braces. Left out: the columns say what rows are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// With `prompt`: the response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<String>,
    /// For a causal language model: what is scored in conversations.
    #[serde(default)]
    pub score: Score,
    /// Longest sequence in tokens, special tokens included; longer texts are cut.
    #[serde(default = "sixty_four")]
    pub max_length: usize,
    /// Keep only the first so many labels; left out: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<usize>,
    /// Fewest training examples a client may hold.
    #[serde(default = "one")]
    pub min_shard: usize,
    /// Which client holds which examples.
    pub partition: Partition,
}

/// The column of the label, or one for each label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum LabelColumns {
    /// A column that says which label a row has, or which ones.
    One(String),
    /// A column for each label, which says by 1 that a row has it.
    Each(Vec<String>),
}

/// The column of the text, or the two of a pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum TextColumns {
    /// One column.
    One(String),
    /// Two, in this order.
    Pair([String; 2]),
}

impl TextColumns {
    /// Their names.
    pub fn names(&self) -> Vec<String> {
        match self {
            TextColumns::One(name) => vec![name.clone()],
            TextColumns::Pair(names) => names.to_vec(),
        }
    }
}

fn sixty_four() -> usize {
    64
}
fn one() -> usize {
    1
}
fn two() -> usize {
    2
}

/// `[save]`: how often a run writes down all that it needs to go on after it was cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SaveSection {
    /// Rounds between checkpoints; one is always written when the run stops by itself.
    #[serde(default = "one")]
    pub every: usize,
    /// Newest checkpoints that are kept; `--resume RUN --round N` goes back to any of them. Two: one that is good while the next
    /// is written.
    #[serde(default = "two")]
    pub keep: usize,
}

impl Default for SaveSection {
    fn default() -> Self {
        SaveSection { every: one(), keep: two() }
    }
}

/// `[track]`: files for other tools that follow a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrackSection {
    /// Event files for TensorBoard, in `RUN/tensorboard`.
    #[serde(default)]
    pub tensorboard: bool,
    /// `RUN/metrics.csv`, a row a round.
    #[serde(default)]
    pub csv: bool,
    /// A log for Weights & Biases, in `RUN/wandb`, which `wandb sync` uploads.
    #[serde(default)]
    pub wandb: bool,
    /// The address of an MLflow tracking server, such as `"http://127.0.0.1:5000"`, to which rounds are sent as they end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mlflow: Option<String>,
    /// The address of a Trackio server, such as `"http://127.0.0.1:7860"`, to which rounds are sent as they end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trackio: Option<String>,
}

/// `[engine]`: how the work is put on the device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EngineSection {
    /// Clients on the device together: `"auto"` or a number.
    #[serde(default)]
    pub in_flight: InFlight,
    /// Real tokens a step should hold where the number of clients in flight is chosen by the engine (`in_flight =
    /// "auto"`). Left out: what the kind of device likes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_step: Option<usize>,
    /// Device memory to plan with, in GB (10⁹ bytes). Left out: what the device says it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_gb: Option<f64>,
    /// What the forward pass keeps for the backward pass.
    #[serde(default)]
    pub recompute: Recompute,
    /// Numbers that the frozen weights and the activations are held in, and multiplied in.
    #[serde(default)]
    pub precision: Precision,
    /// Which device; `--device` goes before it.
    #[serde(default)]
    pub device: Devices,
}

impl EngineSection {
    /// What the engine reads of it.
    pub fn settings(&self) -> EngineSettings {
        let EngineSection { in_flight, tokens_per_step, memory_gb, recompute, precision, device: _ } = *self;
        EngineSettings { in_flight, tokens_per_step, memory_gb, recompute, precision }
    }
}
