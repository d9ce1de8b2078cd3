//! Whole models as Hugging Face stores them: every tensor by name, and `model.safetensors` from them.

use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;

use crate::{Adapter, Architecture, HeadTensor, Matrix, Model, ModelError, ModelSource, Task, files};

/// Files beside config and weights that belong to a model. Without the tokenizer's configuration Transformers guesses its
/// class from the model's, and may split texts otherwise.
pub(crate) const OTHERS: [&str; 10] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "generation_config.json",
];

/// How a checkpoint stores what we keep as a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// A bias or a norm's gain: `[1, n]` here, `[n]` there.
    AsVector,
    /// A table of embeddings.
    AsIs,
    /// A linear's weight: `[in, out]` here, `[out, in]` there.
    Transposed,
}

/// A tensor of a model on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedWeight {
    /// Its name in a checkpoint, e.g. `roberta.encoder.layer.0.attention.self.query.weight`.
    pub name: String,
    /// How checkpoints store it.
    pub stored: Stored,
    /// Its values in our orientation.
    pub value: Matrix,
}

impl From<&HeadTensor> for NamedWeight {
    fn from(tensor: &HeadTensor) -> Self {
        let stored = if tensor.name.ends_with(".bias") { Stored::AsVector } else { Stored::Transposed };
        NamedWeight { name: tensor.name.clone(), stored, value: tensor.value.clone() }
    }
}

impl NamedWeight {
    /// Name, how it is stored, values.
    pub fn parts(&self) -> (&str, Stored, &Matrix) {
        (&self.name, self.stored, &self.value)
    }
}

/// Writes tensors as safetensors to `path`, which is replaced as a whole. A checkpoint that loads again holds the
/// weights, the pooler and the head.
///
/// # Errors
/// The file cannot be written.
pub fn write<'w>(
    path: &Path,
    tensors: impl IntoIterator<Item = (&'w str, Stored, &'w Matrix)>,
) -> Result<(), ModelError> {
    let part = |(name, stored, value): (&str, Stored, &Matrix)| {
        let shape = match stored {
            Stored::AsVector => vec![value.cols],
            Stored::AsIs => vec![value.rows, value.cols],
            Stored::Transposed => vec![value.cols, value.rows],
        };
        let bytes = match stored {
            Stored::Transposed => bytes(&value.transposed()),
            _ => bytes(value),
        };
        (name.to_string(), shape, bytes)
    };
    replace(path, &serialise(tensors.into_iter().map(part).collect()))
}

/// A fine-tuned model as a folder in Hugging Face layout: all of it but the numbers that train.
#[derive(Clone, Debug)]
pub struct ModelFolder {
    names: Vec<(String, Stored)>,
    pooler: Vec<NamedWeight>,
    config: Vec<u8>,
    /// The tokenizer's files and what else lies beside the weights.
    others: Vec<(&'static str, Vec<u8>)>,
}

impl ModelFolder {
    /// For fine-tuned versions of `model`, which came from `source`; `labels` are the classes' names, where they are known.
    ///
    /// # Errors
    /// A file of the source cannot be read any more.
    pub fn of(model: &dyn Model, source: &ModelSource, labels: Option<&[String]>) -> Result<ModelFolder, ModelError> {
        let (config, file) = source.file("config.json")?;
        let mut others = Vec::new();
        for name in OTHERS {
            others.extend(source.optional(name)?.map(|(bytes, _)| (name, bytes)));
        }
        let names: Vec<(String, Stored)> = model.weights().into_iter().map(|w| (w.name, w.stored)).collect();
        let tied = model.info().decoder.as_ref().is_some_and(|decoder| decoder.tied);
        let new = Described {
            architecture: model.info().architecture,
            task: model.task(),
            labels,
            dtype: Some("float32"),
            untied: tied && names.iter().any(|(name, _)| name == "lm_head.weight"),
        };
        Ok(ModelFolder { names, pooler: model.pooler(), config: described(&config, &file, new)?, others })
    }

    /// Writes the model with the weights and head of `adapter` into `dir`, which is made if need be. Each file is
    /// replaced as a whole, the weights last.
    ///
    /// # Errors
    /// The folder or a file cannot be written.
    pub fn write(&self, dir: &Path, adapter: &Adapter) -> Result<(), ModelError> {
        assert_eq!(adapter.weights.len(), self.names.len(), "values of every weight");
        fs::create_dir_all(dir).map_err(|source| ModelError::Write { path: dir.to_path_buf(), source })?;
        replace(&dir.join("config.json"), &self.config)?;
        for (name, bytes) in &self.others {
            replace(&dir.join(name), bytes)?;
        }
        let head: Vec<NamedWeight> = adapter.head.iter().map(NamedWeight::from).collect();
        let weights = self.names.iter().zip(&adapter.weights).map(|((name, stored), m)| (name.as_str(), *stored, m));
        let others = self.pooler.iter().chain(&head).map(NamedWeight::parts);
        write(&dir.join("model.safetensors"), weights.chain(others))
    }
}

/// What of a `config.json` is the new model's own.
#[derive(Clone, Copy)]
pub(crate) struct Described<'d> {
    pub architecture: Architecture,
    pub task: Task,
    /// The classes' names, where they are known.
    pub labels: Option<&'d [String]>,
    /// The type of its weights, where it is another than the source's.
    pub dtype: Option<&'d str>,
    /// Whether the output embeddings turned out to be others than the input embeddings.
    pub untied: bool,
}

