//! RoBERTa and BERT encoders for sequence classification on packed tokens: one encoder, two conventions for
//! embeddings and head. Every linear sees one dense matrix `[T, D]` for the whole cohort; only attention looks at
//! sequence boundaries.

use std::path::{Path, PathBuf};

use bonfire_kernels::{AttentionPlan, LowRank, Segments, gelu, layer_norm, lowrank_update, packed_attention};
use burn::module::Module;
use burn::tensor::module::linear;
use burn::tensor::{Device, Tensor, TensorData};
use rand::Rng;

use crate::model::{ClientAdapter, Model};
use crate::weights::Weights;
use crate::{Adapter, Architecture, DeviceBatch, HeadTensor, Matrix, ModelError, ModelInfo, Target, TargetKind};
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

/// A frozen layer normalisation.
#[derive(Module, Debug)]
struct Norm {
    gamma: Tensor<1>,
    beta: Tensor<1>,
}

/// One encoder layer; the linears in the order of [`TargetKind::all`].
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
    backbone: Backbone,
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
        let head = head::load(&mut weights, &info, classes, rng)?;
        if let Some(name) = weights.surplus(|name| excused(name, info.architecture)) {
            let (file, name, architecture) = (file.to_string(), name.to_string(), info.architecture.name());
            return Err(ModelError::SurplusTensor { file, name, architecture, layers: info.layers });
        }
        let targets = info.targets(kinds);
        Ok(Encoder { info, device: device.clone(), classes, targets, head, backbone })
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
        let linears = shapes[..6]
            .iter()
            .map(|t| self.linear(&format!("{prefix}.{}", t.kind.module()), t.d_in, t.d_out))
            .collect::<Result<_, _>>()?;
        Ok(Layer {
            linears,
            attention_norm: self.norm(&format!("{prefix}.attention.output.LayerNorm"))?,
            output_norm: self.norm(&format!("{prefix}.output.LayerNorm"))?,
        })
    }
}

/// What a layer needs besides its input.
struct Pass<'p> {
    eps: f64,
    heads: usize,
    attention: &'p AttentionPlan,
    clients: &'p Segments,
    /// The updates of this layer's linears.
    updates: [Option<&'p LowRank>; 6],
}

impl Layer {
    /// `[T, D] -> [T, D]`.
    fn forward(&self, x: Tensor<2>, pass: &Pass) -> Tensor<2> {
        let apply = |kind: TargetKind, x: Tensor<2>| {
            let frozen = &self.linears[kind as usize];
            let y = linear(x.clone(), frozen.weight.clone(), Some(frozen.bias.clone()));
            match pass.updates[kind as usize] {
                Some(update) => y + lowrank_update(x, update, pass.clients),
                None => y,
            }
        };
        let [q, k, v] = [TargetKind::Query, TargetKind::Key, TargetKind::Value].map(|kind| apply(kind, x.clone()));
        let attended = packed_attention(q, k, v, pass.heads, pass.attention);
        let x = self.attention_norm.forward(x + apply(TargetKind::AttentionOutput, attended), pass.eps);
        let wide = gelu(apply(TargetKind::Intermediate, x.clone()));
        self.output_norm.forward(x + apply(TargetKind::Output, wide), pass.eps)
    }
}

impl Norm {
    fn forward(&self, x: Tensor<2>, eps: f64) -> Tensor<2> {
        layer_norm(x, self.gamma.clone(), self.beta.clone(), eps)
    }
}

impl Encoder {
    /// Hidden states of all tokens `[T, D]`.
    fn hidden(&self, adapter: &ClientAdapter, batch: &DeviceBatch) -> Tensor<2> {
        let net = &self.backbone;
        let words = net.words.clone().select(0, batch.tokens.clone());
        let positions = net.positions.clone().select(0, batch.positions.clone());
        let mut x = net.embedding_norm.forward(words + positions + net.token_type.clone(), self.info.eps);
        for (i, layer) in net.layers.iter().enumerate() {
            let mut updates = [None; 6];
            for (target, update) in self.targets.iter().zip(&adapter.updates).filter(|(t, _)| t.layer == i) {
                updates[target.kind as usize] = Some(update);
            }
            let (attention, clients) = (&batch.attention, &batch.client_tokens);
            x = layer.forward(x, &Pass { eps: self.info.eps, heads: self.info.heads, attention, clients, updates });
        }
        x
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
            let frozen = &mut model.backbone.layers[target.layer].linears[target.kind as usize];
            let product = matrix(a.clone(), &self.device).matmul(matrix(b.clone(), &self.device));
            frozen.weight = frozen.weight.clone() + product * adapter.scale();
        }
        Box::new(model)
    }

    fn logits(&self, adapter: &ClientAdapter, batch: &DeviceBatch) -> Tensor<2> {
        let mut first = self.hidden(adapter, batch).select(0, batch.firsts.clone());
        if let Some(pooler) = &self.backbone.pooler {
            first = linear(first, pooler.weight.clone(), Some(pooler.bias.clone())).tanh();
        }
        head::logits(first, &adapter.head, batch)
    }
}
