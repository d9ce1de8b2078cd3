//! `bonfire partition`: which client holds which labels, as a table, a picture and row lists.

mod picture;
mod table;

use std::path::PathBuf;

use anyhow::{Context, Result};
use bonfire_data::label_table;
use bonfire_experiment::log::note;
use bonfire_experiment::run_folder::replace;
use bonfire_experiment::{config, job};
use clap::Args;

use crate::common::Common;
use crate::console::say;
use crate::progress::Waiting;

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

/// Runs the command.
///
/// # Errors
/// A configuration or data that cannot be used, a partition that cannot be made, a file that cannot be written.
pub fn run(args: &PartitionArgs, common: &Common) -> Result<()> {
    let loaded = config::load(args.config.as_deref(), &common.sets)?;
    loaded.notices.iter().for_each(note);
    let data = job::dataset(&loaded, &mut Waiting::default())?;
    let shards = job::shards(&loaded, &data)?;
    let counts = label_table(&data, &shards.train);
    if !common.quiet {
        let tests: Vec<usize> = shards.test.iter().map(Vec::len).collect();
        let names = loaded.config.data.partition.client_names(&data, &shards.train);
        say(table::render(&names, data.kinds(), &counts, &tests, width()));
        say(table::splits(&data));
    }
    if !args.no_svg {
        let title = format!("{}: {} clients, {}", data.name, counts.len(), loaded.config.partition_words());
        let svg = picture::draw(&title, data.kinds(), &counts)?;
        replace(&args.svg, svg.as_bytes())?;
        say(format!("wrote {}", args.svg.display()));
    }
    if let Some(path) = &args.json {
        let text = serde_json::to_string(&shards.train).context("cannot write the rows as JSON")?;
        replace(path, format!("{text}\n").as_bytes())?;
        say(format!("wrote {}", path.display()));
    }
    Ok(())
}

/// Columns of the terminal; 100 when there is none.
fn width() -> usize {
    ::console::Term::stdout().size_checked().map_or(100, |(_, columns)| usize::from(columns))
}
