//! `config.json` of decoders: what we compute, and which features we refuse by name.

use serde::Deserialize;
use serde_json::Value;

use super::attention::{LayerAttention, Rope, local_layers, rope, two_ropes};
use super::{Activation, Architecture, Biases, ModelInfo, Pooling, sizes};

/// What a language model has besides.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderInfo {
    /// Whether the output embeddings are the input embeddings.
    pub tied: bool,
    /// Tokens that end a text, the first of them the one that training appends; empty: `config.json` names none.
    pub eos: Vec<u32>,
}

#[derive(Deserialize)]
struct Raw {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    intermediate_size: usize,
    vocab_size: usize,
    max_position_embeddings: Option<usize>,
    rms_norm_eps: Option<f64>,
    #[serde(default = "default_range")]
    initializer_range: f64,
    hidden_act: Option<String>,
    hidden_activation: Option<String>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    #[serde(default)]
    mlp_bias: bool,
    sliding_window: Option<usize>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<usize>,
    sliding_window_pattern: Option<usize>,
    layer_types: Option<Vec<String>>,
    no_rope_layers: Option<Vec<u8>>,
    no_rope_layer_interval: Option<usize>,
    query_pre_attn_scalar: Option<f64>,
    attn_logit_softcapping: Option<f64>,
    final_logit_softcapping: Option<f64>,
    use_bidirectional_attention: Option<bool>,
    partial_rotary_factor: Option<f64>,
    rope_theta: Option<f64>,
    rope_local_base_freq: Option<f64>,
    rope_scaling: Option<Value>,
    rope_parameters: Option<Value>,
    eos_token_id: Option<Value>,
}

fn default_range() -> f64 {
    0.02
}

/// What a family's configurations leave out where it is as usual.
struct Usual {
    positions: usize,
    eps: f64,
    theta: f64,
    head_width: Option<usize>,
    tied: bool,
    /// Whether a window that is named is used where `use_sliding_window` is silent.
    window_counts: bool,
    /// The window, where none is named.
    window: Option<usize>,
}

impl Usual {
    fn of(architecture: Architecture) -> Usual {
        let usual = Usual {
            positions: 2048,
            eps: 1e-6,
            theta: 10_000.0,
            head_width: None,
            tied: false,
            window_counts: true,
            window: None,
        };
        match architecture {
            Architecture::Qwen2 => Usual { positions: 32_768, window_counts: false, ..usual },
            Architecture::Qwen3 => Usual { positions: 32_768, window_counts: false, head_width: Some(128), ..usual },
            Architecture::Gemma3 => {
                Usual { positions: 131_072, theta: 1e6, head_width: Some(256), tied: true, window: Some(4096), ..usual }
            }
            Architecture::SmolLm3 => Usual { positions: 32_768, theta: 2e6, tied: true, window_counts: false, ..usual },
            Architecture::Phi3 => Usual { positions: 4096, eps: 1e-5, ..usual },
            _ => usual,
        }
    }
}

/// Features of a head times positions: a table of cosines and one of sines of half as many, 4 bytes each. A million
/// positions of 128 features are half of it.
const MOST_ANGLES: usize = 1 << 28;

/// Refuses heads that cannot be turned.
pub(super) fn check_heads(head_width: usize, positions: usize) -> Result<(), String> {
    if !head_width.is_multiple_of(2) {
        return Err(format!("heads of {head_width} features cannot be rotated in pairs"));
    }
    if head_width.saturating_mul(positions) > MOST_ANGLES {
        return Err(format!(
            "heads of {head_width} features at {positions} positions need more angles than can be held"
        ));
    }
    Ok(())
}

