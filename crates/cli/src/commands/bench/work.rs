//! What is measured: a model on a device, and texts dealt out to clients.

use std::path::Path;

use anyhow::{Context, Result};
use bonfire_data::Dataset;
use bonfire_data::random::{Use, stream};
use bonfire_engine::{EngineSettings, InFlight, Member, Recompute, Split, TrainSettings};
use bonfire_experiment::{UserError, job};
use bonfire_models::{Goal, ModelInfo, ModelSource, Task, Transformer};
use burn::tensor::Device;
use rand::seq::SliceRandom;

use super::args::{BenchArgs, Head, Shape, TaskName};
use super::lengths::made_up;

/// Classes of made-up texts: BANKING77's.
const CLASSES: usize = 77;

/// The texts of a measurement and who holds them.
pub struct Work {
    /// The model's sizes.
    pub info: ModelInfo,
    /// What is trained.
    pub task: Task,
    /// All texts.
    pub texts: Split,
    /// Rows of each client of the `step` and `round` parts: `steps · batch` of them.
    pub shards: Vec<Vec<usize>>,
    /// All rows, shuffled; for parts that deal them out in their own way.
    pub rows: Vec<usize>,
}

impl Work {
    /// Makes the texts up or reads them.
    ///
    /// # Errors
    /// A model folder, data folder or row list that cannot be used, or too few texts in it.
    pub fn new(args: &BenchArgs, texts_wanted: usize) -> Result<Work> {
        let info = info(&args.shape)?;
        if args.rank > info.hidden {
            return Err(UserError::new(format!("--rank {} is above the model's {} features", args.rank, info.hidden))
                .help(format!("use 1 to {}", info.hidden))
                .into());
        }
        let causal = is_causal(args, &info)?;
        let (texts, task) = match &args.data {
            Some(folder) => read(args, folder, &info)?,
            None => {
                let task = if causal { Task::Causal } else { Task::Classify(CLASSES) };
                (invent(args, texts_wanted, &info, task)?, task)
            }
        };
        if texts.len() < texts_wanted {
            return Err(too_few(texts.len(), texts_wanted).into());
        }
        let mut rows: Vec<usize> = (0..texts.len()).collect();
        if args.data.is_some() {
            rows.shuffle(&mut stream(args.seed, Use::Partition, 0, 0, 0));
        }
        let shards = match &args.rows {
            Some(file) => listed(args, file, texts.len())?,
            None => deal(&rows, args.clients, args.steps * args.batch),
        };
        Ok(Work { info, task, texts, shards, rows })
    }

    /// Number of classes (K); none where a language model is trained.
    pub fn classes(&self) -> usize {
        if let Task::Classify(classes) = self.task { classes } else { 0 }
    }

    /// FLOPs that a step cannot do without, a real token: 4 a parameter of the linears (2 forward, 2 for the gradient of
    /// the activations; frozen weights need none), and for a language model as many a number of the output embeddings
    /// for every token that is asked for.
    pub fn flops_a_token(&self) -> f64 {
        let answers = || -> usize {
            let rows = self.shards.iter().flatten();
            rows.map(|&row| self.texts.goals[row].answers(self.texts.ids[row].len())).sum()
        };
        let vocabulary = match self.task {
            Task::Causal => (self.info.vocab * self.info.hidden) as f64 * answers() as f64 / self.tokens() as f64,
            _ => 0.0,
        };
        4.0 * (self.info.matmul_params() as f64 + vocabulary)
    }

    /// Real tokens in one pass over all shards.
    pub fn tokens(&self) -> u64 {
        self.shards.iter().flatten().map(|&row| self.texts.ids[row].len() as u64).sum()
    }
}

/// `count` shards of `size` rows each, from the start of `rows`.
pub fn deal(rows: &[usize], count: usize, size: usize) -> Vec<Vec<usize>> {
    rows.chunks_exact(size).take(count).map(<[usize]>::to_vec).collect()
}

