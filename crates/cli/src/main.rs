//! `bonfire`: federated LoRA fine-tuning from the command line.
//! This crate alone reads arguments and prints; what it runs lives in the library crates.

mod args;
mod checkup;
mod clock;
mod commands;
mod config;
mod console;
mod device;
mod examples;
mod holdings;
#[cfg(test)]
#[path = "../../../tests/support/hostile.rs"]
mod hostile;
mod hub;
mod interrupt;
mod job;
mod log;
mod memory;
mod mistake;
mod picture;
mod progress;
mod recorder;
mod run_folder;
mod saves;
mod tally;
mod track;
mod tui;

use std::process::ExitCode;

use args::{Cli, Command};

/// Tensors come and go by the megabyte at every operation; the system allocator would give each back to the kernel.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    memory::keep_freed();
    mistake::install_panic_hook();
    let cli = Cli::read();
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
        Command::Config(args) => commands::config::run(args, &cli.common),
        Command::Completions(args) => commands::manual::completions(args),
        Command::Man(args) => commands::manual::man(args),
    });
    match outcome {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => ExitCode::from(mistake::report(&error)),
        // The panic hook has said it.
        Err(_) => ExitCode::FAILURE,
    }
}