/// Reads a decoder's configuration; the inner error says what cannot be used.
pub(super) fn parse(json: &[u8], architecture: Architecture) -> Result<ModelInfo, String> {
    let raw: Raw = serde_json::from_slice(json).map_err(|e| format!("not a model configuration: {e}"))?;
    let usual = Usual::of(architecture);
    let positions = raw.max_position_embeddings.unwrap_or(usual.positions);
    let layers = raw.num_hidden_layers;
    sizes(
        ("num_hidden_layers", layers),
        &[("vocab_size", raw.vocab_size), ("max_position_embeddings", positions)],
        &[
            ("hidden_size", raw.hidden_size),
            ("num_attention_heads", raw.num_attention_heads),
            ("num_key_value_heads", raw.num_key_value_heads.unwrap_or(1)),
            ("head_dim", raw.head_dim.unwrap_or(1)),
            ("intermediate_size", raw.intermediate_size),
        ],
    )?;
    let heads = raw.num_attention_heads;
    let kv_heads = raw.num_key_value_heads.unwrap_or(heads);
    if !heads.is_multiple_of(kv_heads) {
        return Err(format!("num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"));
    }
    let told = raw.head_dim.or(usual.head_width);
    if told.is_none() && !raw.hidden_size.is_multiple_of(heads) {
        return Err(format!("hidden_size {} is not a multiple of num_attention_heads {heads}", raw.hidden_size));
    }
    let head_width = told.unwrap_or(raw.hidden_size / heads);
    check_heads(head_width, positions)?;
    let activation = activation(&raw, architecture)?;
    refuse_features(&raw)?;
    let attention_bias = raw.attention_bias.unwrap_or(false);
    let qwen2 = architecture == Architecture::Qwen2;
    let gemma = architecture == Architecture::Gemma3;
    let query_width =
        raw.query_pre_attn_scalar.filter(|_| gemma).unwrap_or(if gemma { 256.0 } else { head_width as f64 });
    if !(query_width.is_finite() && query_width > 0.0) {
        return Err("query_pre_attn_scalar must be a positive number".into());
    }
    Ok(ModelInfo {
        architecture,
        hidden: raw.hidden_size,
        layers,
        heads,
        kv_heads,
        head_width,
        intermediate: raw.intermediate_size,
        vocab: raw.vocab_size,
        positions,
        token_types: 0,
        first_position: 0,
        eps: raw.rms_norm_eps.unwrap_or(usual.eps),
        initializer_range: raw.initializer_range,
        activation,
        biases: Biases { qkv: qwen2 || attention_bias, output: attention_bias && !qwen2, feed_forward: raw.mlp_bias },
        ropes: ropes(&raw, &usual, gemma)?,
        layer_attentions: layer_attentions(&raw, &usual, architecture)?,
        query_width,
        embedding_scale: if gemma { (raw.hidden_size as f64).sqrt() } else { 1.0 },
        pooling: Pooling::Token,
        draws_pooler: false,
        distances: 0,
        decoder: Some(DecoderInfo {
            tied: raw.tie_word_embeddings.unwrap_or(usual.tied),
            eos: eos(raw.eos_token_id.as_ref()),
        }),
    })
}

fn activation(raw: &Raw, architecture: Architecture) -> Result<Activation, String> {
    let (key, told, usual) = match architecture {
        Architecture::Gemma3 => ("hidden_activation", raw.hidden_activation.as_deref(), "gelu_pytorch_tanh"),
        _ => ("hidden_act", raw.hidden_act.as_deref(), "silu"),
    };
    match told.unwrap_or(usual) {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu_pytorch_tanh" if architecture == Architecture::Gemma3 => Ok(Activation::GeluTanh),
        other => Err(format!("{key} is \"{other}\"; only \"{usual}\" is known for {}", architecture.name())),
    }
}

