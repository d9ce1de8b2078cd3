//! The backbone's tensors out of a checkpoint, by the names that Hugging Face gives them.

use burn::tensor::{Device, Tensor};

use crate::layer::{Group, Linear, Norm, Part, matrix, vector};
use crate::weights::Weights;
use crate::{Matrix, ModelError, ModelInfo, TargetKind};

/// Takes the backbone's tensors out of a checkpoint.
pub(crate) struct Loader<'l, 'w> {
    pub weights: &'l mut Weights<'w>,
    pub info: &'l ModelInfo,
    pub device: &'l Device,
}

impl Loader<'_, '_> {
    /// The tensor's name in this file: a backbone saved alone has no prefix.
    fn name(&self, bare: &str) -> String {
        let full = format!("{}.{bare}", self.info.architecture.prefix());
        match self.weights.has(&full) || !self.weights.has(bare) {
            true => full,
            false => bare.to_string(),
        }
    }

    /// An embedding table `[rows, D]`.
    pub fn table(&mut self, bare: &str, rows: usize) -> Result<Tensor<2>, ModelError> {
        self.full_table(&self.name(bare), rows)
    }

    /// As [`Self::table`], by its full name.
    pub fn full_table(&mut self, name: &str, rows: usize) -> Result<Tensor<2>, ModelError> {
        let d = self.info.hidden;
        Ok(matrix(Matrix::new(rows, d, self.take(name, &[rows, d])?), self.device))
    }

    /// A tensor's numbers, each of which is one.
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        let numbers = self.weights.take(name, shape)?;
        self.weights.refuse_not_finite(name, &numbers)?;
        Ok(numbers)
    }

    fn gamma(&mut self, bare: &str, part: &str) -> Result<Tensor<1>, ModelError> {
        let name = self.name(&format!("{bare}.{part}"));
        Ok(vector(self.take(&name, &[self.info.hidden])?, self.device))
    }

    pub fn layer_norm(&mut self, bare: &str) -> Result<Norm, ModelError> {
        Ok(Norm { gamma: self.gamma(bare, "weight")?, beta: Some(self.gamma(bare, "bias")?) })
    }

    pub fn rms_norm(&mut self, bare: &str) -> Result<Norm, ModelError> {
        Ok(Norm { gamma: self.gamma(bare, "weight")?, beta: None })
    }

    pub fn linear(&mut self, bare: &str, d_in: usize, d_out: usize, bias: bool) -> Result<Linear, ModelError> {
        let [weight, bias_name] = ["weight", "bias"].map(|part| self.name(&format!("{bare}.{part}")));
        let numbers = self.weights.take_linear(&weight, d_in, d_out)?;
        self.weights.refuse_not_finite(&weight, &numbers.data)?;
        let weight = matrix(numbers, self.device);
        let bias = match bias {
            true => vector(self.take(&bias_name, &[d_out])?, self.device),
            false => Tensor::zeros([d_out], self.device),
        };
        Ok(Linear { weight, bias })
    }

    /// The linears of a layer, those that share an input side by side.
    pub fn groups(&mut self, layer: &str, groups: &[&[TargetKind]]) -> Result<Vec<Group>, ModelError> {
        let info = self.info;
        let mut group = |kinds: &&[TargetKind]| {
            let mut linear = |&kind: &TargetKind| {
                let ((d_in, width), bias) = (info.sizes(kind), info.has_bias(kind));
                let name = format!("{layer}.{}", kind.module(info.architecture));
                Ok((Part { kind, width, bias }, self.linear(&name, d_in, width, bias)?))
            };
            Ok(Group::of(kinds.iter().map(&mut linear).collect::<Result<_, ModelError>>()?))
        };
        groups.iter().map(&mut group).collect()
    }
}
