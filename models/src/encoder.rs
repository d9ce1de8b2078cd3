//! RoBERTa and BERT encoders for sequence classification on packed tokens: one encoder, two conventions for
//! embeddings and head. Every linear sees one dense matrix `[T, D]` for the whole cohort; only attention looks at
//! sequence boundaries.

use std::path::{Path, PathBuf};

use bonfire_kernels::{AttentionLayout, LowRank, Segments, adapted_linear, add_norm, gelu, packed_attention};
use burn::module::Module;
use burn::tensor::module::linear;
use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData};
use rand::Rng;

use crate::model::{ClientAdapter, Model};
use crate::weights::Weights;
use crate::{
    Adapter, Architecture, DeviceBatch, HeadTensor, Matrix, ModelError, ModelInfo, Precision, Target, TargetKind,
};
use crate::{builtin, head};

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

/// A frozen linear. Its tensors are no parameters of Burn's: nothing here ever trains.
#[derive(Module, Debug)]
struct Linear {
    /// `[d_in, d_out]`.
    weight: Tensor<2>,
    /// `[d_out]`.
    bias: Tensor<1>,
}

/// The linears of a layer by the input they share: query, key and value are one product.
const GROUPS: [&[TargetKind]; 4] = [
    &[TargetKind::Query, TargetKind::Key, TargetKind::Value],
    &[TargetKind::AttentionOutput],
    &[TargetKind::Intermediate],
    &[TargetKind::Output],
];

/// The group of a linear and its place there.
fn place(kind: TargetKind) -> (usize, usize) {
    let find = |(g, group): (usize, &&[TargetKind])| group.iter().position(|k| *k == kind).map(|i| (g, i));
    GROUPS.iter().enumerate().find_map(find).expect("every linear is in a group")
}

/// A frozen layer normalisation.
#[derive(Module, Debug)]
struct Norm {
    gamma: Tensor<1>,
    beta: Tensor<1>,
}

/// One encoder layer; the linears in the order of [`GROUPS`].
#[derive(Module, Debug)]
struct Layer {
    linears: Vec<Linear>,
    attention_norm: Norm,
    output_norm: Norm,
}

/// The frozen weights.
#[derive(Module, Debug)]
struct Backbone {
    words: Tensor<2>,
    positions: Tensor<2>,
    token_type: Tensor<2>,
    embedding_norm: Norm,
    layers: Vec<Layer>,
    /// BERT's pooler; RoBERTa has none.
    pooler: Option<Linear>,
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
        let (rounded, precision) = (None, Precision::F32);
        Ok(Encoder { info, device: device.clone(), classes, targets, head, lacking, backbone, rounded, precision })
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

/// Takes the backbone's tensors out of a checkpoint.
struct Loader<'l, 'w> {
    weights: &'l mut Weights<'w>,
    info: &'l ModelInfo,
    device: &'l Device,
}

impl Loader<'_, '_> {
    fn backbone(&mut self) -> Result<Backbone, ModelError> {
        let d = self.info.hidden;
        let words = self.table("embeddings.word_embeddings.weight", self.info.vocab)?;
        let positions = self.table("embeddings.position_embeddings.weight", self.info.positions)?;
        let token_type = self.table("embeddings.token_type_embeddings.weight", self.info.token_types)?.narrow(0, 0, 1);
        let embedding_norm = self.norm("embeddings.LayerNorm")?;
        let layers = (0..self.info.layers).map(|i| self.layer(i)).collect::<Result<_, _>>()?;
        let pooler = match self.info.architecture {
            Architecture::Bert => Some(self.linear("pooler.dense", d, d)?),
            Architecture::Roberta => None,
        };
        Ok(Backbone { words, positions, token_type, embedding_norm, layers, pooler })
    }

    /// The tensor's name in this file: an encoder saved alone has no prefix.
    fn name(&self, bare: &str) -> String {
        let full = format!("{}.{bare}", self.info.architecture.name());
        match self.weights.has(&full) || !self.weights.has(bare) {
            true => full,
            false => bare.to_string(),
        }
    }

