//! The tensors that a shape has: their names, sizes and numbers.

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
        let mut list = Vec::new();
        let mut push = |name: String, shape: &[usize], gain| list.push(Shaped { name, shape: shape.to_vec(), gain });
        let (gain, bias) = match description.norm {
            NormForm::Layer => (1.0, true),
            NormForm::LayerWithoutBias | NormForm::Rms => (1.0, false),
            NormForm::RmsFromOne => (0.0, false),
        };
        let mut tables = vec![(Some(embeddings.words), self.vocab, d)];
        tables.push((embeddings.positions, self.positions, d));
        tables.push((embeddings.token_types, self.token_types, d));
        tables.push((embeddings.distances, self.distances, self.heads));
        for (module, rows, columns) in tables {
            if let Some(module) = module {
                push(format!("{prefix}.{module}.weight"), &[rows, columns], None);
            }
        }
        let norm = |push: &mut dyn FnMut(String, &[usize], Option<f32>), name: String, width: usize| {
            push(format!("{name}.weight"), &[width], Some(gain));
            if bias {
                push(format!("{name}.bias"), &[width], None);
            }
        };
        if let Some(module) = embeddings.norm {
            norm(&mut push, format!("{prefix}.{module}"), d);
        }
        for layer in 0..self.layers {
            let name = self.layer_name(layer);
            for (kind, module) in description.linears() {
                let (d_in, d_out) = self.sizes(*kind);
                push(format!("{name}.{module}.weight"), &[d_out, d_in], None);
                if self.has_bias(*kind) {
                    push(format!("{name}.{module}.bias"), &[d_out], None);
                }
            }
            for (place, module) in description.norms_of(layer) {
                norm(&mut push, format!("{name}.{module}"), self.norm_width(place));
            }
        }
        if let Some(module) = description.last_norm {
            norm(&mut push, format!("{prefix}.{module}"), d);
        }
        if self.decoder.as_ref().is_some_and(|decoder| !decoder.tied) {
            push("lm_head.weight".into(), &[self.vocab, d], None);
        }
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
