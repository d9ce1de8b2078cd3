//! The options of `bonfire self-test`.

use clap::Args;

/// Options of `self-test`.
#[derive(Debug, Args)]
pub struct SelfTestArgs {
    /// Leave out the shapes of real models
    #[arg(long, conflicts_with = "real")]
    pub quick: bool,
    /// Nothing but the shapes of real models
    #[arg(long)]
    pub real: bool,
    /// Tokens of the real shapes
    #[arg(long, value_name = "N", default_value = "15000", value_parser = tokens)]
    pub tokens: usize,
    /// Draws the numbers
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32))]
    pub seed: u32,
    /// Start no check after so many seconds; what is left out is said
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: Option<u32>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

fn tokens(text: &str) -> Result<usize, String> {
    let expected = || "expected a whole number from 64 to 1000000".to_string();
    text.parse().ok().filter(|n| (64..=1_000_000).contains(n)).ok_or_else(expected)
}
