//! RoBERTa and BERT encoders for sequence classification on packed tokens: one encoder, two conventions for
//! embeddings and head. Every linear sees one dense matrix `[T, D]` for the whole cohort; only attention looks at
//! sequence boundaries.

mod backbone;
mod layer;
mod loader;

use std::path::{Path, PathBuf};

use bonfire_kernels::{AttentionLayout, Segments};
use burn::tensor::module::linear;
use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData};
use rand::Rng;

use self::backbone::{Backbone, read};
use self::layer::{Added, Pass, Rows};
use self::loader::Loader;
use crate::model::{ClientAdapter, Model};
use crate::weights::Weights;
use crate::{
    Adapter, Architecture, DeviceBatch, HeadTensor, Matrix, ModelError, ModelInfo, NamedWeight, NoiseSigns, Precision,
    Target, TargetKind,
};
use crate::{builtin, head, noise};

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// The small backbone that comes with the program.
    Builtin,
    /// A folder in Hugging Face layout.
    Folder(PathBuf),
}

impl ModelSource {
    /// The bytes of one of the model's files and the name to show for it.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn file(&self, name: &str) -> Result<(Vec<u8>, String), ModelError> {
        match self {
            ModelSource::Builtin => Ok((builtin::file(name).to_vec(), format!("builtin {name}"))),
            ModelSource::Folder(folder) => {
                let path: PathBuf = Path::new(folder).join(name);
                let bytes = std::fs::read(&path).map_err(|source| ModelError::Read { path: path.clone(), source })?;
                Ok((bytes, path.display().to_string()))
            }
        }
    }

    /// Reads `config.json` alone.
    ///
    /// # Errors
    /// As [`ModelInfo::parse`].
    pub fn info(&self) -> Result<ModelInfo, ModelError> {
        let (bytes, file) = self.file("config.json")?;
        ModelInfo::parse(&bytes, &file)
    }
}

/// A RoBERTa or BERT classifier whose backbone is frozen.
#[derive(Clone, Debug)]
pub struct Encoder {
    info: ModelInfo,
    device: Device,
    classes: usize,
    targets: Vec<Target>,
    head: Vec<HeadTensor>,
    /// Places in `head` of the weights that the checkpoint lacks.
    lacking: Vec<usize>,
    /// As read, in f32: what is folded into, so that folding never adds to rounded weights.
    backbone: Backbone,
    /// What computes, where that is not f32.
    rounded: Option<Backbone>,
    precision: Precision,
    /// Whether gradients reach the backbone.
    trained: bool,
    /// What noise is made of: for every target `[d_in, d_out]`; empty where there is none.
    banks: Vec<Tensor<2>>,
}

impl Encoder {
    /// Reads a model; a head that the checkpoint lacks is drawn from `rng`. Give an autodiff device to train.
    ///
    /// # Errors
    /// A file that cannot be read, a configuration we do not know, a tensor that is missing, surplus or misshapen.
    pub fn load(
        source: &ModelSource,
        classes: usize,
        kinds: &[TargetKind],
        rng: &mut impl Rng,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let info = source.info()?;
        let (bytes, file) = source.file("model.safetensors")?;
        Self::from_checkpoint(info, (&bytes, &file), classes, kinds, rng, device)
    }

    /// Builds the model of shape `info` from a safetensors file's bytes and the name to show for it.
    pub(crate) fn from_checkpoint(
        info: ModelInfo,
        (bytes, file): (&[u8], &str),
        classes: usize,
        kinds: &[TargetKind],
        rng: &mut impl Rng,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let mut weights = Weights::open(bytes, file)?;
        let backbone = Loader { weights: &mut weights, info: &info, device }.backbone()?;
        let (mut head, lacking) = head::load(&mut weights, &info, classes)?;
        head::draw(&mut head, &lacking, &info, rng);
        if let Some(name) = weights.surplus(|name| excused(name, info.architecture)) {
            let (file, name, architecture) = (file.to_string(), name.to_string(), info.architecture.name());
            return Err(ModelError::SurplusTensor { file, name, architecture, layers: info.layers });
        }
        let targets = info.targets(kinds);
        Ok(Encoder {
            info,
            device: device.clone(),
            classes,
            targets,
            head,
            lacking,
            backbone,
            rounded: None,
            precision: Precision::F32,
            trained: false,
            banks: Vec::new(),
        })
    }

