//! `bonfire generate`: continues prompts with a run's model, to look at what was learnt.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::Result;
use bonfire_data::{CausalTokenizer, Content, Conversation, Message};
use bonfire_engine::{Sampling, generate};
use bonfire_experiment::config::{CheckedConfig, TaskKind};
use bonfire_experiment::log::note;
use bonfire_experiment::run_folder::{SUMMARY, read};
use bonfire_experiment::trained::{self, Which};
use bonfire_experiment::{UserError, device, job};
use bonfire_federation::Summary;
use bonfire_models::{Model, Task, Transformer};
use clap::{ArgGroup, Args};
use serde::Serialize;

use crate::common::{Common, given_or_read};
use crate::console::{put, say};
use crate::progress::Waiting;

/// Prompts that are continued in one pass: each keeps the keys and values of its whole text.
const PROMPTS: usize = 16;

/// Options of `generate`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("asked").required(true).args(["prompt", "instruction", "rows"]))]
pub struct GenerateArgs {
    /// Run folder, as left by `train`
    pub run: PathBuf,
    /// Text to continue; - reads it from standard input; may be given again
    #[arg(long, value_name = "TEXT")]
    pub prompt: Vec<String>,
    /// The prompt is what a user says: put it into the model's chat template
    #[arg(long, requires = "prompt")]
    pub chat: bool,
    /// A task, put into the prompt that the run was trained with: data.prompt, else that of Stanford Alpaca
    #[arg(long, value_name = "TEXT")]
    pub instruction: Option<String>,
    /// With --instruction: what the task is about
    #[arg(long, value_name = "TEXT", requires = "instruction")]
    pub input: Option<String>,
    /// A file of rows as they were trained on, or a .txt of prompts with blank lines between them; what they have of responses is not read
    #[arg(long, value_name = "FILE")]
    pub rows: Option<PathBuf>,
    /// Also continue by the untrained model
    #[arg(long)]
    pub base: bool,
    /// Tokens to add at most
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub max_tokens: usize,
    /// 0: the likeliest token every time; above: draw, the higher the wilder
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = temperature)]
    pub temperature: f64,
    /// With a temperature: draw among the likeliest tokens that have this share of the probability together
    #[arg(long, value_name = "P", default_value_t = 1.0, value_parser = share)]
    pub top_p: f64,
    /// End before this text; may be given again
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Seed of the draws
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Print a JSON object for each prompt
    #[arg(long)]
    pub json: bool,
}

fn temperature(text: &str) -> Result<f64, String> {
    let fits = |t: &f64| t.is_finite() && *t >= 0.0;
    text.parse().ok().filter(fits).ok_or_else(|| format!("\"{text}\"; expected a number, not negative"))
}

fn share(text: &str) -> Result<f64, String> {
    let fits = |p: &f64| *p > 0.0 && *p <= 1.0;
    text.parse().ok().filter(fits).ok_or_else(|| format!("\"{text}\"; expected a number above 0, at most 1"))
}

