//! The backbone's tensors out of a checkpoint, by the names that Hugging Face gives them.

use burn::tensor::{Device, Tensor};

use super::backbone::{Backbone, GROUPS, Layer, Linear, Norm};
use super::{matrix, vector};
use crate::weights::Weights;
use crate::{Architecture, Matrix, ModelError, ModelInfo, TargetKind};

/// Takes the backbone's tensors out of a checkpoint.
pub(super) struct Loader<'l, 'w> {
    pub weights: &'l mut Weights<'w>,
    pub info: &'l ModelInfo,
    pub device: &'l Device,
}

impl Loader<'_, '_> {
    pub fn backbone(&mut self) -> Result<Backbone, ModelError> {
        let d = self.info.hidden;
        let words = self.table("embeddings.word_embeddings.weight", self.info.vocab)?;
        let positions = self.table("embeddings.position_embeddings.weight", self.info.positions)?;
        let token_types = self.table("embeddings.token_type_embeddings.weight", self.info.token_types)?;
        let embedding_norm = self.norm("embeddings.LayerNorm")?;
        let layers = (0..self.info.layers).map(|i| self.layer(i)).collect::<Result<_, _>>()?;
        let pooler = match self.info.architecture {
            Architecture::Bert => Some(self.linear("pooler.dense", d, d)?),
            Architecture::Roberta => None,
        };
        Ok(Backbone { words, positions, token_types, embedding_norm, layers, pooler })
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
