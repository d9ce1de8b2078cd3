//! Models of a known shape with random weights: for measuring speed, where the numbers do not matter but the sizes do.

use burn::tensor::Device;
use half::f16;
use rand::{Rng, RngExt};
use safetensors::tensor::{Dtype, TensorView};

use crate::{Architecture, ModelError, ModelInfo, TargetKind, Task, Transformer};

impl ModelInfo {
    /// The shape of RoBERTa-base: 12 layers of 768 features.
    pub fn roberta_base() -> Self {
        Self::roberta_of([12, 768, 12, 3072], 50_265)
    }

    /// The shape of all-MiniLM-L6 in RoBERTa layout: 6 layers of 384 features.
    pub fn minilm() -> Self {
        Self::roberta_of([6, 384, 12, 1536], 30_522)
    }

    fn roberta_of([layers, hidden, heads, intermediate]: [usize; 4], vocab: usize) -> Self {
        ModelInfo {
            architecture: Architecture::Roberta,
            hidden,
            layers,
            heads,
            kv_heads: heads,
            head_width: hidden / heads,
            intermediate,
            vocab,
            positions: 514,
            token_types: 1,
            first_position: 2,
            eps: 1e-5,
            initializer_range: 0.02,
            decoder: None,
        }
    }
}

impl Transformer {
    /// A model of shape `info` with weights drawn from `rng`, through the same door as a checkpoint's.
    ///
    /// # Errors
    /// None that a user can cause: the tensors are made for the shape.
    pub fn random(
        info: ModelInfo,
        task: Task,
        kinds: &[TargetKind],
        rng: &mut impl Rng,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let bytes = checkpoint(&info, rng);
        Transformer::from_checkpoint(info, &[(bytes, "random weights".into())], task, kinds, rng, device)
    }
}

/// Name and shape of every tensor of the encoder, as Hugging Face stores them.
fn tensors(info: &ModelInfo) -> Vec<(String, Vec<usize>)> {
    let (d, prefix) = (info.hidden, info.architecture.name());
    let mut list = Vec::new();
    let mut push = |name: String, shape: &[usize]| list.push((format!("{prefix}.{name}"), shape.to_vec()));
    push("embeddings.word_embeddings.weight".into(), &[info.vocab, d]);
    push("embeddings.position_embeddings.weight".into(), &[info.positions, d]);
    push("embeddings.token_type_embeddings.weight".into(), &[info.token_types, d]);
    let layers = (0..info.layers).flat_map(|l| {
        ["attention.output.LayerNorm", "output.LayerNorm"].map(|norm| format!("encoder.layer.{l}.{norm}"))
    });
    for norm in std::iter::once("embeddings.LayerNorm".to_string()).chain(layers) {
        push(format!("{norm}.weight"), &[d]);
        push(format!("{norm}.bias"), &[d]);
    }
    if info.architecture == Architecture::Bert {
        push("pooler.dense.weight".into(), &[d, d]);
        push("pooler.dense.bias".into(), &[d]);
    }
    for target in info.targets(&TargetKind::all()) {
        list.push((format!("{}.weight", target.name), vec![target.d_out, target.d_in]));
        list.push((format!("{}.bias", target.name), vec![target.d_out]));
    }
    list
}

/// A checkpoint in f16, as published ones are: weights uniform with deviation `initializer_range`, gains one, biases
/// zero.
fn checkpoint(info: &ModelInfo, rng: &mut impl Rng) -> Vec<u8> {
    let bound = (info.initializer_range * 3f64.sqrt()) as f32;
    let parts: Vec<(String, Vec<usize>, Vec<u8>)> = tensors(info)
        .into_iter()
        .map(|(name, shape)| {
            let mut value = || match (shape.len(), name.ends_with(".weight")) {
                (1, gain) => f16::from_f32(f32::from(u8::from(gain))),
                _ => f16::from_f32(rng.random_range(-bound..bound)),
            };
            let bytes = (0..shape.iter().product()).flat_map(|_: usize| value().to_le_bytes()).collect();
            (name, shape, bytes)
        })
        .collect();
    let views = parts.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F16, shape.clone(), bytes).expect("as many bytes as the shape says");
        (name.as_str(), view)
    });
    safetensors::serialize(views, None).expect("names are unique")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Model;
    use rand::SeedableRng;

    #[test]
    fn the_named_shapes_have_the_sizes_of_their_models() {
        assert_eq!(ModelInfo::roberta_base().backbone_params(), 124_055_040);
        assert_eq!(ModelInfo::roberta_base().max_tokens(), 512);
        assert_eq!(ModelInfo::minilm().matmul_params(), 10_616_832);
    }

    #[test]
    #[cfg(feature = "flex")]
    fn random_models_load_in_both_conventions() {
        for (architecture, tensors) in [(Architecture::Roberta, 4), (Architecture::Bert, 2)] {
            let small = ModelInfo { architecture, vocab: 50, ..ModelInfo::roberta_of([2, 16, 2, 32], 50) };
            let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
            let model = Transformer::random(small, Task::Classify(3), &TargetKind::all(), &mut rng, &Device::flex())
                .expect("loads");
            assert_eq!((model.targets().len(), model.head().len()), (12, tensors));
        }
    }
}
