//! A configuration as data: the sections, and what in them cannot work.

use bonfire_engine::{Problem, TrainSettings, WireSettings};
use bonfire_federation::{
    AdapterSettings, AttackSettings, BestBy, ClientSettings, EvaluateSettings, PrivacySettings, ServerSettings,
    Settings, StrategySettings,
};
use bonfire_models::Dropout;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::sections::{
    DataSection, EngineSection, LabelColumns, ModelSection, SaveSection, Source, TaskKind, TextColumns, TrackSection,
};
use crate::repo_name::RepoName;

/// What `train` runs when no file is named: `configs/quickstart.toml`, of which this crate's package needs a copy of its own.
pub const QUICKSTART: &str = include_str!("starters/quickstart.toml");

/// What is said of a path that is still to be named.
pub(super) const NOT_SET: &str = "is not set";

/// What is said of a path in which TOML has read `\t` or `\n` of a Windows path as a tab or the end of a line.
const ESCAPED: &str = "holds a control character: between double quotes TOML reads `\\t`, `\\n` and the like as one; \
                       write the path between single quotes or with `/`";

/// A checked configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Name of the run; left out: the file's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The frozen backbone.
    pub model: ModelSection,
    /// The texts and how they are dealt out.
    pub data: DataSection,
    /// Who takes part.
    pub clients: ClientSettings,
    /// The adapter all clients share.
    pub adapter: AdapterSettings,
    /// Local training.
    pub train: TrainSettings,
    /// How uploads become the next global adapter.
    pub strategy: StrategySettings,
    /// How movements are combined, where the strategy averages them.
    #[serde(default)]
    pub server: ServerSettings,
    /// What is done so that an upload tells little about its client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy: Option<PrivacySettings>,
    /// Clients that mean harm, for experiments; left out: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attack: Option<AttackSettings>,
    /// How messages are written: in fewer bits, only the largest numbers, packed; left out: f32.
    #[serde(default, skip_serializing_if = "is_plain")]
    pub wire: WireSettings,
    /// How the work is put on the device.
    #[serde(default)]
    pub engine: EngineSection,
    /// When and how the global model is evaluated.
    #[serde(default)]
    pub evaluate: EvaluateSettings,
    /// How often the run is saved.
    #[serde(default)]
    pub save: SaveSection,
    /// Files for other tools that follow a run.
    #[serde(default)]
    pub track: TrackSection,
}

/// Whether messages are written as ever.
fn is_plain(wire: &WireSettings) -> bool {
    *wire == WireSettings::default()
}

impl RunConfig {
    /// What the federation reads of it.
    pub fn settings(&self) -> Settings {
        Settings {
            clients: self.clients.clone(),
            adapter: self.adapter.clone(),
            train: self.train.clone(),
            strategy: self.strategy.clone(),
            server: self.server,
            privacy: self.privacy,
            attack: self.attack.clone(),
            wire: self.wire,
            evaluate: self.evaluate.clone(),
            engine: self.engine.settings(),
        }
    }

    /// What its clients drop in local training.
    pub fn dropout(&self) -> Dropout {
        Dropout { model: self.model.dropout.unwrap_or_default(), adapter: self.adapter.dropout }
    }

