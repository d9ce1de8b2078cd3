//! The options of `bonfire bench`, and how their values are written.

use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use bonfire_experiment::device::DeviceChoice;
use bonfire_models::{Precision, TargetKind};
use clap::{Args, ValueEnum};
use serde::de::IntoDeserializer;
use serde::{Deserialize, Serialize};

use crate::common::positive;

/// Options of `bench`.
#[derive(Clone, Debug, Args, Serialize)]
pub struct BenchArgs {
    /// What to measure, one or more of these [default: gemm step]
    #[arg(value_enum, value_name = "PART")]
    pub parts: Vec<Part>,
    /// Devices to measure one after another, such as cpu,wgpu [default: the one of --device]
    #[arg(long, value_name = "DEVICES", value_delimiter = ',')]
    pub devices: Vec<DeviceChoice>,
    /// builtin, or a model folder; random weights: minilm, roberta-base, the decoders llama-1b, smollm2-135m, tiny-decoder
    #[arg(long, value_name = "SHAPE", default_value = "builtin")]
    pub shape: Shape,
    /// What is trained [default: classify with an encoder, causal with a decoder]
    #[arg(long, value_enum, value_name = "TASK")]
    pub task: Option<TaskName>,
    /// Virtual clients
    #[arg(long, value_name = "N", default_value = "10", value_parser = at_least_one)]
    pub clients: usize,
    /// Texts of one client in a step
    #[arg(long, value_name = "N", default_value = "32", value_parser = at_least_one)]
    pub batch: usize,
    /// Real tokens of a step with all clients in flight, about; gives --batch by the mean length of made-up texts
    #[arg(long, value_name = "N", conflicts_with_all = ["batch", "data"], value_parser = at_least_one)]
    pub tokens: Option<usize>,
    /// Local steps of a client
    #[arg(long, value_name = "N", default_value = "4", value_parser = at_least_one)]
    pub steps: usize,
    /// Rank of the adapters
    #[arg(long, value_name = "N", default_value = "8", value_parser = at_least_one)]
    pub rank: usize,
    /// LoRA's alpha
    #[arg(long, value_name = "N", default_value = "16", value_parser = positive)]
    pub alpha: f64,
    /// Linears that carry an adapter: all six of a layer, or query and value
    #[arg(long, value_enum, default_value_t = Targets::All)]
    pub targets: Targets,
    /// Whether clients train the classifier head
    #[arg(long, value_enum, default_value_t = Head::Trained)]
    pub head: Head,
    /// What the backbone computes in, as `engine.precision` [default: f32]
    #[arg(long, value_name = "PRECISION", value_parser = precision)]
    pub precision: Option<Precision>,
    /// Short for --precision bf16
    #[arg(long, conflicts_with = "precision")]
    pub bf16: bool,
    /// What the device is said to do at most, in TFLOP/s in this precision: its share stands beside every rate
    #[arg(long, value_name = "X", value_parser = positive)]
    pub peak_tflops: Option<f64>,
    /// Keep each block's input alone and compute the block again (`engine.recompute = "block"`)
    #[arg(long)]
    pub checkpoint: bool,
    /// Method [default: lora-a2 for round, fedit elsewhere]
    #[arg(long, value_enum, value_name = "STRATEGY")]
    pub strategy: Option<Method>,
    /// Ways of training that step compares [default: all of them]
    #[arg(long, value_enum, value_name = "WAYS", value_delimiter = ',')]
    pub ways: Vec<WayName>,
    /// Slots a client may train, per target on average; lora-a2 alone reads it [default: 1]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub budget: Option<usize>,
    /// Length of the made-up texts in tokens: banking77, a number for all, or a range such as 16-64 [default: banking77]
    #[arg(long, value_name = "LENGTHS", conflicts_with = "data")]
    pub lengths: Option<Lengths>,
    /// Train on the texts of this folder instead of made-up ones; needs a shape with a tokenizer
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Training rows of each client, a JSON list of lists [default: dealt at random]
    #[arg(long, value_name = "FILE", requires = "data")]
    pub rows: Option<PathBuf>,
    /// Tokens at which the texts of --data are cut
    #[arg(long, value_name = "N", default_value = "64", value_parser = at_least_one)]
    pub max_length: usize,
    /// Texts in all for scale, whatever the number of clients
    #[arg(long, value_name = "N", default_value = "8192", value_parser = at_least_one)]
    pub examples: usize,
    /// Readings of each figure, after one that is not counted
    #[arg(long, value_name = "N", default_value = "3", value_parser = at_least_one)]
    pub repeats: usize,
    /// Seed of texts, weights and rows
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Also write everything as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Also draw the figures
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// The device's own matrix products, on the shapes of a step
    Gemm,
    /// Each operation of its own against the same composed of Burn's
    Kernels,
    /// Local training: all clients together, one after another, and with Burn's own LoRA
    Step,
    /// A whole round of a federation
    Round,
    /// The same work for more and more clients
    Scale,
    /// What the device can do at most: a large square product in each precision, and memory copied
    Ceiling,
}

/// What can be trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskName {
    /// A class for every text
    Classify,
    /// Every token from those before it
    Causal,
}

/// Ways to train the same clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WayName {
    /// All clients on the device together
    AllInFlight,
    /// As many as the engine chooses
    Auto,
    /// One client after another
    OneInFlight,
    /// One client after another with Burn's own LoRA and optimizer
    BurnApplyLora,
}

