//! The options of `bonfire compare`.

use std::path::PathBuf;

use bonfire_experiment::compare::{Asked, DEFAULT_STRATEGIES, Variant, Variants};
use clap::Args;

/// Options of `compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Configuration file; without it the built-in quickstart
    pub config: Option<PathBuf>,
    /// NAME or NAME:key=value[:key=value…], with commas; keys as in --set, those without a dot belong to [strategy]
    /// [default: local,pooled,lora-a2,fedit,fedit:train.lr_b=5x,ffa-lora,rolora,flexlora]
    #[arg(long, value_name = "LIST", verbatim_doc_comment)]
    pub strategies: Option<Variants>,
    #[command(flatten)]
    pub axes: Axes,
    /// Folder of the table, the pictures and the runs [default: compare/<name>]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Leave cells alone that failed before, too; complete ones are never run again
    #[arg(long)]
    pub only_missing: bool,
}

/// What every variant is trained with each value of.
#[derive(Debug, Args)]
pub struct Axes {
    /// Seeds of partition and training [default: train.seed]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub seeds: Vec<u64>,
    /// clients.budget of lora-a2, fslora and fed-plora, adapter.rank of the others [default: clients.budget for all, so that all send
    /// alike; where it is not one number, as configured]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub ranks: Vec<usize>,
    /// Dirichlet partitions, such as 0.5,0.1,0.01 [default: data.partition]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub alphas: Vec<f64>,
}

impl Axes {
    /// Asks for these `variants`.
    pub fn asked(&self, variants: Vec<Variant>) -> Asked<'_> {
        Asked { variants, seeds: &self.seeds, ranks: &self.ranks, alphas: &self.alphas }
    }
}

impl CompareArgs {
    /// The variants to compare.
    pub fn variants(&self) -> Vec<Variant> {
        match &self.strategies {
            Some(given) => given.0.clone(),
            None => DEFAULT_STRATEGIES.parse::<Variants>().expect("the default is a list of variants").0,
        }
    }
}
