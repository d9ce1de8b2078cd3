//! The weights of an encoder: how they lie in memory, and every one of them by its Hugging Face name.

use burn::tensor::{FloatDType, Tensor};

use crate::{Architecture, Matrix, Stored, Target, TargetKind};

/// A linear.
#[derive(Clone, Debug)]
pub(super) struct Linear {
    /// `[d_in, d_out]`.
    pub weight: Tensor<2>,
    /// `[d_out]`.
    pub bias: Tensor<1>,
}

/// The linears of a layer by the input they share: query, key and value are one product.
pub(super) const GROUPS: [&[TargetKind]; 4] = [
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

/// A layer normalisation.
#[derive(Clone, Debug)]
pub(super) struct Norm {
    pub gamma: Tensor<1>,
    pub beta: Tensor<1>,
}

/// One encoder layer; the linears in the order of [`GROUPS`].
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub linears: Vec<Linear>,
    pub attention_norm: Norm,
    pub output_norm: Norm,
}

/// All weights but the head's.
#[derive(Clone, Debug)]
pub(super) struct Backbone {
    pub words: Tensor<2>,
    pub positions: Tensor<2>,
    /// Only the first row is read: a classifier sees one text.
    pub token_types: Tensor<2>,
    pub embedding_norm: Norm,
    pub layers: Vec<Layer>,
    /// BERT's pooler, which never trains; RoBERTa has none.
    pub pooler: Option<Linear>,
}

impl Linear {
    /// Linears of one input as one: `[d_in, Σ d_out]`.
    pub fn side_by_side(parts: Vec<Linear>) -> Linear {
        let (weights, biases) = parts.into_iter().map(|p| (p.weight, p.bias)).unzip();
        Linear { weight: Tensor::cat(weights, 1), bias: Tensor::cat(biases, 0) }
    }

    /// The `i`-th of `n` linears side by side.
    fn part(&self, i: usize, n: usize) -> Linear {
        let width = self.bias.dims()[0] / n;
        let weight = self.weight.clone().narrow(1, i * width, width);
        Linear { weight, bias: self.bias.clone().narrow(0, i * width, width) }
    }
}

/// What is done with each tensor: its name, how files store it, and itself as `[in, out]` or `[1, n]`.
pub(super) type Visit<'v> = dyn FnMut(String, Stored, Tensor<2>) -> Tensor<2> + 'v;

/// Visits a vector as a matrix of one row.
fn visit_vector(name: String, t: &Tensor<1>, visit: &mut Visit) -> Tensor<1> {
    visit(name, Stored::AsVector, t.clone().unsqueeze_dim(0)).squeeze_dim(0)
}

impl Linear {
    fn map(&self, module: &str, visit: &mut Visit) -> Linear {
        let weight = visit(format!("{module}.weight"), Stored::Transposed, self.weight.clone());
        Linear { weight, bias: visit_vector(format!("{module}.bias"), &self.bias, visit) }
    }
}

impl Norm {
    fn map(&self, module: &str, visit: &mut Visit) -> Norm {
        let gamma = visit_vector(format!("{module}.weight"), &self.gamma, visit);
        Norm { gamma, beta: visit_vector(format!("{module}.bias"), &self.beta, visit) }
    }
}

impl Layer {
    fn map(&self, layer: &str, visit: &mut Visit) -> Layer {
        let mut group = |(linear, kinds): (&Linear, &&[TargetKind])| match kinds {
            [kind] => linear.map(&format!("{layer}.{}", kind.module()), visit),
            kinds => {
                let parts = kinds.iter().enumerate();
                let parts = parts
                    .map(|(i, kind)| linear.part(i, kinds.len()).map(&format!("{layer}.{}", kind.module()), visit));
                Linear::side_by_side(parts.collect())
            }
        };
        let linears = self.linears.iter().zip(&GROUPS).map(&mut group).collect();
        Layer {
            linears,
            attention_norm: self.attention_norm.map(&format!("{layer}.attention.output.LayerNorm"), visit),
            output_norm: self.output_norm.map(&format!("{layer}.output.LayerNorm"), visit),
        }
    }
}

impl Backbone {
    /// The same encoder with every tensor replaced by what `visit` makes of it, in a fixed order: embeddings, then
    /// layer by layer. The pooler stays.
    pub fn map(&self, architecture: Architecture, visit: &mut Visit) -> Backbone {
        let prefix = architecture.name();
        let mut table = |name: &str, t: &Tensor<2>| {
            visit(format!("{prefix}.embeddings.{name}_embeddings.weight"), Stored::AsIs, t.clone())
        };
        let words = table("word", &self.words);
        let positions = table("position", &self.positions);
        let token_types = table("token_type", &self.token_types);
        let embedding_norm = self.embedding_norm.map(&format!("{prefix}.embeddings.LayerNorm"), visit);
        let layers = self.layers.iter().enumerate();
        let layers = layers.map(|(i, layer)| layer.map(&format!("{prefix}.encoder.layer.{i}"), visit)).collect();
        Backbone { words, positions, token_types, embedding_norm, layers, pooler: self.pooler.clone() }
    }

    /// The pooler's tensors by name, and what is done with each.
    pub fn visit_pooler(&self, architecture: Architecture, visit: &mut Visit) {
        if let Some(pooler) = &self.pooler {
            pooler.map(&format!("{}.pooler.dense", architecture.name()), visit);
        }
    }

    /// The same weights in another type; past the last layer everything is f32.
    pub fn cast(&self, dtype: FloatDType) -> Backbone {
        self.map(Architecture::Roberta, &mut |_, _, t| t.cast(dtype))
    }

    /// The weight of a target `[d_in, d_out]`.
    pub fn target(&self, target: &Target) -> Tensor<2> {
        let (group, i) = place(target.kind);
        let weight = &self.layers[target.layer].linears[group].weight;
        weight.clone().narrow(1, i * target.d_out, target.d_out)
    }

    /// Puts another weight in a target's place.
    pub fn set_target(&mut self, target: &Target, weight: Tensor<2>) {
        let (group, i) = place(target.kind);
        let all = &mut self.layers[target.layer].linears[group].weight;
        let here = [0..target.d_in, i * target.d_out..(i + 1) * target.d_out];
        *all = all.clone().slice_assign(here, weight);
    }
}

/// A tensor's numbers, without its graph.
pub(super) fn read(t: Tensor<2>) -> Matrix {
    let [rows, cols] = t.dims();
    Matrix::new(rows, cols, t.into_data().try_to_vec().expect("weights are kept in f32"))
}
