//! `bonfire partition`: which client holds which labels, as a table, a picture and row lists.

mod picture;
mod table;

use anyhow::{Context, Result};
use bonfire_data::label_table;

use crate::args::{Common, PartitionArgs};
use crate::config;
use crate::console::{note, say};
use crate::job;
use crate::run_folder::replace;

/// Runs the command.
///
/// # Errors
/// A configuration or data that cannot be used, a partition that cannot be made, a file that cannot be written.
pub fn run(args: &PartitionArgs, common: &Common) -> Result<()> {
    let loaded = config::load(args.config.as_deref(), &common.sets)?;
    loaded.notices.iter().for_each(note);
    let data = job::dataset(&loaded)?;
    let shards = job::shards(&loaded, &data)?;
    let counts = label_table(&data, &shards.train);
    if !common.quiet {
        let tests: Vec<usize> = shards.test.iter().map(Vec::len).collect();
        say(table::render(&data.labels, &counts, &tests, width()));
        say(table::splits(&data));
    }
    if !args.no_svg {
        let title = format!("{}: {} clients, {}", data.name, counts.len(), loaded.config.partition_words());
        let svg = picture::draw(&title, &data.labels, &counts)?;
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
