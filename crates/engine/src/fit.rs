//! How many clients fit on a device together.

use std::fmt;

use bonfire_models::{ModelInfo, Precision, Task, vocabulary_block};

use crate::{EngineError, EngineSettings, Recompute};

/// Share of the device's memory that a run plans with; the rest is for the system, for tuning and for slack between
/// allocations.
const PLANNED: f64 = 0.7;
/// f32.
const SCALAR: u64 = 4;
/// Tensors of a client's size that a step holds at once besides the optimizer's moments: movement, weights, gradient, the start where
/// clients hold different slots, and what is gathered to be read when clients end.
const COPIES_OF_A_CLIENT: u64 = 5;

/// A client's step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientStep {
    /// Numbers that it trains.
    pub scalars: u64,
    /// Tokens of its batch, and those of them that are scored.
    pub tokens: [u64; 2],
    /// Tensors of its size that the optimizer carries.
    pub moments: u64,
    /// Where attention holds its scores: how many tokens a token sees, in the mean over tokens; 0 where it holds none.
    pub seen: u64,
}

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
    pub in_flight: usize,
}

impl Estimate {
    /// For clients that make such a step; `memory` is what the device has. One client is in flight.
    pub(crate) fn new(
        info: &ModelInfo,
        task: Task,
        options: &EngineSettings,
        ClientStep { scalars, tokens: [tokens, answers], moments, seen }: ClientStep,
        memory: Option<u64>,
    ) -> Self {
        let memory = options.memory_gb.map(|gb| (gb * 1e9) as u64).or(memory);
        let (all, linears) = (info.backbone_params(), info.matmul_params());
        let number = number(options.precision);
        let backbone = number * (all + linears);
        // Kept for backward by each layer, half as much again for the gradients that pass.
        let layer = (kept(info, number) + kept_scores(info, number, seen)) * 3 / 2;
        let layers = info.layers as u64;
        let token = match options.recompute {
            Recompute::None => layers * layer,
            Recompute::Block => layers * number * info.hidden as u64 + layer,
        };
        // Hidden states and their gradients where the vocabulary is scored.
        let answer = if task == Task::Causal { 4 * SCALAR * info.hidden as u64 } else { 0 };
        let client = (COPIES_OF_A_CLIENT + moments) * SCALAR * scalars + tokens * token + answers * answer;
        let available = memory.map(|bytes| (bytes as f64 * PLANNED) as u64);
        Estimate { backbone, client, available, in_flight: 1 }
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
        self.backbone + self.client * self.in_flight as u64
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (backbone, client) = (size(self.backbone), size(self.client));
        write!(f, "the backbone takes about {backbone}, a client in flight about {client}")?;
        match self.available {
            Some(bytes) => write!(f, ", and {} may be used", size(bytes)),
            None => Ok(()),
        }
    }
}

/// `12.3 MB`, `1.23 GB`.
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

/// Bytes of a number that the backbone computes with.
fn number(precision: Precision) -> u64 {
    if precision.dtype().is_none() { SCALAR } else { SCALAR / 2 }
}

/// Numbers a token of all queries, keys and values, and of what attention gives.
fn attention(info: &ModelInfo) -> [u64; 2] {
    [(info.heads + 2 * info.kv_heads) * info.head_width, info.heads * info.head_width].map(|n| n as u64)
}

/// Bytes a token that a layer keeps for its backward pass: what each operation reads there, in the type it is in, where A
/// trains (where B alone does, the linears keep less). `number` is the size of what the backbone computes with.
fn kept(info: &ModelInfo, number: u64) -> u64 {
    let (d, wide, heads) = (info.hidden as u64, info.intermediate as u64, info.heads as u64);
    let [qkv, attended] = attention(info);
    // Attention reads queries, keys and values again, and of every head the logarithm of the softmax's denominator.
    let attention = number * qkv + SCALAR * heads;
    // The linears keep their inputs, the norms theirs (or the sums they were taken of), GELU its input, a gated unit its gates
    // and what they let through.
    let widened = if info.is_gated() { 2 * wide } else { wide };
    attention + number * ((2 * d + attended + wide) + 2 * d + widened)
}

/// Bytes a token that a layer keeps besides where attention is composed of operations that hold its scores, as dropout in it and a bias by
/// distance ask for: of every head the weights after the softmax and what dropout left of them, and queries, keys and values head by head.
fn kept_scores(info: &ModelInfo, number: u64, seen: u64) -> u64 {
    let heads = info.heads as u64;
    if seen == 0 { 0 } else { number * heads * (2 * seen + 3 * info.head_width as u64) }
}

/// Room for the rounding of a batch's rows and for texts longer than the mean, in parts of what a buffer holds.
const RAGGED: u64 = 4;

