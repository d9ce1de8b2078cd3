//! How many clients fit on a device together.

use std::fmt;

use bonfire_models::{ModelInfo, Task};

use crate::{Checkpoint, TrainSettings};

/// Share of the device's memory that a run plans with; the rest is for the system, for tuning and for slack between
/// allocations.
const PLANNED: f64 = 0.7;
/// f32.
const SCALAR: u64 = 4;
/// Tensors of a client's size that a step holds at once: movement, two moments, gradient, leaf, and start + movement
/// where both factors train.
const COPIES_OF_A_CLIENT: u64 = 6;

/// What clients in flight need, from the model's shape; an estimate from above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Bytes that lie on the device whoever trains: the backbone, and its folded copy.
    pub backbone: u64,
    /// Bytes of a client in flight: what it trains, and its tokens' activations.
    pub client: u64,
    /// Bytes that the run may use, where known.
    pub available: Option<u64>,
    /// Clients in flight.
    pub places: usize,
}

impl Estimate {
    /// For clients that train `scalars` numbers on `tokens` tokens a step, `answers` of which are scored; `memory` is
    /// what the device has. One client is in flight.
    pub(crate) fn new(
        info: &ModelInfo,
        task: Task,
        settings: &TrainSettings,
        scalars: u64,
        [tokens, answers]: [u64; 2],
        memory: Option<u64>,
    ) -> Self {
        let memory = settings.memory_gb.map(|gb| (gb * 1e9) as u64).or(memory);
        let (all, linears) = (info.backbone_params(), info.matmul_params());
        let number = if settings.precision.dtype().is_none() { SCALAR } else { SCALAR / 2 };
        let backbone = number * (all + linears);
        // Kept for backward by each layer, half as much again for the gradients that pass.
        let layer = number * kept(info) * 3 / 2;
        let layers = info.layers as u64;
        let token = match settings.checkpoint {
            Checkpoint::None => layers * layer,
            Checkpoint::Block => layers * number * info.hidden as u64 + layer,
        };
        // Hidden states and their gradients where the vocabulary is scored.
        let answer = if task == Task::Causal { 4 * SCALAR * info.hidden as u64 } else { 0 };
        let client = COPIES_OF_A_CLIENT * SCALAR * scalars + tokens * token + answers * answer;
        let available = memory.map(|bytes| (bytes as f64 * PLANNED) as u64);
        Estimate { backbone, client, available, places: 1 }
    }

    /// How many clients fit; at least one.
    pub(crate) fn clients(&self) -> Option<usize> {
        let left = self.available?.saturating_sub(self.backbone);
        Some(usize::try_from(left / self.client.max(1)).unwrap_or(usize::MAX).max(1))
    }

    /// Whether one client fits, as far as is known.
    pub(crate) fn fits(&self) -> bool {
        self.available.is_none_or(|bytes| self.backbone + self.client <= bytes)
    }

    /// Bytes that the clients in flight need together, the backbone included.
    pub fn total(&self) -> u64 {
        self.backbone + self.client * self.places as u64
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gb = |bytes: u64| match bytes {
            0..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
            _ => format!("{:.2} GB", bytes as f64 / 1e9),
        };
        write!(f, "the backbone takes about {}, a client in flight about {}", gb(self.backbone), gb(self.client))?;
        match self.available {
            Some(bytes) => write!(f, ", and {} may be used", gb(bytes)),
            None => Ok(()),
        }
    }
}

/// Numbers a token that a layer keeps for its backward pass.
fn kept(info: &ModelInfo) -> u64 {
    let (d, wide) = (info.hidden as u64, info.intermediate as u64);
    let qkv = ((info.heads + 2 * info.kv_heads) * info.head_width) as u64;
    match info.architecture.is_decoder() {
        // Queries, keys, values, attended, two sums, two norms and the widened activations before and after GELU.
        false => 8 * d + 2 * wide,
        // Two RMS norms of several operations each, queries and keys before and after they are turned, attended, two
        // sums, the gates before and after SiLU, the widened activations, and the product of both.
        true => 8 * d + 2 * qkv + 4 * wide,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(more: &str) -> TrainSettings {
        toml::from_str(&format!("rounds = 1\n{more}")).expect("settings")
    }

    #[test]
    fn clients_fit_in_proportion_to_memory() {
        let (info, task) = (ModelInfo::roberta_base(), Task::Classify(20));
        let of = |bytes: u64| Estimate::new(&info, task, &settings(""), 1_300_000, [450, 32], Some(bytes));
        // 0.9 MB a token at RoBERTa-base's size, 0.4 GB a client of 450 tokens, 1 GB of weights and their folded copy.
        let [small, large] = [24, 80].map(|gb: u64| of(gb << 30).clients().expect("known"));
        assert!((30..60).contains(&small) && (110..180).contains(&large), "{small} {large}");
        assert!(of(8 << 30).fits() && !of(1 << 30).fits());
        assert_eq!(of(1 << 20).clients(), Some(1));
        let capped = Estimate::new(&info, task, &settings("memory_gb = 1.0"), 1_300_000, [450, 32], Some(80 << 30));
        assert!(!capped.fits() && capped.to_string().contains("700.0 MB may be used"), "{capped}");
    }

    #[test]
    fn what_is_computed_again_is_not_kept() {
        let info = ModelInfo::roberta_base();
        let of = |more: &str| Estimate::new(&info, Task::Classify(2), &settings(more), 0, [512, 1], None).client;
        assert!(of("") > 6 * of("checkpoint = \"block\""));
    }
}
