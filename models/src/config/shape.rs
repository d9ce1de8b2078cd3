//! The tensors that a model of some shape has by its configuration alone: their names and sizes.

use super::ModelInfo;
use crate::TargetKind;
use crate::description::{NormForm, NormPlace};

/// A tensor as Hugging Face stores it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shaped {
    pub name: String,
    pub shape: Vec<usize>,
    /// Whether it is the gain of a norm: near 1 in a model that works, or near 0 where it is stored as what is added to 1.
    pub gain: Option<f32>,
}

impl ModelInfo {
    /// Every tensor of the body, pooler and head left out, in the order that [`Model::weights`](crate::Model::weights) has.
    pub(crate) fn tensors(&self) -> Vec<Shaped> {
        let description = self.architecture.describe();
        let (d, prefix, embeddings) = (self.hidden, description.prefix, &description.embeddings);
        let plain = |name: String, shape: &[usize]| Shaped { name, shape: shape.to_vec(), gain: None };
        let (gain, bias) = match description.norm {
            NormForm::Layer => (1.0, true),
            NormForm::LayerWithoutBias | NormForm::Rms => (1.0, false),
            NormForm::RmsFromOne => (0.0, false),
        };
        let norm = |name: String, width: usize| {
            let own = Shaped { gain: Some(gain), ..plain(format!("{name}.weight"), &[width]) };
            std::iter::once(own).chain(bias.then(|| plain(format!("{name}.bias"), &[width])))
        };
        let tables = [
            (Some(embeddings.words), [self.vocab, d]),
            (embeddings.positions, [self.positions, d]),
            (embeddings.token_types, [self.token_types, d]),
            (embeddings.distances, [self.distances, self.heads]),
        ];
        let table = |(module, shape): (Option<&str>, [usize; 2])| {
            module.map(|module| plain(format!("{prefix}.{module}.weight"), &shape))
        };
        let mut list: Vec<Shaped> = tables.into_iter().filter_map(table).collect();
        list.extend(embeddings.norm.into_iter().flat_map(|module| norm(format!("{prefix}.{module}"), d)));
        for layer in 0..self.layers {
            let name = self.layer_name(layer);
            for (kind, module) in description.linears() {
                let (d_in, d_out) = self.sizes(*kind);
                list.push(plain(format!("{name}.{module}.weight"), &[d_out, d_in]));
                list.extend(self.has_bias(*kind).then(|| plain(format!("{name}.{module}.bias"), &[d_out])));
            }
            for (place, module) in description.norms_of(layer) {
                list.extend(norm(format!("{name}.{module}"), self.norm_width(place)));
            }
        }
        list.extend(description.last_norm.into_iter().flat_map(|module| norm(format!("{prefix}.{module}"), d)));
        let untied = self.decoder.as_ref().is_some_and(|decoder| !decoder.tied);
        list.extend(untied.then(|| plain("lm_head.weight".into(), &[self.vocab, d])));
        list
    }

    /// Features that a norm of a layer goes over.
    pub(crate) fn norm_width(&self, place: NormPlace) -> usize {
        match place {
            NormPlace::Queries | NormPlace::Keys => self.head_width,
            _ => self.hidden,
        }
    }

    /// Scalars of the model without pooler and classifier head: what full fine-tuning would send (methods, 1.6).
    pub fn backbone_params(&self) -> u64 {
        self.tensors().iter().map(|t| t.shape.iter().map(|&n| n as u64).product::<u64>()).sum()
    }

    /// Scalars of the backbone's linears in all layers: the N of the 4·N·T floor under a step.
    pub fn matmul_params(&self) -> u64 {
        let size = |kind: &TargetKind| self.sizes(*kind);
        let layer = self.architecture.kinds().iter().map(size).map(|(i, o)| (i * o) as u64).sum::<u64>();
        self.layers as u64 * layer
    }
}