/// A cohort of all `shards`.
pub fn members(shards: &[Vec<usize>]) -> Vec<Member<'_>> {
    shards.iter().enumerate().map(|(client, rows)| Member::new(client, rows)).collect()
}

/// Local training as the comparison's other side does it: one pass over the shard, no weight decay.
pub fn settings(args: &BenchArgs, batch: usize) -> TrainSettings {
    TrainSettings {
        rounds: 1,
        epochs: 1,
        steps: None,
        max_tokens: None,
        accumulate: 1,
        batch_size: batch,
        lr_a: Some(1e-3),
        lr_b: None,
        prox: 0.0,
        flat: None,
        scaffold: false,
        lr_head: 1e-2,
        optimizer: Default::default(),
        weight_decay: 0.0,
        betas: [0.9, 0.999],
        eps: 1e-8,
        clip_norm: None,
        schedule: Default::default(),
        warmup_steps: 0,
        lr_rounds: None,
        label_smoothing: 0.0,
        class_weights: None,
        shuffle: true,
        not_finite: Default::default(),
        stop: None,
        log_every: None,
        seed: args.seed,
    }
}

/// How the engine works with `in_flight` clients on the device together.
pub fn options(args: &BenchArgs, in_flight: InFlight) -> EngineSettings {
    let recompute = if args.checkpoint { Recompute::Block } else { Recompute::None };
    EngineSettings { in_flight, recompute, precision: args.precision(), ..EngineSettings::default() }
}

/// Whether clients train the head.
pub fn trains_head(args: &BenchArgs) -> bool {
    args.head == Head::Trained
}

/// The model on `device`, with autodiff.
///
/// # Errors
/// A model folder that cannot be used.
pub fn model(args: &BenchArgs, work: &Work, device: &Device) -> Result<Transformer> {
    let mut rng = stream(args.seed, Use::HeadInit, 0, 0, 0);
    let (kinds, device) = (args.targets.kinds(), device.clone().autodiff());
    let loaded = match source(&args.shape) {
        Some(source) => Transformer::load(&source, work.task, &kinds, &mut rng, &device),
        None => Transformer::random(work.info.clone(), work.task, &kinds, &mut rng, &device),
    };
    let model = loaded.context("cannot load the model")?;
    job::check_precision(args.precision(), &device)?;
    Ok(model.computing_in(args.precision()))
}

/// Where the shape's files are; `None` for random weights.
fn source(shape: &Shape) -> Option<ModelSource> {
    match shape {
        Shape::Builtin => Some(ModelSource::Builtin),
        Shape::Folder(folder) => Some(ModelSource::Folder(folder.clone())),
        Shape::MiniLm | Shape::RobertaBase | Shape::Llama1b | Shape::SmolLm2 | Shape::TinyDecoder => None,
    }
}

/// Whether a language model is trained.
fn is_causal(args: &BenchArgs, info: &ModelInfo) -> Result<bool, UserError> {
    let decoder = info.architecture.is_decoder();
    match args.task {
        Some(TaskName::Causal) if !decoder => {
            Err(UserError::new(format!("--task causal needs a decoder, and --shape {} is an encoder", args.shape))
                .help("use --shape llama-1b, smollm2-135m or tiny-decoder, or a decoder's folder"))
        }
        Some(TaskName::Causal) | None if decoder && args.data.is_some() => {
            Err(UserError::new("--data holds texts with labels, which a language model is not trained on here")
                .help("add --task classify, or leave --data out"))
        }
        task => Ok(task.map_or(decoder, |task| task == TaskName::Causal)),
    }
}

