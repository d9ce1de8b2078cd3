//! The options of `bonfire sweep`.

use std::path::PathBuf;

use bonfire_experiment::compare::Variants;
use clap::Args;

use crate::commands::compare::Axes;

/// Options of `sweep`.
#[derive(Debug, Args)]
pub struct SweepArgs {
    /// Configuration file; without it the built-in quickstart. A --set with commas is a list of values, each of which is
    /// trained with each of the others: --set train.lr_a=1e-4,3e-4; a value that is a list goes in brackets, one that
    /// holds a comma in quotes
    #[arg(verbatim_doc_comment)]
    pub config: Option<PathBuf>,
    /// NAME or NAME:key=value[:key=value…], with commas, as in compare [default: the configuration's own]
    #[arg(long, value_name = "LIST")]
    pub strategies: Option<Variants>,
    #[command(flatten)]
    pub axes: Axes,
    /// Rounds after which the worse half of the settings of each partition is dropped, by the mean over its seeds of
    /// evaluate.best on evaluate.on [default: none; accuracy, of language models the loss]
    #[arg(long, value_name = "ROUNDS", value_delimiter = ',', verbatim_doc_comment)]
    pub halving: Vec<usize>,
    /// Cells that train at a time, at most; 1: one after another [default: as many as a pass holds clients]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub side_by_side: Option<usize>,
    /// Folder of the table, the pictures and the runs [default: sweep/<name>]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Leave cells alone that failed before, too; complete ones are never run again
    #[arg(long)]
    pub only_missing: bool,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least one cell trains at a time".into()),
        Ok(n) => Ok(n),
        Err(_) => Err("not a whole number".into()),
    }
}
