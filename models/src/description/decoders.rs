//! The decoders that can be trained, one description each: LLaMA first, then what differs from it.

use super::NormPlace::{AfterAttention, AfterFeedForward, BeforeAttention, BeforeFeedForward, Keys, Queries};
use super::{Bend, Description, DropRate, Dropped, Embeddings, HeadForm, NormForm, Order, Width};
use crate::TargetKind::{AttentionOutput, Gate, GateUp, Intermediate, Key, Output, Qkv, Query, Value};

/// LLaMA (arXiv 2302.13971), of which the others differ in what they name. SmolLM 1 and 2 and Llama 3 are this one.
pub(super) const LLAMA: Description = Description {
    name: "llama",
    class: "Llama",
    classifier: "Llama",
    prefix: "model",
    layers: "layers",
    decoder: true,
    order: Order::Pre,
    groups: [
        &[(Query, "self_attn.q_proj"), (Key, "self_attn.k_proj"), (Value, "self_attn.v_proj")],
        &[(AttentionOutput, "self_attn.o_proj")],
        &[(Gate, "mlp.gate_proj"), (Intermediate, "mlp.up_proj")],
        &[(Output, "mlp.down_proj")],
    ],
    norms: &[(BeforeAttention, "input_layernorm"), (BeforeFeedForward, "post_attention_layernorm")],
    norm: NormForm::Rms,
    first_reads_embeddings: false,
    embeddings: Embeddings { words: "embed_tokens", positions: None, token_types: None, norm: None, distances: None },
    last_norm: Some("norm"),
    pooler: None,
    dropped: Dropped { embeddings: false, attention: None, feed_forward_inside: false, feed_forward: None },
    head: &[HeadForm { module: "score", width: Width::Classes, bias: false, bend: Bend::None, dropped: false }],
    tag_head: Some(&[HeadForm { module: "score", width: Width::Classes, bias: true, bend: Bend::None, dropped: true }]),
    pools_tokens: false,
    gguf: Some("llama"),
    gguf_neighbours: true,
};

/// Mistral (arXiv 2310.06825): a sliding window.
pub(super) const MISTRAL: Description =
    Description { name: "mistral", class: "Mistral", classifier: "Mistral", ..LLAMA };

/// Qwen2 (arXiv 2407.10671): biases on queries, keys and values.
pub(super) const QWEN2: Description = Description {
    name: "qwen2",
    class: "Qwen2",
    classifier: "Qwen2",
    gguf: Some("qwen2"),
    gguf_neighbours: false,
    ..LLAMA
};

/// Qwen3 (arXiv 2505.09388): norms of queries and keys, head by head.
pub(super) const QWEN3: Description = Description {
    name: "qwen3",
    class: "Qwen3",
    classifier: "Qwen3",
    norms: &[
        (BeforeAttention, "input_layernorm"),
        (Queries, "self_attn.q_norm"),
        (Keys, "self_attn.k_norm"),
        (BeforeFeedForward, "post_attention_layernorm"),
    ],
    gguf: Some("qwen3"),
    ..QWEN2
};

/// Gemma 3 without images (arXiv 2503.19786): norms around both blocks, GeGLU, five local layers in six, scaled embeddings.
pub(super) const GEMMA3: Description = Description {
    name: "gemma3_text",
    class: "Gemma3",
    classifier: "Gemma3Text",
    norms: &[
        (BeforeAttention, "input_layernorm"),
        (Queries, "self_attn.q_norm"),
        (Keys, "self_attn.k_norm"),
        (AfterAttention, "post_attention_layernorm"),
        (BeforeFeedForward, "pre_feedforward_layernorm"),
        (AfterFeedForward, "post_feedforward_layernorm"),
    ],
    norm: NormForm::RmsFromOne,
    tag_head: None,
    gguf: Some("gemma3"),
    ..QWEN2
};

/// SmolLM3: one layer in four knows no positions.
pub(super) const SMOLLM3: Description =
    Description { name: "smollm3", class: "SmolLM3", classifier: "SmolLM3", gguf: Some("smollm3"), ..LLAMA };

/// Phi-3 (arXiv 2404.14219): queries, keys and values from one linear, gates and what they open from another.
pub(super) const PHI3: Description = Description {
    name: "phi3",
    class: "Phi3",
    classifier: "Phi3",
    dropped: Dropped {
        embeddings: false,
        attention: Some(DropRate::Hidden),
        feed_forward_inside: false,
        feed_forward: Some(DropRate::Hidden),
    },
    groups: [
        &[(Qkv, "self_attn.qkv_proj")],
        &[(AttentionOutput, "self_attn.o_proj")],
        &[(GateUp, "mlp.gate_up_proj")],
        &[(Output, "mlp.down_proj")],
    ],
    gguf: Some("phi3"),
    ..QWEN2
};