/// `config.json` of a new model, all else as it was.
pub(crate) fn described(json: &[u8], file: &str, new: Described) -> Result<Vec<u8>, ModelError> {
    let bad = |problem: String| ModelError::Config { file: file.to_string(), problem };
    let mut config: serde_json::Value = serde_json::from_slice(json).map_err(|e| bad(e.to_string()))?;
    let map = config.as_object_mut().ok_or_else(|| bad("is not an object".into()))?;
    let description = new.architecture.describe();
    match new.task {
        Task::Causal => {
            map.insert("architectures".into(), json!([format!("{}ForCausalLM", description.class)]));
        }
        Task::Classify(_) | Task::MultiLabel(_) | Task::Regress | Task::Tag(_) => {
            let outputs = new.task.outputs().expect("it has a head");
            let numbered = || (0..outputs).map(|i| format!("LABEL_{i}")).collect();
            let names = new.labels.filter(|l| l.len() == outputs).map_or_else(numbered, <[String]>::to_vec);
            let of = if new.task.is_of_texts() { "Sequence" } else { "Token" };
            let class = format!("{}For{of}Classification", description.classifier);
            map.insert("architectures".into(), json!([class]));
            map.insert("id2label".into(), names.iter().enumerate().map(|(i, n)| (i.to_string(), json!(n))).collect());
            map.insert("label2id".into(), names.iter().enumerate().map(|(i, n)| (n.clone(), json!(i))).collect());
            map.remove("num_labels");
            // By itself Transformers takes a head of one output for regression; whoever reads the file need not know that.
            match new.task {
                Task::Regress => drop(map.insert("problem_type".into(), json!("regression"))),
                Task::MultiLabel(_) => drop(map.insert("problem_type".into(), json!("multi_label_classification"))),
                _ => drop(map.remove("problem_type")),
            }
        }
    }
    if let Some(dtype) = new.dtype {
        // Both names: Transformers 5 writes the one and reads either, older versions know the other alone.
        let old = map.remove("torch_dtype").is_some();
        map.insert(if old { "torch_dtype" } else { "dtype" }.into(), json!(dtype));
    }
    if new.untied {
        map.insert("tie_word_embeddings".into(), json!(false));
    }
    let mut text = serde_json::to_vec_pretty(&config).expect("plain JSON values");
    text.push(b'\n');
    Ok(text)
}

/// The numbers, little-endian.
fn bytes(m: &Matrix) -> Vec<u8> {
    m.data.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A safetensors file of f32 tensors: name, shape, bytes.
pub(crate) fn serialise(parts: Vec<(String, Vec<usize>, Vec<u8>)>) -> Vec<u8> {
    let views = parts.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).expect("as many bytes as the shape says");
        (name.as_str(), view)
    });
    let about = [("format".to_string(), "pt".to_string())].into();
    safetensors::serialize(views, Some(about)).expect("names are unique")
}

/// Replaces a file as a whole.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), ModelError> {
    files::replace(path, bytes).map_err(|source| ModelError::Write { path: path.to_path_buf(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_new_configuration_says_what_the_model_is() {
        let old = br#"{"model_type":"gemma3_text","dtype":"float16","id2label":{"0":"x"},"hidden_size":8}"#;
        let labels = ["no", "yes"].map(String::from);
        let new = Described {
            architecture: Architecture::Gemma3,
            task: Task::Classify(2),
            labels: Some(&labels),
            dtype: Some("float32"),
            untied: false,
        };
        let json = described(old, "config.json", new).expect("an object");
        let config: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
        assert_eq!(config["architectures"], json!(["Gemma3TextForSequenceClassification"]));
        assert_eq!(config["id2label"], json!({"0": "no", "1": "yes"}));
        assert_eq!(config["label2id"], json!({"no": 0, "yes": 1}));
        assert_eq!((&config["dtype"], &config["hidden_size"]), (&json!("float32"), &json!(8)));
        // A number for every text.
        let new = Described { task: Task::Regress, labels: Some(&[]), ..new };
        let json = described(old, "config.json", new).expect("an object");
        let config: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
        assert_eq!((&config["id2label"], &config["problem_type"]), (&json!({"0": "LABEL_0"}), &json!("regression")));
        // As older versions of Transformers wrote it.
        let old = br#"{"model_type":"xlm-roberta","torch_dtype":"float16","tie_word_embeddings":true}"#;
        let new = Described {
            architecture: Architecture::XlmRoberta,
            task: Task::Classify(3),
            labels: None,
            dtype: Some("float32"),
            untied: true,
        };
        let json = described(old, "config.json", new).expect("an object");
        let config: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
        assert_eq!(config["architectures"], json!(["XLMRobertaForSequenceClassification"]));
        assert_eq!(config["id2label"]["2"], json!("LABEL_2"));
        assert_eq!((&config["torch_dtype"], &config["tie_word_embeddings"]), (&json!("float32"), &json!(false)));
        assert!(config.get("dtype").is_none());
    }
}
