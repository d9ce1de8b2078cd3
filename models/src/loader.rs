//! From the tensors of a checkpoint to those of a model, each put on the device as soon as it is read.

use burn::tensor::{Device, FloatDType, Tensor};

use crate::description::{Linears, NormForm};
use crate::layer::{Group, Linear, Norm, Part};
use crate::transfer::{matrix, vector};
use crate::weights::Weights;
use crate::{Matrix, ModelError, ModelInfo, TargetKind};

/// Takes the backbone's tensors out of a checkpoint.
pub(crate) struct Loader<'l, 'w> {
    pub weights: &'l mut Weights<'w>,
    pub info: &'l ModelInfo,
    pub device: &'l Device,
    /// What the backbone is held in; each tensor is rounded as soon as it is there, so that no second copy of the weights
    /// ever is.
    pub dtype: Option<FloatDType>,
}

impl Loader<'_, '_> {
    fn rounded<const N: usize>(&self, t: Tensor<N>) -> Tensor<N> {
        match self.dtype {
            Some(dtype) => t.cast(dtype),
            None => t,
        }
    }

    /// The tensor's name in this file: a backbone saved alone has no prefix.
    fn name(&self, bare: &str) -> String {
        let full = format!("{}.{bare}", self.info.architecture.prefix());
        if self.weights.has(&full) || !self.weights.has(bare) { full } else { bare.to_string() }
    }

    /// An embedding table `[rows, D]` of the module `bare`.
    pub fn table(&mut self, bare: &str, rows: usize) -> Result<Tensor<2>, ModelError> {
        self.shaped(bare, [rows, self.info.hidden])
    }

    /// A table of the module `bare`.
    pub fn shaped(&mut self, bare: &str, [rows, columns]: [usize; 2]) -> Result<Tensor<2>, ModelError> {
        let name = self.name(&format!("{bare}.weight"));
        let numbers = self.take(&name, &[rows, columns], "")?;
        Ok(self.rounded(matrix(Matrix::new(rows, columns, numbers), self.device)))
    }

    /// An embedding table by its full name; `hint` is what errors add.
    pub fn full_table(&mut self, name: &str, rows: usize, hint: &'static str) -> Result<Tensor<2>, ModelError> {
        let d = self.info.hidden;
        let numbers = self.take(name, &[rows, d], hint)?;
        Ok(self.rounded(matrix(Matrix::new(rows, d, numbers), self.device)))
    }

    /// A tensor's numbers, each of which is one.
    fn take(&mut self, name: &str, shape: &[usize], hint: &'static str) -> Result<Vec<f32>, ModelError> {
        let numbers = self.weights.take_with(name, shape, hint)?;
        self.weights.refuse_not_finite(name, &numbers)?;
        Ok(numbers)
    }

    /// The norm of the module `bare`, over `width` features.
    pub fn norm(&mut self, bare: &str, width: usize) -> Result<Norm, ModelError> {
        let names = ["weight", "bias"].map(|part| self.name(&format!("{bare}.{part}")));
        let Norm { form, gamma, beta } = self.norm_of(names, width)?;
        Ok(Norm { form, gamma: self.rounded(gamma), beta: beta.map(|beta| self.rounded(beta)) })
    }

    /// A pooler's norm by its module's full name, in f32 as poolers are.
    pub fn full_norm(&mut self, module: &str, width: usize) -> Result<Norm, ModelError> {
        self.norm_of(["weight", "bias"].map(|part| format!("{module}.{part}")), width)
    }

    fn norm_of(&mut self, [gain, bias]: [String; 2], width: usize) -> Result<Norm, ModelError> {
        let form = self.info.architecture.describe().norm;
        let gamma = vector(self.take(&gain, &[width], "")?, self.device);
        let beta = (form == NormForm::Layer).then(|| self.take(&bias, &[width], "")).transpose()?;
        Ok(Norm { form, gamma, beta: beta.map(|beta| vector(beta, self.device)) })
    }

    fn linear(&mut self, bare: &str, d_in: usize, d_out: usize, bias: bool) -> Result<Linear, ModelError> {
        let names = ["weight", "bias"].map(|part| self.name(&format!("{bare}.{part}")));
        let Linear { weight, bias } = self.linear_of(names, d_in, d_out, bias)?;
        Ok(Linear { weight: self.rounded(weight), bias: bias.map(|bias| self.rounded(bias)) })
    }

    /// A pooler's linear by its module's full name.
    pub fn pooler_linear(&mut self, module: &str, d: usize) -> Result<Linear, ModelError> {
        let names = ["weight", "bias"].map(|part| format!("{module}.{part}"));
        // A backbone saved alone has no prefix.
        let bare = |name: &String| name.split_once('.').map_or(name.clone(), |(_, bare)| bare.to_string());
        let names = if self.weights.has(&names[0]) { names } else { names.each_ref().map(bare) };
        let has_bias = self.weights.has(&names[1]);
        self.linear_of(names, d, d, has_bias)
    }

    fn linear_of(
        &mut self,
        [weight, bias_name]: [String; 2],
        d_in: usize,
        d_out: usize,
        bias: bool,
    ) -> Result<Linear, ModelError> {
        let numbers = self.weights.take_linear(&weight, d_in, d_out)?;
        self.weights.refuse_not_finite(&weight, &numbers.data)?;
        let weight = matrix(numbers, self.device);
        let bias = bias.then(|| self.take(&bias_name, &[d_out], "")).transpose()?;
        let bias = bias.map(|bias| vector(bias, self.device));
        Ok(Linear { weight, bias })
    }

    /// The linears of a layer, those that share an input side by side.
    pub fn groups(&mut self, layer: &str, groups: &[Linears]) -> Result<Vec<Group>, ModelError> {
        let info = self.info;
        let mut group = |linears: &Linears| {
            let mut linear = |&(kind, module): &(TargetKind, &str)| {
                let ((d_in, width), bias) = (info.sizes(kind), info.has_bias(kind));
                let name = format!("{layer}.{module}");
                Ok((Part { kind, width, bias }, self.linear(&name, d_in, width, bias)?))
            };
            Ok(Group::of(linears.iter().map(&mut linear).collect::<Result<_, ModelError>>()?))
        };
        groups.iter().map(&mut group).collect()
    }
}