fn info(shape: &Shape) -> Result<ModelInfo> {
    match shape {
        Shape::MiniLm => Ok(ModelInfo::minilm()),
        Shape::RobertaBase => Ok(ModelInfo::roberta_base()),
        Shape::Llama1b => Ok(ModelInfo::llama_1b()),
        Shape::SmolLm2 => Ok(ModelInfo::smollm2_135m()),
        Shape::TinyDecoder => Ok(ModelInfo::tiny_decoder()),
        Shape::Folder(folder) if !folder.is_dir() => {
            Err(UserError::new(format!("--shape {shape}: there is no such shape and no folder of this name"))
                .help(
                    "use builtin, minilm, roberta-base, llama-1b, smollm2-135m, tiny-decoder, or a folder with \
                     config.json and model.safetensors",
                )
                .into())
        }
        Shape::Builtin => Ok(ModelSource::Builtin.info()?),
        Shape::Folder(folder) => Ok(ModelSource::Folder(folder.clone()).info()?),
    }
}

fn invent(args: &BenchArgs, count: usize, info: &ModelInfo, task: Task) -> Result<Split> {
    let lengths = args.made_up_lengths();
    let longest = lengths.longest();
    if longest > info.max_tokens() {
        return Err(UserError::new(format!("texts of {longest} tokens are more than the model can read"))
            .help(format!("use --lengths N with N at most {}", info.max_tokens()))
            .into());
    }
    Ok(made_up(count, lengths, info.vocab, task, args.seed))
}

/// The training texts of a data folder as token ids, and their labels as the task.
fn read(args: &BenchArgs, folder: &Path, info: &ModelInfo) -> Result<(Split, Task)> {
    let Some(source) = source(&args.shape) else {
        return Err(UserError::new(format!("--data needs a tokenizer, and --shape {} has none", args.shape))
            .help("use --shape builtin or a model folder, or leave --data out")
            .into());
    };
    if args.max_length > info.max_tokens() {
        return Err(UserError::new(format!("--max-length {} is more than the model can read", args.max_length))
            .help(format!("use at most {}", info.max_tokens()))
            .into());
    }
    let data = Dataset::read(folder, &bonfire_data::Reading::default())?;
    let tokenizer = job::tokenizer(&source)?;
    let texts: Vec<&str> = data.train.iter().map(|example| example.text()).collect();
    let ids = tokenizer.encode(&texts, args.max_length)?;
    let goals = data.train.iter().map(|example| Goal::Class(example.label)).collect();
    let split = Split::new(ids, goals);
    job::refuse_tokens_beyond(&split, &tokenizer, &source, info)?;
    Ok((split, Task::Classify(data.labels.len())))
}

fn too_few(found: usize, wanted: usize) -> UserError {
    UserError::new(format!("the data folder has {found} training texts, and {wanted} are needed"))
        .help("lower --clients, --steps, --batch or --examples")
}

/// The first `steps · batch` rows of every client from a file of row lists.
fn listed(args: &BenchArgs, file: &Path, texts: usize) -> Result<Vec<Vec<usize>>> {
    let wrong = |what: String| UserError::new(format!("--rows {}: {what}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let lists: Vec<Vec<usize>> = serde_json::from_str(&text).map_err(|error| {
        wrong(error.to_string()).help("expected one list of row numbers a client: [[0, 4], [1, 2]]")
    })?;
    let size = args.steps * args.batch;
    let short = lists.iter().take(args.clients).position(|rows| rows.len() < size);
    if let Some(client) = short.or((lists.len() < args.clients).then_some(lists.len())) {
        let held = lists.get(client).map_or(0, Vec::len);
        return Err(wrong(format!("client {client} has {held} rows, and steps x batch are {size}"))
            .help("list more rows, or lower --clients, --steps or --batch")
            .into());
    }
    if let Some(row) = lists.iter().flatten().find(|&&row| row >= texts) {
        return Err(wrong(format!("there is no row {row}; the training split has {texts}")).into());
    }
    Ok(lists.into_iter().take(args.clients).map(|rows| rows[..size].to_vec()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_dealt_once() {
        assert_eq!(deal(&[5, 3, 1, 0, 2], 2, 2), [vec![5, 3], vec![1, 0]]);
    }
}
