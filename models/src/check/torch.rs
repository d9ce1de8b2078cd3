//! What PyTorch, Transformers and PEFT compute for a small random model (`scripts/fixtures/make_fixtures.py`), held against what a
//! device computes: scores, loss, and the gradients of adapters and head.

use std::collections::HashMap;

use bonfire_kernels::LowRank;
use bonfire_kernels::check::{Part, part};
use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use rand::Rng;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use super::{apart, furthest};
use crate::weights::Weights;
use crate::{
    Adapter, AdapterInit, ClientAdapter, Goal, HeadTensor, Matrix, Model, ModelError, ModelInfo, PackedBatch,
    Precision, Rounding, Tag, TargetKind, Task, Transformer, Wanted,
};

/// The files of one case.
#[derive(Clone, Copy, Debug)]
pub struct Files {
    /// Its name.
    pub name: &'static str,
    /// The model's `config.json`.
    pub config: &'static [u8],
    /// The model's `model.safetensors`.
    pub weights: &'static [u8],
    /// Inputs and PyTorch's numbers, as safetensors.
    pub numbers: &'static [u8],
    /// Rank, rates and losses, as JSON.
    pub settings: &'static [u8],
}

/// What is said beside the numbers.
#[derive(Clone, Debug, Deserialize)]
pub struct Settings {
    /// Rank of the adapter.
    pub rank: usize,
    /// LoRA's alpha.
    pub lora_alpha: f64,
    /// The linears that carry an adapter.
    pub targets: Vec<TargetKind>,
    /// What the model learns, where the labels' shape does not tell: `token-classification` or `multi-label`.
    #[serde(default)]
    pub task: Option<String>,
    /// Learning rate of the adapter.
    pub lr: f64,
    /// Learning rate of the head.
    pub head_lr: f64,
    /// Decoupled weight decay.
    #[serde(default)]
    pub weight_decay: f64,
    /// The loss of the first batch.
    pub batch0_loss: f64,
    /// The losses of ten AdamW steps, one client's, over the four batches in turn.
    pub losses_10_steps: Vec<f64>,
}

/// Shape and numbers of tensors by their names.
type Tensors = HashMap<String, (Vec<usize>, Vec<f32>)>;

/// A model with PyTorch's numbers.
pub struct TorchCase {
    /// What is said beside the numbers.
    pub settings: Settings,
    /// The model in f32.
    pub model: Transformer,
    /// The adapter at the start.
    pub adapter: Adapter,
    numbers: Tensors,
}

impl TorchCase {
    /// Reads the files onto `device`, which has autodiff; `rng` draws what they then replace.
    ///
    /// # Errors
    /// Files that do not belong together, in words.
    ///
    /// # Panics
    /// Where the backend panics.
    pub fn new(files: &Files, rng: &mut impl Rng, device: &Device) -> Result<TorchCase, String> {
        let load = |task, targets: &[TargetKind], rng: &mut _| {
            let info = ModelInfo::parse(files.config, files.name)?;
            let weights = Weights::open(files.weights, files.name)?;
            Transformer::from_checkpoint(info, weights, task, targets, Wanted::default(), rng, device)
        };
        Self::over(files.name, files.settings, files.numbers, rng, load)
    }

    /// The same with a model that `load` gives for a task and the linears that carry an adapter.
    ///
    /// # Errors
    /// Files that do not belong together, in words; what `load` says.
    pub fn over<R: Rng>(
        name: &str,
        settings: &[u8],
        numbers: &[u8],
        rng: &mut R,
        load: impl FnOnce(Task, &[TargetKind], &mut R) -> Result<Transformer, ModelError>,
    ) -> Result<TorchCase, String> {
        let bad = |error: &dyn std::fmt::Display| format!("{name}: {error}");
        let settings: Settings = serde_json::from_slice(settings).map_err(|e| bad(&e))?;
        let numbers = read(numbers).map_err(|e| bad(&e))?;
        let shape = |name: &str| numbers.get(name).map(|(shape, _)| shape).ok_or_else(|| bad(&format!("no {name}")));
        // A label a text, or one for every token; a head of one output foretells a number.
        let task = match (settings.task.as_deref(), shape("batch0.labels")?.len(), shape("batch0.logits")?[1]) {
            (Some("token-classification"), _, classes) => Task::Tag(classes),
            (Some("multi-label"), _, labels) => Task::MultiLabel(labels),
            (Some(other), ..) => return Err(bad(&format!("task {other} is not known"))),
            (None, 1, 1) => Task::Regress,
            (None, 1, classes) => Task::Classify(classes),
            (None, ..) => Task::Causal,
        };
        let model = load(task, &settings.targets, rng).map_err(|e| bad(&e))?;
        let (rank, alpha) = (settings.rank, settings.lora_alpha);
        let blank = Adapter::fresh(model.targets(), rank, alpha, AdapterInit::Kaiming, vec![], rng);
        let mut case = TorchCase { settings, model, adapter: blank, numbers };
        case.adapter = case.stage("init.")?;
        Ok(case)
    }

