//! RoBERTa and BERT encoders: one encoder, two conventions for embeddings and pooler.

use bonfire_kernels::{gelu, packed_attention};
use burn::tensor::Tensor;

use crate::layer::{Layer, Linear, Norm, Pass, Visit};
use crate::loader::Loader;
use crate::{Architecture, DeviceBatch, ModelError, ModelInfo, Stored, TargetKind};

/// The linears of a layer by the input they share: query, key and value are one product.
const GROUPS: [&[TargetKind]; 4] = [
    &[TargetKind::Query, TargetKind::Key, TargetKind::Value],
    &[TargetKind::AttentionOutput],
    &[TargetKind::Intermediate],
    &[TargetKind::Output],
];

const NORMS: [&str; 2] = ["attention.output.LayerNorm", "output.LayerNorm"];

/// All weights but the head's.
#[derive(Clone, Debug)]
pub(crate) struct Encoder {
    words: Tensor<2>,
    positions: Tensor<2>,
    /// A row for a text, and in BERT one for the second of a pair.
    token_types: Tensor<2>,
    embedding_norm: Norm,
    pub layers: Vec<Layer>,
    /// BERT's pooler, which never trains; RoBERTa has none.
    pub pooler: Option<Linear>,
}

impl Encoder {
    /// Takes the tensors out of a checkpoint.
    pub fn load(from: &mut Loader) -> Result<Encoder, ModelError> {
        let (d, info) = (from.info.hidden, from.info);
        let words = from.table("embeddings.word_embeddings.weight", info.vocab)?;
        let positions = from.table("embeddings.position_embeddings.weight", info.positions)?;
        let token_types = from.table("embeddings.token_type_embeddings.weight", info.token_types)?;
        let embedding_norm = from.layer_norm("embeddings.LayerNorm")?;
        let layer = |i: usize| {
            let name = format!("encoder.layer.{i}");
            let groups = from.groups(&name, &GROUPS)?;
            let [first, second] = NORMS.map(|norm| from.layer_norm(&format!("{name}.{norm}")));
            Ok(Layer { groups, norms: [first?, second?] })
        };
        let layers = (0..info.layers).map(layer).collect::<Result<_, ModelError>>()?;
        let pooler = match info.architecture {
            Architecture::Bert => Some(from.linear("pooler.dense", d, d, true)?),
            _ => None,
        };
        Ok(Encoder { words, positions, token_types, embedding_norm, layers, pooler })
    }

    /// The same encoder with every tensor replaced by what `visit` makes of it, in a fixed order: embeddings, then
    /// layer by layer. The pooler stays.
    pub fn map(&self, info: &ModelInfo, visit: &mut Visit) -> Encoder {
        let prefix = info.architecture.prefix();
        let mut table = |name: &str, t: &Tensor<2>| {
            visit(format!("{prefix}.embeddings.{name}_embeddings.weight"), Stored::AsIs, t.clone())
        };
        let words = table("word", &self.words);
        let positions = table("position", &self.positions);
        let token_types = table("token_type", &self.token_types);
        let embedding_norm = self.embedding_norm.map(&format!("{prefix}.embeddings.LayerNorm"), visit);
        let layers = self.layers.iter().enumerate();
        let layers = layers.map(|(i, layer)| layer.map(&info.layer_name(i), NORMS, info.architecture, visit)).collect();
        Encoder { words, positions, token_types, embedding_norm, layers, pooler: self.pooler.clone() }
    }

    /// The pooler's tensors by name, and what is done with each.
    pub fn visit_pooler(&self, info: &ModelInfo, visit: &mut Visit) {
        if let Some(pooler) = &self.pooler {
            pooler.map(&format!("{}.pooler.dense", info.architecture.prefix()), visit);
        }
    }

    /// The embeddings of all tokens `[T, D]`.
    pub fn embed(&self, batch: &DeviceBatch, eps: f64, trained: bool) -> Tensor<2> {
        let words = self.words.clone().select(0, batch.tokens.clone());
        // Where no token has another type, the first row is for all.
        let types = match &batch.types {
            None => self.token_types.clone().narrow(0, 0, 1),
            Some(types) => self.token_types.clone().select(0, types.clone()),
        };
        let positions = self.positions.clone().select(0, batch.positions.clone()) + types;
        self.embedding_norm.after(words, positions, eps, trained)
    }

    /// One layer: `[T, D] -> [T, D]`, or the tokens that are read.
    pub fn layer(&self, i: usize, x: Tensor<2>, pass: &Pass) -> Tensor<2> {
        let Layer { groups, norms } = &self.layers[i];
        let attended = packed_attention(groups[0].apply(x.clone(), pass, pass.tokens), pass.attention);
        let (x, attended, rows) = pass.reading(x, attended);
        let x = norms[0].after(x, groups[1].apply(attended, pass, rows), pass.eps, pass.trained);
        let wide = gelu(groups[2].apply(x.clone(), pass, rows));
        norms[1].after(x, groups[3].apply(wide, pass, rows), pass.eps, pass.trained)
    }
}
