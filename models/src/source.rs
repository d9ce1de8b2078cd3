//! Where a model's files come from.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::gguf::backbone::Header;
use crate::gguf::vocabulary;
use crate::tensor_files::{TensorFiles, is_pointer, pointer};
use crate::{ModelError, ModelInfo, Task, builtin};

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// The small encoder that comes with the program.
    Builtin,
    /// The small decoder that comes with the program.
    BuiltinLlama,
    /// A folder in Hugging Face layout.
    Folder(PathBuf),
    /// A GGUF file, which holds configuration, weights and tokenizer.
    Gguf {
        /// The file.
        file: PathBuf,
        /// A folder with `tokenizer.json`, used instead of the tokenizer inside; so is one that lies beside the file.
        tokenizer: Option<PathBuf>,
    },
}

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const INDEX: &str = "model.safetensors.index.json";

/// `model.safetensors.index.json`: which tensor lies in which file.
#[derive(Deserialize)]
struct Index {
    weight_map: std::collections::BTreeMap<String, String>,
}

impl ModelSource {
    /// The folder of what is in files of its own.
    fn folder(&self) -> Option<&Path> {
        match self {
            ModelSource::Folder(folder) => Some(folder),
            ModelSource::Gguf { file, tokenizer } => Some(tokenizer.as_deref().unwrap_or(file.parent()?)),
            _ => None,
        }
    }

