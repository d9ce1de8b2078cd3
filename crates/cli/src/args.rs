//! The command line.

use std::ffi::OsString;

use bonfire_experiment::user_error::block;
use clap::error::ErrorKind;
use clap::{Arg, Command as Definition, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::commands::bench::BenchArgs;
use crate::commands::compare::CompareArgs;
use crate::commands::config::ConfigArgs;
use crate::commands::cost::CostArgs;
use crate::commands::doctor::DoctorArgs;
use crate::commands::evaluate::EvaluateArgs;
use crate::commands::export::ExportArgs;
use crate::commands::generate::GenerateArgs;
use crate::commands::manual::{CompletionsArgs, ManArgs};
use crate::commands::new::NewArgs;
use crate::commands::partition::PartitionArgs;
use crate::commands::plan::PlanArgs;
use crate::commands::predict::PredictArgs;
use crate::commands::report::ReportArgs;
use crate::commands::self_test::SelfTestArgs;
use crate::commands::sweep::SweepArgs;
use crate::commands::train::TrainArgs;
use crate::common::{Common, LogFormat};
use crate::failure::USAGE;
use crate::{console, elsewhere, examples};

/// GPU-native federated LoRA fine-tuning: many virtual clients train side by side on one device.
#[derive(Debug, Parser)]
#[command(name = "bonfire", version, propagate_version = true)]
#[command(after_help = examples::ALL)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// What holds for every command.
    #[command(flatten)]
    pub common: Common,
}

/// Options of every command that do nothing on some.
const UNUSED: [(&str, &[&str]); 8] = [
    ("cost", &["device"]),
    ("partition", &["device"]),
    ("report", &["device", "sets"]),
    ("bench", &["sets"]),
    ("doctor", &["sets"]),
    ("self-test", &["sets"]),
    ("completions", &["device", "sets", "quiet", "log_format"]),
    ("man", &["device", "sets", "quiet", "log_format"]),
];

/// The command line's definition, in which no command's help shows options that do nothing there.
pub fn program() -> Definition {
    let mut program = Cli::command();
    let common: Vec<Arg> = program.get_arguments().filter(|arg| arg.is_global_set()).cloned().collect();
    for (command, unused) in UNUSED {
        let hidden =
            common.iter().filter(|arg| unused.contains(&arg.get_id().as_str())).map(|arg| arg.clone().hide(true));
        let hidden: Vec<Arg> = hidden.collect();
        program = program.mut_subcommand(command, |command| command.args(hidden));
    }
    // `--epsilon -8` is a wrong value and no unknown option.
    program.mut_subcommands(|command| {
        command.mut_args(|arg| if arg.get_action().takes_values() { arg.allow_negative_numbers(true) } else { arg })
    })
}

impl Cli {
    /// Reads the command line; leaves the program with a message if it cannot be.
    pub fn read(args: impl IntoIterator<Item = OsString>) -> Cli {
        let args: Vec<OsString> = args.into_iter().collect();
        let read = program().try_get_matches_from(&args).and_then(|found| Cli::from_arg_matches(&found));
        let cli = match read {
            Ok(cli) => cli,
            Err(error) => match elsewhere::meant(&error, &args) {
                Some(mistake) => {
                    console::complain(&block(&mistake.into()));
                    std::process::exit(USAGE.into());
                }
                None => error.exit(),
            },
        };
        match cli.problem() {
            None => cli,
            Some(problem) => program().error(ErrorKind::ArgumentConflict, problem).exit(),
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

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a folder to begin with: a configuration, sample rows to replace, and what to do next
    #[command(after_help = examples::NEW)]
    New(NewArgs),
    /// Run a federation; without CONFIG the built-in quickstart
    #[command(after_help = examples::TRAIN)]
    Train(TrainArgs),
    /// Run strategies side by side on the same data and seeds, and put them in a table and in pictures
    #[command(after_help = examples::COMPARE)]
    Compare(Box<CompareArgs>),
    /// Run every combination of settings side by side, many runs in one pass, and drop the worse on the way
    #[command(after_help = examples::SWEEP)]
    Sweep(Box<SweepArgs>),
    /// Measure a run's adapter on the test split
    #[command(after_help = examples::EVALUATE)]
    Evaluate(EvaluateArgs),
    /// Say which label a run's classifier gives texts
    #[command(after_help = examples::PREDICT)]
    Predict(PredictArgs),
    /// Continue prompts with a run's language model
    #[command(after_help = examples::GENERATE)]
    Generate(GenerateArgs),
    /// Count what a federation would send, before anything is trained
    #[command(after_help = examples::COST)]
    Cost(CostArgs),
    /// Weigh settings against each other: bytes, time, and the accuracy that runs have shown
    #[command(after_help = examples::PLAN)]
    Plan(Box<PlanArgs>),
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

#[cfg(test)]
mod tests {
    use bonfire_experiment::device::Devices;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        program().debug_assert();
    }

    #[test]
    fn help_shows_what_does_something() {
        let mut program = program();
        program.build();
        for (name, unused) in UNUSED {
            let command = program.find_subcommand_mut(name).expect("a command");
            let help = command.render_long_help().to_string();
            for option in unused {
                let long = format!("--{}", option.replace("sets", "set").replace('_', "-"));
                assert!(!help.lines().any(|line| line.trim_start().starts_with(&long)), "{name}: {long}");
            }
            assert!(unused.contains(&"device") || help.contains("--device"), "{name}");
        }
        let train = program.find_subcommand_mut("train").expect("a command").render_long_help().to_string();
        assert!(train.contains("--set <") && train.contains("--device <"), "{train}");
        // They are still read, so that they can be refused, and before the command too.
        for line in ["bonfire report a --set x=1", "bonfire --set x=1 report a"] {
            let found = super::program().try_get_matches_from(line.split(' ')).expect("valid");
            assert_eq!(Cli::from_arg_matches(&found).expect("valid").common.sets, ["x=1"], "{line}");
        }
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
