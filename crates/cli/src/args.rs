//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::commands::bench::BenchArgs;
use crate::commands::compare::CompareArgs;
use crate::commands::config::ConfigArgs;
use crate::commands::cost::CostArgs;
use crate::commands::doctor::DoctorArgs;
use crate::commands::manual::{CompletionsArgs, ManArgs};
use crate::commands::self_test::SelfTestArgs;
use crate::device::Devices;
use crate::examples;
use crate::log::LogFormat;
use crate::user_error::UserError;

/// GPU-native federated LoRA fine-tuning: many virtual clients train side by side on one device.
#[derive(Debug, Parser)]
#[command(name = "bonfire", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = examples::ALL)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// What holds for every command.
    #[command(flatten)]
    pub common: Common,
}

impl Cli {
    /// Reads the command line; leaves the program with a message if it cannot be.
    pub fn read(args: impl IntoIterator<Item = OsString>) -> Cli {
        let cli = Cli::parse_from(args);
        match cli.problem() {
            None => cli,
            Some(problem) => Cli::command().error(ErrorKind::ArgumentConflict, problem).exit(),
        }
    }

    /// Options that exclude each other. By hand: clap compares a global option only with those on its side of the command.
    fn problem(&self) -> Option<&'static str> {
        let Command::Train(TrainArgs { tui: true, .. }) = &self.command else { return None };
        match &self.common {
            Common { quiet: true, .. } => Some("the argument '--tui' cannot be used with '--quiet'"),
            Common { log_format: LogFormat::Json, .. } => {
                Some("the argument '--tui' cannot be used with '--log-format json'")
            }
            _ => None,
        }
    }
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// auto, cpu, wgpu, vulkan or cuda; a GPU also with its number; several with commas: cuda:0,cuda:1
    #[arg(long, global = true, value_name = "DEVICE")]
    pub device: Option<Devices>,
    /// Override a key of the configuration; may be given again
    #[arg(long = "set", global = true, value_name = "SECTION.KEY=VALUE")]
    pub sets: Vec<String>,
    /// Print only the result
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// What is printed: lines for people, or a JSON object a line
    #[arg(long, global = true, value_enum, value_name = "FORMAT", default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

impl Common {
    /// For a command without a configuration to override.
    ///
    /// # Errors
    /// There is a `--set`; `way_out` says what to do instead.
    pub fn refuse_sets(&self, command: &str, way_out: &str) -> Result<(), UserError> {
        match self.sets.first() {
            Some(set) => {
                let what = format!("{command} reads no configuration, so `--set {set}` changes nothing");
                Err(UserError::new(what).help(way_out))
            }
            None => Ok(()),
        }
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a federation; without CONFIG the built-in quickstart
    #[command(after_help = examples::TRAIN)]
    Train(TrainArgs),
    /// Run strategies side by side on the same data and seeds, and put them in a table and in pictures
    #[command(after_help = examples::COMPARE)]
    Compare(Box<CompareArgs>),
    /// Measure a run's adapter on the test split
    #[command(after_help = examples::EVALUATE)]
    Evaluate(EvaluateArgs),
    /// Continue a prompt with a run's language model
    #[command(after_help = examples::GENERATE)]
    Generate(GenerateArgs),
    /// Count what a federation would send, before anything is trained
    #[command(after_help = examples::COST)]
    Cost(CostArgs),
    /// Show which client holds which labels
    #[command(after_help = examples::PARTITION)]
    Partition(PartitionArgs),
    /// Write a run's adapter for other tools
    #[command(after_help = examples::EXPORT)]
    Export(ExportArgs),
    /// Put runs into one HTML page: curves, traffic, partition, slots, times
    #[command(after_help = examples::REPORT)]
    Report(ReportArgs),
    /// Measure how fast a device is for this work, and how far from its limit
    #[command(after_help = examples::BENCH)]
    Bench(Box<BenchArgs>),
    /// Show what devices are there, and check that each computes right
    #[command(after_help = examples::DOCTOR)]
    Doctor(DoctorArgs),
    /// Check a device thoroughly: operations against f64, small models against PyTorch
    #[command(after_help = examples::SELF_TEST)]
    SelfTest(SelfTestArgs),
    /// Check a configuration and show it with all defaults; write one with every key; print its schema
    #[command(after_help = examples::CONFIG)]
    Config(ConfigArgs),
    /// Print a script that completes commands and options in a shell
    #[command(after_help = examples::COMPLETIONS)]
    Completions(CompletionsArgs),
    /// Print the man page
    #[command(after_help = examples::MAN)]
    Man(ManArgs),
}

/// Options of `train`.
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// Configuration file
    pub config: Option<PathBuf>,
    /// Run folder [default: runs/<name>-<time>]
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    pub out: Option<PathBuf>,
    /// Go on with the run in this folder after its last checkpoint; its own configuration holds, unless CONFIG is given
    #[arg(long, value_name = "RUN")]
    pub resume: Option<PathBuf>,
    /// Go on after this round instead of the last one that was saved; what the run has of later rounds goes
    #[arg(long, value_name = "N", requires = "resume")]
    pub round: Option<usize>,
    /// Go on although the configuration is not what it was
    #[arg(long, requires = "resume")]
    pub accept_changes: bool,
    /// Watch the run on a dashboard that fills the terminal; ? there explains its keys
    #[arg(long)]
    pub tui: bool,
}