    /// The bytes of one of the model's files and the name to show for it.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn file(&self, name: &str) -> Result<(Vec<u8>, String), ModelError> {
        match self {
            ModelSource::Builtin => Ok((builtin::file(name).to_vec(), self.shown(name))),
            ModelSource::BuiltinLlama => Ok((builtin::llama_file(name).to_vec(), self.shown(name))),
            ModelSource::Gguf { file, .. } if name == CONFIG => {
                let config = Header::read(file)?.config()?;
                Ok((config.to_string().into_bytes(), file.display().to_string()))
            }
            ModelSource::Gguf { file, .. } if self.reads_inside(name) => {
                let header = Header::with_vocabulary(file)?;
                let contents = match name {
                    TOKENIZER => vocabulary::tokenizer(&header)?,
                    _ => vocabulary::config(&header)?,
                };
                Ok((contents.to_string().into_bytes(), self.shown(name)))
            }
            ModelSource::Folder(_) | ModelSource::Gguf { .. } => {
                let folder = self.folder().unwrap_or(Path::new(""));
                let path = folder.join(name);
                let bytes = fs::read(&path).map_err(|source| unreadable(folder, name, source))?;
                if is_pointer(&bytes) {
                    Err(pointer(path.display().to_string()))
                } else {
                    Ok((bytes, path.display().to_string()))
                }
            }
        }
    }

    /// What errors call one of the model's files.
    pub fn shown(&self, name: &str) -> String {
        match self {
            ModelSource::Builtin => format!("builtin {name}"),
            ModelSource::BuiltinLlama => format!("builtin-llama {name}"),
            ModelSource::Gguf { file, .. } if name == CONFIG || self.reads_inside(name) => file.display().to_string(),
            _ => self.folder().unwrap_or(Path::new("")).join(name).display().to_string(),
        }
    }

    /// Whether this file of the tokenizer's is made of what a GGUF file holds: where no folder of a tokenizer is named and
    /// none lies beside the file, so that its files are all of one place.
    fn reads_inside(&self, name: &str) -> bool {
        let own = matches!(self, ModelSource::Gguf { tokenizer: None, .. }) && !self.has_own(TOKENIZER);
        own && [TOKENIZER, TOKENIZER_CONFIG].contains(&name)
    }

    /// Whether a file of this name is there.
    fn has_own(&self, name: &str) -> bool {
        self.folder().is_some_and(|folder| folder.join(name).exists())
    }

    /// Hands `put` what tells this model's weights from others: the name, length, beginning and end of every file.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn sample(&self, put: &mut dyn FnMut(&[u8])) -> Result<(), ModelError> {
        const PIECE: usize = 1 << 20;
        let paths: Vec<PathBuf> = match self {
            ModelSource::Folder(folder) => self.weight_files()?.iter().map(|name| folder.join(name)).collect(),
            ModelSource::Gguf { file, .. } => vec![file.clone()],
            _ => {
                put(&self.file(WEIGHTS)?.0);
                return Ok(());
            }
        };
        for path in paths {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let unreadable = |source| ModelError::Read { path: path.clone(), source };
            let mut file = fs::File::open(&path).map_err(unreadable)?;
            let length = file.metadata().map_err(unreadable)?.len();
            put(name.as_bytes());
            put(&length.to_le_bytes());
            for start in [0, length.saturating_sub(PIECE as u64)] {
                let mut piece = Vec::with_capacity(PIECE);
                file.seek(SeekFrom::Start(start)).map_err(unreadable)?;
                file.by_ref().take(PIECE as u64).read_to_end(&mut piece).map_err(unreadable)?;
                put(&piece);
            }
        }
        Ok(())
    }

    /// As [`Self::file`]; `None` where the model has no such file.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn optional(&self, name: &str) -> Result<Option<(Vec<u8>, String)>, ModelError> {
        match self {
            ModelSource::Folder(_) if !self.has_own(name) => Ok(None),
            ModelSource::Gguf { .. } if name != CONFIG && !self.reads_inside(name) && !self.has_own(name) => Ok(None),
            ModelSource::Builtin if !builtin::FILES.contains(&name) => Ok(None),
            ModelSource::BuiltinLlama if !builtin::LLAMA_FILES.contains(&name) => Ok(None),
            _ => self.file(name).map(Some),
        }
    }

    /// The shape that `config.json` tells, and of the weights, where they are there, whether they lack a pooler.
    ///
    /// # Errors
    /// As [`ModelInfo::parse`].
    pub fn info(&self) -> Result<ModelInfo, ModelError> {
        let (bytes, file) = self.file(CONFIG)?;
        let mut info = ModelInfo::parse(&bytes, &file)?;
        info.draws_pooler = self.lacks_pooler(&info);
        Ok(info)
    }

    /// Whether the checkpoint has no pooler, as those of masked language models have none, although the architecture does.
    /// Weights that are not there or cannot be read are told of when they are loaded.
    fn lacks_pooler(&self, info: &ModelInfo) -> bool {
        let Some(form) = info.architecture.describe().pooler else { return false };
        // With a norm behind it, it is a part that pretraining made: a checkpoint without is refused.
        if form.norm.is_some() {
            return false;
        }
        let Ok(files) = TensorFiles::open(self) else { return false };
        let bare = form.linear.split_once('.').map_or(form.linear, |(_, bare)| bare);
        [form.linear, bare].iter().all(|module| !files.places.contains_key(&format!("{module}.weight")))
    }

    /// Whether the checkpoint has a head of its own for `task`. Weights that cannot be read have none.
    pub fn has_head(&self, info: &ModelInfo, task: Task) -> bool {
        let last = info.architecture.describe().head_of(task).last().map(|form| format!("{}.weight", form.module));
        TensorFiles::open(self).is_ok_and(|files| last.is_some_and(|name| files.places.contains_key(&name)))
    }

    /// Names of the safetensors files that hold the weights: one, or the shards that the index lists.
    ///
    /// # Errors
    /// No weights in this format, an index that cannot be read, shards that are not there.
    pub fn weight_files(&self) -> Result<Vec<String>, ModelError> {
        let ModelSource::Folder(folder) = self else { return Ok(vec![WEIGHTS.into()]) };
        if folder.join(WEIGHTS).is_file() {
            return Ok(vec![WEIGHTS.into()]);
        }
        let Some((bytes, file)) = self.optional(INDEX)? else { return Err(no_weights(folder)) };
        let bad = |problem: String| ModelError::Config { file: file.clone(), problem };
        let names = shard_names(&bytes, &file)?;
        let missing: Vec<&str> = names.iter().map(String::as_str).filter(|n| !folder.join(n).is_file()).collect();
        match (names.is_empty(), missing.as_slice()) {
            (true, _) => Err(bad("lists no shards".into())),
            (false, []) => Ok(names),
            (false, missing) => {
                let (n, all) = (missing.len(), names.len());
                Err(bad(format!("{n} of {all} shards are missing: {}; fetch them again", missing.join(", "))))
            }
        }
    }
}

/// The shards that a `model.safetensors.index.json` lists, each once; `file` is its name in errors.
///
/// # Errors
/// Not an index, or one that names something else than files beside it.
pub fn shard_names(index: &[u8], file: &str) -> Result<Vec<String>, ModelError> {
    let bad = |problem: String| ModelError::Config { file: file.to_string(), problem };
    let index: Index = serde_json::from_slice(index).map_err(|e| bad(format!("not an index of shards: {e}")))?;
    let mut names: Vec<String> = index.weight_map.into_values().collect();
    names.sort();
    names.dedup();
    // A name with a path in it could lead out of the folder.
    match names.iter().find(|n| n.contains('\\') || Path::new(n).file_name() != Some(n.as_ref())) {
        Some(name) => Err(bad(format!("lists the shard `{name}`, which is not a plain file name"))),
        None => Ok(names),
    }
}

