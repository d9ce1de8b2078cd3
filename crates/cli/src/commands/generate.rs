//! `bonfire generate`: continues a prompt with a run's model, to look at what was learnt.

use std::io::Read;

use anyhow::{Context, Result};
use bonfire_data::CausalTokenizer;
use bonfire_engine::{Sampling, generate};
use bonfire_models::{Model, Task};

use super::evaluate;
use crate::args::{Common, GenerateArgs};
use crate::config::{Loaded, TaskKind};
use crate::console::{note, say};
use crate::device;
use crate::job;
use crate::user_error::UserError;

/// Runs the command.
///
/// # Errors
/// No run of a language model, a model or adapter that cannot be used any more, a prompt longer than the model reads.
pub fn run(args: &GenerateArgs, common: &Common) -> Result<()> {
    let loaded = evaluate::load(&args.run, common)?;
    if loaded.config.model.task != TaskKind::CausalLm {
        return Err(UserError::new("this run trained a classifier, which does not generate")
            .help("`bonfire evaluate RUN --predictions FILE` writes what it answers")
            .into());
    }
    let opened = device::open(common.device.as_ref().unwrap_or(&loaded.config.engine.device).first())?;
    opened.notice.iter().for_each(note);
    let model = job::model(&loaded, Task::Causal, &opened.device)?;
    let model = model.with_folded(&evaluate::adapter(&args.run, &loaded, &model)?);
    let tokenizer = tokenizer(&loaded, &model)?;
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

fn tokenizer(loaded: &Loaded, model: &dyn Model) -> Result<CausalTokenizer> {
    let source = job::source(&loaded.config)?;
    job::causal_tokenizer(&source, job::tokenizer(&source)?, model.info())
}