/// Which linears carry an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Targets {
    /// All six of every layer
    All,
    /// Query and value
    Qv,
}

impl Targets {
    /// The linears.
    pub fn kinds(self) -> Vec<TargetKind> {
        match self {
            Targets::All => TargetKind::all(),
            Targets::Qv => vec![TargetKind::Query, TargetKind::Value],
        }
    }
}

/// What happens to the classifier head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Head {
    /// Every client trains and uploads it
    Trained,
    /// It stays as it is
    Frozen,
}

/// The strategies by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Alternating freeze and adaptive rank selection
    #[value(name = "lora-a2")]
    #[serde(rename = "lora-a2")]
    LoraA2,
    /// A and B
    #[value(name = "fedit")]
    #[serde(rename = "fedit")]
    FedIt,
    /// B alone
    FfaLora,
    /// A and B in turn
    #[value(name = "rolora")]
    #[serde(rename = "rolora")]
    RoLora,
}

/// The model that is measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub enum Shape {
    /// The backbone that comes with the program.
    Builtin,
    /// All-MiniLM-L6's sizes with random weights.
    MiniLm,
    /// RoBERTa-base's sizes with random weights.
    RobertaBase,
    /// Llama-3.2-1B's sizes with random weights.
    Llama1b,
    /// SmolLM2-135M's sizes with random weights.
    SmolLm2,
    /// A decoder for tests, with random weights.
    TinyDecoder,
    /// A folder in Hugging Face layout.
    Folder(PathBuf),
}

impl FromStr for Shape {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "builtin" => Shape::Builtin,
            "minilm" => Shape::MiniLm,
            "roberta-base" => Shape::RobertaBase,
            "llama-1b" => Shape::Llama1b,
            "smollm2-135m" => Shape::SmolLm2,
            "tiny-decoder" => Shape::TinyDecoder,
            folder => Shape::Folder(folder.into()),
        })
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shape::Builtin => f.write_str("builtin"),
            Shape::MiniLm => f.write_str("minilm"),
            Shape::RobertaBase => f.write_str("roberta-base"),
            Shape::Llama1b => f.write_str("llama-1b"),
            Shape::SmolLm2 => f.write_str("smollm2-135m"),
            Shape::TinyDecoder => f.write_str("tiny-decoder"),
            Shape::Folder(folder) => write!(f, "{}", folder.display()),
        }
    }
}

impl From<Shape> for String {
    fn from(shape: Shape) -> String {
        shape.to_string()
    }
}

/// How long made-up texts are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub enum Lengths {
    /// Spread as in BANKING77.
    Banking77,
    /// All the same.
    Constant(usize),
    /// Any length from one to another, each as likely.
    Between(usize, usize),
}

impl FromStr for Lengths {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("\"{text}\"; expected banking77, a whole number from 2, or a range such as 16-64");
        let number = |text: &str| text.parse().ok().filter(|n| (2..=MOST).contains(n)).ok_or_else(expected);
        match (text, text.split_once('-')) {
            ("banking77", _) => Ok(Lengths::Banking77),
            (_, None) => number(text).map(Lengths::Constant),
            (_, Some((from, to))) => match (number(from)?, number(to)?) {
                (from, to) if from <= to => Ok(Lengths::Between(from, to)),
                _ => Err(expected()),
            },
        }
    }
}

impl BenchArgs {
    /// What the backbone computes in.
    pub fn precision(&self) -> Precision {
        self.precision.unwrap_or(if self.bf16 { Precision::Bf16 } else { Precision::F32 })
    }

    /// What the device is said to do at most, in FLOP/s.
    pub fn peak(&self) -> Option<f64> {
        self.peak_tflops.map(|tera| tera * 1e12)
    }

    /// How long made-up texts are.
    pub fn made_up_lengths(&self) -> Lengths {
        self.lengths.unwrap_or(Lengths::Banking77)
    }
}

impl From<Lengths> for String {
    fn from(lengths: Lengths) -> String {
        match lengths {
            Lengths::Banking77 => "banking77".into(),
            Lengths::Constant(n) => n.to_string(),
            Lengths::Between(from, to) => format!("{from}-{to}"),
        }
    }
}

/// A precision by the name it has in configurations.
fn precision(text: &str) -> Result<Precision, String> {
    Precision::deserialize(text.into_deserializer()).map_err(|error: serde::de::value::Error| error.to_string())
}

/// More than this is a slip of the finger, not a benchmark.
const MOST: usize = 10_000_000;

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if (1..=MOST).contains(&n) => Ok(n),
        _ => Err(format!("expected a whole number from 1 to {MOST}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_read_as_they_are_written() {
        for text in ["builtin", "minilm", "roberta-base", "llama-1b", "smollm2-135m", "tiny-decoder", "some/folder"] {
            assert_eq!(text.parse::<Shape>().map(String::from), Ok(text.to_string()));
        }
        for text in ["banking77", "16", "16-64"] {
            assert_eq!(text.parse::<Lengths>().map(String::from), Ok(text.to_string()));
        }
        assert!(["1", "0", "x", "-3", "5-4", "4-", "1-4"].iter().all(|text| text.parse::<Lengths>().is_err()));
        assert_eq!(precision("bf16"), Ok(Precision::Bf16));
        assert!(precision("f8").is_err_and(|error| error.contains("f32")));
        assert!(["0", "-1", "1.5", "", "10000001"].iter().all(|text| at_least_one(text).is_err()));
    }
}