    /// The run's name.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or("run")
    }

    /// The partition's kind and values in words, as `dirichlet, alpha 0.1`.
    pub fn partition_words(&self) -> String {
        let table = toml::Table::try_from(&self.data.partition).unwrap_or_default();
        let values = table.iter().filter(|(key, _)| *key != "kind").map(|(key, value)| format!(", {key} {value}"));
        let kind = table.get("kind").and_then(toml::Value::as_str).unwrap_or_default();
        format!("{kind}{}", values.collect::<String>())
    }

    /// The configuration as TOML, all defaults written out.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("settings are plain tables, numbers and text")
    }

    /// The first value that cannot work, as `(key, what would be right)`.
    pub(super) fn problem(&self) -> Option<Problem> {
        self.own_problem().or_else(|| self.settings().problem())
    }

    /// The first problem in the parts that are not the federation's.
    fn own_problem(&self) -> Option<Problem> {
        if let Some((key, what)) = self.model.dropout.and_then(|dropout| dropout.problem()) {
            return Some(Problem::new(key, format!("must be {what}")));
        }
        let file_name = |name: &str| {
            let fits = |c: char| c.is_alphanumeric() || "-_.".contains(c);
            !name.is_empty() && !name.starts_with('.') && name.chars().all(fits)
        };
        let checks = [
            (
                "name",
                self.name.as_deref().is_none_or(file_name),
                "must be letters, digits, `-`, `_` and `.`: it names the run's folder",
            ),
            ("model.path", self.model.path.is_printable(), ESCAPED),
            ("data.path", self.data.path.is_printable(), ESCAPED),
            ("model.path", self.model.path != Source::Unset, NOT_SET),
            ("data.path", self.data.path != Source::Unset, NOT_SET),
            ("model.path", self.model.path.is_well_named(), RepoName::FORM),
            ("data.path", self.data.path.is_well_named_data(), RepoName::DATA_FORM),
            (
                "track.trackio",
                self.track.trackio.as_deref().is_none_or(|at| at.starts_with("http://") || at.starts_with("https://")),
                "must be the address of a Trackio server, such as \"http://127.0.0.1:7860\"",
            ),
            (
                "track.trackio",
                self.track.trackio.as_deref().is_none_or(|at| !at.contains("write_token")),
                "must be the address alone, since it is kept in config.toml: the token goes into the variable TRACKIO_WRITE_TOKEN",
            ),
            (
                "track.mlflow",
                self.track.mlflow.as_deref().is_none_or(|at| at.starts_with("http://") || at.starts_with("https://")),
                "must be the address of a tracking server, such as \"http://127.0.0.1:5000\"",
            ),
            (
                "data.max_length",
                self.data.max_length >= 3,
                "must be at least 3: a text's first and last special token and one of its own",
            ),
            (
                "evaluate.best",
                self.evaluate.best.is_none_or(|best| self.model.task.has_score(best)),
                self.model.task.scores(),
            ),
            (
                "train.label_smoothing",
                self.train.label_smoothing == 0.0 || self.model.task != TaskKind::Regression,
                "smooths classes, and a model that foretells numbers has none; leave it out",
            ),
            (
                "train.label_smoothing",
                self.train.label_smoothing == 0.0 || self.model.task != TaskKind::MultiLabel,
                "smooths classes of which a text has one, and here it may have any number of labels; leave it out",
            ),
            (
                "data.labels",
                self.data.labels.is_none()
                    || !matches!(self.model.task, TaskKind::MultiLabel | TaskKind::TokenClassification),
                "keeps the rows of some labels, and here a row may have several; leave it out",
            ),
            (
                "data.label",
                self.model.task == TaskKind::MultiLabel || !matches!(self.data.label, Some(LabelColumns::Each(_))),
                "names several columns, which are for model.task = \"multi-label\"",
            ),
            (
                "data.label",
                !matches!(&self.data.label, Some(LabelColumns::Each(names)) if names.len() < 2 || (1..names.len()).any(|at| names[..at].contains(&names[at]))),
                "must name two different columns at least, or one as text",
            ),
            (
                "data.text",
                self.model.task != TaskKind::TokenClassification
                    || !matches!(&self.data.text, Some(TextColumns::Pair(_))),
                "names a pair, and a sentence's words are in one column",
            ),
            (
                "strategy.name",
                !matches!(self.strategy, StrategySettings::Dfl { .. }) || self.model.task != TaskKind::MultiLabel,
                "is dfl, which pushes its branches' distributions over classes apart; where a text may have any number of labels there is \
                 none",
            ),
            (
                "data.labels",
                self.data.labels.is_none() || self.model.task != TaskKind::Regression,
                "keeps classes, and numbers are none; leave it out",
            ),
            (
                "strategy.name",
                !matches!(self.strategy, StrategySettings::Dfl { .. }) || self.model.task != TaskKind::Regression,
                "is dfl, which pushes its branches' distributions over classes apart; a model that foretells numbers has none",
            ),
            (
                "train.stop",
                self.train.stop.is_none() || self.evaluate.best.is_some(),
                "waits for something to become better: say what with evaluate.best = \"accuracy\" or \"loss\"",
            ),
            (
                "evaluate.personalise",
                self.evaluate.personalise.is_none() || self.model.task != TaskKind::Regression,
                "tells accuracies, and a model that foretells numbers has none; leave it out",
            ),
            ("save.every", self.save.every >= 1, "must be at least 1"),
            (
                "save.keep",
                self.save.keep >= 2,
                "must be at least 2: one checkpoint that is good while the next is written",
            ),
            ("data.labels", self.data.labels.is_none_or(|n| n >= 2), "must be at least 2"),
            (
                "data.text",
                self.data.text.is_none() || self.data.prompt.is_none(),
                "names the texts, and data.prompt and data.response make them: set one of both",
            ),
            (
                "data.text",
                self.model.task != TaskKind::CausalLm || !matches!(&self.data.text, Some(TextColumns::Pair(_))),
                "names a pair, which is for classifiers; a language model learns one column, or data.prompt and data.response",
            ),
            (
                "data.split",
                self.data.split.is_none_or(|s| {
                    [s.test, s.validation].iter().all(|share| (0.0..1.0).contains(share))
                        && s.test + s.validation > 0.0
                        && s.test + s.validation < 1.0
                }),
                "must hold shares from 0 that leave rows to train on, such as { test = 0.2, validation = 0.1 }",
            ),
            (
                "data.prompt",
                self.data.prompt.is_some() || self.data.response.is_none(),
                "is not set, but data.response is: set both or neither",
            ),
            (
                "data.response",
                self.data.response.is_some() || self.data.prompt.is_none(),
                "is not set, but data.prompt is: set both or neither",
            ),
            (
                "data.prompt",
                self.data.prompt.is_none() || self.model.task == TaskKind::CausalLm,
                "is for causal language models: set model.task = \"causal-lm\", or leave it and data.response out",
            ),
        ];
        checks.into_iter().find(|(_, fine, _)| !fine).map(|(key, _, what)| Problem::new(key, what))
    }
}

