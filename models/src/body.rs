//! The two bodies that a transformer may have: what all of them can do, and which one does it.

use burn::tensor::Tensor;

use crate::encoder::Encoder;
use crate::layer::{Layer, Pass, Visit};
use crate::llama::Llama;
use crate::{DeviceBatch, ModelInfo};

/// All weights but the head's.
#[derive(Clone, Debug)]
// One or two of them a model, whichever it is.
#[allow(clippy::large_enum_variant)]
pub(crate) enum Body {
    Encoder(Encoder),
    Llama(Llama),
}

impl Body {
    pub fn layers(&self) -> &[Layer] {
        match self {
            Body::Encoder(net) => &net.layers,
            Body::Llama(net) => &net.layers,
        }
    }

    pub fn layers_mut(&mut self) -> &mut [Layer] {
        match self {
            Body::Encoder(net) => &mut net.layers,
            Body::Llama(net) => &mut net.layers,
        }
    }

    pub fn map(&self, info: &ModelInfo, visit: &mut Visit) -> Body {
        match self {
            Body::Encoder(net) => Body::Encoder(net.map(info, visit)),
            Body::Llama(net) => Body::Llama(net.map(info, visit)),
        }
    }

    /// The embeddings of all tokens `[T, D]`.
    pub fn embed(&self, batch: &DeviceBatch, eps: f64, trained: bool) -> Tensor<2> {
        match self {
            Body::Encoder(net) => net.embed(batch, eps, trained),
            Body::Llama(net) => net.embed(&batch.tokens),
        }
    }

    /// One layer: `[T, D] -> [T, D]`, or the tokens that are read `[N, D]`.
    pub fn layer(&self, i: usize, x: Tensor<2>, pass: &Pass) -> Tensor<2> {
        match self {
            Body::Encoder(net) => net.layer(i, x, pass),
            Body::Llama(net) => net.layer(i, x, pass),
        }
    }

    /// What follows the last layer.
    pub fn finish(&self, x: Tensor<2>, eps: f64) -> Tensor<2> {
        match self {
            Body::Encoder(_) => x,
            Body::Llama(net) => net.finish(x, eps),
        }
    }
}