    /// What [`Encoder::load`] gives with these targets and this generator, from the backbone already loaded, whose
    /// tensors both models share.
    pub fn again(&self, kinds: &[TargetKind], rng: &mut impl Rng) -> Self {
        let mut model = Encoder { targets: self.info.targets(kinds), ..self.clone() };
        head::draw(&mut model.head, &model.lacking, &model.info, rng);
        model
    }

    /// The same model computing in `precision`; the device must be able to ([`Precision::runs_on`]).
    pub fn computing_in(mut self, precision: Precision) -> Self {
        // Weights already rounded to it stay as they are, shared by all clones.
        if self.precision != precision {
            self.precision = precision;
            self.round();
        }
        self
    }

    /// Brings the weights that compute up to date with those that were read or folded.
    fn round(&mut self) {
        self.rounded = self.precision.dtype().map(|dtype| self.backbone.cast(dtype));
    }
}

/// Tensors that pretrained checkpoints carry and a classifier does not read.
fn excused(name: &str, architecture: Architecture) -> bool {
    let bare = name.strip_prefix(architecture.name()).and_then(|n| n.strip_prefix('.')).unwrap_or(name);
    bare.ends_with("position_ids")
        || bare.starts_with("lm_head.")
        || bare.starts_with("cls.")
        || (architecture == Architecture::Roberta && bare.starts_with("pooler."))
}

fn matrix(m: Matrix, device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(m.data, [m.rows, m.cols]), device)
}

fn vector(data: Vec<f32>, device: &Device) -> Tensor<1> {
    let n = data.len();
    Tensor::from_data(TensorData::new(data, [n]), device)
}

/// For each of `rows` rows its client; the first one for rows of nobody.
fn owners(clients: &Segments, rows: usize, device: &Device) -> Tensor<1, Int> {
    let mut owners: Vec<i32> = clients.owners().into_iter().map(|c| c as i32).collect();
    owners.resize(rows, 0);
    Tensor::from_data(TensorData::new(owners, [rows]), device)
}

impl Encoder {
    /// Hidden states of every sequence's first token after the last layer `[S, D]`; `each` sees those of all tokens
    /// after every layer before `[T, D]`.
    fn hidden(&self, adapter: &ClientAdapter, batch: &DeviceBatch, each: &mut dyn FnMut(&Tensor<2>)) -> Tensor<2> {
        let net = self.rounded.as_ref().unwrap_or(&self.backbone);
        let mut x = self.embedded(net, batch);
        let signs = self.signs(adapter);
        let rows = |clients, index: &Tensor<1, Int>| {
            let owners = (!signs.is_empty()).then(|| owners(clients, index.dims()[0], &self.device));
            Rows { clients, owners }
        };
        let tokens = &rows(&batch.client_tokens, &batch.tokens);
        let firsts = &rows(&batch.client_sequences, &batch.firsts);
        let attention = &AttentionLayout::full(batch.sequences.clone(), self.info.heads);
        let last = net.layers.len() - 1;
        for (i, layer) in net.layers.iter().enumerate() {
            let mut added = [Added::default(); 6];
            for (t, target) in self.targets.iter().enumerate().filter(|(_, t)| t.layer == i) {
                added[target.kind as usize] = Added {
                    update: adapter.updates.get(t).and_then(Option::as_ref),
                    noise: self.banks.get(t).zip(signs.get(t)),
                };
            }
            let read = (i == last).then_some((&batch.firsts, firsts));
            x = layer.forward(x, &Pass { eps: self.info.eps, trained: self.trained, attention, tokens, added, read });
            if i < last {
                each(&x);
            }
        }
        self.in_f32(x)
    }

    /// The embeddings of all tokens `[T, D]`.
    fn embedded(&self, net: &Backbone, batch: &DeviceBatch) -> Tensor<2> {
        let words = net.words.clone().select(0, batch.tokens.clone());
        let first_type = net.token_types.clone().narrow(0, 0, 1);
        let positions = net.positions.clone().select(0, batch.positions.clone()) + first_type;
        net.embedding_norm.after(words, positions, self.info.eps, self.trained)
    }

