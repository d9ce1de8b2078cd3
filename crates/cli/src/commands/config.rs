//! `bonfire config`: checks a configuration and shows what it comes to, writes an annotated one, or prints the schema.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bonfire_experiment::config::{Source, Starter, nearest};
use bonfire_experiment::log::note;
use bonfire_experiment::{UserError, config, job};
use clap::Args;

use crate::common::Common;
use crate::console::{put, say};

/// Options of `config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// Configuration file; without it the built-in quickstart
    pub config: Option<PathBuf>,
    /// Print the JSON Schema of configuration files, for editors
    #[arg(long, conflicts_with_all = ["config", "init"])]
    pub schema: bool,
    /// Write a configuration to begin with: classifier, llm, cross-silo or planning, or full with every key, its default and what
    /// it does; without FILE print it
    #[arg(long, value_names = ["KIND", "FILE"], num_args = 0..=2, conflicts_with = "config")]
    pub init: Option<Vec<String>>,
}

/// Runs the command.
///
/// # Errors
/// A configuration that cannot be used; a file that is there already or cannot be written.
pub fn run(args: &ConfigArgs, common: &Common) -> Result<()> {
    if let Some(set) = common.sets.first().filter(|_| args.schema || args.init.is_some()) {
        let what = format!("--schema and --init read no configuration, so `--set {set}` changes nothing");
        return Err(UserError::new(what).help("leave it out").into());
    }
    match &args.init {
        _ if args.schema => put(serde_json::to_string_pretty(&config::schema())?),
        None => resolved(args.config.as_deref(), common)?,
        Some(words) => match starter(words)? {
            (starter, None) => put(starter.text().trim_end()),
            (starter, Some(file)) => write(starter, Path::new(file))?,
        },
    }
    Ok(())
}

/// What `--init` asks for: a kind, a file, or both. A file alone gets every key.
fn starter(words: &[String]) -> Result<(Starter, Option<&String>), UserError> {
    match words {
        [] => Ok((Starter::Full, None)),
        [one] => match (Starter::of(one), nearest(one, &Starter::ALL.map(Starter::name))) {
            (Some(starter), _) => Ok((starter, None)),
            // A file has an ending, or lies in a folder.
            (None, Some(name)) if !one.contains(['.', '/', '\\']) => Err(UserError::new(format!(
                "there is no configuration `{one}` to begin with"
            ))
            .help(format!("did you mean `{name}`? A file of that name is written by: config --init full {one}"))),
            (None, _) => Ok((Starter::Full, Some(one))),
        },
        [kind, file, ..] => match Starter::of(kind) {
            Some(starter) => Ok((starter, Some(file))),
            None => {
                let names = Starter::ALL.map(Starter::name).join(", ");
                Err(UserError::new(format!("there is no configuration `{kind}` to begin with"))
                    .help(format!("there are: {names}")))
            }
        },
    }
}

/// Prints the configuration as a run would have it, all defaults filled in.
fn resolved(file: Option<&Path>, common: &Common) -> Result<(), UserError> {
    let loaded = common.applied_to(config::load(file, &common.sets)?);
    put(loaded.config.to_toml().trim_end());
    let named = [("model.path", &loaded.config.model.path), ("data.path", &loaded.config.data.path)];
    for (key, source) in named {
        if let Source::Folder(path) = source
            && let Err(missing) = job::found(&loaded, key, path)
        {
            note(format!("{missing} ({})", loaded.place_of(key)));
        }
    }
    Ok(())
}

/// Writes the configuration where nothing is yet.
fn write(starter: Starter, file: &Path) -> Result<()> {
    use std::io::Write;
    let made = std::fs::File::options().write(true).create_new(true).open(file);
    let mut made = match made {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(UserError::new(format!("{} is there already", file.display()))
                .help("name another file")
                .into());
        }
        other => other.with_context(|| format!("cannot write {}", file.display()))?,
    };
    made.write_all(starter.text().as_bytes()).with_context(|| format!("cannot write {}", file.display()))?;
    say(format!("wrote {}", file.display()));
    Ok(())
}
