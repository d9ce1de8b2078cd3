//! `bonfire generate`: continues a prompt with a run's model, to look at what was learnt.

use std::io::Read;
use std::path::PathBuf;

use anyhow::{Context, Result};
use bonfire_engine::{Sampling, generate};
use bonfire_experiment::config::TaskKind;
use bonfire_experiment::log::note;
use bonfire_experiment::trained::{self, Which};
use bonfire_experiment::{UserError, device, job};
use bonfire_models::{Model, Task};
use clap::Args;

use crate::common::Common;
use crate::console::say;
use crate::progress::Waiting;

/// Options of `generate`.
#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// Run folder, as left by `train`
    pub run: PathBuf,
    /// Text to continue; - reads it from standard input
    #[arg(long, value_name = "TEXT")]
    pub prompt: String,
    /// The prompt is what a user says: put it into the model's chat template
    #[arg(long)]
    pub chat: bool,
    /// Tokens to add at most
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub max_tokens: usize,
    /// 0: the likeliest token every time; above: draw, the higher the wilder
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = temperature)]
    pub temperature: f64,
    /// Seed of the draws
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

fn temperature(text: &str) -> Result<f64, String> {
    let fits = |t: &f64| t.is_finite() && *t >= 0.0;
    text.parse().ok().filter(fits).ok_or_else(|| format!("\"{text}\"; expected a number, not negative"))
}

/// Runs the command.
///
/// # Errors
/// No run of a language model, a model or adapter that cannot be used any more, a prompt longer than the model reads.
pub fn run(args: &GenerateArgs, common: &Common) -> Result<()> {
    let loaded = trained::load(&args.run, Which::Last, &common.sets)?;
    if loaded.config.model.task != TaskKind::CausalLm {
        return Err(UserError::new("this run trained a classifier, which does not generate")
            .help("`bonfire evaluate RUN --predictions FILE` writes what it answers")
            .into());
    }
    let opened = device::open(common.first_device(&loaded))?;
    opened.notice.iter().for_each(note);
    let source = job::source(&loaded, &mut Waiting::default())?;
    let model = job::model(&loaded, &source, Task::Causal, &opened.device)?;
    let model = model.with_folded(&trained::adapter(&args.run, Which::Last, &loaded, &model)?);
    let tokenizer = job::causal_tokenizer(&source, job::tokenizer(&source)?, model.info())?;
    let text = prompt(args)?;
    let prompt = if args.chat { tokenizer.chat_prompt(&text)? } else { tokenizer.prompt(&text)? };
    let room = model.info().max_tokens();
    if prompt.is_empty() || prompt.len() >= room {
        let what = format!("the prompt has {} tokens; this model reads 1 to {}", prompt.len(), room - 1);
        return Err(UserError::new(what).help("pass another --prompt").into());
    }
    if let Some(id) = prompt.iter().find(|id| **id as usize >= model.info().vocab) {
        let vocab = model.info().vocab;
        let what = format!("the prompt gives token {id}, but the model has embeddings for {vocab} tokens");
        return Err(UserError::new(what).help("pass another --prompt").into());
    }
    let ends: Vec<u32> = model.info().decoder.iter().flat_map(|d| d.eos.clone()).chain([tokenizer.eos()]).collect();
    let sampling = Sampling { temperature: args.temperature, max_tokens: args.max_tokens, seed: args.seed };
    let new = generate(&model, &prompt, &ends, sampling, &mut |_| ());
    say(tokenizer.continuation(&prompt, &new)?);
    Ok(())
}

/// The prompt, or with `-` what comes in.
fn prompt(args: &GenerateArgs) -> Result<String> {
    if args.prompt != "-" {
        return Ok(args.prompt.clone());
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("cannot read the prompt")?;
    Ok(text)
}
