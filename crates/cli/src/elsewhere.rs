//! Options and commands that other tools have and `bonfire` has not: what is meant is said, where it is plain.

use std::ffi::OsString;

use bonfire_experiment::UserError;
use bonfire_experiment::config::{key_elsewhere, path_to};
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Commands that read a configuration, of which an option may be a key.
const CONFIGURED: [&str; 6] = ["train", "compare", "sweep", "cost", "partition", "config"];

/// Options that are meant otherwise than as a key.
const OPTIONS: &[(&[&str], &str)] = &[
    (&["config", "config-file", "cfg"], "the configuration is named without an option: bonfire {command} FILE"),
    (&["output", "output-dir", "out-dir", "save-dir", "logdir"], "the folder of a run is named with --out DIR"),
    (
        &["gpu", "gpus", "num-gpus", "cuda", "use-cuda"],
        "devices are named with --device: cpu, wgpu, vulkan, cuda, cuda:0,cuda:1",
    ),
    (&["cpu", "no-cuda"], "the CPU is named with --device cpu"),
    (&["resume-from-checkpoint", "continue", "checkpoint"], "a run is gone on with by --resume RUN"),
];

/// Keys by what they are called for short.
const KEYS: &[(&[&str], &str)] = &[
    (&["model", "base-model", "backbone"], "model.path"),
    (&["data", "dataset", "train-data"], "data.path"),
    (&["strategy", "strategies", "algorithm", "method", "algo"], "strategy.name"),
    (&["clients", "num-clients"], "clients.count"),
    (&["partition"], "data.partition.kind"),
    (&["precision"], "engine.precision"),
];

/// Commands that are called otherwise here.
const COMMANDS: &[(&[&str], &str)] = &[
    (&["fit", "run", "start", "finetune", "fine-tune", "simulate", "simulation"], "train"),
    (&["eval", "validate"], "evaluate"),
    (&["classify", "infer", "inference"], "predict"),
    (&["chat", "complete", "sample"], "generate"),
    (&["estimate", "forecast", "costs"], "cost"),
    (&["benchmark-strategies"], "compare"),
    (&["grid", "grid-search", "search", "tune", "hpo"], "sweep"),
    (&["split"], "partition"),
    (&["plot", "html", "show", "view"], "report"),
    (&["init"], "config --init"),
    (&["resume", "continue"], "train --resume RUN"),
    (&["merge", "save", "convert"], "export"),
    (&["check", "info", "devices"], "doctor"),
];

/// What is meant by the option or command that `error` found unknown among `args`, the first of which is the program.
pub fn meant(error: &clap::Error, args: &[OsString]) -> Option<UserError> {
    let given = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    match error.kind() {
        ErrorKind::UnknownArgument => option(given(ContextKind::InvalidArg)?, args),
        ErrorKind::InvalidSubcommand => command(given(ContextKind::InvalidSubcommand)?),
        _ => None,
    }
}

fn command(given: &str) -> Option<UserError> {
    let here = COMMANDS.iter().find(|(names, _)| names.contains(&given)).map(|(_, here)| here)?;
    Some(UserError::new(format!("there is no command `{given}`")).help(format!("it is called here: bonfire {here}")))
}

/// What is named with an option elsewhere, and what it is called here: by command.
const BARE: &[(&str, &str)] = &[
    ("predict", "a text is given with --text, texts of a file with --rows"),
    ("generate", "a prompt is given with --prompt"),
    ("compare", "several strategies stand in one list, with commas: --strategies a,b"),
    ("sweep", "several values stand in one list, with commas: --set train.lr_a=1e-4,1e-3"),
    ("cost", "several strategies stand in one list, with commas: --strategies a,b"),
    ("train", "there is one configuration; a key of it is set with --set section.key=value"),
];

/// A word that no option takes.
fn bare(given: &str, args: &[OsString]) -> Option<UserError> {
    let (command, help) = BARE.iter().find(|(command, _)| args.get(1).is_some_and(|word| word == command))?;
    Some(UserError::new(format!("bonfire {command} has no place for `{given}`")).help(*help))
}