/// Options of `evaluate`.
#[derive(Debug, Args)]
pub struct EvaluateArgs {
    /// Run folder, as left by `train`
    pub run: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Which split to measure on
    #[arg(long, value_enum, default_value_t = SplitName::Test)]
    pub split: SplitName,
    /// Also write a JSON line for every example: what was right, what was said, how sure
    #[arg(long, value_name = "FILE")]
    pub predictions: Option<PathBuf>,
}

/// A split of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum SplitName {
    /// The rows that clients train on
    Train,
    /// The rows by which settings may be chosen
    Validation,
    /// The rows that measure
    Test,
}

/// Options of `generate`.
#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// Run folder, as left by `train`
    pub run: PathBuf,
    /// Text to continue; - reads it from standard input
    #[arg(long, value_name = "TEXT")]
    pub prompt: String,
    /// The prompt is what a user says: put it into the model's chat template
    #[arg(long)]
    pub chat: bool,
    /// Tokens to add at most
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub max_tokens: usize,
    /// 0: the likeliest token every time; above: draw, the higher the wilder
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = temperature)]
    pub temperature: f64,
    /// Seed of the draws
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

fn temperature(text: &str) -> Result<f64, String> {
    let fits = |t: &f64| t.is_finite() && *t >= 0.0;
    text.parse().ok().filter(fits).ok_or_else(|| format!("\"{text}\"; expected a number, not negative"))
}

/// Options of `partition`.
#[derive(Debug, Args)]
pub struct PartitionArgs {
    /// Configuration file
    pub config: Option<PathBuf>,
    /// Where the picture goes
    #[arg(long, value_name = "FILE", default_value = "partition.svg", conflicts_with = "no_svg")]
    pub svg: PathBuf,
    /// Draw no picture
    #[arg(long)]
    pub no_svg: bool,
    /// Also write each client's training rows, readable by data.partition = { kind = "file", path = "FILE" }
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Options of `export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Run folder, as left by `train`
    pub run: PathBuf,
    /// What to write
    #[arg(long, value_enum, default_value_t = Format::Peft)]
    pub format: Format,
    /// How ranks are laid out in an adapter
    #[arg(long, value_enum, default_value_t = LayoutName::Uniform)]
    pub layout: LayoutName,
    /// Folder to write; must not hold anything yet
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Load the export again and compare its answers with the run's on up to 32 test texts
    #[arg(long)]
    pub verify: bool,
    /// One client's own adapter, where clients keep a part for themselves
    #[arg(long, value_name = "K", conflicts_with = "clients")]
    pub client: Option<usize>,
    /// Every client's own adapter, each in a folder of its own
    #[arg(long)]
    pub clients: bool,
    /// Largest file of a merged model, in GB
    #[arg(long, value_name = "GB", default_value_t = 5.0)]
    pub shard_size: f64,
}

/// Options of `report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Run folders, as left by `train` or `compare`; several are laid over each other
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// Where the page goes
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    pub out: PathBuf,
}

/// Formats that `export` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// adapter_config.json and adapter_model.safetensors, as Hugging Face PEFT reads them
    Peft,
    /// A whole Hugging Face model with the adapter in its weights
    Merged,
    /// adapter.gguf, as llama.cpp reads it
    Gguf,
}

/// Layouts of an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LayoutName {
    /// One rank for all linears, empty slots as zeros
    Uniform,
    /// Slots that change nothing are left out
    Compact,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_dashboard_is_neither_quiet_nor_json() {
        for (line, word) in [
            ("bonfire --quiet train --tui", Some("--quiet")),
            ("bonfire train --tui -q", Some("--quiet")),
            ("bonfire train --tui --log-format json", Some("json")),
            ("bonfire train --tui --log-format text", None),
            ("bonfire train --log-format json --quiet", None),
        ] {
            let problem = Cli::try_parse_from(line.split(' ')).expect("valid").problem();
            assert_eq!(problem.is_some(), word.is_some(), "{line}");
            assert!(word.is_none_or(|word| problem.is_some_and(|text| text.contains(word))), "{line}");
        }
    }

    #[test]
    fn common_options_go_before_or_after_the_command() {
        for line in ["bonfire --quiet --device cpu train x.toml", "bonfire train x.toml --quiet --device cpu"] {
            let cli = Cli::try_parse_from(line.split(' ')).expect("valid");
            assert!(cli.common.quiet);
            assert_eq!(cli.common.device, "cpu".parse::<Devices>().ok());
        }
    }
}
