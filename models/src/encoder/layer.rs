//! The forward pass of one layer, in two ways: over frozen weights by operations that compute no gradient for them, and
//! over weights that train by operations composed of Burn's.

use bonfire_kernels::{
    AttentionLayout, LowRank, Segments, adapted_linear, adapted_linear_composed, add_norm, gelu, packed_attention,
};
use burn::tensor::module::layer_norm;
use burn::tensor::{Int, Tensor};

use super::backbone::{GROUPS, Layer, Linear, Norm};
use crate::NoiseSigns;
use crate::noise::perturbed;

/// What is added to the products of one linear.
#[derive(Clone, Copy, Default)]
pub(super) struct Added<'p> {
    pub update: Option<&'p LowRank>,
    /// The bank `[d_in, d_out]` and the clients' signs.
    pub noise: Option<(&'p Tensor<2>, &'p NoiseSigns)>,
}

/// Whose the rows of a matrix are.
pub(super) struct Rows<'p> {
    pub clients: &'p Segments,
    /// The same row by row `[T]`, where noise asks for it.
    pub owners: Option<Tensor<1, Int>>,
}

/// What a layer needs besides its input.
pub(super) struct Pass<'p> {
    pub eps: f64,
    /// Whether gradients reach the weights.
    pub trained: bool,
    pub attention: &'p AttentionLayout,
    pub tokens: &'p Rows<'p>,
    /// What this layer's linears add, by [`crate::TargetKind`].
    pub added: [Added<'p>; 6],
    /// In the last layer: the only tokens whose result is read, and which of them are which client's. What follows
    /// attention is left out for all others.
    pub read: Option<(&'p Tensor<1, Int>, &'p Rows<'p>)>,
}

impl Layer {
    /// `[T, D] -> [T, D]`, or the tokens that are read.
    pub fn forward(&self, x: Tensor<2>, pass: &Pass) -> Tensor<2> {
        let attended = packed_attention(self.apply(0, x.clone(), pass, pass.tokens), pass.attention);
        let (x, attended, rows) = match pass.read {
            Some((tokens, rows)) => (x.select(0, tokens.clone()), attended.select(0, tokens.clone()), rows),
            None => (x, attended, pass.tokens),
        };
        let x = self.attention_norm.after(x, self.apply(1, attended, pass, rows), pass.eps, pass.trained);
        let wide = gelu(self.apply(2, x.clone(), pass, rows));
        self.output_norm.after(x, self.apply(3, wide, pass, rows), pass.eps, pass.trained)
    }

    /// The linears of a group with what is added to them.
    fn apply(&self, group: usize, x: Tensor<2>, pass: &Pass, rows: &Rows) -> Tensor<2> {
        let Linear { weight, bias } = &self.linears[group];
        let added: Vec<Added> = GROUPS[group].iter().map(|kind| pass.added[*kind as usize]).collect();
        let width = bias.dims()[0] / added.len();
        let updates = added.iter().enumerate();
        let updates: Vec<_> =
            updates.filter_map(|(i, added)| added.update.map(|update| (update, i * width..(i + 1) * width))).collect();
        let linear = if pass.trained { adapted_linear_composed } else { adapted_linear };
        let y = linear(x.clone(), weight.clone(), bias.clone(), &updates, rows.clients);
        let Some(owners) = &rows.owners else { return y };
        let noise = added.iter().map(|added| match added.noise {
            Some((bank, signs)) => perturbed(x.clone(), bank.clone(), signs, owners),
            None => Tensor::zeros([y.dims()[0], width], (&y.device(), y.dtype())),
        });
        y.clone() + Tensor::cat(noise.collect(), 1)
    }
}

impl Norm {
    /// The norm of `x + r`.
    pub fn after(&self, x: Tensor<2>, r: Tensor<2>, eps: f64, trained: bool) -> Tensor<2> {
        match trained {
            true => layer_norm(x + r, self.gamma.clone(), Some(self.beta.clone()), eps),
            false => add_norm(x, r, self.gamma.clone(), self.beta.clone(), eps),
        }
    }
}