    /// The clients' signs in the type that computes.
    fn signs(&self, adapter: &ClientAdapter) -> Vec<NoiseSigns> {
        assert!(adapter.noise.is_empty() || !self.banks.is_empty(), "noise needs a model with banks");
        let cast = |t: &Tensor<2>| match self.precision.dtype() {
            Some(dtype) => t.clone().cast(dtype),
            None => t.clone(),
        };
        adapter.noise.iter().map(|n| NoiseSigns { input: cast(&n.input), output: cast(&n.output) }).collect()
    }

    /// Puts other tensors in the place of all weights.
    fn replace(&mut self, mut weights: impl Iterator<Item = Tensor<2>>) {
        self.backbone = self.backbone.map(self.info.architecture, &mut |name, _, old| {
            let new = weights.next().expect("a tensor for every weight");
            assert_eq!(new.dims(), old.dims(), "shape of {name}");
            new
        });
        assert!(weights.next().is_none(), "no more tensors than weights");
    }

    fn in_f32(&self, x: Tensor<2>) -> Tensor<2> {
        if self.rounded.is_some() { x.cast(FloatDType::F32) } else { x }
    }

    /// Every target's `W + s·A·B` in target order.
    fn starts<'s>(&'s self, adapter: &'s Adapter) -> impl Iterator<Item = (&'s Target, Tensor<2>)> {
        let factors = adapter.a.iter().zip(&adapter.b);
        adapter.targets.iter().zip(factors).map(|(target, (a, b))| {
            let product = matrix(a.clone(), &self.device).matmul(matrix(b.clone(), &self.device));
            (target, self.backbone.target(target) + product * adapter.scale())
        })
    }
}

impl Model for Encoder {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn targets(&self) -> &[Target] {
        &self.targets
    }

    fn head(&self) -> &[HeadTensor] {
        &self.head
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn folded(&self, adapter: &Adapter) -> Box<dyn Model> {
        let mut model = self.clone();
        if !adapter.weights.is_empty() {
            model.replace(adapter.weights.iter().map(|m| matrix(m.clone(), &self.device)));
        }
        let base = model.clone();
        for (target, weight) in base.starts(adapter) {
            model.backbone.set_target(target, weight);
        }
        model.round();
        Box::new(model)
    }

    fn logits(&self, adapter: &ClientAdapter, batch: &DeviceBatch) -> Tensor<2> {
        let mut first = self.hidden(adapter, batch, &mut |_| ());
        if let Some(pooler) = &self.backbone.pooler {
            first = linear(first, pooler.weight.clone(), Some(pooler.bias.clone())).tanh();
        }
        head::logits(first, &adapter.head, batch)
    }

    fn layer_states(&self, adapter: &ClientAdapter, batch: &DeviceBatch) -> Vec<Tensor<2>> {
        let mut states = Vec::new();
        let last = self.hidden(adapter, batch, &mut |x| {
            states.push(self.in_f32(x.clone().select(0, batch.firsts.clone())));
        });
        states.push(last);
        // Surplus sequences are nobody's.
        states.into_iter().map(|x| x.narrow(0, 0, batch.sequences.len())).collect()
    }

    fn noisy(&self, start: &Adapter, normals: &mut dyn FnMut(usize) -> Vec<f32>) -> Box<dyn Model> {
        let bank = |(t, (_, weight)): (usize, (&Target, Tensor<2>))| {
            let bank = noise::bank(weight, normals(t));
            self.precision.dtype().map_or(bank.clone(), |dtype| bank.cast(dtype))
        };
        let banks = self.starts(start).enumerate().map(bank).collect();
        Box::new(Encoder { banks, ..self.clone() })
    }

    fn weights(&self) -> Vec<NamedWeight> {
        let mut all = Vec::new();
        self.backbone.map(self.info.architecture, &mut |name, stored, t| {
            all.push(NamedWeight { name, stored, value: read(t.clone()) });
            t
        });
        all
    }

    fn with_weights(&self, weights: Vec<Tensor<2>>, trained: bool) -> Box<dyn Model> {
        assert!(self.precision == Precision::F32 || !trained, "weights train in f32");
        let mut model = Encoder { trained, ..self.clone() };
        model.replace(weights.into_iter());
        model.round();
        Box::new(model)
    }

    fn pooler(&self) -> Vec<NamedWeight> {
        let mut all = Vec::new();
        self.backbone.visit_pooler(self.info.architecture, &mut |name, stored, t| {
            all.push(NamedWeight { name, stored, value: read(t.clone()) });
            t
        });
        all
    }
}
