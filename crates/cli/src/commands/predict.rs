//! `bonfire predict`: which label a run's classifier gives texts of one's own, which labels, which number, or which tags their words.

use std::path::PathBuf;

use anyhow::Result;
use bonfire_data::Content;
use bonfire_experiment::config::{CheckedConfig, TaskKind};
use bonfire_experiment::format::percent;
use bonfire_experiment::predict::{self, Answer, Given, Predictor};
use bonfire_experiment::trained::{self, Which};
use bonfire_experiment::{UserError, job};
use clap::{ArgGroup, Args};

use crate::common::{Common, given_or_read};
use crate::console::{put, say};
use crate::progress::Waiting;

/// Labels that are shown of a text, the likeliest first.
const SHOWN: usize = 3;

/// How a text is asked by hand.
const AS_LEARNT: &str = "a single text: --text TEXT; a pair: --text TEXT --second TEXT, or --rows FILE with the run's columns; a sentence to tag: --text \"Ada lives in Rome\"";

/// Options of `predict`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("asked").required(true).args(["text", "rows"]))]
pub struct PredictArgs {
    /// Run folder of a model that classifies texts or words or foretells numbers, as left by `train`
    pub run: PathBuf,
    /// A text; - reads one from standard input; may be given again. Of a pair the second one is given with --second. Where words are
    /// tagged, they are what stands between white space
    #[arg(long, value_name = "TEXT")]
    pub text: Vec<String>,
    /// The second text of a pair
    #[arg(long, value_name = "TEXT", requires = "text")]
    pub second: Option<String>,
    /// A file of rows with the run's columns of texts; labels are not read
    #[arg(long, value_name = "FILE")]
    pub rows: Option<PathBuf>,
    /// The best round's model, which a run keeps with `evaluate.best`, in place of the last one's
    #[arg(long)]
    pub best: bool,
    /// Print a JSON object for each text, with the probability of every label, the number, or the words' tags and spans
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// No run of a classifier, or a model, data or adapter that cannot be used any more; rows that cannot be read.
pub fn run(args: &PredictArgs, common: &Common) -> Result<()> {
    let which = if args.best { Which::Best } else { Which::Last };
    let loaded = trained::load(&args.run, which, &common.sets)?;
    predict::refuse_language_models(&loaded)?;
    let contents = asked(args, &loaded)?;
    let device = common.first_device(&loaded);
    let predictor = Predictor::open(&args.run, which, loaded, device, &mut Waiting::default())?;
    predictor.answer(&contents, |answer| {
        if args.json {
            put(serde_json::to_string(&answer)?);
        } else {
            say(line(&answer, &contents));
        }
        Ok(())
    })
}

/// An answer on one line.
fn line(answer: &Answer, contents: &[Content]) -> String {
    let list = |ranked: Vec<(&str, f64)>, most: usize| {
        let one = |(label, probability): (&str, f64)| format!("{label} {}", percent(probability));
        ranked.into_iter().take(most).map(one).collect::<Vec<_>>().join(", ")
    };
    match answer {
        Answer::Number { row, value } => format!("{value:.4}  |  {}", short(&contents[*row])),
        Answer::Sentence { words, tags, .. } => {
            let tagged = words.iter().zip(tags).map(|(word, tag)| format!("{word}/{}", tag.as_deref().unwrap_or("?")));
            tagged.collect::<Vec<_>>().join(" ")
        }
        Answer::Labels { row, labels, probabilities } => {
            let above = match labels.len() {
                0 => "no label".to_owned(),
                n => list(probabilities.ranked(), n),
            };
            format!("{above}  |  {}", short(&contents[*row]))
        }
        Answer::Class { row, probabilities, .. } => {
            format!("{}  |  {}", list(probabilities.ranked(), SHOWN), short(&contents[*row]))
        }
    }
}

/// The texts.
fn asked(args: &PredictArgs, loaded: &CheckedConfig) -> Result<Vec<Content>> {
    if let Some(file) = &args.rows {
        return job::questions(loaded, file);
    }
    if args.second.is_some() && loaded.config.model.task == TaskKind::TokenClassification {
        return Err(UserError::new("this run learnt sentences, not pairs of texts").help("leave --second out").into());
    }
    if args.second.is_some() && args.text.len() > 1 {
        return Err(UserError::new("--second is of one --text").help("pass more pairs with --rows FILE").into());
    }
    let one = |text: &String| -> Result<Content> {
        let read = given_or_read(text, "text")?;
        // A line that came in ends with what ended it.
        let read = if text == "-" { read.trim_end_matches('\n').to_owned() } else { read };
        let given = match &args.second {
            Some(second) => Given::Several(vec![read, second.clone()]),
            None => Given::One(read),
        };
        let option = if args.second.is_some() { "--text with --second".to_owned() } else { format!("--text {text:?}") };
        let wrong = |what| UserError::new(format!("{option} {what}")).help(AS_LEARNT);
        Ok(predict::content(loaded, given).map_err(wrong)?)
    };
    args.text.iter().map(one).collect()
}

/// The beginning of a text, on one line.
fn short(content: &Content) -> String {
    const MOST: usize = 60;
    let text = match content {
        Content::Two(first, second) => format!("{first} / {second}"),
        Content::Text(text) => text.clone(),
        _ => String::new(),
    };
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut() {
        assert_eq!(short(&Content::Text(format!("a\n b {}", "x".repeat(80)))).chars().count(), 61);
    }
}
