//! The body of a transformer, whatever its architecture: embeddings, layers and what follows them, computed as the
//! architecture's description says. What a layer does is in `body/layers.rs`, generation in `body/cache.rs`.

mod cache;
mod distances;
mod layers;
mod load;

use burn::tensor::{Int, Tensor};

pub(crate) use self::cache::Cache;
pub(crate) use self::load::Loaded;
use crate::description::{Bend, Order};
use crate::head::bent;
use crate::layer::{Layer, LayerContext, Linear, Norm, Visit};
use crate::rotary::{Angles, Rotary};
use crate::{DeviceBatch, ModelInfo, Stored};
use bonfire_kernels::{Arithmetic, Segments};

/// All weights but the head's.
#[derive(Clone, Debug)]
pub(crate) struct Body {
    order: Order,
    words: Tensor<2>,
    positions: Option<Tensor<2>>,
    /// Only the first row is read: a classifier sees one text.
    token_types: Option<Tensor<2>>,
    /// `[buckets, heads]`, which attention adds to its scores by how far two tokens are apart.
    distances: Option<Tensor<2>>,
    embedding_norm: Option<Norm>,
    pub layers: Vec<Layer>,
    last_norm: Option<Norm>,
    /// Output embeddings `[V, D]`, where they are not the input embeddings and the task asks for them.
    output: Option<Tensor<2>>,
    rotaries: Vec<Rotary>,
    pub pooler: Option<Pooler>,
}

/// What stands between a classifier's hidden state and its head and never trains.
#[derive(Clone, Debug)]
pub(crate) struct Pooler {
    linear: Linear,
    bend: Bend,
    norm: Option<Norm>,
}

impl Pooler {
    /// `[N, D] -> [N, D]`.
    pub fn forward(&self, x: Tensor<2>, eps: f64) -> Tensor<2> {
        let x = bent(self.linear.forward(x, Arithmetic::F32), self.bend);
        match &self.norm {
            // A few rows; composed of Burn's operations either way.
            Some(norm) => norm.of(x, eps, true),
            None => x,
        }
    }
}

impl Body {
    /// The same body with every tensor replaced by what `visit` makes of it, in a fixed order: embeddings, layer by layer,
    /// last norm, output embeddings. The pooler stays.
    pub fn map(&self, info: &ModelInfo, visit: &mut Visit) -> Body {
        let description = info.architecture.describe();
        let (prefix, names) = (description.prefix, &description.embeddings);
        let mut table = |module: Option<&str>, t: &Option<Tensor<2>>| {
            let named = t.as_ref().zip(module);
            named.map(|(t, module)| visit(format!("{prefix}.{module}.weight"), Stored::AsIs, t.clone()))
        };
        let words = table(Some(names.words), &Some(self.words.clone())).expect("there are words");
        let positions = table(names.positions, &self.positions);
        let token_types = table(names.token_types, &self.token_types);
        let distances = table(names.distances, &self.distances);
        let norm = |module: Option<&str>, norm: &Option<Norm>, visit: &mut Visit| {
            norm.as_ref().zip(module).map(|(norm, module)| norm.map(&format!("{prefix}.{module}"), visit))
        };
        let embedding_norm = norm(names.norm, &self.embedding_norm, visit);
        let layers = self.layers.iter().enumerate();
        let layers = layers.map(|(i, layer)| layer.map(&info.layer_name(i), i, info.architecture, visit)).collect();
        let last_norm = norm(description.last_norm, &self.last_norm, visit);
        let output = self.output.as_ref().map(|t| visit("lm_head.weight".into(), Stored::AsIs, t.clone()));
        Body {
            order: self.order,
            words,
            positions,
            token_types,
            distances,
            embedding_norm,
            layers,
            last_norm,
            output,
            rotaries: self.rotaries.clone(),
            pooler: self.pooler.clone(),
        }
    }

    /// The pooler's tensors by name, and what is done with each.
    pub fn visit_pooler(&self, info: &ModelInfo, visit: &mut Visit) {
        let Some((pooler, form)) = self.pooler.as_ref().zip(info.architecture.describe().pooler) else { return };
        drop(pooler.linear.map(form.linear, visit));
        if let Some((norm, name)) = pooler.norm.as_ref().zip(form.norm) {
            norm.map(name, visit);
        }
    }

    /// The embeddings of all tokens `[T, D]`.
    pub fn embed(&self, batch: &DeviceBatch, info: &ModelInfo, trained: bool) -> Tensor<2> {
        let words = self.words_of(&batch.tokens, info); // [T, D]
        let positions = self.positions.as_ref().map(|table| {
            let positions = table.clone().select(0, batch.positions.clone()); // [T, D]
            match (&self.token_types, &batch.types) {
                (None, _) => positions,
                // Where no token has another type, the first row is for all.
                (Some(table), None) => positions + table.clone().narrow(0, 0, 1),
                (Some(table), Some(types)) => positions + table.clone().select(0, types.clone()),
            }
        });
        match (&self.embedding_norm, positions) {
            (Some(norm), Some(positions)) => norm.after(words, positions, info.eps, trained),
            (Some(norm), None) => norm.of(words, info.eps, trained),
            (None, _) => words,
        }
    }

    fn words_of(&self, tokens: &Tensor<1, Int>, info: &ModelInfo) -> Tensor<2> {
        let words = self.words.clone().select(0, tokens.clone()); // [V, D] -> [T, D]
        match info.embedding_scale {
            1.0 => words,
            scale => words * scale,
        }
    }

    /// The angles of every rotary embedding for a batch's tokens.
    pub fn angles(&self, positions: &Tensor<1, Int>, end: usize) -> Vec<Angles> {
        self.rotaries.iter().map(|rotary| rotary.angles(positions, end)).collect()
    }

    /// What attention adds to its scores for each sequence, `[heads, length, length]`; none for most architectures.
    pub fn added_scores(&self, sequences: &Segments) -> Option<Vec<Tensor<3>>> {
        self.distances.as_ref().map(|table| distances::scores(table, sequences))
    }

    /// One layer: `[T, D] -> [T, D]`, or the tokens that are read `[N, D]`.
    pub fn layer(&self, i: usize, x: Tensor<2>, context: &LayerContext) -> Tensor<2> {
        match self.order {
            Order::Post => self.layers[i].post_norm(x, context),
            Order::Pre => self.layers[i].pre_norm(x, context),
        }
    }

    /// What follows the last layer.
    pub fn finish(&self, x: Tensor<2>, eps: f64, trained: bool) -> Tensor<2> {
        match &self.last_norm {
            Some(norm) => norm.of(x, eps, trained),
            None => x,
        }
    }

    /// Output embeddings `[V, D]`.
    pub fn vocabulary(&self) -> &Tensor<2> {
        self.output.as_ref().unwrap_or(&self.words)
    }
}