/// What is said of a file that cannot be read; with the way to have it where there is one.
fn unreadable(folder: &Path, name: &str, source: std::io::Error) -> ModelError {
    let problem = |problem: String| ModelError::Config { file: folder.display().to_string(), problem };
    if folder.is_file() {
        let what =
            "is a file; a model is a folder in Hugging Face layout (config.json, model.safetensors, tokenizer.json)";
        return problem(what.into());
    }
    if !folder.exists() {
        let name = folder.to_string_lossy();
        let plain =
            |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        let is_repository = name.split('/').count() == 2 && name.split('/').all(plain) && !name.starts_with('.');
        return problem(if is_repository {
            format!("no such folder; a repository of the Hugging Face Hub is written \"hf:{name}\"")
        } else {
            "no such folder; paths are relative to the current directory".into()
        });
    }
    let slow = ["tokenizer.model", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model"];
    let slow = slow.iter().find(|file| name == "tokenizer.json" && folder.join(file).exists());
    match slow {
        Some(file) => problem(format!(
            "has {file} but no tokenizer.json, which is what is read; convert it: {}",
            converter(folder, "AutoTokenizer")
        )),
        None => ModelError::Read { path: folder.join(name), source },
    }
}

/// The command that loads a part of a model by Transformers and writes it in today's format.
fn converter(folder: &Path, class: &str) -> String {
    let folder = folder.display();
    format!(
        "python -c \"from transformers import {class}; {class}.from_pretrained('{folder}').save_pretrained('{folder}')\""
    )
}

fn no_weights(folder: &Path) -> ModelError {
    let pickled = ["pytorch_model.bin", "pytorch_model.bin.index.json"].iter().find(|n| folder.join(n).exists());
    let problem = match pickled {
        Some(name) => format!(
            "has {name} but no {WEIGHTS}: pickles can run code and are not read; convert the weights: {}",
            converter(folder, architecture_of(folder).as_deref().unwrap_or("AutoModel"))
        ),
        None => match fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.file_name()).find(is_gguf) {
            Some(name) => {
                let name = name.to_string_lossy();
                format!(
                    "has {name} but no {WEIGHTS}; a GGUF file is named itself: model.path = \"{}\"",
                    folder.join(&*name).display()
                )
            }
            None => format!("has neither {WEIGHTS} nor {INDEX}"),
        },
    };
    ModelError::Config { file: folder.display().to_string(), problem }
}

fn is_gguf(name: &std::ffi::OsString) -> bool {
    Path::new(name).extension().is_some_and(|end| end == "gguf")
}

/// The class that `config.json` names for the weights, if it does in plain letters: it goes into a command.
fn architecture_of(folder: &Path) -> Option<String> {
    let config: serde_json::Value = serde_json::from_slice(&fs::read(folder.join("config.json")).ok()?).ok()?;
    let class = config["architectures"][0].as_str()?;
    class.chars().all(|c| c.is_ascii_alphanumeric()).then(|| class.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong with a folder of these files.
    fn problem(files: &[(&str, &str)]) -> String {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            fs::write(folder.path().join(name), text).expect("written");
        }
        let source = ModelSource::Folder(folder.path().to_path_buf());
        source.weight_files().expect_err("cannot be used").to_string()
    }

    #[test]
    fn weights_that_cannot_be_had_are_named() {
        let index = r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#;
        let text = problem(&[(INDEX, index), ("model-1.safetensors", "")]);
        assert!(text.contains("1 of 2 shards are missing: model-2.safetensors"), "{text}");
        let text = problem(&[(INDEX, r#"{"weight_map": {"a": "../elsewhere"}}"#)]);
        assert!(text.contains("../elsewhere"), "{text}");
        assert!(problem(&[(INDEX, "{}")]).contains("weight_map"));
        assert!(problem(&[("pytorch_model.bin", "")]).contains("pickles can run code and are not read"));
        assert!(problem(&[]).contains("neither model.safetensors nor"));
    }

    #[test]
    fn other_weights_have_another_sample() {
        let sample = |weights: &[u8]| {
            let folder = tempfile::tempdir().expect("a folder");
            fs::write(folder.path().join(WEIGHTS), weights).expect("written");
            let mut all = Vec::new();
            let source = ModelSource::Folder(folder.path().to_path_buf());
            source.sample(&mut |bytes| all.extend_from_slice(bytes)).expect("readable");
            all
        };
        let long = vec![0; 3 << 20];
        let mut other = long.clone();
        *other.last_mut().expect("long") = 1;
        assert!(sample(&long) != sample(&other) && sample(&long) != sample(&long[1..]));
        assert!(sample(&long) == sample(&long) && sample(&long).len() < long.len());
        assert!(sample(b"short") != sample(b"shore"));
    }
}
