//! How many clients fit on a device together.

use bonfire_models::ModelInfo;

/// Share of the device's memory that a run plans with; the rest is for the system, for tuning and for slack between
/// allocations.
const PLANNED: f64 = 0.7;
/// f32.
const SCALAR: u64 = 4;
/// Tensors of a client's size that a step holds at once: movement, two moments, gradient, leaf, and start + movement
/// where both factors train.
const COPIES_OF_A_CLIENT: u64 = 6;

/// What clients in flight need, from the model's shape; an estimate from above.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs {
    /// Bytes that lie on the device whoever trains: the backbone, and its folded copy.
    fixed: u64,
    /// Bytes of a client in flight: what it trains, and its tokens' activations.
    client: u64,
}

impl Needs {
    /// For clients that train `scalars` numbers on `tokens` tokens a step.
    pub fn new(info: &ModelInfo, scalars: u64, tokens: u64) -> Self {
        // Kept for backward by each layer: queries, keys, values, attended, two sums, two norms and the widened
        // activations before and after GELU; half as much again for the gradients that pass.
        let (d, wide) = (info.hidden as u64, info.intermediate as u64);
        let token = SCALAR * info.layers as u64 * (8 * d + 2 * wide) * 3 / 2;
        Needs {
            fixed: 2 * SCALAR * info.backbone_params(),
            client: COPIES_OF_A_CLIENT * SCALAR * scalars + tokens * token,
        }
    }

    /// How many clients fit into `memory` bytes; at least one.
    pub fn clients(&self, memory: u64) -> usize {
        let left = ((memory as f64 * PLANNED) as u64).saturating_sub(self.fixed);
        usize::try_from(left / self.client.max(1)).unwrap_or(usize::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_fit_in_proportion_to_memory() {
        let config =
            br#"{"model_type": "roberta", "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
            "intermediate_size": 3072, "vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1,
            "layer_norm_eps": 1e-5, "hidden_act": "gelu", "pad_token_id": 1}"#;
        let info = ModelInfo::parse(config, "config.json").expect("RoBERTa-base");
        let needs = Needs::new(&info, 1_300_000, 450);
        // 0.9 MB a token at RoBERTa-base's size, 0.4 GB a client of 450 tokens, 1 GB of weights and their folded copy.
        let [small, large] = [24, 80].map(|gb: u64| needs.clients(gb << 30));
        assert!((30..60).contains(&small) && (110..180).contains(&large), "{small} {large}");
        assert_eq!(needs.clients(1 << 20), 1);
    }
}
