//! What a device is checked for.

use std::fmt;

use anyhow::Result;
use bonfire_models::{Architecture, ModelInfo, Precision};
use burn::tensor::Device;

use crate::config::{CheckedConfig, TaskKind};
use crate::job;
use crate::watch::Watch;

/// What a device is to train. A verdict on one says nothing of another: an encoder uses none of a decoder's operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purpose {
    /// The small model that computes as the run's does.
    pub model: Small,
    /// What the run computes in.
    pub precision: Precision,
}

impl Purpose {
    /// What a configuration trains.
    ///
    /// # Errors
    /// The model's `config.json` cannot be had or read.
    pub fn of(loaded: &CheckedConfig, watch: &mut dyn Watch) -> Result<Purpose> {
        let config = &loaded.config;
        let model = Small::like(&job::info(loaded, watch)?, config.model.task);
        Ok(Purpose { model, precision: config.engine.precision })
    }

    /// Everything that can be trained on `device`.
    pub fn every(device: &Device) -> Vec<Purpose> {
        let precisions = precisions(device);
        Small::ALL
            .iter()
            .flat_map(|&model| precisions.iter().map(move |&precision| Purpose { model, precision }))
            .collect()
    }

    /// Whether a finding on `other` counts: adapters and head are f32 in every precision.
    pub(super) fn asks(self, other: Purpose) -> bool {
        self.model == other.model && [Precision::F32, self.precision].contains(&other.precision)
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.model.name(), self.precision.name())
    }
}

/// The small models that are checked. Whatever a run trains computes as one of them does, on larger matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Small {
    /// The built-in encoder.
    Roberta,
    /// An encoder of random weights with BERT's pooler and embeddings.
    Bert,
    /// The built-in decoder as a language model. Mistral's and Qwen2's layers are LLaMA's.
    Llama,
    /// The built-in decoder with a classifier's head.
    LlamaClasses,
}

impl Small {
    /// All of them.
    pub const ALL: [Small; 4] = [Small::Llama, Small::LlamaClasses, Small::Bert, Small::Roberta];

    /// The one that computes as a model of this shape does.
    pub fn like(info: &ModelInfo, task: TaskKind) -> Small {
        match (info.architecture, task) {
            (Architecture::Bert | Architecture::DistilBert, _) => Small::Bert,
            (architecture, _) if !architecture.is_decoder() => Small::Roberta,
            (_, TaskKind::CausalLm) => Small::Llama,
            _ => Small::LlamaClasses,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Small::Roberta => "tiny-roberta",
            Small::Bert => "small bert",
            Small::Llama => "tiny-llama",
            Small::LlamaClasses => "tiny-llama, classes",
        }
    }
}

/// What is checked on `device`: f32, TF32 where it has that, and one 16-bit type of those it has.
pub(super) fn precisions(device: &Device) -> Vec<Precision> {
    let halves = [Precision::Bf16, Precision::F16].into_iter().find(|half| half.runs_on(device));
    [Precision::F32, Precision::Tf32].into_iter().filter(|p| p.runs_on(device)).chain(halves).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_like_the_model_of_its_body_and_task() {
        let of = |architecture| ModelInfo { architecture, ..ModelInfo::minilm() };
        for (architecture, task, model) in [
            (Architecture::Roberta, TaskKind::Classification, Small::Roberta),
            (Architecture::Bert, TaskKind::Classification, Small::Bert),
            (Architecture::Llama, TaskKind::CausalLm, Small::Llama),
            (Architecture::Mistral, TaskKind::CausalLm, Small::Llama),
            (Architecture::Qwen2, TaskKind::Classification, Small::LlamaClasses),
        ] {
            assert_eq!(Small::like(&of(architecture), task), model);
        }
    }
}
