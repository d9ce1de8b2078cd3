//! `bonfire evaluate`: measures a run's adapter, or its whole model, on the test split or another.

mod classes;
pub mod predictions;
mod untrained;

use std::path::PathBuf;

use anyhow::{Result, bail};
use bonfire_engine::{Evaluation, NumberScores, SpanScores, evaluate_rows, summarise};
use bonfire_experiment::format::percent;
use bonfire_experiment::log::note;
use bonfire_experiment::trained::{self, Which};
use bonfire_experiment::{device, job};
use bonfire_models::{Adapter, Model, Task};
use clap::Args;
use serde_json::json;

use crate::common::Common;
use crate::console::{put, say};
use crate::progress::Waiting;

/// Options of `evaluate`.
#[derive(Debug, Args)]
pub struct EvaluateArgs {
    /// Run folder, as left by `train`
    #[arg(required_unless_present_all = ["model", "data"])]
    pub run: Option<PathBuf>,
    /// In place of a run: measure this model as it is, a folder, a GGUF file or hf:org/name; what else is to be said by --set
    #[arg(long, value_name = "DIR", requires = "data", conflicts_with_all = ["run", "best"])]
    pub model: Option<String>,
    /// With --model: the data, a folder, a file of rows or hf:org/name
    #[arg(long, value_name = "DIR", requires = "model")]
    pub data: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Which split to measure on
    #[arg(long, value_enum, default_value_t = SplitName::Test)]
    pub split: SplitName,
    /// Measure the best round's model, which a run keeps with `evaluate.best`, in place of the last one's
    #[arg(long)]
    pub best: bool,
    /// Also show how good it is with each class, and what each is taken for
    #[arg(long)]
    pub classes: bool,
    /// Also write a JSON line for every example: what was right, what was said, how sure
    #[arg(long, value_name = "FILE")]
    pub predictions: Option<PathBuf>,
}

/// A split of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum SplitName {
    /// The rows that clients train on
    Train,
    /// The rows by which settings may be chosen
    Validation,
    /// The rows that measure
    Test,
}

/// Runs the command.
///
/// # Errors
/// No run folder, or a model, data or adapter that cannot be used (any more).
pub fn run(args: &EvaluateArgs, common: &Common) -> Result<()> {
    let which = if args.best { Which::Best } else { Which::Last };
    let loaded = match (&args.run, &args.model, &args.data) {
        (Some(run), ..) => trained::load(run, which, &common.sets)?,
        (None, Some(model), Some(data)) => untrained::load(model, data, &common.sets)?,
        _ => unreachable!("clap asks for a run, or a model and data"),
    };
    loaded.notices.iter().for_each(note);
    let opened = device::open(common.first_device(&loaded))?;
    opened.notice.iter().for_each(note);
    let (data, source) = job::measured_and_source(&loaded, &mut Waiting::default())?;
    let task = job::task(&loaded.config, data.labels.len());
    let model = job::model(&loaded, &source, task, &opened.device)?;
    let (examples, name) = match args.split {
        SplitName::Train => (&data.train, "train"),
        SplitName::Validation => (&data.validation, "validation"),
        SplitName::Test => (&data.test, "test"),
    };
    if examples.is_empty() {
        bail!("data set {} has no {name} split; bonfire partition shows which there are", data.name);
    }
    let split = job::split_tokens(&loaded, examples, &data.labels, name, &source, model.info())?;
    let adapter = match &args.run {
        Some(run) => trained::adapter(run, which, &loaded, &model)?,
        None => Adapter::of_weights(Vec::new(), model.head().to_vec()),
    };
    let rows: Vec<usize> = (0..split.len()).collect();
    let evaluated = evaluate_rows(&model, &adapter, &split, &rows)?;
    let result = summarise(&evaluated, &rows);
    let by_class = if args.classes {
        let types = split.tags.as_ref().map(|tags| tags.types());
        classes::of(&evaluated, &rows, types.unwrap_or(&data.labels))
    } else {
        None
    };
    if let Some(path) = &args.predictions {
        predictions::write(path, &model, &adapter, &split, &data.labels)?;
    }
    if args.json {
        let mut object = json!(result);
        if let Some(by_class) = &by_class {
            object["classes"] = json!(by_class);
        }
        put(object)
    } else {
        say(format!(
            "{name} {} {:.4}, {} on {} texts of {} ({})",
            if task == Task::Regress { "mean squared error" } else { "loss" },
            result.loss,
            in_words(&result, task),
            result.examples,
            data.name,
            opened.name
        ));
        if let Some(by_class) = &by_class {
            say(classes::table(by_class));
        }
    }
    Ok(())
}

fn in_words(result: &Evaluation, task: Task) -> String {
    let accuracy = percent(result.accuracy);
    match task {
        Task::Regress => {
            let numbers = result.numbers.unwrap_or(NumberScores { pearson: 0.0, spearman: 0.0 });
            format!("Pearson {:.3}, Spearman {:.3}", numbers.pearson, numbers.spearman)
        }
        Task::Classify(_) => match result.classes {
            Some(scores) => {
                let [f1, precision, recall] =
                    [scores.macro_f1, scores.macro_precision, scores.macro_recall].map(percent);
                let matthews = scores.matthews.map_or(String::new(), |matthews| format!(", Matthews {matthews:.3}"));
                format!("accuracy {accuracy}, macro F1 {f1} (precision {precision}, recall {recall}){matthews}")
            }
            None => format!("accuracy {accuracy}"),
        },
        Task::MultiLabel(_) => match result.classes {
            Some(scores) => {
                let [micro, macro_f1] = [scores.micro_f1, scores.macro_f1].map(percent);
                format!("micro F1 {micro}, macro F1 {macro_f1}, all labels of {accuracy} right")
            }
            None => format!("all labels of {accuracy} right"),
        },
        Task::Tag(_) => {
            let spans = result.spans.unwrap_or(SpanScores { f1: 0.0, precision: 0.0, recall: 0.0 });
            let [f1, precision, recall] = [spans.f1, spans.precision, spans.recall].map(percent);
            format!("F1 {f1} (precision {precision}, recall {recall}), {accuracy} of {} words right", result.answers)
        }
        Task::Causal => {
            let (perplexity, exact) = (result.loss.exp(), percent(result.exact_match));
            format!("perplexity {perplexity:.3}, {accuracy} of {} tokens, exact match {exact}", result.answers)
        }
    }
}