impl TaskKind {
    /// Whether a round can be the best by this score.
    fn has_score(self, by: BestBy) -> bool {
        match self {
            TaskKind::Classification => !by.is_of_numbers() && by != BestBy::F1,
            TaskKind::MultiLabel => {
                matches!(by, BestBy::Accuracy | BestBy::Loss | BestBy::MacroF1 | BestBy::MicroF1)
            }
            TaskKind::TokenClassification => matches!(by, BestBy::F1 | BestBy::Accuracy | BestBy::Loss),
            TaskKind::Regression => by.is_of_numbers() || by == BestBy::Loss,
            TaskKind::CausalLm => matches!(by, BestBy::Loss | BestBy::Accuracy),
        }
    }

    /// What such a task has.
    fn scores(self) -> &'static str {
        match self {
            TaskKind::Classification => {
                "is no score of it; a classifier has \"accuracy\", \"loss\", \"macro-f1\", \"micro-f1\" and \"matthews\""
            }
            TaskKind::MultiLabel => {
                "is no score of it; where a text may have several labels there are \"micro-f1\", \"macro-f1\", \"accuracy\" and \"loss\""
            }
            TaskKind::TokenClassification => {
                "is no score of it; where words are tagged there are \"f1\", \"accuracy\" and \"loss\""
            }
            TaskKind::Regression => {
                "is a score of classes; where numbers are foretold there are \"pearson\", \"spearman\" and \"loss\""
            }
            TaskKind::CausalLm => "is a score of classes or numbers; a language model has \"loss\" and \"accuracy\"",
        }
    }
}
