//! `bonfire`: federated LoRA fine-tuning from the command line. This crate alone reads arguments and prints; what it runs
//! lives in the library crates. [`main`] is the program; [`embed`] is what other front ends share with it.

mod args;
mod checkpoints;
mod checkup;
mod clock;
mod commands;
mod config;
mod console;
mod device;
pub mod embed;
mod examples;
#[cfg(test)]
#[path = "../../../tests/support/hostile.rs"]
mod hostile;
mod hub;
mod interrupt;
mod job;
mod log;
mod memory;
mod partition_file;
mod picture;
mod progress;
mod recorder;
mod run_folder;
mod summary;
mod track;
mod tui;
mod user_error;

use std::ffi::OsString;

use args::{Cli, Command};

/// The program: runs the command that `args` name (the first is the program's own name) and says what went wrong. Gives the
/// exit code.
pub fn main(args: impl IntoIterator<Item = OsString>) -> u8 {
    bonfire_kernels::runtime::prepare();
    memory::keep_freed();
    user_error::install_panic_hook();
    let cli = Cli::read(args);
    log::init(cli.common.log_format, cli.common.quiet);
    let outcome = std::panic::catch_unwind(|| match &cli.command {
        Command::Train(args) => commands::train::run(args, &cli.common),
        Command::Compare(args) => commands::compare::run(args, &cli.common),
        Command::Evaluate(args) => commands::evaluate::run(args, &cli.common),
        Command::Generate(args) => commands::generate::run(args, &cli.common),
        Command::Partition(args) => commands::partition::run(args, &cli.common),
        Command::Cost(args) => commands::cost::run(args, &cli.common),
        Command::Export(args) => commands::export::run(args, &cli.common),
        Command::Report(args) => commands::report::run(args, &cli.common),
        Command::Bench(args) => commands::bench::run(args, &cli.common),
        Command::Doctor(args) => commands::doctor::run(args, &cli.common),
        Command::SelfTest(args) => commands::self_test::run(args, &cli.common),
        Command::Config(args) => commands::config::run(args, &cli.common),
        Command::Completions(args) => commands::manual::completions(args),
        Command::Man(args) => commands::manual::man(args),
    });
    match outcome {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => user_error::report(&error),
        Err(_) => {
            user_error::say_if_unsaid();
            1
        }
    }
}
