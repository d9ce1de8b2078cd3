//! Models of a known shape with random weights: for measuring speed, where the numbers do not matter but the sizes do.

use burn::tensor::Device;
use half::f16;
use rand::{Rng, RngExt};
use safetensors::tensor::{Dtype, TensorView};

use crate::config::Shaped;
use crate::weights::Weights;
use crate::{
    Activation, Architecture, Biases, DecoderInfo, LayerAttention, ModelError, ModelInfo, Pooling, Rope, RopeScaling,
    TargetKind, Task, Transformer, Wanted,
};

/// Weights are taken from a pool of at most so many draws, round and round: a billion of them would take long to draw. A prime, so
/// that no two rows of a matrix are alike.
const POOL: usize = 1_000_003;

impl ModelInfo {
    /// The shape of RoBERTa-base: 12 layers of 768 features.
    pub fn roberta_base() -> Self {
        Self::roberta_of([12, 768, 12, 3072], 50_265)
    }

    /// The shape of all-MiniLM-L6 in RoBERTa layout: 6 layers of 384 features.
    pub fn minilm() -> Self {
        Self::roberta_of([6, 384, 12, 1536], 30_522)
    }

    /// The shape of Llama-3.2-1B: 16 layers of 2,048 features, 8 key heads for 32, tied embeddings of 128,256 tokens.
    pub fn llama_1b() -> Self {
        let scaling = RopeScaling::Llama3 { factor: 32.0, low: 1.0, high: 4.0, original: 8192.0 };
        let rope = Rope { theta: 500_000.0, scaling };
        Self::llama_of([16, 2048, 32, 8, 8192], 128_256, 131_072, rope)
    }

    /// The shape of SmolLM2-135M: 30 layers of 576 features, 3 key heads for 9, tied embeddings of 49,152 tokens.
    pub fn smollm2_135m() -> Self {
        let rope = Rope { theta: 100_000.0, scaling: RopeScaling::Default };
        Self::llama_of([30, 576, 9, 3, 1536], 49_152, 8192, rope)
    }

    /// A decoder of no time at all: 2 layers of 32 features, 2 key heads for 4, tied embeddings of 257 tokens.
    pub fn tiny_decoder() -> Self {
        let rope = Rope { theta: 10_000.0, scaling: RopeScaling::Default };
        Self::llama_of([2, 32, 4, 2, 64], 257, 512, rope)
    }

    fn llama_of(
        [layers, hidden, heads, kv_heads, intermediate]: [usize; 5],
        vocab: usize,
        positions: usize,
        rope: Rope,
    ) -> Self {
        ModelInfo {
            architecture: Architecture::Llama,
            hidden,
            layers,
            heads,
            kv_heads,
            head_width: hidden / heads,
            intermediate,
            vocab,
            positions,
            token_types: 0,
            first_position: 0,
            eps: 1e-5,
            initializer_range: 0.02,
            activation: Activation::Silu,
            biases: Biases::all(false),
            ropes: vec![rope],
            layer_attentions: vec![LayerAttention { window: None, rope: Some(0) }; layers],
            query_width: (hidden / heads) as f64,
            embedding_scale: 1.0,
            pooling: Pooling::Token,
            draws_pooler: false,
            distances: 0,
            decoder: Some(DecoderInfo { tied: true, eos: vec![2] }),
        }
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
            activation: Activation::Gelu,
            biases: Biases::all(true),
            ropes: Vec::new(),
            layer_attentions: Vec::new(),
            query_width: (hidden / heads) as f64,
            embedding_scale: 1.0,
            pooling: Pooling::Token,
            draws_pooler: false,
            distances: 0,
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
        Transformer::from_checkpoint(
            info,
            Weights::open(&bytes, "random weights")?,
            task,
            kinds,
            Wanted::default(),
            rng,
            device,
        )
    }
}

/// Every tensor of the body and the pooler.
fn tensors(info: &ModelInfo) -> Vec<Shaped> {
    let d = info.hidden;
    let one = |name: String, shape: Vec<usize>, gain| Shaped { name, shape, gain };
    let pooler = info.architecture.describe().pooler.filter(|_| !info.draws_pooler).into_iter().flat_map(|form| {
        let bias =
            (info.architecture == Architecture::Bert).then(|| one(format!("{}.bias", form.linear), vec![d], None));
        let norm = form.norm.map(|norm| one(format!("{norm}.weight"), vec![d], Some(1.0)));
        [Some(one(format!("{}.weight", form.linear), vec![d, d], None)), bias, norm].into_iter().flatten()
    });
    info.tensors().into_iter().chain(pooler).collect()
}

/// Numbers in f16 that come round and round.
struct Pool {
    bytes: Vec<u8>,
    at: usize,
}

impl Pool {
    /// `size` numbers uniform below `bound`.
    fn new(size: usize, bound: f32, rng: &mut impl Rng) -> Pool {
        let bytes = (0..size).flat_map(|_| f16::from_f32(rng.random_range(-bound..bound)).to_le_bytes()).collect();
        Pool { bytes, at: 0 }
    }

    /// The next `count` of them.
    fn take(&mut self, count: usize) -> Vec<u8> {
        let mut taken = Vec::with_capacity(2 * count);
        while taken.len() < 2 * count {
            let piece = (2 * count - taken.len()).min(self.bytes.len() - self.at);
            taken.extend_from_slice(&self.bytes[self.at..self.at + piece]);
            self.at = (self.at + piece) % self.bytes.len();
        }
        taken
    }
}

/// A checkpoint in f16, as published ones are: weights uniform with deviation `initializer_range`, gains one, biases
/// zero.
fn checkpoint(info: &ModelInfo, rng: &mut impl Rng) -> Vec<u8> {
    let tensors = tensors(info);
    let numbers: usize = tensors.iter().map(|t| t.shape.iter().product::<usize>()).sum();
    let mut pool = Pool::new(numbers.min(POOL), (info.initializer_range * 3f64.sqrt()) as f32, rng);
    let parts: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .into_iter()
        .map(|Shaped { name, shape, gain }| {
            let bytes = match shape.len() {
                1 => f16::from_f32(gain.unwrap_or(0.0)).to_le_bytes().repeat(shape[0]),
                _ => pool.take(shape.iter().product()),
            };
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
        assert_eq!(ModelInfo::llama_1b().backbone_params(), 1_235_814_400);
        assert_eq!(ModelInfo::smollm2_135m().backbone_params(), 134_515_008);
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

    #[test]
    #[cfg(feature = "flex")]
    fn random_decoders_load_for_both_tasks() {
        let mut untied = ModelInfo::tiny_decoder();
        untied.decoder.iter_mut().for_each(|d| d.tied = false);
        untied.biases.qkv = true;
        for info in [ModelInfo::tiny_decoder(), untied] {
            for (task, head) in [(Task::Causal, 0), (Task::Classify(3), 1)] {
                let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
                let model = Transformer::random(info.clone(), task, &TargetKind::all(), &mut rng, &Device::flex())
                    .expect("loads");
                assert_eq!((model.targets().len(), model.head().len()), (14, head));
            }
        }
    }

    #[test]
    fn the_pool_goes_round() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let mut pool = Pool::new(5, 0.5, &mut rng);
        let first = pool.take(8);
        assert_eq!((first.len(), pool.at), (16, 6));
        assert_eq!((&first[10..], &pool.take(2)[..]), (&first[..6], &first[6..10]));
    }
}