/// A tensor that has to lie in one piece of the device's memory: its name and bytes.
type Piece = (&'static str, u64);

/// The largest tensor of weights; they are read in f32 whatever they are computed in.
fn largest_weight(info: &ModelInfo, task: Task) -> Piece {
    let (d, wide) = (info.hidden as u64, info.intermediate as u64);
    let inside = if info.is_gated() { 2 * wide } else { wide };
    let tied = info.decoder.as_ref().is_none_or(|decoder| decoder.tied);
    let mut pieces = vec![
        (if tied { "the table of word embeddings" } else { "a table of word embeddings" }, info.vocab as u64 * d),
        ("the widest linear of a layer", d * inside),
        ("the linear of queries, keys and values", d * attention(info)[0]),
    ];
    if task == Task::Causal {
        pieces.push(("a block of scores over the vocabulary", vocabulary_block(info.vocab) as u64));
    }
    let (name, numbers) = pieces.into_iter().max_by_key(|(_, numbers)| *numbers).expect("every model has weights");
    (name, SCALAR * numbers)
}

/// The widest tensor of a layer's activations, a token.
fn widest_activation(info: &ModelInfo, precision: Precision) -> Piece {
    let (d, wide) = (info.hidden as u64, info.intermediate as u64);
    let inside = if info.is_gated() { 2 * wide } else { wide };
    let number = number(precision);
    let pieces = [
        ("the widened activations of one client's step", number * inside),
        ("queries, keys and values of one client's step", number * attention(info)[0]),
        ("the hidden states of one client's step", SCALAR * d),
    ];
    pieces.into_iter().max_by_key(|(_, bytes)| *bytes).expect("three pieces")
}

/// How many clients of `tokens` a step may be in flight on a device whose buffers hold at most `limit` bytes.
pub(crate) fn clients_in_a_buffer(info: &ModelInfo, precision: Precision, tokens: u64, limit: u64) -> usize {
    let (_, token) = widest_activation(info, precision);
    usize::try_from(limit / RAGGED * (RAGGED - 1) / (token * tokens).max(1)).unwrap_or(usize::MAX).max(1)
}

/// Refuses a model or a step of one client, of `tokens`, with a tensor larger than the `limit` of the device's buffers.
///
/// # Errors
/// As said, naming the tensor.
pub(crate) fn check_pieces(
    info: &ModelInfo,
    task: Task,
    precision: Precision,
    tokens: u64,
    limit: u64,
) -> Result<(), EngineError> {
    let (weight, bytes) = largest_weight(info, task);
    let (activation, token) = widest_activation(info, precision);
    let pieces = [
        (weight, bytes, "train this model on another device: --device cuda or --device cpu"),
        (activation, token * tokens, "lower train.batch_size or data.max_length, or set engine.precision = \"bf16\""),
    ];
    match pieces.into_iter().find(|(_, bytes, _)| *bytes > limit) {
        Some((tensor, bytes, way_out)) => Err(EngineError::Unbreakable { tensor, bytes, limit, way_out }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(more: &str) -> EngineSettings {
        toml::from_str(more).expect("settings")
    }

    /// A step by AdamW.
    fn step(scalars: u64, tokens: [u64; 2]) -> ClientStep {
        ClientStep { scalars, tokens, moments: 2, seen: 0 }
    }

    #[test]
    fn clients_fit_in_proportion_to_memory() {
        let (info, task) = (ModelInfo::roberta_base(), Task::Classify(20));
        let in_memory = |bytes: u64| Estimate::new(&info, task, &options(""), step(1_300_000, [450, 32]), Some(bytes));
        // 0.9 MB a token at RoBERTa-base's size, 0.4 GB a client of 450 tokens, 1 GB of weights and their folded copy.
        let [small, large] = [24, 80].map(|gb: u64| in_memory(gb << 30).clients().expect("known"));
        assert!((30..60).contains(&small) && (110..180).contains(&large), "{small} {large}");
        assert!(in_memory(8 << 30).fits() && !in_memory(1 << 30).fits());
        assert_eq!(in_memory(1 << 20).clients(), Some(1));
        let capped =
            Estimate::new(&info, task, &options("memory_gb = 1.0"), step(1_300_000, [450, 32]), Some(80 << 30));
        assert!(!capped.fits() && capped.to_string().contains("700.0 MB may be used"), "{capped}");
    }

    /// LLaMA-3.2-1B.
    fn llama_1b() -> ModelInfo {
        let json = r#"{"model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
            "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": true}"#;
        ModelInfo::parse(json.as_bytes(), "config.json").expect("a decoder")
    }

    #[test]
    fn a_layer_keeps_what_was_counted_by_hand() {
        let (roberta, llama) = (ModelInfo::roberta_base(), llama_1b());
        // x, queries, keys, values, attended, sum, normed, sum: 8 of 768; before and after GELU: 2 of 3072; 12 heads.
        assert_eq!(kept(&roberta, 4), 8 * 768 * 4 + 2 * 3072 * 4 + 12 * 4);
        assert_eq!(kept(&roberta, 2), 24_624);
        // Queries, keys and values 3072; two layer inputs, two normed and what attention gave, of 2048; gates, ups and their
        // product, of 8192; 32 heads.
        assert_eq!(kept(&llama, 4), 4 * (3072 + 5 * 2048 + 3 * 8192) + 4 * 32);
        assert_eq!((kept(&llama, 4), kept(&llama, 2)), (151_680, 75_904));

        // The same through the estimate: 16 layers, half as much again for gradients, and four hidden states an answer.
        let estimate = |more: &str| Estimate::new(&llama, Task::Causal, &options(more), step(1_000, [100, 10]), None);
        let client = |layer: u64| 7 * 4 * 1_000 + 100 * 16 * (layer * 3 / 2) + 10 * 4 * 4 * 2048;
        assert_eq!(estimate("").client, client(151_680));
        assert_eq!(estimate("precision = \"bf16\"").client, client(75_904));
        // Plain SGD carries nothing from step to step.
        let plain = ClientStep { moments: 0, ..step(1_000, [100, 10]) };
        let plain = Estimate::new(&llama, Task::Causal, &options(""), plain, None).client;
        assert_eq!(estimate("").client - plain, 2 * 4 * 1_000);
        // Attention that holds scores, 50 tokens a text: 32 heads of two weights a token, and of 64 features three times.
        let held = ClientStep { seen: 50, ..step(1_000, [100, 10]) };
        let held = Estimate::new(&llama, Task::Causal, &options(""), held, None).client;
        assert_eq!(held - estimate("").client, 100 * 16 * (4 * 32 * (2 * 50 + 3 * 64)) * 3 / 2);
        // Embeddings, 16 layers of their linears and two norms, one last norm; and the linears again, folded.
        let linears = 16 * (2048 * 3072 + 2048 * 2048 + 3 * 2048 * 8192);
        let weights = 128_256 * 2048 + linears + 16 * 2 * 2048 + 2048;
        assert_eq!(
            (estimate("").backbone, estimate("precision = \"bf16\"").backbone),
            (4 * (weights + linears), 2 * (weights + linears))
        );
    }

    #[test]
    fn tensors_larger_than_a_buffer_are_named() {
        let (llama, f32) = (llama_1b(), Precision::F32);
        let check = |tokens, limit| check_pieces(&llama, Task::Causal, f32, tokens, limit).map_err(|e| e.to_string());
        let embeddings = 128_256 * 2048 * 4;
        assert_eq!(check(100, embeddings), Ok(()));
        let said = check(100, embeddings - 1).expect_err("refused");
        assert!(said.starts_with("the table of word embeddings takes 1.05 GB in one piece, and this device"), "{said}");
        assert!(said.contains("1.05 GB in one; ") && said.ends_with("--device cuda or --device cpu"), "{said}");
        // 17,000 tokens of 2·8192 widened f32 activations: 1.11 GB.
        let said = check(17_000, embeddings).expect_err("refused");
        assert!(said.starts_with("the widened activations of one client's step takes 1.11 GB"), "{said}");
        assert!(said.contains("train.batch_size") && said.contains("data.max_length"), "{said}");
        assert!(check_pieces(&llama, Task::Causal, Precision::Bf16, 17_000, embeddings).is_ok());

        // RoBERTa-base on WebGPU's promise of 128 MiB: its 50,265 word embeddings do not fit, as the promise stands.
        let promise = 128 << 20;
        assert!(check_pieces(&ModelInfo::roberta_base(), Task::Classify(2), f32, 450, promise).is_err());
        // Three quarters of 128 MiB by 3072 f32 a token are 8,192 tokens: 18 clients of 450.
        assert_eq!(clients_in_a_buffer(&ModelInfo::roberta_base(), f32, 450, promise), 18);
        assert_eq!(clients_in_a_buffer(&ModelInfo::roberta_base(), Precision::Bf16, 450, promise), 36);
        assert_eq!(clients_in_a_buffer(&ModelInfo::roberta_base(), f32, 1 << 20, promise), 1);
    }

    #[test]
    fn what_is_computed_again_is_not_kept() {
        let info = ModelInfo::roberta_base();
        let client_bytes =
            |more: &str| Estimate::new(&info, Task::Classify(2), &options(more), step(0, [512, 1]), None).client;
        assert!(client_bytes("") > 6 * client_bytes("recompute = \"block\""));
    }
}
