//! `bonfire predict`: which label a run's classifier gives texts of one's own, which labels, which number, or which tags their words.

use std::path::PathBuf;

use anyhow::{Context, Result};
use bonfire_data::{Content, Example, Tags};
use bonfire_engine::{Scorer, Split};
use bonfire_experiment::config::{CheckedConfig, TaskKind};
use bonfire_experiment::format::percent;
use bonfire_experiment::log::note;
use bonfire_experiment::partition_file::PartitionFile;
use bonfire_experiment::trained::{self, Which};
use bonfire_experiment::{UserError, device, job};
use bonfire_models::{Matrix, Model};
use clap::{ArgGroup, Args};
use serde::Serialize;

use super::evaluate::predictions::likeliest;
use crate::common::{Common, given_or_read};
use crate::console::{put, say};
use crate::progress::Waiting;

/// Examples of one batch.
const BATCH: usize = 32;

/// Labels that are shown of a text, the likeliest first.
const SHOWN: usize = 3;

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

/// What is said of a text.
#[derive(Serialize)]
struct Answer<'l> {
    /// Its place, from 0.
    row: usize,
    /// The label of highest probability.
    label: &'l str,
    /// Its probability.
    probability: f64,
    /// The probability of every label.
    probabilities: serde_json::Map<String, serde_json::Value>,
}

/// Which labels are said of a text.
#[derive(Serialize)]
struct Labels<'l> {
    /// Its place, from 0.
    row: usize,
    /// The labels with a probability above 0.5.
    labels: Vec<&'l str>,
    /// The probability of every label.
    probabilities: serde_json::Map<String, serde_json::Value>,
}

/// What is said of a sentence's words.
#[derive(Serialize)]
struct Sentence<'l> {
    /// Its place, from 0.
    row: usize,
    words: &'l [String],
    /// Of every word its tag; `null`: it lies beyond `data.max_length`, or the tokenizer makes nothing of it.
    tags: Vec<Option<&'l str>>,
    spans: Vec<SpanOfWords<'l>>,
}

/// Words that belong together.
#[derive(Serialize)]
struct SpanOfWords<'l> {
    /// What they are.
    r#type: &'l str,
    /// The first word, from 0.
    start: usize,
    /// The word after the last.
    end: usize,
    /// The words with spaces between them.
    text: String,
}

/// What is foretold of a text.
#[derive(Serialize)]
struct Number {
    /// Its place, from 0.
    row: usize,
    /// The number.
    value: f32,
}

/// Runs the command.
///
/// # Errors
/// No run of a classifier, or a model, data or adapter that cannot be used any more; rows that cannot be read.
pub fn run(args: &PredictArgs, common: &Common) -> Result<()> {
    let which = if args.best { Which::Best } else { Which::Last };
    let loaded = trained::load(&args.run, which, &common.sets)?;
    let regression = loaded.config.model.task == TaskKind::Regression;
    if loaded.config.model.task == TaskKind::CausalLm {
        return Err(UserError::new("this run trained a language model, which gives no labels")
            .help("`bonfire generate RUN --prompt TEXT` says what it answers")
            .into());
    }
    let contents = asked(args, &loaded)?;
    let labels = match PartitionFile::read(&args.run)? {
        _ if regression => Vec::new(),
        Some(partition) => partition.labels,
        None => {
            job::dataset(&loaded, &mut Waiting::default()).context("the labels' names are in the run's data")?.labels
        }
    };
    let opened = device::open(common.first_device(&loaded))?;
    opened.notice.iter().for_each(note);
    let source = job::source(&loaded, &mut Waiting::default())?;
    let model = job::model(&loaded, &source, job::task(&loaded.config, labels.len()), &opened.device)?;
    let adapter = trained::adapter(&args.run, which, &loaded, &model)?;
    let examples: Vec<Example> =
        contents.iter().map(|content| Example { content: content.clone(), ..Example::labelled("", 0, None) }).collect();
    let split = job::split_tokens(&loaded, &examples, &labels, "test", &source, model.info())?;
    let scorer = Scorer::new(&model, &adapter);
    let tags = split.tags.clone().unwrap_or_default();
    let rows: Vec<usize> = (0..split.len()).collect();
    for rows in rows.chunks(BATCH) {
        for (&row, scores) in rows.iter().zip(scorer.scores(&split, rows)?) {
            if regression {
                let value = scores.data[0];
                if args.json {
                    put(serde_json::to_string(&Number { row, value })?);
                } else {
                    say(format!("{value:.4}  |  {}", short(&contents[row])));
                }
                continue;
            }
            if let Content::Words(words) = &contents[row] {
                let said = sentence(row, words, &scores, &split, &labels, &tags);
                if args.json {
                    put(serde_json::to_string(&said)?);
                } else {
                    let tagged = words.iter().zip(&said.tags);
                    let tagged = tagged.map(|(word, tag)| format!("{word}/{}", tag.unwrap_or("?")));
                    say(tagged.collect::<Vec<_>>().join(" "));
                }
                continue;
            }
            if loaded.config.model.task == TaskKind::MultiLabel {
                let likely: Vec<f64> =
                    scores.data.iter().map(|score| 1.0 / (1.0 + (-f64::from(*score)).exp())).collect();
                let mut order: Vec<usize> = (0..likely.len()).filter(|&label| scores.data[label] > 0.0).collect();
                order.sort_by(|&x, &y| likely[y].total_cmp(&likely[x]).then(x.cmp(&y)));
                if args.json {
                    let probabilities = labels.iter().cloned().zip(likely.iter().map(|p| (*p).into())).collect();
                    order.sort_unstable();
                    let above = order.iter().map(|&label| labels[label].as_str()).collect();
                    put(serde_json::to_string(&Labels { row, labels: above, probabilities })?);
                } else {
                    let one = |&label: &usize| format!("{} {}", labels[label], percent(likely[label]));
                    let above: Vec<String> = order.iter().map(one).collect();
                    let above = if above.is_empty() { "no label".to_owned() } else { above.join(", ") };
                    say(format!("{above}  |  {}", short(&contents[row])));
                }
                continue;
            }
            let likely = probabilities(&scores.data);
            let mut order: Vec<usize> = (0..likely.len()).collect();
            order.sort_by(|&x, &y| likely[y].total_cmp(&likely[x]).then(x.cmp(&y)));
            if args.json {
                let all = labels.iter().cloned().zip(likely.iter().map(|p| (*p).into())).collect();
                let (label, probability) = (labels[order[0]].as_str(), likely[order[0]]);
                put(serde_json::to_string(&Answer { row, label, probability, probabilities: all })?);
            } else {
                let one = |&label: &usize| format!("{} {}", labels[label], percent(likely[label]));
                let best: Vec<String> = order.iter().take(SHOWN).map(one).collect();
                say(format!("{}  |  {}", best.join(", "), short(&contents[row])));
            }
        }
    }
    Ok(())
}