    /// The adapter at a stage: `init.` or `after10.`.
    ///
    /// # Errors
    /// A tensor is missing.
    pub fn stage(&self, stage: &str) -> Result<Adapter, String> {
        let mut adapter = self.adapter.clone();
        let head = self.model.head().iter();
        let head =
            head.map(|t| Ok(HeadTensor { name: t.name.clone(), value: self.ours(&format!("{stage}{}", t.name))? }));
        adapter.head = head.collect::<Result<_, String>>()?;
        for (i, t) in self.model.targets().iter().enumerate() {
            adapter.a[i] = self.ours(&format!("{stage}{}.lora_A.weight", t.name))?;
            adapter.b[i] = self.ours(&format!("{stage}{}.lora_B.weight", t.name))?;
        }
        Ok(adapter)
    }

    /// A batch's texts as token ids, with what is asked of each.
    ///
    /// # Errors
    /// A tensor is missing.
    pub fn texts(&self, batch: usize) -> Result<Vec<(Vec<u32>, Goal)>, String> {
        let recorded = |part: &str| self.tensor(&format!("batch{batch}.{part}"));
        let (ids, mask, labels) = (recorded("input_ids")?, recorded("attention_mask")?, recorded("labels")?);
        let width = ids.0[1];
        let row =
            |i: usize| labels.1[i * labels.1.len() / ids.0[0]..(i + 1) * labels.1.len() / ids.0[0]].iter().copied();
        let goal = |i: usize| match self.model.task() {
            Task::Regress => Goal::Value { value: labels.1[i], second: None },
            Task::Classify(_) => Goal::Class(labels.1[i] as usize),
            Task::MultiLabel(_) => Goal::Labels { labels: row(i).map(|there| there > 0.0).collect(), second: None },
            Task::Tag(_) => {
                let tagged = row(i).enumerate().filter(|(_, class)| *class >= 0.0);
                Goal::Tags(tagged.map(|(token, class)| Tag { word: token, token, class: class as usize }).collect())
            }
            // Everything from the first token that is not -100 on.
            Task::Causal => Goal::Next(row(i).position(|l| l >= 0.0).unwrap_or(width)),
        };
        let text = |i: usize| {
            let places = (i * width..(i + 1) * width).filter(|&at| mask.1[at] == 1.0);
            (places.map(|at| ids.1[at] as u32).collect(), goal(i))
        };
        Ok((0..ids.0[0]).map(text).collect())
    }

    /// How far scores (with the adapter beside the weights, and folded into them), loss and the gradient that is furthest off
    /// are from PyTorch's, each with its name: see [`apart`].
    ///
    /// # Errors
    /// The device failed, in words.
    ///
    /// # Panics
    /// Where the backend panics.
    pub fn step(&self, precision: Precision) -> Result<Vec<(String, f64)>, String> {
        let model = self.model.clone().computing_in(precision);
        let client = self.client(true);
        let batch = self.batch(0)?.to_device(model.info(), Rounding::Exact, model.device());
        let expected = Part { name: "scores".into(), values: self.tensor("batch0.logits")?.1.clone() };
        let scores = part("scores", model.logits(&client, &batch).cast(FloatDType::F32))?;
        let bare = ClientAdapter::new(vec![], self.client(false).head);
        let folded = part("folded", model.folded(&self.adapter).logits(&bare, &batch).cast(FloatDType::F32))?;
        let loss = model.loss(&client, &batch);
        let grads = loss.clone().sum().backward();
        let loss = f64::from(part("loss", loss)?.values[0]);
        let (mut found, mut wanted) = (Vec::new(), Vec::new());
        let leaves =
            client.updates.iter().flatten().flat_map(|u| [u.a.clone(), u.b.clone()]).chain(client.head.clone());
        for (leaf, name) in leaves.zip(self.leaf_names()) {
            let gradient = leaf.grad(&grads).ok_or_else(|| format!("{name} got no gradient"))?;
            found.push(part(&name, gradient)?);
            let ours = self.ours(&format!("grad.{name}"))?;
            // A lies slot by slot there as here.
            let values = if name.ends_with("lora_A.weight") { ours.transposed().data } else { ours.data };
            wanted.push(Part { name, values });
        }
        let (gradients, which) = furthest(&found, &wanted);
        let apart_by = (loss - self.settings.batch0_loss).abs() / self.settings.batch0_loss.abs();
        let loss = if apart_by.is_finite() { apart_by } else { f64::INFINITY };
        Ok(vec![
            ("scores".into(), apart(&scores, &expected)),
            ("scores, adapter folded".into(), apart(&folded, &expected)),
            ("loss".into(), loss),
            (format!("gradient of {which}"), gradients),
        ])
    }

