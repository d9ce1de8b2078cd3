//! `bonfire completions` and `bonfire man`: what shells and `man` want to know of the command line.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use bonfire_experiment::config::{self, Starter};
use clap::builder::PossibleValuesParser;
use clap::{Arg, Args, Command};
use clap_complete::Shell;

use crate::common::Common;
use crate::console::say;

/// Options of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Options of `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write a page for every command into this folder instead
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// Prints a script that completes the commands of `program`. It knows the keys of `--set`, the strategies and the devices.
///
/// # Errors
/// Standard output cannot be written.
pub fn completions(args: &CompletionsArgs, common: &Common, program: Command) -> Result<()> {
    common.refuse_sets("completions", "leave it out")?;
    let mut program = knowing(program);
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut program, "bonfire", &mut script);
    print(&script)
}

/// Prints the man page of `program`, or writes one for every command.
///
/// # Errors
/// The folder or standard output cannot be written.
pub fn man(args: &ManArgs, common: &Common, program: Command) -> Result<()> {
    common.refuse_sets("man", "leave it out")?;
    let Some(folder) = &args.out else {
        let mut page = Vec::new();
        clap_mangen::Man::new(program).render(&mut page)?;
        return print(&page);
    };
    let wrong = || format!("cannot write man pages into {}", folder.display());
    std::fs::create_dir_all(folder).with_context(wrong)?;
    clap_mangen::generate_to(program, folder).with_context(wrong)?;
    say(format!("wrote {}", folder.join("bonfire.1").display()));
    Ok(())
}

/// `program` with what a shell may put in: not for reading a command line, which may hold more.
fn knowing(program: Command) -> Command {
    // Clap keeps words for as long as the program runs, which is not long here.
    let one_of = |words: Vec<String>| {
        let words: Vec<&'static str> = words.into_iter().map(|word| &*word.leak()).collect();
        move |arg: Arg| arg.value_parser(PossibleValuesParser::new(words.clone()))
    };
    let keys: Vec<String> = config::keys().into_iter().map(|key| format!("{key}=")).collect();
    let devices = ["auto", "cpu", "wgpu", "vulkan", "cuda"].map(String::from).to_vec();
    let strategies: Vec<String> = config::words("strategy");
    let starters = Starter::ALL.map(|starter| starter.name().to_string()).to_vec();
    let mut program = program.mut_arg("sets", one_of(keys)).mut_arg("device", one_of(devices));
    for command in ["compare", "cost"] {
        program = program.mut_subcommand(command, |it| it.mut_arg("strategies", one_of(strategies.clone())));
    }
    program.mut_subcommand("config", |it| it.mut_arg("init", one_of(starters)))
}

/// Writes to standard output; a closed pipe is no error.
fn print(bytes: &[u8]) -> Result<()> {
    match io::stdout().lock().write_all(bytes) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("cannot write"),
        _ => Ok(()),
    }
}