    fn table(&mut self, bare: &str, rows: usize) -> Result<Tensor<2>, ModelError> {
        let d = self.info.hidden;
        let name = self.name(bare);
        Ok(matrix(Matrix::new(rows, d, self.weights.take(&name, &[rows, d])?), self.device))
    }

    fn norm(&mut self, bare: &str) -> Result<Norm, ModelError> {
        let d = self.info.hidden;
        let [gamma, beta] = ["weight", "bias"].map(|part| self.name(&format!("{bare}.{part}")));
        Ok(Norm {
            gamma: vector(self.weights.take(&gamma, &[d])?, self.device),
            beta: vector(self.weights.take(&beta, &[d])?, self.device),
        })
    }

    fn linear(&mut self, bare: &str, d_in: usize, d_out: usize) -> Result<Linear, ModelError> {
        let [weight, bias] = ["weight", "bias"].map(|part| self.name(&format!("{bare}.{part}")));
        Ok(Linear {
            weight: matrix(self.weights.take_linear(&weight, d_in, d_out)?, self.device),
            bias: vector(self.weights.take(&bias, &[d_out])?, self.device),
        })
    }

    fn layer(&mut self, i: usize) -> Result<Layer, ModelError> {
        let prefix = format!("encoder.layer.{i}");
        let shapes = self.info.targets(&TargetKind::all());
        let mut linears = Vec::new();
        for group in GROUPS {
            let parts = shapes[..6].iter().filter(|t| group.contains(&t.kind));
            let parts: Vec<Linear> = parts
                .map(|t| self.linear(&format!("{prefix}.{}", t.kind.module()), t.d_in, t.d_out))
                .collect::<Result<_, _>>()?;
            linears.push(Linear::side_by_side(parts));
        }
        Ok(Layer {
            linears,
            attention_norm: self.norm(&format!("{prefix}.attention.output.LayerNorm"))?,
            output_norm: self.norm(&format!("{prefix}.output.LayerNorm"))?,
        })
    }
}

impl Linear {
    /// Linears of one input as one: `[d_in, Σ d_out]`.
    fn side_by_side(parts: Vec<Linear>) -> Linear {
        let (weights, biases) = parts.into_iter().map(|p| (p.weight, p.bias)).unzip();
        Linear { weight: Tensor::cat(weights, 1), bias: Tensor::cat(biases, 0) }
    }
}

/// What a layer needs besides its input.
struct Pass<'p> {
    eps: f64,
    attention: &'p AttentionLayout,
    clients: &'p Segments,
    /// The updates of this layer's linears, by [`TargetKind`].
    updates: [Option<&'p LowRank>; 6],
    /// In the last layer: the only tokens whose result is read, and which of them are which client's. What follows
    /// attention is left out for all others.
    read: Option<(&'p Tensor<1, Int>, &'p Segments)>,
}

impl Layer {
    /// `[T, D] -> [T, D]`, or the tokens that are read.
    fn forward(&self, x: Tensor<2>, pass: &Pass) -> Tensor<2> {
        let attended = packed_attention(self.apply(0, x.clone(), pass, pass.clients), pass.attention);
        let (x, attended, clients) = match pass.read {
            Some((tokens, clients)) => (x.select(0, tokens.clone()), attended.select(0, tokens.clone()), clients),
            None => (x, attended, pass.clients),
        };
        let x = self.attention_norm.after(x, self.apply(1, attended, pass, clients), pass.eps);
        let wide = gelu(self.apply(2, x.clone(), pass, clients));
        self.output_norm.after(x, self.apply(3, wide, pass, clients), pass.eps)
    }

