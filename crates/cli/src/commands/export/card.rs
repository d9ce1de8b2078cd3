//! The card that lies beside an export: what it is, of which model, how it was trained, and what that cost. In the form that the
//! Hugging Face Hub reads, `README.md`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use bonfire_experiment::format::{bytes, percent};
use bonfire_experiment::run_folder::{SUMMARY, read};
use bonfire_federation::Summary;
use bonfire_models::Task;
use toml::{Table, Value};

use super::args::Format;
use super::opened::OpenedRun;

/// Writes the card of what was exported into `folder`.
///
/// # Errors
/// The run's summary is damaged, or the file cannot be written.
pub fn write(run: &OpenedRun, task: Task, format: Format, folder: &Path) -> Result<()> {
    let summary = run.folder.join(SUMMARY);
    // A run that was killed has none; what it learnt so far is exported all the same.
    let summary = if summary.exists() { Some(read::json::<Summary>(&summary)?) } else { None };
    let config = toml::from_str(&run.loaded.config.to_toml()).context("cannot read the configuration again")?;
    let path = folder.join("README.md");
    // Only what PEFT loads has to be told them.
    let labels = if format == Format::Peft { run.labels().unwrap_or_default() } else { Vec::new() };
    fs::write(&path, card(&config, summary.as_ref(), task, &labels, format))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The card's text.
fn card(config: &Table, summary: Option<&Summary>, task: Task, labels: &[String], format: Format) -> String {
    let config = shareable(config);
    let text = |section: &str, key: &str| {
        config
            .get(section)
            .and_then(|section| section.get(key))
            .map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    };
    let base = text("model", "path").unwrap_or_default();
    let name = config.get("name").and_then(Value::as_str).unwrap_or("run");
    let pipeline = match task {
        Task::Causal => "text-generation",
        Task::Tag(_) => "token-classification",
        _ => "text-classification",
    };

    let mut lines = vec!["---".to_string()];
    let id = base.strip_prefix("hf:").map(|id| id.split('@').next().unwrap_or(id));
    lines.extend(id.map(|id| format!("base_model: {id}")));
    lines.extend(match format {
        Format::Peft => Some("library_name: peft".to_string()),
        Format::Merged => Some("library_name: transformers".to_string()),
        Format::Gguf => None,
    });
    lines.extend([format!("pipeline_tag: {pipeline}"), "tags:".into()]);
    lines.extend(["federated-learning", "lora", "bonfire"].map(|tag| format!("- {tag}")));
    lines.extend(["---".into(), String::new(), format!("# {name}"), String::new()]);
    let what = match format {
        Format::Merged => "A model",
        Format::Peft | Format::Gguf => "An adapter",
    };
    lines.push(format!("{what} trained by a federation of clients with Bonfire {}.", env!("CARGO_PKG_VERSION")));
    lines.extend([String::new(), "| | |".into(), "|---|---|".into()]);
    let mut row = |what: &str, value: String| lines.push(format!("| {what} | {value} |"));
    row(
        "base model",
        match base.as_str() {
            "builtin" | "builtin-llama" => {
                "the backbone built into Bonfire, which `bonfire export RUN --base --out DIR` writes".into()
            }
            base => id.unwrap_or(base).to_string(),
        },
    );
    row("data", text("data", "path").unwrap_or_default());
    let strategy = text("strategy", "name").unwrap_or_default();
    let adapter = |key: &str| text("adapter", key).unwrap_or_else(|| "unknown".into());
    row("method", format!("{strategy}, rank {}, alpha {}", adapter("rank"), adapter("alpha")));
    if let Some(summary) = summary {
        row("clients, rounds, seed", format!("{}, {}, {}", summary.clients, summary.rounds, summary.seed));
        if let Some(template) = &summary.prompt_template {
            row("prompts", format!("`{}`", template.replace('\n', "\\n")));
        }
        let scores = [
            ("test accuracy", summary.final_accuracy.map(percent)),
            ("test perplexity", summary.final_perplexity.map(|perplexity| format!("{perplexity:.2}"))),
            ("exact match", summary.final_exact_match.map(percent)),
            ("accuracy of the clients' own models", summary.personal_accuracy.map(percent)),
        ];
        scores.into_iter().for_each(|(what, score)| score.into_iter().for_each(|score| row(what, score)));
        row(
            "sent to the server, sent to clients",
            format!("{}, {}", bytes(summary.upload_bytes), bytes(summary.download_bytes)),
        );
    }
    lines.extend([
        String::new(),
        "Scores are those of the last evaluation, on the run's own test split; bytes are of all clients and rounds."
            .into(),
        String::new(),
    ]);
    if format == Format::Peft {
        let base = match base.as_str() {
            "builtin" | "builtin-llama" => "DIR",
            base => id.unwrap_or(base),
        };
        lines.extend(loading(base, task, labels));
    }
    lines.extend([
        "## Trained by".into(),
        String::new(),
        "`bonfire train federation.toml` with this file:".into(),
        String::new(),
        "```toml".into(),
        toml::to_string(&config).unwrap_or_default().trim_end().to_string(),
        "```".into(),
        String::new(),
    ]);
    lines.join("\n")
}

/// How PEFT puts the adapter on the model `base`, which knows no names of `labels` by itself.
fn loading(base: &str, task: Task, labels: &[String]) -> Vec<String> {
    let class = match task {
        Task::Causal => "AutoModelForCausalLM",
        Task::Tag(_) => "AutoModelForTokenClassification",
        _ => "AutoModelForSequenceClassification",
    };
    let mut lines = vec!["## Loaded by".to_owned(), String::new(), "```python".into()];
    lines.extend(["from peft import PeftModel".into(), format!("from transformers import {class}"), String::new()]);
    let mut options = Vec::new();
    if let Some(outputs) = task.outputs() {
        options.push(format!("num_labels={outputs}"));
        if labels.len() == outputs {
            // A string of JSON is one of Python's.
            let name =
                |(at, label): (usize, &String)| format!("    {at}: {},", serde_json::Value::from(label.as_str()));
            lines.push("id2label = {".into());
            lines.extend(labels.iter().enumerate().map(name));
            lines.push("}".into());
            options.push("id2label=id2label, label2id={name: i for i, name in id2label.items()}".into());
        }
        if matches!(task, Task::MultiLabel(_)) {
            options.push("problem_type=\"multi_label_classification\"".into());
        }
    }
    let options: String = options.iter().map(|option| format!(", {option}")).collect();
    lines.push(format!("base = {class}.from_pretrained(\"{base}\"{options})"));
    lines.push("model = PeftModel.from_pretrained(base, \"THIS FOLDER\")".into());
    lines.extend(["```".into(), String::new()]);
    lines
}

/// The configuration without the folders of the machine it ran on: of a path its last part is left.
fn shareable(config: &Table) -> Table {
    /// Keys that name a file, a folder or a server; in others a slash is a part of the text.
    const PATHS: [&str; 9] =
        ["path", "tokenizer", "init", "train", "validation", "test", "tokens_per_second", "mlflow", "trackio"];
    fn clean(key: &str, value: &Value) -> Value {
        match value {
            Value::Table(table) => Value::Table(shareable(table)),
            Value::Array(values) => Value::Array(values.iter().map(|value| clean(key, value)).collect()),
            Value::String(text) if PATHS.contains(&key) && !text.starts_with("hf:") && text.contains(['/', '\\']) => {
                let last = text.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next();
                Value::String(last.unwrap_or_default().to_owned())
            }
            other => other.clone(),
        }
    }
    config.iter().map(|(key, value)| (key.clone(), clean(key, value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(model: &str) -> Table {
        let text = format!(
            "name = 'wishes'\nmodel.path = '{model}'\ndata.path = '/home/me/secret place/rows/'\nadapter = {{ rank = 8, alpha = 16.0 }}\n\
             strategy.name = 'fedit'\n"
        );
        toml::from_str(&text).expect("TOML")
    }

    fn owned<const N: usize>(names: [&str; N]) -> [String; N] {
        names.map(str::to_owned)
    }

    #[test]
    fn the_hub_reads_what_it_is_and_of_which_model() {
        let text = card(
            &config("hf:FacebookAI/roberta-base@main"),
            None,
            Task::Classify(3),
            &owned(["air", "no \"bell\"", "c"]),
            Format::Peft,
        );
        let front = "---\nbase_model: FacebookAI/roberta-base\nlibrary_name: peft\npipeline_tag: text-classification\ntags:\n\
                     - federated-learning\n- lora\n- bonfire\n---\n\n# wishes\n";
        assert!(text.starts_with(front), "{text}");
        assert!(text.contains("| method | fedit, rank 8, alpha 16.0 |"), "{text}");
        let names = "id2label = {\n    0: \"air\",\n    1: \"no \\\"bell\\\"\",\n    2: \"c\",\n}\n";
        assert!(text.contains(names), "{text}");
        let load = "base = AutoModelForSequenceClassification.from_pretrained(\"FacebookAI/roberta-base\", num_labels=3, id2label=";
        assert!(text.contains(load), "{text}");
        let text = card(&config("models/mine"), None, Task::Causal, &[], Format::Merged);
        // A folder is no model of the Hub's.
        assert!(text.starts_with("---\nlibrary_name: transformers\npipeline_tag: text-generation\n"), "{text}");
        assert!(text.contains("| base model | mine |"), "{text}");
    }

    #[test]
    fn it_tells_nothing_of_the_machine() {
        let text = card(&config("/home/me/models/mine"), None, Task::Causal, &[], Format::Gguf);
        assert!(!text.contains("/home") && !text.contains("secret"), "{text}");
        assert!(text.contains("path = \"rows\"") && text.contains("| data | rows |"), "{text}");
        // A slash in what is no path stays.
        let mut columns = config("models/mine");
        columns.insert("data".into(), toml::toml! { path = "/home/me/rows" text = "Q/A" }.into());
        let text = card(&columns, None, Task::Causal, &[], Format::Gguf);
        assert!(text.contains("text = \"Q/A\"") && !text.contains("/home"), "{text}");
    }
}
