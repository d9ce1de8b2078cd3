//! `bonfire`: federated LoRA fine-tuning from the command line. This crate alone reads arguments and prints; what it runs
//! lives in the library crates. [`main`] is the program.

mod args;
mod commands;
mod common;
mod console;
mod elsewhere;
mod examples;
mod failure;
#[cfg(test)]
mod fixture;
mod interrupt;
mod log;
mod picture;
mod progress;
mod tui;

use std::ffi::OsString;

use bonfire_experiment::{RunLog, memory};

use args::{Cli, Command, program};

/// The program: runs the command that `args` name (the first is the program's own name) and says what went wrong. Gives the
/// exit code.
pub fn main(args: impl IntoIterator<Item = OsString>) -> u8 {
    bonfire_kernels::runtime::prepare();
    memory::keep_freed();
    bonfire_experiment::device::hush_drivers();
    failure::install_panic_hook();
    let args: Vec<OsString> = args.into_iter().collect();
    if args.len() < 2 {
        commands::welcome::run();
        return 0;
    }
    let cli = Cli::read(args);
    let log = RunLog::default();
    log::init(cli.common.log_format, cli.common.quiet, &log);
    let outcome = std::panic::catch_unwind(|| match &cli.command {
        Command::New(args) => commands::new::run(args),
        Command::Train(args) => commands::train::run(args, &cli.common, &log),
        Command::Compare(args) => commands::compare::run(args, &cli.common, &log),
        Command::Sweep(args) => commands::sweep::run(args, &cli.common),
        Command::Evaluate(args) => commands::evaluate::run(args, &cli.common),
        Command::Generate(args) => commands::generate::run(args, &cli.common),
        Command::Predict(args) => commands::predict::run(args, &cli.common),
        Command::Partition(args) => commands::partition::run(args, &cli.common),
        Command::Cost(args) => commands::cost::run(args, &cli.common),
        Command::Plan(args) => commands::plan::run(args, &cli.common),
        Command::Export(args) => commands::export::run(args, &cli.common),
        Command::Report(args) => commands::report::run(args, &cli.common),
        Command::Bench(args) => commands::bench::run(args, &cli.common),
        Command::Doctor(args) => commands::doctor::run(args, &cli.common),
        Command::SelfTest(args) => commands::self_test::run(args, &cli.common),
        Command::Config(args) => commands::config::run(args, &cli.common),
        Command::Completions(args) => commands::manual::completions(args, &cli.common, program()),
        Command::Man(args) => commands::manual::man(args, &cli.common, program()),
    });
    match outcome {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => failure::report(&error),
        Err(_) => {
            failure::say_if_unsaid();
            1
        }
    }
}