    /// How far the scores of texts in one batch, of one client or of two, are from those of each text alone.
    ///
    /// # Errors
    /// The device failed, in words.
    ///
    /// # Panics
    /// Where the backend panics.
    pub fn packed(&self) -> Result<f64, String> {
        let (texts, client) = (self.texts(1)?, self.client(false));
        let all: Vec<(&[u32], Goal)> = texts.iter().map(|(ids, goal)| (ids.as_slice(), goal.clone())).collect();
        let scores = |clients: &[Vec<(&[u32], Goal)>]| {
            let batch = PackedBatch::pack(clients).to_device(self.model.info(), Rounding::Exact, self.model.device());
            part("scores", self.model.logits(&client, &batch))
        };
        let mut alone = Part { name: "scores".into(), values: Vec::new() };
        for text in &all {
            alone.values.extend(scores(&[vec![text.clone()]])?.values);
        }
        let (first, second) = all.split_at(2);
        let (one, two) = (scores(std::slice::from_ref(&all))?, scores(&[first.to_vec(), second.to_vec()])?);
        Ok(apart(&one, &alone).max(apart(&two, &alone)))
    }

    /// How far the scores of a text that is read token by token, with keys and values kept, are from those of the whole text.
    /// For decoders.
    ///
    /// # Errors
    /// The device failed, in words.
    ///
    /// # Panics
    /// Where the backend panics; without output embeddings.
    pub fn continued(&self) -> Result<f64, String> {
        const PROMPT: usize = 5;
        let (texts, model) = (self.texts(0)?, self.model.with_folded(&self.adapter));
        let ids = texts.iter().map(|(ids, _)| ids).max_by_key(|ids| ids.len()).ok_or("no texts")?;
        let batch = PackedBatch::pack(&[vec![(ids.as_slice(), Goal::Next(1))]]);
        let batch = batch.to_device(self.model.info(), Rounding::Exact, self.model.device());
        let whole = part("scores", model.logits(&ClientAdapter::new(vec![], vec![]), &batch))?;
        let vocab = self.model.info().vocab;
        // Beside it the same text, a token behind.
        let (mut text, mut off) = (model.begin(&[&ids[..PROMPT], &ids[..PROMPT - 1]]), 0.0f64);
        for at in PROMPT..ids.len() {
            let there = |values: &[f32]| Part { name: "scores".into(), values: values.to_vec() };
            for (scores, at) in text.scores().zip([at, at - 1]) {
                off = off.max(apart(&there(scores), &there(&whole.values[(at - 1) * vocab..at * vocab])));
            }
            text.push(&[&ids[at..=at], &ids[at - 1..at]]);
        }
        Ok(off)
    }

    /// A batch's texts as one client's.
    ///
    /// # Errors
    /// A tensor is missing.
    pub fn batch(&self, batch: usize) -> Result<PackedBatch, String> {
        let texts = self.texts(batch)?;
        Ok(PackedBatch::pack(&[texts.iter().map(|(ids, goal)| (ids.as_slice(), goal.clone())).collect()]))
    }

    /// The adapter as one client's, beside the weights, its tensors tracked or not.
    pub fn client(&self, track: bool) -> ClientAdapter {
        let put = |m: &Matrix| {
            let data = TensorData::new(m.data.clone(), [1, m.rows, m.cols]);
            let tensor = Tensor::<3>::from_data(data, self.model.device());
            if track { tensor.require_grad() } else { tensor }
        };
        let scale = self.adapter.scale() as f32;
        let updates = self.adapter.a.iter().zip(&self.adapter.b);
        let updates = updates.map(|(a, b)| Some(LowRank { a: put(&a.transposed()), b: put(b), used: None, scale }));
        ClientAdapter::new(updates.collect(), self.adapter.head.iter().map(|t| put(&t.value)).collect())
    }

    /// PEFT's names of what trains, in the order of [`Self::client`].
    fn leaf_names(&self) -> impl Iterator<Item = String> {
        let factors = self.model.targets().iter();
        let factors = factors.flat_map(|t| ["lora_A", "lora_B"].map(|factor| format!("{}.{factor}.weight", t.name)));
        factors.chain(self.model.head().iter().map(|t| t.name.clone()))
    }

    /// One of PyTorch's tensors: its shape and its numbers, row-major.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn tensor(&self, name: &str) -> Result<&(Vec<usize>, Vec<f32>), String> {
        self.numbers.get(name).ok_or_else(|| format!("there is no {name} among PyTorch's numbers"))
    }

    /// A matrix in our orientation: weights transposed, biases as rows.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn ours(&self, name: &str) -> Result<Matrix, String> {
        let (shape, data) = self.tensor(name)?;
        match shape[..] {
            [n] => Ok(Matrix::new(1, n, data.clone())),
            [rows, cols] => Ok(Matrix::new(rows, cols, data.clone()).transposed()),
            _ => Err(format!("{name} has shape {shape:?}")),
        }
    }
}

/// The tensors of a safetensors file; whole numbers as floats.
fn read(bytes: &[u8]) -> Result<Tensors, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    let mut numbers = HashMap::new();
    for (name, view) in file.tensors() {
        let values = match view.dtype() {
            Dtype::I64 => {
                let (eights, _) = view.data().as_chunks::<8>();
                eights.iter().map(|&bytes| i64::from_le_bytes(bytes) as f32).collect()
            }
            dtype => crate::weights::floats(dtype, view.data()).ok_or_else(|| format!("{name} is in {dtype:?}"))?,
        };
        numbers.insert(name.to_string(), (view.shape().to_vec(), values));
    }
    Ok(numbers)
}