/// What came of a prompt.
#[derive(Serialize)]
struct Answer {
    /// The prompt as the model reads it.
    prompt: String,
    /// What the run's model adds.
    text: String,
    /// What the untrained model adds, with `--base`.
    #[serde(skip_serializing_if = "Option::is_none")]
    untrained: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// No run of a language model, a model or adapter that cannot be used any more, a prompt longer than the model reads.
pub fn run(args: &GenerateArgs, common: &Common) -> Result<()> {
    let loaded = trained::load(&args.run, Which::Last, &common.sets)?;
    if loaded.config.model.task != TaskKind::CausalLm {
        return Err(UserError::new("this run trained a classifier, which does not generate")
            .help("`bonfire predict RUN --text TEXT` says which label it gives a text")
            .into());
    }
    if args.base && loaded.config.strategy.traits().trains_weights {
        return Err(UserError::new("this run trained every weight, so it holds no untrained model for --base")
            .help("leave --base out")
            .into());
    }
    let asked = asked(args, &loaded)?;
    let opened = device::open(common.first_device(&loaded))?;
    opened.notice.iter().for_each(note);
    let source = job::source(&loaded, &mut Waiting::default())?;
    let untrained = job::model(&loaded, &source, Task::Causal, &opened.device)?;
    let model = untrained.with_folded(&trained::adapter(&args.run, Which::Last, &loaded, &untrained)?);
    let tokenizer = job::causal_tokenizer(&source, job::tokenizer(&source)?, model.info())?;
    let prompts = asked.iter().enumerate().map(|(row, asked)| ids(asked, &tokenizer, &model, row, args));
    // All are looked at before the first is continued.
    let prompts = prompts.collect::<Result<Vec<_>>>()?;
    let many = prompts.len() > 1 || args.base;
    for (pass, prompts) in prompts.chunks(PROMPTS).enumerate() {
        let texts = continued(&model, &tokenizer, prompts, args)?;
        let untrained = if args.base { continued(&untrained, &tokenizer, prompts, args)? } else { Vec::new() };
        let mut untrained = untrained.into_iter();
        for (at, (prompt, text)) in prompts.iter().zip(texts).enumerate() {
            let answer = Answer { prompt: tokenizer.continuation(&[], prompt)?, text, untrained: untrained.next() };
            answer.show(pass * PROMPTS + at, args.json, many);
        }
    }
    Ok(())
}

impl Answer {
    /// Prints it, with its prompt where there are `many`.
    fn show(&self, row: usize, json: bool, many: bool) {
        if json {
            put(serde_json::to_string(self).expect("an answer is JSON"));
        } else if many {
            say(format!("{}--- prompt {row}\n{}", if row > 0 { "\n" } else { "" }, self.prompt));
            self.untrained.iter().for_each(|text| say(format!("--- untrained\n{text}")));
            say(format!("--- trained\n{}", self.text));
        } else {
            say(&self.text);
        }
    }
}

/// What is to be continued.
fn asked(args: &GenerateArgs, loaded: &CheckedConfig) -> Result<Vec<Content>> {
    if let Some(file) = &args.rows {
        return job::questions(loaded, file);
    }
    if let Some(instruction) = &args.instruction {
        refuse_other_prompts(&args.run, loaded)?;
        let input = args.input.iter().map(|input| ("input", input.as_str()));
        let fields: Vec<(&str, &str)> = [("instruction", instruction.as_str())].into_iter().chain(input).collect();
        return Ok(vec![job::question(loaded, &fields)?]);
    }
    let content = |given: &String| -> Result<Content> {
        let text = given_or_read(given, "prompt")?;
        Ok(if args.chat {
            Content::Chat(Conversation::from(vec![Message::new("user", &text)]))
        } else {
            Content::Text(text)
        })
    };
    args.prompt.iter().map(content).collect()
}

/// A run without `data.prompt` has an instruction put into Alpaca's prompt, which its model must have learnt.
fn refuse_other_prompts(run: &Path, loaded: &CheckedConfig) -> Result<()> {
    let summary = run.join(SUMMARY);
    if loaded.config.data.prompt.is_some() || !summary.is_file() {
        return Ok(());
    }
    let Some(template) = read::json::<Summary>(&summary)?.prompt_template else { return Ok(()) };
    if template.contains("{instruction}") {
        return Ok(());
    }
    let shown = template.replace('\n', "\\n");
    Err(UserError::new("this run learnt no prompts with an instruction")
        .help(format!("its rows were: {shown}; pass a whole prompt with --prompt, or rows as those with --rows"))
        .into())
}

/// The tokens of prompt number `row`, if the model can read them and has room for more.
fn ids(
    asked: &Content,
    tokenizer: &CausalTokenizer,
    model: &Transformer,
    row: usize,
    args: &GenerateArgs,
) -> Result<Vec<u32>> {
    let prompt = tokenizer.question(asked)?;
    let (name, way_out) = match &args.rows {
        Some(file) => (format!("prompt {row} of {}", file.display()), "leave the row out, or shorten it"),
        None => ("the prompt".to_string(), "pass another one"),
    };
    let room = model.info().max_tokens();
    if prompt.is_empty() || prompt.len() >= room {
        let what = format!("{name} has {} tokens; this model reads 1 to {}", prompt.len(), room - 1);
        return Err(UserError::new(what).help(way_out).into());
    }
    if let Some(id) = prompt.iter().find(|id| **id as usize >= model.info().vocab) {
        let vocab = model.info().vocab;
        let what = format!("{name} gives token {id}, but the model has embeddings for {vocab} tokens");
        return Err(UserError::new(what).help(way_out).into());
    }
    Ok(prompt)
}

/// What `model` adds to each of the prompts.
fn continued(
    model: &Transformer,
    tokenizer: &CausalTokenizer,
    prompts: &[Vec<u32>],
    args: &GenerateArgs,
) -> Result<Vec<String>> {
    let ends: Vec<u32> = model.info().decoder.iter().flat_map(|d| d.eos.clone()).chain([tokenizer.eos()]).collect();
    let GenerateArgs { temperature, top_p, max_tokens, seed, .. } = *args;
    let sampling = Sampling { temperature, top_p, max_tokens, seed };
    // A text may end in the middle of a token.
    let cut =
        |text: &str| args.stop.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| text.find(stop.as_str())).min();
    let mut on = |prompt: usize, new: &[u32]| match tokenizer.continuation(&prompts[prompt], new) {
        Ok(text) if !args.stop.is_empty() && cut(&text).is_some() => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let slices: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let texts = generate(model, &slices, &ends, sampling, &mut on);
    let text = |(prompt, new): (&Vec<u32>, Vec<u32>)| -> Result<String> {
        let text = tokenizer.continuation(prompt, &new)?;
        Ok(cut(&text).map_or(text.clone(), |at| text[..at].to_string()))
    };
    prompts.iter().zip(texts).map(text).collect()
}