    /// The linears of a group with their adapters.
    fn apply(&self, group: usize, x: Tensor<2>, pass: &Pass, clients: &Segments) -> Tensor<2> {
        let Linear { weight, bias } = &self.linears[group];
        let width = bias.dims()[0] / GROUPS[group].len();
        let updates = GROUPS[group].iter().enumerate();
        let updates: Vec<_> = updates
            .filter_map(|(i, kind)| pass.updates[*kind as usize].map(|update| (update, i * width..(i + 1) * width)))
            .collect();
        adapted_linear(x, weight.clone(), bias.clone(), &updates, clients)
    }
}

impl Backbone {
    /// The same weights in another type.
    fn cast(&self, dtype: FloatDType) -> Backbone {
        let norm = |n: &Norm| Norm { gamma: n.gamma.clone().cast(dtype), beta: n.beta.clone().cast(dtype) };
        let linear = |l: &Linear| Linear { weight: l.weight.clone().cast(dtype), bias: l.bias.clone().cast(dtype) };
        let layer = |l: &Layer| Layer {
            linears: l.linears.iter().map(linear).collect(),
            attention_norm: norm(&l.attention_norm),
            output_norm: norm(&l.output_norm),
        };
        Backbone {
            words: self.words.clone().cast(dtype),
            positions: self.positions.clone().cast(dtype),
            token_type: self.token_type.clone().cast(dtype),
            embedding_norm: norm(&self.embedding_norm),
            layers: self.layers.iter().map(layer).collect(),
            // Past the backbone's last layer everything is f32.
            pooler: self.pooler.clone(),
        }
    }
}

impl Norm {
    /// The norm of `x + r`.
    fn after(&self, x: Tensor<2>, r: Tensor<2>, eps: f64) -> Tensor<2> {
        add_norm(x, r, self.gamma.clone(), self.beta.clone(), eps)
    }
}

impl Encoder {
    /// Hidden states of every sequence's first token `[S, D]`.
    fn hidden(&self, adapter: &ClientAdapter, batch: &DeviceBatch) -> Tensor<2> {
        let net = self.rounded.as_ref().unwrap_or(&self.backbone);
        let words = net.words.clone().select(0, batch.tokens.clone());
        let positions = net.positions.clone().select(0, batch.positions.clone()) + net.token_type.clone();
        let mut x = net.embedding_norm.after(words, positions, self.info.eps);
        let attention = AttentionLayout::full(batch.sequences.clone(), self.info.heads);
        let last = net.layers.len() - 1;
        for (i, layer) in net.layers.iter().enumerate() {
            let mut updates = [None; 6];
            for (target, update) in self.targets.iter().zip(&adapter.updates).filter(|(t, _)| t.layer == i) {
                updates[target.kind as usize] = update.as_ref();
            }
            let read = (i == last).then_some((&batch.firsts, &batch.client_sequences));
            let (eps, attention, clients) = (self.info.eps, &attention, &batch.client_tokens);
            x = layer.forward(x, &Pass { eps, attention, clients, updates, read });
        }
        if self.rounded.is_some() { x.cast(FloatDType::F32) } else { x }
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
        for ((target, a), b) in adapter.targets.iter().zip(&adapter.a).zip(&adapter.b) {
            let (group, i) = place(target.kind);
            let frozen = &mut model.backbone.layers[target.layer].linears[group];
            let columns = i * target.d_out..(i + 1) * target.d_out;
            let product = matrix(a.clone(), &self.device).matmul(matrix(b.clone(), &self.device)) * adapter.scale();
            let here = [0..target.d_in, columns];
            let old = frozen.weight.clone().slice(here.clone());
            frozen.weight = frozen.weight.clone().slice_assign(here, old + product);
        }
        model.round();
        Box::new(model)
    }

    fn logits(&self, adapter: &ClientAdapter, batch: &DeviceBatch) -> Tensor<2> {
        let mut first = self.hidden(adapter, batch);
        if let Some(pooler) = &self.backbone.pooler {
            first = linear(first, pooler.weight.clone(), Some(pooler.bias.clone())).tanh();
        }
        head::logits(first, &adapter.head, batch)
    }
}