/// What families of these names have in some versions and we do not compute.
fn refuse_features(raw: &Raw) -> Result<(), String> {
    let caps = [
        ("attn_logit_softcapping", raw.attn_logit_softcapping),
        ("final_logit_softcapping", raw.final_logit_softcapping),
    ];
    if let Some((key, _)) = caps.iter().find(|(_, value)| value.is_some()) {
        return Err(format!("{key}: scores that are capped are not known"));
    }
    if raw.use_bidirectional_attention == Some(true) {
        return Err("use_bidirectional_attention is true; only attention to what stands before is known".into());
    }
    if raw.partial_rotary_factor.is_some_and(|f| f != 1.0) {
        return Err("partial_rotary_factor is not 1; only heads that are rotated as a whole are known".into());
    }
    Ok(())
}

/// `rope_theta` and `rope_scaling`, or `rope_parameters` as Transformers 5 writes both.
fn ropes(raw: &Raw, usual: &Usual, by_kind: bool) -> Result<Vec<Rope>, String> {
    let theta = raw.rope_theta.unwrap_or(usual.theta);
    if by_kind {
        let bases = [theta, raw.rope_local_base_freq.unwrap_or(10_000.0)];
        return two_ropes(raw.rope_parameters.as_ref(), raw.rope_scaling.as_ref(), bases, false);
    }
    let written = [&raw.rope_parameters, &raw.rope_scaling].into_iter().flatten().find(|v| !v.is_null());
    Ok(vec![rope(written.unwrap_or(&Value::Null), theta)?])
}

/// What the layers see: all, a window, or by `layer_types`; and by which embedding they turn.
fn layer_attentions(raw: &Raw, usual: &Usual, architecture: Architecture) -> Result<Vec<LayerAttention>, String> {
    let layers = raw.num_hidden_layers;
    let used = raw.use_sliding_window.unwrap_or(usual.window_counts);
    let window = raw.sliding_window.or(usual.window).filter(|_| used);
    if window == Some(0) {
        return Err("sliding_window is 0; it must be at least 1".into());
    }
    let turns = turns(raw, architecture)?;
    let local = |i: usize| match architecture {
        Architecture::Gemma3 => !(i + 1).is_multiple_of(raw.sliding_window_pattern.unwrap_or(6).max(1)),
        Architecture::Qwen2 | Architecture::Qwen3 => i >= raw.max_window_layers.unwrap_or(28),
        Architecture::SmolLm3 => !turns[i],
        Architecture::Llama => false,
        // Where there is a window, it is everywhere.
        _ => true,
    };
    let types = raw.layer_types.as_deref().filter(|_| architecture != Architecture::Mistral);
    let local = local_layers(types, layers, local)?;
    if local.contains(&true) && window.is_none() && types.is_some() {
        return Err("layer_types names \"sliding_attention\", but there is no sliding_window".into());
    }
    let second = usize::from(architecture == Architecture::Gemma3);
    let of_layer = |(local, turned): (bool, bool)| LayerAttention {
        window: window.filter(|_| local),
        rope: turned.then_some(if local { second } else { 0 }),
    };
    Ok(local.into_iter().zip(turns).map(of_layer).collect())
}

/// Which layers turn queries and keys: all but SmolLM3's that know no positions.
fn turns(raw: &Raw, architecture: Architecture) -> Result<Vec<bool>, String> {
    let layers = raw.num_hidden_layers;
    match &raw.no_rope_layers {
        _ if architecture != Architecture::SmolLm3 => Ok(vec![true; layers]),
        Some(list) if list.len() < layers => {
            Err(format!("no_rope_layers names {} layers, num_hidden_layers {layers}", list.len()))
        }
        Some(list) => Ok(list[..layers].iter().map(|&turned| turned != 0).collect()),
        None => {
            let every = raw.no_rope_layer_interval.unwrap_or(4).max(1);
            Ok((0..layers).map(|i| !(i + 1).is_multiple_of(every)).collect())
        }
    }
}

/// One id or a list of them.
fn eos(value: Option<&Value>) -> Vec<u32> {
    let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Some(Value::Array(list)) => list.iter().filter_map(id).collect(),
        Some(one) => id(one).into_iter().collect(),
        None => Vec::new(),
    }
}