/// The texts.
fn asked(args: &PredictArgs, loaded: &CheckedConfig) -> Result<Vec<Content>> {
    if let Some(file) = &args.rows {
        return job::questions(loaded, file);
    }
    let text = |given: &String| -> Result<String> {
        let text = given_or_read(given, "text")?;
        // A line that came in ends with what ended it.
        Ok(if given == "-" { text.trim_end_matches('\n').to_string() } else { text })
    };
    if loaded.config.model.task == TaskKind::TokenClassification {
        if args.second.is_some() {
            return Err(UserError::new("this run learnt sentences, not pairs of texts")
                .help("leave --second out")
                .into());
        }
        let words = |given: &String| -> Result<Content> {
            let words: Vec<String> = text(given)?.split_whitespace().map(String::from).collect();
            if words.is_empty() {
                return Err(UserError::new("a text without words")
                    .help("pass a sentence, such as --text \"Ada lives in Rome\"")
                    .into());
            }
            Ok(Content::Words(words))
        };
        return args.text.iter().map(words).collect();
    }
    let pairs = loaded.config.data.text.as_ref().is_some_and(|columns| columns.names().len() == 2);
    match (&args.second, pairs) {
        (Some(_), false) => {
            Err(UserError::new("this run learnt texts, not pairs of them").help("leave --second out").into())
        }
        (None, true) => Err(UserError::new("this run learnt pairs of texts")
            .help("pass the second text with --second, or both as the run's columns with --rows FILE")
            .into()),
        (Some(_), true) if args.text.len() > 1 => {
            Err(UserError::new("--second is of one --text").help("pass more pairs with --rows FILE").into())
        }
        (Some(second), true) => Ok(vec![Content::Two(text(&args.text[0])?, second.clone())]),
        (None, false) => args.text.iter().map(|given| Ok(Content::Text(text(given)?))).collect(),
    }
}

/// What a sentence's words are said to be, by the `scores` of those that are looked at.
fn sentence<'l>(
    row: usize,
    words: &'l [String],
    scores: &Matrix,
    split: &Split,
    labels: &'l [String],
    tags: &'l Tags,
) -> Sentence<'l> {
    let said = scores.data.chunks(scores.cols.max(1)).map(likeliest);
    let seen: Vec<(usize, usize)> = split.goals[row].tags().iter().map(|tag| tag.word).zip(said).collect();
    let mut classes = vec![None; words.len()];
    seen.iter().for_each(|&(word, class)| classes[word] = Some(class));
    let spans = tags.spans(&seen.iter().map(|(_, class)| *class).collect::<Vec<_>>());
    let span = |span: bonfire_data::Span| {
        let (start, end) = (seen[span.start].0, seen[span.end - 1].0 + 1);
        SpanOfWords { r#type: &tags.types()[span.kind], start, end, text: words[start..end].join(" ") }
    };
    Sentence {
        row,
        words,
        tags: classes.iter().map(|class| class.map(|class| labels[class].as_str())).collect(),
        spans: spans.into_iter().map(span).collect(),
    }
}

/// The softmax of scores.
fn probabilities(scores: &[f32]) -> Vec<f64> {
    let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = scores.iter().map(|score| f64::from(score - top).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
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
    fn probabilities_are_a_softmax() {
        let found = probabilities(&[0.0, 3f32.ln(), 1000.0 - 1000.0]);
        for (found, want) in found.iter().zip([0.2, 0.6, 0.2]) {
            assert!((found - want).abs() < 1e-7, "{found} {want}");
        }
        assert_eq!(probabilities(&[1000.0, -1000.0]), [1.0, 0.0]);
        assert_eq!(short(&Content::Text(format!("a\n b {}", "x".repeat(80)))).chars().count(), 61);
    }
}