fn option(given: &str, args: &[OsString]) -> Option<UserError> {
    if !given.starts_with('-') {
        return bare(given, args);
    }
    let name = given.strip_prefix("--")?.split('=').next()?.replace('_', "-");
    let words: Vec<String> = args.iter().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let command = words.iter().find(|word| CONFIGURED.contains(&word.as_str()))?;
    if name.starts_with("strateg") && ["compare", "sweep", "cost"].contains(&command.as_str()) {
        // Theirs is --strategies, which clap names.
        return None;
    }
    let wrong = UserError::new(format!("bonfire {command} has no option --{name}"));
    if let Some((_, help)) = OPTIONS.iter().find(|(names, _)| names.contains(&name.as_str())) {
        return Some(wrong.help(help.replace("{command}", command)));
    }
    let (key, note) = key(&name)?;
    let value = value_of(given, &words).unwrap_or("…".into());
    let note = if note.is_empty() { String::new() } else { format!(" ({note})") };
    Some(wrong.help(format!("it is a key of the configuration: --set {key}={value}{note}")))
}

/// The key of the configuration that an option is called after, and what else there is to know.
fn key(name: &str) -> Option<(String, &'static str)> {
    if let Some((_, key)) = KEYS.iter().find(|(names, _)| names.contains(&name)) {
        return Some(((*key).to_string(), ""));
    }
    let name = name.replace('-', "_");
    match path_to(&name) {
        Some(key) => Some((key, "")),
        None => key_elsewhere("", &name).map(|(key, note)| (key.to_string(), note)),
    }
}

/// What stands behind the option `given`, as `--lr 1e-4` or `--lr=1e-4`.
fn value_of(given: &str, words: &[String]) -> Option<String> {
    let name = given.split('=').next()?;
    let (at, word) = words.iter().enumerate().find(|(_, word)| word.split('=').next() == Some(name))?;
    match word.split_once('=') {
        Some((_, value)) => Some(value.to_string()),
        None => words.get(at + 1).filter(|next| !next.starts_with("--")).cloned(),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::args::Cli;

    fn help(line: &str) -> Option<String> {
        let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let error = Cli::try_parse_from(&args).expect_err("no such option");
        meant(&error, &args)?.help
    }

    #[test]
    fn options_become_the_keys_that_they_mean() {
        for (line, words) in [
            ("bonfire train --rounds 3", "--set train.rounds=3"),
            ("bonfire train --lr=1e-4", "--set train.lr_a=1e-4 ("),
            ("bonfire train x.toml --batch-size 8 --quiet", "--set train.batch_size=8"),
            ("bonfire compare --num_clients 8", "--set clients.count=8"),
            ("bonfire cost --model DIR", "--set model.path=DIR"),
            ("bonfire train --config x.toml", "bonfire train FILE"),
            ("bonfire train --gpus 2", "--device"),
            ("bonfire train --seed", "--set train.seed=…"),
            ("bonfire fit x.toml", "bonfire train"),
        ] {
            assert!(help(line).is_some_and(|help| help.contains(words)), "{line}: {:?}", help(line));
        }
        // What is near to an option by its letters is left to clap, as are commands without a configuration.
        assert_eq!(help("bonfire train --resmue x"), None);
        assert_eq!(help("bonfire doctor --rounds 3"), None);
    }

    #[test]
    fn what_is_named_is_there() {
        let program = Cli::command();
        for (names, here) in COMMANDS {
            let first = here.split(' ').next().expect("a command");
            assert!(program.find_subcommand(first).is_some(), "{here}");
            assert!(names.iter().all(|name| program.find_subcommand(name).is_none()), "{names:?}");
        }
        for command in CONFIGURED {
            let own = program.find_subcommand(command).expect("a command");
            let taken: Vec<&str> = own.get_arguments().filter_map(|arg| arg.get_long()).collect();
            let mut others = OPTIONS.iter().flat_map(|(names, _)| *names);
            assert!(others.all(|name| !taken.contains(name)), "{command}");
        }
        for (_, key) in KEYS {
            let error = bonfire_experiment::config::load(None, &[format!("{key}=[0.5]")]).err().expect("no list");
            assert!(!error.what.contains("unknown"), "{key}: {error}");
        }
    }

    #[test]
    fn a_word_too_many_is_told_where_it_belongs() {
        let of = |words: &[&str]| {
            let args: Vec<OsString> = words.iter().map(OsString::from).collect();
            let error = Cli::try_parse_from(&args).expect_err("a word too many");
            meant(&error, &args).map(|wrong| (wrong.what, wrong.help.expect("help")))
        };
        let (what, help) = of(&["bonfire", "predict", "run", "my card"]).expect("meant");
        assert!(what.contains("`my card`") && help.contains("--text"), "{what} {help}");
        let (_, help) = of(&["bonfire", "compare", "--strategies", "fedit", "lora-a2", "more"]).expect("meant");
        assert!(help.contains("with commas"), "{help}");
        assert!(of(&["bonfire", "doctor", "more"]).is_none());
    }
}
