//! The options of `bonfire export`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Options of `export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Run folder, as left by `train`
    pub run: PathBuf,
    /// What to write
    #[arg(long, value_enum, default_value_t = Format::Peft)]
    pub format: Format,
    /// Write the model below the adapter instead, with the run's head, in Hugging Face layout: what other tools put the adapter on
    #[arg(long, conflicts_with_all = ["format", "layout", "verify", "client", "clients"])]
    pub base: bool,
    /// How ranks are laid out in an adapter
    #[arg(long, value_enum, default_value_t = LayoutName::Uniform)]
    pub layout: LayoutName,
    /// Folder to write; must not hold anything yet
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Load the export again and compare its answers with the run's on up to 32 test texts
    #[arg(long)]
    pub verify: bool,
    /// One client's own adapter, where clients keep a part for themselves
    #[arg(long, value_name = "K", conflicts_with = "clients")]
    pub client: Option<usize>,
    /// Every client's own adapter, each in a folder of its own
    #[arg(long)]
    pub clients: bool,
    /// Largest file of a merged model, in GB
    #[arg(long, value_name = "GB", default_value_t = 5.0)]
    pub shard_size: f64,
}

/// Formats that `export` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// adapter_config.json and adapter_model.safetensors, as Hugging Face PEFT reads them
    Peft,
    /// A whole Hugging Face model with the adapter in its weights
    Merged,
    /// adapter.gguf, as llama.cpp reads it
    Gguf,
}

/// Layouts of an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LayoutName {
    /// One rank for all linears, empty slots as zeros
    Uniform,
    /// Slots that change nothing are left out
    Compact,
}
