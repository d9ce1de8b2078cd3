//! The sections of a configuration that belong to the binary: where the model and the data come from, and the device.
//! The other sections belong to the crates that act on them.

use std::path::{Path, PathBuf};

use bonfire_data::Partition;
use bonfire_engine::InFlight;
use serde::{Deserialize, Serialize};

use crate::device::Devices;

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
}

impl Source {
    /// The folder, unless it is the embedded one.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Source::Folder(path) => Some(path),
            _ => None,
        }
    }
}

impl From<String> for Source {
    fn from(text: String) -> Self {
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
        }
    }
}

/// `[model]`: the frozen backbone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSection {
    /// `"builtin"`, `"builtin-llama"`, or a folder in Hugging Face layout.
    pub path: Source,
    /// What it learns.
    #[serde(default)]
    pub task: TaskKind,
}

/// What a model learns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskKind {
    /// A text's label.
    #[default]
    Classification,
    /// The tokens of a text, or of the answer to a prompt, each from those before it.
    CausalLm,
}

/// `[data]`: the texts and how they are dealt out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSection {
    /// `"builtin"`, or a folder with train and test as JSONL or CSV.
    pub path: Source,
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

fn sixty_four() -> usize {
    64
}
fn one() -> usize {
    1
}

/// `[engine]`: how the work is put on the device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineSection {
    /// Clients on the device together: `"auto"` or a number.
    #[serde(default)]
    pub in_flight: InFlight,
    /// Which device; `--device` goes before it.
    #[serde(default)]
    pub device: Devices,
}
